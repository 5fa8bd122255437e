//! Reads what says how pressed the server is: the cgroup's files and those of /proc.
//!
//! Nothing here stops the server: a file that is missing or not understood leaves its input out,
//! and is logged once until it can be read again. Not here: what it means ([`level`](super::level)).

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::cgroup::{self, Cgroups, Version};
use super::memory::{self, TcpMemory, Usage};
use crate::files::read::small_text;
use crate::limits::KERNEL_BYTES_PER_CONNECTION;

/// The names of a cgroup's files.
struct Names {
    used: &'static str,
    limit: &'static str,
    /// The line of memory.stat with page cache that nobody has used lately.
    reclaimable: &'static str,
}

const V1: Names = Names {
    used: "memory.usage_in_bytes",
    limit: "memory.limit_in_bytes",
    reclaimable: "total_inactive_file",
};
const V2: Names =
    Names { used: "memory.current", limit: "memory.max", reclaimable: "inactive_file" };

/// Where to look.
#[derive(Debug)]
pub struct Reader {
    cgroups: Option<Cgroups>,
    /// The machine's files; elsewhere in tests.
    proc: PathBuf,
    page_bytes: u64,
    /// Files that could not be used, and have been logged.
    logged: HashSet<PathBuf>,
}

/// What the files say of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In use against the limit that is nearest.
    pub nearest: Option<Usage>,
    /// At no time may more than this be used.
    pub smallest_budget: Option<u64>,
}

impl Reader {
    /// For this process. `page_bytes` is the size of a page.
    pub fn new(page_bytes: u64) -> Self {
        Self::below(Path::new("/proc"), page_bytes)
    }

    /// For a machine whose `/proc` is somewhere else, as in tests.
    pub fn below(proc: &Path, page_bytes: u64) -> Self {
        let proc = proc.to_owned();
        let mut reader = Self { cgroups: None, proc, page_bytes, logged: HashSet::new() };
        let cgroup = reader.read(&reader.proc.join("self/cgroup"), |text| Some(text.to_owned()));
        let mounts = reader.read(&reader.proc.join("self/mountinfo"), |text| Some(text.to_owned()));
        if let (Some(cgroup), Some(mounts)) = (cgroup, mounts) {
            reader.cgroups = cgroup::find(&cgroup, &mounts);
        }
        reader
    }

    /// Memory in use against the limit that is nearest: of the own cgroup and those above it, of
    /// the machine, and of `most_bytes` for what this process and its `connections` use
    /// themselves, unless that is 0. `None` if nothing can be read.
    pub fn memory(&mut self, most_bytes: u64, connections: u64) -> Option<Usage> {
        self.look(most_bytes, connections).nearest
    }

    /// The same with the smallest of the budgets.
    pub fn look(&mut self, most_bytes: u64, connections: u64) -> Memory {
        let usages = self.usages(most_bytes, connections);
        Memory {
            smallest_budget: usages.iter().map(|usage| usage.budget).min(),
            nearest: usages.into_iter().reduce(Usage::nearer),
        }
    }

    /// The smallest of the budgets that [`memory`](Self::memory) looks at: at no time may more
    /// than this be used.
    pub fn smallest_budget(&mut self, most_bytes: u64) -> Option<u64> {
        self.look(most_bytes, 0).smallest_budget
    }

    fn usages(&mut self, most_bytes: u64, connections: u64) -> Vec<Usage> {
        let meminfo = self.proc.join("meminfo");
        let mut usages = self.cgroup();
        usages.extend(self.read(&meminfo, memory::machine));
        if most_bytes > 0 {
            usages.extend(self.own(most_bytes, connections));
        }
        usages
    }

    /// The memory that this process can have at most: the least of the limits of the own cgroup, of
    /// those above it, and of the machine.
    pub fn smallest_limit(&mut self) -> Option<u64> {
        self.usages(0, 0).into_iter().map(|usage| usage.limit).min()
    }

    /// What the sockets hold, of the cgroup or of the machine, whichever is nearer to its limit.
    pub fn tcp(&mut self) -> Option<TcpMemory> {
        let page_bytes = self.page_bytes;
        let tcp_mem = self.proc.join("sys/net/ipv4/tcp_mem");
        let tcp_mem = self.read(&tcp_mem, |text| Some(text.to_owned()));
        let sockstat = self.proc.join("net/sockstat");
        let machine = tcp_mem.and_then(|tcp_mem| {
            self.read(&sockstat, |sockstat| memory::tcp(sockstat, &tcp_mem, page_bytes))
        });
        let all = [self.cgroup_tcp(), machine];
        all.into_iter().flatten().reduce(TcpMemory::fuller)
    }

    /// Memory of the process's own that is in RAM.
    pub fn anonymous(&mut self) -> Option<u64> {
        let status = self.proc.join("self/status");
        self.read(&status, memory::anonymous)
    }

    /// The memory of the process and what the kernel keeps for its connections.
    fn own(&mut self, most_bytes: u64, connections: u64) -> Option<Usage> {
        let status = self.proc.join("self/status");
        let resident = self.read(&status, memory::resident)?;
        let kernel = connections.saturating_mul(KERNEL_BYTES_PER_CONNECTION);
        let unread = self.tcp().map_or(0, |tcp| tcp.used);
        let used = resident.saturating_add(kernel).saturating_add(unread);
        Some(Usage::with_budget(used, most_bytes, most_bytes))
    }

    /// Of the own cgroup and those above it, those that have a limit.
    fn cgroup(&mut self) -> Vec<Usage> {
        let Some(cgroups) = self.cgroups.clone() else { return Vec::new() };
        let names = match cgroups.version {
            Version::V1 => &V1,
            Version::V2 => &V2,
        };
        cgroups.directories.iter().filter_map(|at| self.usage(at, names)).collect()
    }

    fn usage(&mut self, directory: &Path, names: &Names) -> Option<Usage> {
        let path = directory.join(names.limit);
        // The uppermost cgroup of version 2 has no such files, and cannot have a limit.
        if !path.exists() {
            return None;
        }
        let limit = self.read(&path, memory::limit)??;
        let used = self.read(&directory.join(names.used), memory::number)?;
        let stat = directory.join("memory.stat");
        let cache = self.read(&stat, |text| memory::stat(text, names.reclaimable));
        Some(Usage::new(used.saturating_sub(cache.unwrap_or(0)), limit))
    }

    /// Version 1 bounds what sockets hold by itself, where that is set.
    fn cgroup_tcp(&mut self) -> Option<TcpMemory> {
        let cgroups = self.cgroups.clone().filter(|found| found.version == Version::V1)?;
        let memories = cgroups.directories.iter().filter_map(|directory| {
            let path = directory.join("memory.kmem.tcp.limit_in_bytes");
            if !path.exists() {
                return None;
            }
            let limit = self.read(&path, memory::limit)??;
            let used = directory.join("memory.kmem.tcp.usage_in_bytes");
            let used = self.read(&used, memory::number)?;
            // The kernel saves from the limit on and not before.
            Some(TcpMemory { used, pressure: limit, limit })
        });
        memories.reduce(TcpMemory::fuller)
    }

    /// What is in a file; `None`, with a line in the log, if it is not there or not understood.
    fn read<T>(&mut self, path: &Path, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let read = small_text(path);
        let found = read.as_deref().ok().and_then(parse);
        if found.is_some() {
            self.logged.remove(path);
        } else if self.logged.insert(path.to_owned()) {
            let why = read.err().map_or("it is not understood".to_owned(), |why| why.to_string());
            warn!(
                path = %path.display(),
                error = why,
                "cannot be read: the load of the server is judged without it"
            );
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use super::*;

    /// A machine made of files.
    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let machine = Self(tempfile::tempdir().unwrap());
            let mount = machine.0.path().join("cgroup");
            let mounts = format!("1 2 0:3 / {} rw - cgroup2 cgroup2 rw\n", mount.display());
            machine.write("proc/self/mountinfo", &mounts);
            machine.write("proc/self/cgroup", "0::/outer/inner\n");
            for (path, text) in files {
                machine.write(path, text);
            }
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn reader(&self) -> Reader {
            Reader::below(&self.0.path().join("proc"), 4096)
        }
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 8192 kB\nMemAvailable: 6144 kB\n");

    #[test]
    fn the_tightest_of_the_cgroups_and_the_machine_counts() {
        let machine = Machine::new(&[
            MEMINFO,
            ("cgroup/outer/memory.max", "4000000\n"),
            ("cgroup/outer/memory.current", "3000000\n"),
            ("cgroup/outer/memory.stat", "inactive_file 500000\n"),
            ("cgroup/outer/inner/memory.max", "max\n"),
            ("cgroup/outer/inner/memory.current", "2000000\n"),
            ("cgroup/outer/inner/memory.stat", "inactive_file 0\n"),
        ]);
        let mut reader = machine.reader();
        assert_eq!(reader.memory(0, 0), Some(Usage::new(2_500_000, 4_000_000)));
        assert_eq!(reader.smallest_budget(0), Some(3_600_000));
        machine.write("cgroup/outer/inner/memory.max", "2100000\n");
        assert_eq!(reader.memory(0, 0), Some(Usage::new(2_000_000, 2_100_000)));
        machine.write("proc/meminfo", "MemTotal: 8192 kB\nMemAvailable: 10 kB\n");
        assert_eq!(reader.memory(0, 0), Some(Usage::new(8182 << 10, 8192 << 10)));
    }

    #[test]
    fn a_bound_of_its_own_counts_what_the_process_and_its_connections_use() {
        let machine = Machine::new(&[
            MEMINFO,
            ("proc/self/status", "VmRSS: 1000 kB\n"),
            ("proc/net/sockstat", "TCP: inuse 1 mem 10\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1000 2000 3000\n"),
        ]);
        let mut reader = machine.reader();
        assert_eq!(reader.memory(0, 1_000), Some(Usage::new(2 << 20, 8 << 20)));
        let used = 1_024_000 + 40_960 + 1_000 * KERNEL_BYTES_PER_CONNECTION;
        let own = Usage::with_budget(used, 6_000_000, 6_000_000);
        assert_eq!(reader.memory(6_000_000, 1_000), Some(own));
        assert_eq!(reader.smallest_budget(6_000_000), Some(6_000_000));
        assert_eq!(reader.memory(60_000_000, 1_000), Some(Usage::new(2 << 20, 8 << 20)));
    }

    #[test]
    fn what_is_missing_or_not_understood_is_left_out_and_named_once() {
        let machine = Machine::new(&[
            ("proc/meminfo", "no such thing\n"),
            ("cgroup/outer/memory.max", "much\n"),
            ("proc/net/sockstat", "TCP: inuse 1 mem 10\n"),
        ]);
        let mut reader = machine.reader();
        for _ in 0..3 {
            assert_eq!((reader.memory(0, 0), reader.tcp()), (None, None));
            assert_eq!(reader.logged.len(), 3, "{:?}", reader.logged);
        }
        machine.write("proc/meminfo", MEMINFO.1);
        assert!(reader.memory(0, 0).is_some());
        assert_eq!(reader.logged.len(), 2, "named again if it happens again");
    }

    #[test]
    fn the_sockets_of_a_cgroup_of_version_1() {
        let machine = Machine::new(&[
            ("proc/net/sockstat", "TCP: inuse 1 mem 10\n"),
            ("proc/sys/net/ipv4/tcp_mem", "1000 2000 3000\n"),
            ("memory/inner/memory.kmem.tcp.limit_in_bytes", "1000000\n"),
            ("memory/inner/memory.kmem.tcp.usage_in_bytes", "400000\n"),
            ("memory/memory.kmem.tcp.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let mount = machine.0.path().join("memory");
        let mounts = format!("1 2 0:3 / {} rw - cgroup cgroup rw,memory\n", mount.display());
        machine.write("proc/self/mountinfo", &mounts);
        machine.write("proc/self/cgroup", "4:memory:/inner\n");
        let own = TcpMemory { used: 400_000, pressure: 1_000_000, limit: 1_000_000 };
        assert_eq!(machine.reader().tcp(), Some(own));
    }

    /// This machine, whatever it is.
    #[test]
    fn the_machine_that_this_runs_on_has_figures() {
        let mut reader = Reader::new(4096);
        let memory = reader.memory(0, 0).unwrap();
        assert!(memory.used > 0 && memory.used < memory.limit, "{memory:?}");
        let tcp = reader.tcp().unwrap();
        assert!(tcp.pressure <= tcp.limit && tcp.limit > 0, "{tcp:?}");
    }
}
