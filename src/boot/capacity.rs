//! How many connections this process can hold: by its configuration, its descriptors and its
//! memory. Computed, logged, kept. What idle connections cost counts here; what else they take
//! while the server runs is the business of `pressure`.

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
    /// What the memory can hold; `None` if its limit is not known.
    by_memory: Option<u64>,
}

/// The table of direct descriptors of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    /// As many as the kernel and the configuration allow, whatever RLIMIT_NOFILE is.
    pub(crate) most: u32,
    /// Its size.
    pub(crate) files: u32,
    /// Of these, no places for connections.
    pub(crate) reserved: u32,
}

/// The table that a shard has under this RLIMIT_NOFILE, which counts per ring.
pub(crate) fn table(config: &Config, nofile: u64) -> Table {
    let most = match config.server.direct_descriptors {
        0 => MAX_SLOTS,
        most => most,
    };
    let files = u64::from(most).min(nofile) as u32;
    Table { most, files, reserved: limits::RESERVED_FILES.min(files / 2) }
}

/// What keeps the number of connections from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Configuration,
    Descriptors,
    Memory,
}

impl Capacity {
    /// For a soft RLIMIT_NOFILE of `nofile`, and `memory_bytes` that may be used, if that is
    /// known.
    pub(super) fn new(
        config: &Config,
        nofile: u64,
        memory_bytes: Option<u64>,
    ) -> Result<Self, NotStarted> {
        let shards = match config.server.shards {
            0 => affinity::available_cores(),
            shards => shards,
        };
        let Table { most, files, reserved } = table(config, nofile);
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
        let configured = config.admission.max_global_connections;
        let by_memory = memory_bytes.map(|bytes| bytes / limits::BYTES_PER_CONNECTION);
        Ok(Self { shards, files, reserved, nofile, configured, by_memory })
    }

    /// The places that admission can give to connections: those in the tables, as far as the
    /// memory goes.
    pub(super) fn seats(&self) -> Seats {
        Seats {
            shards: self.shards,
            per_shard: self.files - self.reserved,
            by_memory: self.by_memory.map_or(u64::MAX, |most| most.max(1)),
        }
    }

    /// Connections that the server can hold: by its tables, its memory or its configuration,
    /// whichever is least.
    pub(super) fn connections(&self) -> u64 {
        self.seats().capacity(self.configured)
    }

    fn tables(&self) -> u64 {
        u64::from(self.files - self.reserved) * self.shards as u64
    }

    fn bound(&self) -> Bound {
        let connections = self.connections();
        if connections >= self.configured {
            Bound::Configuration
        } else if connections < self.tables() {
            Bound::Memory
        } else {
            Bound::Descriptors
        }
    }

    /// Says what limits the server, and what would raise it.
    pub(super) fn log(&self, config: &Config) {
        let message = match self.bound() {
            Bound::Configuration => {
                return info!(
                    connections = self.configured,
                    tables = self.tables(),
                    memory = self.by_memory,
                    "capacity as configured: admission.max_global_connections"
                );
            }
            Bound::Descriptors => self.limited_by_descriptors(),
            Bound::Memory => self.limited_by_memory(config),
        };
        // The default is the aim of the project and not somebody's decision.
        match config.source("admission.max_global_connections") {
            Some(Source::Default) | None => info!("{message}"),
            Some(_) => warn!("{message}"),
        }
    }

    fn limited_by_descriptors(&self) -> String {
        let per_shard = u64::from(self.files - self.reserved);
        format!(
            "limited to {} connections by RLIMIT_NOFILE x shards ({} x {}), less than \
             admission.max_global_connections = {}; to hold more: ulimit -n 1048576 (systemd: \
             LimitNOFILE=1048576), or server.shards = {}",
            self.tables(),
            self.nofile.min(u64::from(self.files)),
            self.shards,
            self.configured,
            self.configured.div_ceil(per_shard),
        )
    }

    fn limited_by_memory(&self, config: &Config) -> String {
        let remedy = match config.admission.max_memory_bytes {
            0 => {
                "a larger memory limit of the cgroup (systemd: MemoryMax=, docker run --memory), \
                  or more memory"
            }
            _ => {
                "a larger admission.max_memory_bytes, or if that is not the least: a larger memory \
                  limit of the cgroup (systemd: MemoryMax=, docker run --memory), or more memory"
            }
        };
        format!(
            "limited to {} connections by memory ({} bytes for each idle one), less than \
             admission.max_global_connections = {}; to hold more: {remedy}",
            self.connections(),
            limits::BYTES_PER_CONNECTION,
            self.configured,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capacity(shards: usize, nofile: u64, configured: u64, memory: Option<u64>) -> Capacity {
        let mut config = Config::default();
        config.server.shards = shards;
        config.admission.max_global_connections = configured;
        match Capacity::new(&config, nofile, memory) {
            Ok(capacity) => capacity,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn the_least_of_configuration_tables_and_memory() {
        let most = 10_000_000;
        let by_tables = capacity(6, 20_000, most, Some(1 << 40));
        assert_eq!(by_tables.connections(), 6 * (20_000 - 384));
        assert_eq!(by_tables.bound(), Bound::Descriptors);
        let by_choice = capacity(3, 20_000, 100, Some(1 << 40));
        assert_eq!((by_choice.connections(), by_choice.bound()), (100, Bound::Configuration));
        // A cgroup of 512 MiB.
        let by_memory = capacity(6, 20_000, most, Some(483_183_820));
        assert_eq!((by_memory.connections(), by_memory.bound()), (111_025, Bound::Memory));
        assert!(by_memory.connections() * limits::BYTES_PER_CONNECTION <= 483_183_820);
        assert_eq!(capacity(6, 20_000, most, None).bound(), Bound::Descriptors);
        assert_eq!(capacity(6, 20_000, most, Some(0)).connections(), 1, "somebody can enter");
    }

    #[test]
    fn the_line_names_what_would_raise_it() {
        let memory = capacity(6, 20_000, 10_000_000, Some(483_183_820));
        let line = memory.limited_by_memory(&Config::default());
        assert!(line.contains("limited to 111025 connections by memory"), "{line}");
        assert!(line.contains("MemoryMax=") && !line.contains("max_memory_bytes"), "{line}");
        let mut config = Config::default();
        config.admission.max_memory_bytes = 483_183_820;
        assert!(memory.limited_by_memory(&config).contains("larger admission.max_memory_bytes"));
        let line = capacity(2, 20_000, 10_000_000, None).limited_by_descriptors();
        assert!(line.starts_with("limited to 39232 connections by RLIMIT_NOFILE x shards"));
        assert!(line.ends_with("or server.shards = 510"), "{line}");
    }

    #[test]
    fn the_kernels_own_limit_holds() {
        assert_eq!(capacity(1, u64::MAX, u64::MAX, None).files, MAX_SLOTS);
    }

    #[test]
    fn too_few_descriptors_are_refused() {
        assert!(Capacity::new(&Config::default(), 64, None).is_err());
    }
}
