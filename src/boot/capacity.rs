//! How many connections this process can hold, from its limits: computed, logged, kept.

use tracing::{info, warn};

use super::NotStarted;
use crate::admission::Seats;
use crate::config::{Config, Source};
use crate::limits;
use crate::ring::MAX_SLOTS;
use crate::sys::affinity;

/// Shards and their tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Number of shards.
    pub(super) shards: usize,
    /// Direct descriptors of each.
    pub(super) files: u32,
    /// Of these, kept for connections that are refused, and for accepts in flight.
    pub(super) reserved: u32,
    /// RLIMIT_NOFILE, which counts per ring for direct descriptors.
    nofile: u64,
    /// What admission is configured to.
    configured: u64,
}

impl Capacity {
    /// For a soft RLIMIT_NOFILE of `nofile`.
    pub(super) fn new(config: &Config, nofile: u64) -> Result<Self, NotStarted> {
        let shards = match config.server.shards {
            0 => affinity::available_cores(),
            shards => shards,
        };
        let most = match config.server.direct_descriptors {
            0 => MAX_SLOTS,
            most => most,
        };
        let files = u64::from(most).min(nofile) as u32;
        if files < limits::MIN_FILES {
            return Err(NotStarted::unavailable(format!(
                "{} is {files}, and a shard needs at least {} descriptors. Fix: ulimit -n 1048576 \
                 (systemd: LimitNOFILE=1048576; docker run --ulimit nofile=1048576)",
                if nofile <= u64::from(most) {
                    "RLIMIT_NOFILE"
                } else {
                    "server.direct_descriptors"
                },
                limits::MIN_FILES
            )));
        }
        let reserved = limits::RESERVED_FILES.min(files / 2);
        let configured = config.admission.max_global_connections;
        Ok(Self { shards, files, reserved, nofile, configured })
    }

    /// The places that admission can give to connections.
    pub(super) fn seats(&self) -> Seats {
        Seats { shards: self.shards, per_shard: self.files - self.reserved }
    }

    /// Connections that the server can hold: its tables or its configuration, whichever is less.
    pub(super) fn connections(&self) -> u64 {
        self.seats().capacity(self.configured)
    }

    /// Says what limits the server, and what would raise it.
    pub(super) fn log(&self, config: &Config) {
        let seats = self.seats();
        let tables = seats.capacity(u64::MAX);
        if tables >= self.configured {
            info!(connections = self.configured, "capacity as configured");
            return;
        }
        let enough = self.configured.div_ceil(seats.per_shard.into());
        let message = format!(
            "limited to {tables} connections by RLIMIT_NOFILE x shards ({} x {}), less than \
             admission.max_global_connections = {}; to hold more: ulimit -n 1048576 (systemd: \
             LimitNOFILE=1048576), or server.shards = {enough}",
            self.nofile.min(u64::from(self.files)),
            self.shards,
            self.configured,
        );
        // The default is the aim of the project and not somebody's decision.
        match config.source("admission.max_global_connections") {
            Some(Source::Default) | None => info!("{message}"),
            Some(_) => warn!("{message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(shards: usize, nofile: u64, configured: u64) -> Capacity {
        let mut config = Config::default();
        config.server.shards = shards;
        config.admission.max_global_connections = configured;
        match Capacity::new(&config, nofile) {
            Ok(capacity) => capacity,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn tables_or_configuration_whichever_is_less() {
        assert_eq!(capacity(6, 20_000, 10_000_000).connections(), 6 * (20_000 - 384));
        assert_eq!(capacity(3, 20_000, 100).connections(), 100);
    }

    #[test]
    fn the_kernels_own_limit_holds() {
        assert_eq!(capacity(1, u64::MAX, u64::MAX).files, MAX_SLOTS);
    }

    #[test]
    fn too_few_descriptors_are_refused() {
        assert!(Capacity::new(&Config::default(), 64).is_err());
    }
}
