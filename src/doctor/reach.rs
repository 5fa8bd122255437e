//! What bounds the number of connections, or keeps the server from starting at all.
//!
//! The arithmetic of tables and memory is that of `boot/capacity`, so that the number given here
//! is the one that the server has.

use super::{Finding, Machine, Question, Verdict};
use crate::boot::capacity::{self, Table, table};
use crate::config::Source;
use crate::limits;
use crate::memory_plan::{MemoryPlan, NoRoom, Scaled, Use};
use crate::ring::probe::OLDEST_KERNEL;

/// Descriptors of the process besides those of its shards: standard streams, listeners of the
/// admin and its connections, files that are read, a safe margin.
const OWN_FILES: u64 = 64 + limits::ADMIN_CONNECTIONS as u64;
/// Descriptors of one shard: ring, listener, eventfd and one to spare.
const FILES_PER_SHARD: u64 = 4;
/// The most shards that `server.shards` allows.
const SHARDS_MAX: u64 = 1_024;
/// Files that the rest of the machine may have open beside the connections.
const OTHER_FILES: u64 = 65_536;

/// Shards of the server.
pub(super) fn shards(machine: &Machine, question: Question<'_>) -> u64 {
    let process = &machine.process;
    let files = table(question.config, process.open_files, machine.memory_bytes).files;
    capacity::shards(question.config, process.cores, files, machine.memory_bytes) as u64
}

/// The limit of open files with which each shard's table holds its part, and the process has its
/// own descriptors.
pub(super) fn files_needed(machine: &Machine, question: Question<'_>) -> u64 {
    let shards = shards(machine, question);
    let part = question.connections.div_ceil(shards) + u64::from(limits::RESERVED_FILES);
    let most = table(question.config, u64::MAX, None).most;
    part.min(u64::from(most)).max(own_files(shards)).max(limits::MIN_FILES.into())
}

fn own_files(shards: u64) -> u64 {
    OWN_FILES + FILES_PER_SHARD * shards
}

fn bounds(reachable: u64, question: Question<'_>) -> Verdict {
    if reachable < question.connections { Verdict::Binds } else { Verdict::Fine }
}

pub(super) fn io_uring(machine: &Machine, _: Question<'_>) -> Vec<Finding> {
    let process = &machine.process;
    let (verdict, found, remedy) = match &process.io_uring {
        Ok(()) => (Verdict::Fine, "every operation is there".to_owned(), ""),
        Err((cause, remedy)) => (Verdict::Refuses, cause.clone(), remedy.as_str()),
    };
    let finding = Finding::new("io_uring", verdict)
        .found(format!("Linux {}: {found}", process.release))
        .needed(format!("Linux {}.{}, io_uring allowed", OLDEST_KERNEL.0, OLDEST_KERNEL.1))
        .why("the data plane is io_uring; there is no other")
        .fix(remedy, "the same with what was found");
    vec![finding]
}

pub(super) fn configuration(_: &Machine, question: Question<'_>) -> Vec<Finding> {
    const KEY: &str = "admission.max_global_connections";
    let configured = question.config.admission.max_global_connections;
    let finding = Finding::new("configuration", bounds(configured, question))
        .found(format!("{KEY} {configured}"))
        .needed(question.connections)
        .why("the server admits so many and no more, whatever the machine holds")
        .fix(
            format!("tidegate serve --set {KEY}={}, or the same in its file", question.connections),
            format!("--set {KEY}={configured}"),
        )
        .reaches(configured);
    vec![finding]
}

pub(super) fn descriptors(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let (shards, nofile) = (shards(machine, question), machine.process.open_files);
    let Table { files, reserved, most } = table(question.config, nofile, machine.memory_bytes);
    let per_shard = u64::from(files - reserved);
    let reachable = per_shard * shards;
    let too_few = files < limits::MIN_FILES;
    let verdict = if too_few { Verdict::Refuses } else { bounds(reachable, question) };
    let by_config = u64::from(most) < nofile;
    let mut ways = Vec::new();
    let wanted = files_needed(machine, question);
    if by_config && question.config.server.direct_descriptors != 0 {
        ways.push("a larger server.direct_descriptors".to_owned());
    } else if nofile < wanted {
        let seats = wanted.saturating_sub(limits::RESERVED_FILES.into()).max(1);
        let enough = question.connections.div_ceil(seats);
        let with =
            if enough > shards { format!(", with --shards {enough}") } else { String::new() };
        ways.push(format!(
            "ulimit -Hn {wanted} && ulimit -n {wanted} (systemd: LimitNOFILE={wanted}; docker run \
             --ulimit nofile={wanted}){with}"
        ));
    }
    let more = question.connections.div_ceil(per_shard.max(1));
    if !too_few && more <= SHARDS_MAX {
        ways.push(format!("tidegate serve --shards {more}"));
    }
    if ways.is_empty() {
        ways.push("a second node: no number of shards is enough here".to_owned());
    }
    let limit = if by_config { "table" } else { "RLIMIT_NOFILE" };
    let finding = Finding::new("descriptors", verdict)
        .found(format!("{limit} {files} x {shards} shards"))
        .needed(format!("{wanted} for each of {shards} shards"))
        .why("each shard has a table of direct descriptors of this size, less 384 for refusals, accepts and arrivals")
        .fix(ways.join(", or: "), format!("ulimit -n {nofile}, or --shards {shards}"))
        .reaches(reachable);
    vec![finding]
}

pub(super) fn own_descriptors(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let shards = shards(machine, question);
    let (needed, found) = (own_files(shards), machine.process.open_files);
    let verdict = if found >= needed { Verdict::Fine } else { Verdict::Refuses };
    let finding = Finding::new("own descriptors", verdict)
        .found(format!("RLIMIT_NOFILE {found}"))
        .needed(needed)
        .why("rings, listeners and the admin take ordinary descriptors; connections do not")
        .fix(format!("ulimit -n {needed}"), format!("ulimit -n {found}"));
    vec![finding]
}

pub(super) fn memory(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    const EACH: u64 = limits::BYTES_PER_CONNECTION;
    let needed = u128::from(question.connections) * u128::from(EACH);
    let needed = format!("{} ({EACH} bytes x {})", mebibytes(needed), question.connections);
    let why = "what idle connections cost in the kernel and in the server, as measured; messages \
               and everything else have parts of their own";
    let remedy = "more memory for the cgroup (systemctl set-property tidegate.service \
                  MemoryMax=SIZE; docker update --memory SIZE), a larger \
                  admission.max_memory_bytes, or a larger machine; whichever is least";
    let back = "the same with the value before";
    let Some(bytes) = machine.memory_bytes else {
        let finding = Finding::new("memory", Verdict::Unknown).found("not readable");
        return vec![finding.needed(needed).why(why)];
    };
    let found = format!("{}, nine tenths of the least limit", mebibytes(bytes.into()));
    let finding = match plan(machine, question, question.connections) {
        Ok(mut plan) => {
            let enough = plan.connections() >= question.connections;
            if enough && let Ok(more) = self::plan(machine, question, u64::MAX) {
                plan = more;
            }
            let reachable = plan.connections();
            let part = mebibytes(plan.bytes(Use::Connections).into());
            Finding::new("memory", bounds(reachable, question))
                .found(format!("{part} of {found}"))
                .needed(needed)
                .fix(remedy, back)
                .reaches(reachable)
        }
        Err(error) => {
            Finding::new("memory", Verdict::Refuses).found(found).needed(error).fix(remedy, back)
        }
    };
    vec![finding.why(why)]
}

/// Keys that allow more than their part of the memory.
pub(super) fn memory_parts(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let Ok(plan) = plan(machine, question, question.connections) else { return Vec::new() };
    let of = |scaled: Scaled| {
        let is_decided = question.config.source(scaled.key) != Some(&Source::Default);
        let verdict = if is_decided { Verdict::Advice } else { Verdict::Fine };
        Finding::new(scaled.key, verdict)
            .found(format!(
                "cut to {}, {}",
                scaled.allowed,
                mebibytes(plan.bytes(scaled.of).into())
            ))
            .needed(scaled.configured)
            .why("all uses of the memory together stay below what may be used")
            .fix(
                format!("a larger memory limit, or --set {}={}", scaled.key, scaled.allowed),
                format!("--set {}={}", scaled.key, scaled.configured),
            )
    };
    plan.scaled().map(of).collect()
}

fn plan(machine: &Machine, question: Question<'_>, connections: u64) -> Result<MemoryPlan, NoRoom> {
    let config = question.config;
    // Room for more than are asked for is of interest once these have theirs.
    let mut config = config.clone();
    config.admission.max_global_connections = connections;
    let files = table(&config, machine.process.open_files, machine.memory_bytes).files;
    let shards = shards(machine, question) as usize;
    MemoryPlan::new(&config, shards, files, machine.memory_bytes)
}

/// Direct descriptors are open files of the machine like any others.
pub(super) fn open_files(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let (Some(most), Some(used)) = (machine.number("fs.file-max"), machine.files_in_use) else {
        return Vec::new();
    };
    let reachable = most.saturating_sub(used);
    let privileged = !machine.files_are_bounded();
    let mut finding = Finding::new("open files of the machine", bounds(reachable, question));
    if privileged && finding.verdict == Verdict::Binds {
        finding.verdict = Verdict::Advice;
    } else if !privileged {
        finding.reachable = Some(reachable);
    }
    let wanted = question.connections.saturating_add(OTHER_FILES);
    let why = "each connection is an open file, though no descriptor of the process; with \
               CAP_SYS_ADMIN the limit does not hold, for a service user it does";
    let finding = finding
        .found(format!("fs.file-max {most}, {used} in use"))
        .needed(wanted)
        .why(why)
        .fix(format!("sysctl -w fs.file-max={wanted}"), format!("sysctl -w fs.file-max={most}"));
    vec![finding]
}

pub(super) fn locked_memory(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let shards = shards(machine, question);
    let needed = shards * limits::RING_MEMORY_BYTES;
    let limit = machine.process.locked_memory;
    let counted = machine.locks_are_counted();
    let verdict = match (counted, limit >= needed) {
        (_, true) => Verdict::Fine,
        (true, false) => Verdict::Refuses,
        (false, false) => Verdict::Fine,
    };
    let found = match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => mebibytes(limit.into()),
    };
    let holds = if counted { "" } else { ", not counted with CAP_IPC_LOCK" };
    let back = if limit == u64::MAX { "unlimited".to_owned() } else { (limit >> 10).to_string() };
    let finding = Finding::new("locked memory", verdict)
        .found(format!("RLIMIT_MEMLOCK {found}{holds}"))
        .needed(format!("{} for {shards} rings", mebibytes(needed.into())))
        .why("the queues of the rings are locked memory of the user that runs the server")
        .fix(
            "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity; docker run --ulimit memlock=-1)",
            format!("ulimit -l {back}"),
        );
    vec![finding]
}

/// Tracking of connections by the packet filter, if it is loaded. With entries it tracks; without
/// any it is loaded and no rule wants it.
pub(super) fn conntrack(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    const NAME: &str = "net.netfilter.nf_conntrack_max";
    let Some(most) = machine.number(NAME) else { return Vec::new() };
    let used = machine.number("net.netfilter.nf_conntrack_count").unwrap_or(0);
    let wanted = super::sysctl::conntrack_entries(question.connections);
    let finding = Finding::new("connection tracking", Verdict::Fine).why(
        "a full table drops new connections without an answer; a server at the edge needs none",
    );
    let finding = if used == 0 {
        finding.found(format!("loaded ({NAME} {most}) and without entries")).needed("none")
    } else {
        let mut finding = finding.reaches(most.saturating_sub(used));
        finding.verdict = bounds(most.saturating_sub(used), question);
        let port = question.config.server.listen.port();
        finding
            .found(format!("{NAME} {most}, {used} in use"))
            .needed(format!("{wanted} entries, or none at all for port {port}"))
            .fix(
                format!(
                    "sysctl -w {NAME}={wanted}, or leave it out: nft add table inet tidegate && nft \
                     'add chain inet tidegate in {{ type filter hook prerouting priority raw; }}' \
                     && nft add rule inet tidegate in tcp dport {port} notrack && nft 'add chain \
                     inet tidegate out {{ type filter hook output priority raw; }}' && nft add \
                     rule inet tidegate out tcp sport {port} notrack"
                ),
                format!("sysctl -w {NAME}={most}, nft delete table inet tidegate"),
            )
    };
    vec![finding]
}

fn mebibytes(bytes: u128) -> String {
    match bytes >> 20 {
        0 => format!("{} KiB", bytes >> 10),
        mebibytes @ ..10_240 => format!("{mebibytes} MiB"),
        mebibytes => format!("{:.1} GiB", mebibytes as f64 / 1024.0),
    }
}
