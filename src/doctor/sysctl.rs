//! The kernel settings: what each should be for so many connections, why, and who says so.
//!
//! One table for `tidegate doctor`, for the files in `tuning/sysctl.d`, which are printed from it,
//! and for the table in `tuning/README.md`, which a test compares with it.

use std::fmt::Write;

use super::{Finding, Machine, Question, Verdict};
use crate::ring::MAX_SLOTS;

/// What a value must be compared with the wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Each number at least as large: more is left alone.
    AtLeast,
    /// The last number not larger; the others do not matter.
    LargestAtMost,
    /// The same.
    Exactly,
}

/// Whose setting it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each network namespace has its own; a container can set it for itself.
    Network,
    /// The machine has one.
    Machine,
}

/// A setting.
#[derive(Debug)]
pub struct Row {
    /// Its name for sysctl(8).
    pub name: &'static str,
    /// The value for so many connections with pages of so many bytes.
    pub value: fn(connections: u64, page_bytes: u64) -> Vec<u64>,
    /// How a value that is there compares.
    pub rule: Rule,
    /// Whose it is.
    pub scope: Scope,
    /// Why, for the operator.
    pub why: &'static str,
    /// Where that is written.
    pub source: &'static str,
    /// Another check has the finding.
    judged_elsewhere: bool,
}

/// The numbers of connections for which there are files: their names, and how many.
pub const PROFILES: [(&str, u64); 3] = [("100k", 100_000), ("1m", 1_000_000), ("10m", 10_000_000)];

/// The size of a page for which the files are made.
pub const FILE_PAGE_BYTES: u64 = 4_096;

/// What a connection may have queued in the kernel on average: two small segments of about 1 kB.
const QUEUED_BYTES: u64 = 2_048;
/// The least limit for all sockets: 768 MiB, the kernel's own default on 8 GiB.
const TCP_BYTES_MIN: u64 = 768 << 20;

const fn row(
    name: &'static str,
    value: fn(u64, u64) -> Vec<u64>,
    rule: Rule,
    scope: Scope,
    why: &'static str,
    source: &'static str,
) -> Row {
    Row { name, value, rule, scope, why, source, judged_elsewhere: false }
}

const IP_SYSCTL: &str = "Linux: Documentation/networking/ip-sysctl.rst";
const FS_SYSCTL: &str = "Linux: Documentation/admin-guide/sysctl/fs.rst";

/// Every setting, in the order of the files.
pub const TABLE: &[Row] = &[
    row(
        "net.core.somaxconn",
        |_, _| vec![65_535],
        Rule::AtLeast,
        Scope::Network,
        "the backlog of a listener is the smaller of server.backlog and this; while accepting is \
         paused, new connections wait there instead of being dropped",
        "listen(2)",
    ),
    row(
        "net.ipv4.tcp_max_syn_backlog",
        |_, _| vec![65_535],
        Rule::AtLeast,
        Scope::Network,
        "handshakes of TCP that are not complete, for each listener; above it the kernel uses SYN \
         cookies, which forget the options of TCP",
        IP_SYSCTL,
    ),
    row(
        "net.ipv4.tcp_migrate_req",
        |_, _| vec![1],
        Rule::Exactly,
        Scope::Network,
        "closing one of several listeners of a port resets what waits in its backlog (199 of 400 \
         seen); with this the connections move to another listener of the group",
        IP_SYSCTL,
    ),
    row(
        "net.ipv4.tcp_max_tw_buckets",
        |connections, _| vec![connections.clamp(131_072, 2_000_000)],
        Rule::AtLeast,
        Scope::Network,
        "the side that closes first keeps a connection in TIME_WAIT for a minute, in a drain that \
         is the server; above this the state is dropped, which is harmless but fills the log",
        IP_SYSCTL,
    ),
    row(
        "net.ipv4.tcp_rmem",
        |connections, _| vec![4_096, 16_384, largest_buffer(connections)],
        Rule::LargestAtMost,
        Scope::Network,
        "the largest number bounds what unread data of one client can hold in the kernel; an idle \
         socket holds nothing of it",
        "tcp(7)",
    ),
    row(
        "net.ipv4.tcp_wmem",
        |connections, _| vec![4_096, 16_384, largest_buffer(connections)],
        Rule::LargestAtMost,
        Scope::Network,
        "the largest number bounds what a client that does not read can hold in the kernel; what \
         is beyond it waits in the server, under server.max_queued_bytes",
        "tcp(7)",
    ),
    row(
        "net.ipv4.tcp_mem",
        tcp_mem,
        Rule::AtLeast,
        Scope::Machine,
        "pages for the buffers of all sockets: above the second number the kernel saves, above \
         the third it drops what arrives; this leaves 2 KiB for each connection",
        "tcp(7)",
    ),
    row(
        "net.ipv4.tcp_max_orphans",
        |connections, _| vec![(connections / 4).max(131_072)],
        Rule::AtLeast,
        Scope::Machine,
        "closed sockets whose peer has not answered yet; a drain of clients of which many are gone \
         without a word makes a quarter of them orphans, and above this the kernel resets them",
        IP_SYSCTL,
    ),
    Row {
        judged_elsewhere: true,
        ..row(
            "fs.file-max",
            |connections, _| vec![connections + 65_536],
            Rule::AtLeast,
            Scope::Machine,
            "each connection is an open file of the machine, though no descriptor of the process",
            FS_SYSCTL,
        )
    },
    row(
        "fs.nr_open",
        |_, _| vec![MAX_SLOTS as u64],
        Rule::AtLeast,
        Scope::Machine,
        "the largest RLIMIT_NOFILE, and with it the largest table of connections of a shard",
        FS_SYSCTL,
    ),
    row(
        "kernel.io_uring_disabled",
        |_, _| vec![0],
        Rule::Exactly,
        Scope::Machine,
        "1 forbids io_uring to users other than root and kernel.io_uring_group, 2 to everybody",
        "Linux: Documentation/admin-guide/sysctl/kernel.rst",
    ),
    Row {
        judged_elsewhere: true,
        ..row(
            "net.netfilter.nf_conntrack_max",
            |connections, _| vec![conntrack_entries(connections)],
            Rule::AtLeast,
            Scope::Machine,
            "only where connections are tracked, and then it is better not to track those of \
             clients: a full table drops new connections without an answer",
            "Linux: Documentation/networking/nf_conntrack-sysctl.rst",
        )
    },
];

/// Entries for so many connections, with a quarter for those that are ending.
pub(super) fn conntrack_entries(connections: u64) -> u64 {
    (connections + connections / 4).max(262_144)
}

/// A megabyte, and less where very many could hold it at once.
fn largest_buffer(connections: u64) -> u64 {
    if connections > 2_000_000 { 256 << 10 } else { 1 << 20 }
}

fn tcp_mem(connections: u64, page_bytes: u64) -> Vec<u64> {
    let bytes = connections.saturating_mul(QUEUED_BYTES).max(TCP_BYTES_MIN);
    let pages = bytes.div_ceil(page_bytes.max(1));
    vec![pages / 2, pages / 4 * 3, pages]
}

impl Row {
    /// The value as sysctl(8) writes it, for pages of `page_bytes`.
    pub fn text(&self, connections: u64, page_bytes: u64) -> String {
        let numbers = (self.value)(connections, page_bytes);
        numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")
    }

    /// Whether `found` is as good as the wanted value; `None` if it is not numbers like that.
    pub fn holds(&self, found: &str, connections: u64, page_bytes: u64) -> Option<bool> {
        let wanted = (self.value)(connections, page_bytes);
        let found: Vec<u64> =
            found.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        if found.len() != wanted.len() {
            return None;
        }
        Some(match self.rule {
            Rule::AtLeast => found.iter().zip(&wanted).all(|(found, wanted)| found >= wanted),
            Rule::LargestAtMost => found.last() <= wanted.last(),
            Rule::Exactly => found == wanted,
        })
    }
}

impl Rule {
    /// Its word in the files, which `tuning/apply` reads.
    pub const fn word(self) -> &'static str {
        match self {
            Self::AtLeast => "at-least",
            Self::LargestAtMost => "largest-at-most",
            Self::Exactly => "exactly",
        }
    }
}

impl Scope {
    /// Its word in the files, which `tuning/apply` reads.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Machine => "machine",
        }
    }
}

pub(super) fn check(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let rows = TABLE.iter().filter(|row| !row.judged_elsewhere);
    rows.map(|row| finding(row, machine, question.connections)).collect()
}

fn finding(row: &Row, machine: &Machine, connections: u64) -> Finding {
    let page_bytes = machine.process.page_bytes;
    let found = machine.sysctls.get(row.name);
    let verdict = match found.and_then(|found| row.holds(found, connections, page_bytes)) {
        Some(true) => Verdict::Fine,
        Some(false) => Verdict::Advice,
        None => Verdict::Unknown,
    };
    let found =
        found.map_or("not there (another network namespace, or an old kernel)", |text| text);
    let wanted = row.text(connections, page_bytes);
    let needed = match row.rule {
        Rule::Exactly => wanted.clone(),
        Rule::AtLeast => format!("{wanted} or more"),
        Rule::LargestAtMost => format!("{wanted}, the last or less"),
    };
    let set = |value: &str| format!("sysctl -w {}='{value}'", row.name);
    Finding::new(row.name, verdict)
        .found(found)
        .needed(needed)
        .why(row.why)
        .fix(set(&wanted), set(found))
}

/// The file for sysctl.d(5) for so many connections. The comments with a colon are for
/// `tuning/apply`, which leaves alone what is better already.
pub fn file(connections: u64) -> String {
    let mut text = format!(
        "# Kernel settings for {connections} connections. Made by\n\
         #   tidegate doctor --connections {connections} --sysctl\n\
         # Look first and apply with ../apply, which lowers nothing that is higher already and can\n\
         # take it back. Pages are of {FILE_PAGE_BYTES} bytes.\n"
    );
    for row in TABLE {
        let optional = if row.name.starts_with("net.netfilter.") { "-" } else { "" };
        let _ = writeln!(text, "\n# {}.", wrapped(row.why, "\n# "));
        let _ = writeln!(text, "# source: {}", row.source);
        let _ = writeln!(text, "# rule: {}", row.rule.word());
        let _ = writeln!(text, "# scope: {}", row.scope.word());
        let value = row.text(connections, FILE_PAGE_BYTES);
        let _ = writeln!(text, "{optional}{} = {value}", row.name);
    }
    text
}

/// The rows of the table in `tuning/README.md`: name, a value for each profile, why, source.
pub fn markdown() -> String {
    let mut text = String::new();
    for row in TABLE {
        let values = PROFILES.map(|(_, connections)| row.text(connections, FILE_PAGE_BYTES));
        let _ = writeln!(
            text,
            "| `{}` | {} | {}, {} | {} ({}) |",
            row.name,
            values.join(" | "),
            row.rule.word(),
            row.scope.word(),
            row.why,
            row.source,
        );
    }
    text
}

/// Words in lines of at most 96 characters.
fn wrapped(text: &str, line_break: &str) -> String {
    const WIDTH: usize = 96;
    let (mut lines, mut length) = (String::new(), 0);
    for word in text.split_whitespace() {
        let added = word.chars().count() + 1;
        if length > 0 && length + added > WIDTH {
            lines.push_str(line_break);
            length = 0;
        } else if length > 0 {
            lines.push(' ');
        }
        lines.push_str(word);
        length += added;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(name: &str) -> &'static Row {
        match TABLE.iter().find(|row| row.name == name) {
            Some(row) => row,
            None => panic!("{name}"),
        }
    }

    #[test]
    fn more_is_left_alone_where_more_is_better_and_less_where_less_is() {
        let tcp_mem = row_of("net.ipv4.tcp_mem");
        assert_eq!(tcp_mem.holds("250000 375000 500000", 1_000_000, 4096), Some(true));
        assert_eq!(tcp_mem.holds("250000 375000 499999", 1_000_000, 4096), Some(false));
        assert_eq!(tcp_mem.holds("15625 23437 31250", 1_000_000, 65_536), Some(true));
        let rmem = row_of("net.ipv4.tcp_rmem");
        assert_eq!(rmem.holds("1 131072 1048576", 1_000_000, 4096), Some(true));
        assert_eq!(rmem.holds("4096 16384 1048577", 1_000_000, 4096), Some(false));
        let migrate = row_of("net.ipv4.tcp_migrate_req");
        assert_eq!(
            (migrate.holds("0", 1, 4096), migrate.holds("1", 1, 4096)),
            (Some(false), Some(true))
        );
        assert_eq!((migrate.holds("", 1, 4096), rmem.holds("x y z", 1, 4096)), (None, None));
    }

    #[test]
    fn a_value_that_is_set_holds() {
        for row in TABLE {
            for (profile, connections) in PROFILES {
                let value = row.text(connections, 4096);
                assert_eq!(row.holds(&value, connections, 4096), Some(true), "{profile} {row:?}");
            }
        }
    }
}
