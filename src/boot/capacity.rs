//! How many connections this process can hold: by its configuration, its descriptors and its
//! memory, of which they have what the memory plan (`memory_plan`) leaves them. Computed, logged,
//! kept.

use tracing::{info, warn};

use super::NotStarted;
use crate::admission::Seats;
use crate::config::{Config, Source};
use crate::exit_code;
use crate::limits;
use crate::memory_plan::{MemoryPlan, PartTooSmall};
use crate::pressure::reading::Reader;
use crate::ring::MAX_SLOTS;
use crate::sys::{affinity, kernel, rlimit};

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
    /// What everything may take of the memory.
    pub(super) memory: MemoryPlan,
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

/// The table that a shard has under this RLIMIT_NOFILE, which counts per ring. Places that the
/// memory has no connections for would only take some of it.
pub(crate) fn table(config: &Config, nofile: u64, memory_bytes: Option<u64>) -> Table {
    let most = match config.server.direct_descriptors {
        0 => MAX_SLOTS,
        most => most,
    };
    let by_memory = memory_bytes.map_or(u64::MAX, |bytes| {
        bytes / limits::BYTES_PER_CONNECTION + u64::from(limits::RESERVED_FILES)
    });
    let files = u64::from(most).min(nofile).min(by_memory) as u32;
    Table { most, files, reserved: limits::RESERVED_FILES.min(files / 2) }
}

/// Shards of the server: as configured, or one per core, as far as the memory goes.
pub(crate) fn shards(
    config: &Config,
    cores: usize,
    files: u32,
    memory_bytes: Option<u64>,
) -> usize {
    match config.server.shards {
        0 => MemoryPlan::shards_that_fit(config, cores, files, memory_bytes),
        shards => shards,
    }
}

/// What a server with this configuration could use of the memory for what, in the cgroup and under
/// the limits that this process has.
///
/// # Errors
/// Why it would not start.
pub fn memory_plan(config: &Config) -> Result<MemoryPlan, NotStarted> {
    let files = rlimit::open_files()
        .map_err(|error| NotStarted::unavailable(format!("RLIMIT_NOFILE: {error}")))?;
    let mut reader = Reader::new(kernel::page_bytes());
    let memory_bytes = reader.smallest_budget(config.admission.max_memory_bytes);
    Ok(Capacity::new(config, files.hard, memory_bytes)?.memory)
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
        let Table { most, files, reserved } = table(config, nofile, memory_bytes);
        let shards = shards(config, affinity::available_cores(), files, memory_bytes);
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
        let not_started = |message| NotStarted { message, exit_code: exit_code::CONFIG };
        PartTooSmall::check(config, shards).map_err(|error| not_started(error.to_string()))?;
        let memory = MemoryPlan::new(config, shards, files, memory_bytes)
            .map_err(|error| not_started(error.to_string()))?;
        Ok(Self { shards, files, reserved, nofile, configured, memory })
    }

    /// The places that admission can give to connections: those in the tables, as far as the
    /// memory goes.
    pub(super) fn seats(&self) -> Seats {
        Seats {
            shards: self.shards,
            per_shard: self.files - self.reserved,
            by_memory: self.memory.connections(),
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
        self.log_connections(config);
        self.log_memory(config);
    }

    /// Says which keys allow more than there is memory for: a default is the aim of the project
    /// and not somebody's decision.
    fn log_memory(&self, config: &Config) {
        for scaled in self.memory.scaled() {
            let line = format!(
                "{scaled}: its part of the memory that may be used; `tidegate config show` has all \
                 parts"
            );
            match config.source(scaled.key) {
                Some(Source::Default) | None => info!("{line}"),
                Some(_) => warn!("{line}"),
            }
        }
    }

    fn log_connections(&self, config: &Config) {
        let message = match self.bound() {
            Bound::Configuration => {
                return info!(
                    connections = self.configured,
                    tables = self.tables(),
                    memory = self.seats().by_memory,
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
            "limited to {} connections by memory ({} bytes for each idle one, in what other uses \
             leave), less than admission.max_global_connections = {}; to hold more: {remedy}",
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
        assert_eq!((by_memory.connections(), by_memory.bound()), (61_724, Bound::Memory));
        assert!(by_memory.connections() * limits::BYTES_PER_CONNECTION <= 483_183_820);
        assert_eq!(capacity(6, 20_000, most, None).bound(), Bound::Descriptors);
    }

    #[test]
    fn the_line_names_what_would_raise_it() {
        let memory = capacity(6, 20_000, 10_000_000, Some(483_183_820));
        let line = memory.limited_by_memory(&Config::default());
        assert!(line.contains("limited to 61724 connections by memory"), "{line}");
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

    #[test]
    fn the_memory_bounds_shards_that_nobody_asked_for_and_refuses_those_that_somebody_did() {
        let small = Some(60 << 20);
        let mut config = Config::default();
        let by_default = shards(&config, 64, 20_000, small);
        assert!((1..64).contains(&by_default), "{by_default}");
        config.server.shards = 64;
        assert_eq!(shards(&config, 2, 20_000, small), 64);
        let refused = Capacity::new(&config, 20_000, small).err();
        assert_eq!(refused.map(|refused| refused.exit_code), Some(exit_code::CONFIG));
    }

    #[test]
    fn a_table_has_no_places_that_the_memory_has_no_connections_for() {
        let config = Config::default();
        assert_eq!(table(&config, 1 << 20, None).files, 1 << 20);
        let files = table(&config, 1 << 20, Some(58 << 20)).files;
        assert_eq!(u64::from(files), (58 << 20) / limits::BYTES_PER_CONNECTION + 384);
    }
}
