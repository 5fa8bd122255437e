//! What the kernel writes about memory, as values. Pure: text in, numbers out; [`reading`] opens
//! the files.
//!
//! What is charged to a cgroup differs. Version 2 charges everything that connections cost:
//! sockets, what the rings keep for them, unread data. Version 1 charges what is armed on a
//! connection and its inode in `memory.usage_in_bytes` (1.5 kB of 4.2, Linux 6.18), the socket
//! itself only if the cgroup has a limit in `memory.kmem.tcp.limit_in_bytes`, and unread data
//! never there but in `memory.kmem.tcp.usage_in_bytes`; the rest is the machine's. So the machine
//! is looked at even where a cgroup has a limit. `memory.kmem.usage_in_bytes` is a part of
//! `memory.usage_in_bytes`, and its limit has had no effect since Linux 5.16: it is not read.
//!
//! [`reading`]: super::reading

use std::cmp::Reverse;

/// The part of a limit at which nobody new enters, in parts of 1000.
const BUDGET_PER_MILLE: u128 = 900;

/// From here on, in parts of 1000 of a budget, it matters how full that is; a large machine that is
/// half in use says less than a small cgroup that is empty.
const NEAR_PER_MILLE: u64 = 750;

/// A limit of version 1 from here on is none: the kernel shows the largest number of pages.
const NO_LIMIT: u64 = 1 << 62;

/// Memory in use against its limit, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// In use, without page cache that can be given back at once.
    pub used: u64,
    /// What there is; the kernel kills above it.
    pub limit: u64,
    /// From here on nobody new enters.
    pub budget: u64,
}

impl Usage {
    /// With the usual budget: nine tenths of the limit.
    pub fn new(used: u64, limit: u64) -> Self {
        let budget = u128::from(limit) * BUDGET_PER_MILLE / 1000;
        Self { used, limit, budget: budget as u64 }
    }

    /// With a budget of its own.
    pub fn with_budget(used: u64, limit: u64, budget: u64) -> Self {
        Self { used, limit, budget }
    }

    /// How full the budget is, in parts of 1000; 1000 is full. A budget of 0 is full.
    pub fn filled_per_mille(self) -> u64 {
        per_mille(self.used, self.budget)
    }

    /// The one of two that matters more: when one is filled to a good part, the fuller one;
    /// before that the one with less room.
    pub fn nearer(self, other: Self) -> Self {
        let key = |usage: Self| {
            let room = usage.budget.saturating_sub(usage.used);
            (usage.filled_per_mille().max(NEAR_PER_MILLE), Reverse(room))
        };
        if key(other) > key(self) { other } else { self }
    }
}

/// What sockets hold for data that is unread or not acknowledged, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpMemory {
    /// Held now.
    pub used: u64,
    /// From here on the kernel saves: smaller windows, smaller buffers.
    pub pressure: u64,
    /// From here on it drops what comes in.
    pub limit: u64,
}

impl TcpMemory {
    /// How full the budget of nine tenths of the limit is, in parts of 1000.
    pub fn filled_per_mille(self) -> u64 {
        Usage::new(self.used, self.limit).filled_per_mille()
    }

    /// Whether the kernel has begun to save.
    pub fn is_under_pressure(self) -> bool {
        self.used >= self.pressure
    }

    /// The one of two that is nearer to its limit.
    pub fn fuller(self, other: Self) -> Self {
        let one = u128::from(self.used) * u128::from(other.limit);
        let two = u128::from(other.used) * u128::from(self.limit);
        if two > one { other } else { self }
    }
}

fn per_mille(used: u64, whole: u64) -> u64 {
    let parts = (u128::from(used) * 1000).checked_div(whole.into());
    parts.map_or(1000, |parts| u64::try_from(parts).unwrap_or(u64::MAX))
}

/// A file that holds one number.
pub fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// A limit: `Some(None)` where there is none, `None` where the text is not a limit.
pub fn limit(text: &str) -> Option<Option<u64>> {
    if text.trim() == "max" {
        return Some(None);
    }
    number(text).map(|bytes| (bytes < NO_LIMIT).then_some(bytes))
}

/// The number after `key` in a file of one key and number a line (memory.stat).
pub fn stat(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| number(line.strip_prefix(key)?.strip_prefix(' ')?))
}

/// `/proc/meminfo`: what the machine uses of what it has.
pub fn machine(meminfo: &str) -> Option<Usage> {
    let total = kibibytes(meminfo, "MemTotal:")?;
    let available = kibibytes(meminfo, "MemAvailable:")?;
    (total > 0).then(|| Usage::new(total.saturating_sub(available), total))
}

/// `VmRSS` of `/proc/self/status`: what the process itself has in RAM.
pub fn resident(status: &str) -> Option<u64> {
    kibibytes(status, "VmRSS:")
}

/// `RssAnon` of the same: without files and what others share.
pub fn anonymous(status: &str) -> Option<u64> {
    kibibytes(status, "RssAnon:")
}

fn kibibytes(text: &str, label: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(label))?;
    number(rest.trim().strip_suffix("kB")?)?.checked_mul(1024)
}

/// `/proc/net/sockstat` and `net.ipv4.tcp_mem`, both in pages. IPv6 counts in the same line.
pub fn tcp(sockstat: &str, tcp_mem: &str, page_bytes: u64) -> Option<TcpMemory> {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let mut words = line.split_whitespace().skip_while(|word| *word != "mem").skip(1);
    let used: u64 = words.next()?.parse().ok()?;
    let mut limits = tcp_mem.split_whitespace().skip(1).map(str::parse::<u64>);
    let (pressure, limit) = (limits.next()?.ok()?, limits.next()?.ok()?);
    let bytes = |pages: u64| pages.saturating_mul(page_bytes);
    Some(TcpMemory { used: bytes(used), pressure: bytes(pressure), limit: bytes(limit) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_both_versions() {
        assert_eq!(limit("max\n"), Some(None));
        assert_eq!(limit("9223372036854771712\n"), Some(None));
        assert_eq!(limit("536870912\n"), Some(Some(536_870_912)));
        assert_eq!((limit(""), limit("maximum"), limit("-1")), (None, None, None));
    }

    #[test]
    fn one_key_of_many() {
        let text = "cache 1\ninactive_file 2\ntotal_cache 3\ntotal_inactive_file 4\n";
        assert_eq!(stat(text, "inactive_file"), Some(2));
        assert_eq!(stat(text, "total_inactive_file"), Some(4));
        assert_eq!((stat(text, "inactive"), stat("", "cache")), (None, None));
    }

    #[test]
    fn the_machine() {
        let text = "MemTotal:  1000 kB\nMemFree:  100 kB\nMemAvailable:  400 kB\n";
        let usage = machine(text);
        assert_eq!(usage, Some(Usage { used: 614_400, limit: 1_024_000, budget: 921_600 }));
        assert_eq!(machine("MemTotal: 1000 kB\n"), None);
        assert_eq!(machine("MemTotal: 0 kB\nMemAvailable: 0 kB\n"), None);
        let status = "Name: x\nVmRSS:\t  12 kB\nRssAnon:\t 8 kB\n";
        assert_eq!((resident(status), anonymous(status)), (Some(12_288), Some(8_192)));
    }

    #[test]
    fn pages_of_sockets() {
        let sockstat = "sockets: used 13\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 142\n\
                        UDP: inuse 0 mem 7\n";
        let memory = tcp(sockstat, "287901\t383868\t575802\n", 4096);
        let expected = TcpMemory { used: 581_632, pressure: 1_572_323_328, limit: 2_358_484_992 };
        assert_eq!(memory, Some(expected));
        assert_eq!(tcp("UDP: inuse 0 mem 7\n", "1 2 3", 4096), None);
        assert_eq!(tcp(sockstat, "1 2", 4096), None);
    }

    #[test]
    fn the_one_that_is_nearly_full_counts_and_otherwise_the_one_with_less_room() {
        let (cgroup, machine) = (Usage::new(10, 100), Usage::new(300, 1_000));
        let full_machine = Usage::new(800, 1_000);
        let fuller_cgroup = Usage::new(85, 100);
        for (one, other, nearer) in [
            (cgroup, machine, cgroup),
            (cgroup, full_machine, full_machine),
            (fuller_cgroup, full_machine, fuller_cgroup),
            (fuller_cgroup, machine, fuller_cgroup),
        ] {
            assert_eq!((one.nearer(other), other.nearer(one)), (nearer, nearer));
        }
        let none = Usage::with_budget(0, 0, 0);
        assert_eq!(none.filled_per_mille(), 1000);
    }

    proptest! {
        /// Whatever is in the files, it is a value or none.
        #[test]
        fn any_text_is_survived(text in "\\PC*|[a-zA-Z_: \n0-9]*", other in "[0-9 \t]*") {
            let _ = (limit(&text), stat(&text, "cache"), machine(&text), resident(&text));
            let _ = tcp(&format!("TCP: mem {other}\n{text}"), &other, 4096);
        }

        #[test]
        fn fullness_is_monotone_and_full_at_the_budget(
            used in any::<u64>(), more in any::<u64>(), limit in 1_u64..,
        ) {
            let one = Usage::new(used, limit);
            let two = Usage::new(used.saturating_add(more), limit);
            prop_assert!(one.filled_per_mille() <= two.filled_per_mille());
            prop_assert_eq!(one.filled_per_mille() >= 1000, one.used >= one.budget);
        }
    }
}
