//! How many connections this process can hold, from its limits: computed, logged, kept.

use tracing::{info, warn};

use super::NotStarted;
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
        let reserved = (limits::REFUSAL_SLOTS + limits::ACCEPTS).min(files / 2);
        let configured = config.admission.max_global_connections;
        Ok(Self { shards, files, reserved, nofile, configured })
    }

    /// Connections that one shard may admit by its table.
    pub(super) fn per_shard(&self) -> u64 {
        u64::from(self.files - self.reserved)
    }

    /// Connections that the server can hold: its tables or its configuration, whichever is less.
    pub(super) fn connections(&self) -> u64 {
        self.configured.min(self.per_shard() * self.shards as u64)
    }

    /// The part of the capacity that shard `index` grants: an equal split, the remainder to the
    /// first ones.
    pub(super) fn share(&self, index: usize) -> u32 {
        let (all, shards) = (self.connections(), self.shards as u64);
        let extra = u64::from((index as u64) < all % shards);
        u32::try_from((all / shards + extra).min(self.per_shard())).unwrap_or(u32::MAX)
    }

    /// Says what limits the server, and what would raise it.
    pub(super) fn log(&self, config: &Config) {
        let tables = self.per_shard() * self.shards as u64;
        if tables >= self.configured {
            info!(connections = self.configured, "capacity as configured");
            return;
        }
        let enough = self.configured.div_ceil(self.per_shard());
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
        assert_eq!(capacity(6, 20_000, 10_000_000).connections(), 6 * (20_000 - 320));
        let small = capacity(3, 20_000, 100);
        assert_eq!(small.connections(), 100);
        assert_eq!((0..3).map(|shard| small.share(shard)).collect::<Vec<_>>(), [34, 33, 33]);
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
