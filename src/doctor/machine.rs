//! The machine as its files show it: `/proc`, `/sys` and the unit, below a root that tests set.
//!
//! Invariant: nothing here judges, and what cannot be read is `None` and no error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::process::Process;
use super::sysctl;
use super::unit::Unit;
use crate::files::read::small_text;
use crate::pressure::reading::Reader;

/// CAP_NET_ADMIN, CAP_IPC_LOCK and CAP_SYS_ADMIN of capabilities(7).
const NET_ADMIN: u64 = 1 << 12;
const IPC_LOCK: u64 = 1 << 14;
const SYS_ADMIN: u64 = 1 << 21;

/// A network interface that is hardware, or stands for it in a virtual machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Receive queues; each has an interrupt of its own.
    pub receive_queues: usize,
    /// Whether receive packet steering spreads the packets of these over cores.
    pub steered: bool,
}

/// Everything that the checks look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// What the process may do.
    pub process: Process,
    /// Values of the settings in [`sysctl::TABLE`] and of `OTHERS`, by name.
    pub sysctls: BTreeMap<String, String>,
    /// Bytes that may be used, by the tightest of cgroups, machine and configuration.
    pub memory_bytes: Option<u64>,
    /// Open files of the whole machine now.
    pub files_in_use: Option<u64>,
    /// Effective capabilities; all of them if that cannot be read.
    pub capabilities: u64,
    /// The chosen word of transparent_hugepage/enabled and /defrag.
    pub huge_pages: Option<(String, String)>,
    /// The clock source in use.
    pub clock_source: Option<String>,
    /// Bytes of swap.
    pub swap_bytes: Option<u64>,
    /// Network interfaces that are hardware.
    pub interfaces: Vec<Interface>,
    /// The installed systemd unit.
    pub unit: Option<Unit>,
}

/// Settings that checks look at by themselves, beside those of the table.
const OTHERS: [&str; 5] = [
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_ehash_entries",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
];

impl Machine {
    /// Reads the files below `root` (`/` for this machine). `most_bytes` is
    /// `admission.max_memory_bytes`.
    pub fn read(root: &Path, process: Process, most_bytes: u64) -> Self {
        let budget =
            Reader::below(&root.join("proc"), process.page_bytes).smallest_budget(most_bytes);
        Self::with_memory(root, process, budget)
    }

    /// The same where it is known already how much memory may be used.
    pub fn with_memory(root: &Path, process: Process, memory_bytes: Option<u64>) -> Self {
        let text = |path: &str| {
            let text = small_text(root.join(path)).ok()?;
            Some(text.trim().to_owned())
        };
        let names = sysctl::TABLE.iter().map(|row| row.name).chain(OTHERS);
        let sysctls = names
            .filter_map(|name| {
                let value = text(&format!("proc/sys/{}", name.replace('.', "/")))?;
                Some((name.to_owned(), words(&value)))
            })
            .collect();
        let thp = "sys/kernel/mm/transparent_hugepage";
        let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
        Self {
            sysctls,
            memory_bytes,
            files_in_use: text("proc/sys/fs/file-nr")
                .and_then(|text| text.split_whitespace().next()?.parse().ok()),
            capabilities: text("proc/self/status")
                .and_then(|status| capabilities(&status))
                .unwrap_or(u64::MAX),
            huge_pages: text(&format!("{thp}/enabled"))
                .zip(text(&format!("{thp}/defrag")))
                .and_then(|(enabled, defrag)| Some((chosen(&enabled)?, chosen(&defrag)?))),
            clock_source: text(clock),
            swap_bytes: text("proc/meminfo").and_then(|text| swap(&text)),
            interfaces: interfaces(&root.join("sys/class/net")),
            unit: Unit::read(root),
            process,
        }
    }

    /// A setting that is one number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.sysctls.get(name)?.parse().ok()
    }

    /// Whether rings count against RLIMIT_MEMLOCK.
    pub fn locks_are_counted(&self) -> bool {
        self.capabilities & IPC_LOCK == 0
    }

    /// Whether a listener may be given a filter.
    pub fn may_filter(&self) -> bool {
        self.capabilities & NET_ADMIN != 0
    }

    /// Whether `fs.file-max` bounds the process.
    pub fn files_are_bounded(&self) -> bool {
        self.capabilities & SYS_ADMIN == 0
    }
}

/// The words of a value with one space between: the kernel writes tabs.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// The word in brackets: `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

fn swap(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("SwapTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn interfaces(directory: &Path) -> Vec<Interface> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<Interface> = entries
        .flatten()
        // Bridges, tunnels and loopback have no device behind them.
        .filter(|entry| entry.path().join("device").exists())
        .map(|entry| interface(&entry.path(), entry.file_name().to_string_lossy().into_owned()))
        .collect();
    found.sort_by(|one, other| one.name.cmp(&other.name));
    found
}

fn interface(directory: &Path, name: String) -> Interface {
    let queues = fs::read_dir(directory.join("queues")).into_iter().flatten().flatten();
    let receiving: Vec<_> = queues
        .filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-"))
        .map(|queue| small_text(queue.path().join("rps_cpus")).unwrap_or_default())
        .collect();
    // A mask is groups of hexadecimal digits with commas between.
    let steers = |mask: &String| mask.chars().any(|c| c.is_ascii_hexdigit() && c != '0');
    Interface { name, receive_queues: receiving.len(), steered: receiving.iter().any(steers) }
}
