//! Machines made of files, and the one that this runs on.

use std::fs;

use proptest::prelude::*;

use super::*;
use crate::config::{FlagValue, Sources};
use crate::limits;

fn process(open_files: u64) -> Process {
    Process {
        open_files,
        locked_memory: u64::MAX,
        cores: 2,
        page_bytes: 4096,
        release: "6.18.0".to_owned(),
        io_uring: Ok(()),
    }
}

/// A tuned machine of 64 GiB for a million connections.
fn files() -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = sysctl::TABLE
        .iter()
        .map(|row| {
            let value = row.text(1_000_000, 4096).replace(' ', "\t");
            (format!("proc/sys/{}", row.name.replace('.', "/")), format!("{value}\n"))
        })
        .collect();
    for (path, text) in [
        ("proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 60000000 kB\nSwapTotal: 0 kB\n"),
        ("proc/self/status", "CapEff:\t0000000000001000\n"),
        ("proc/sys/fs/file-nr", "2048\t0\t9\n"),
        ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
        ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n"),
        ("proc/sys/net/ipv4/tcp_ehash_entries", "524288\n"),
        ("proc/sys/net/netfilter/nf_conntrack_count", "0\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/kernel/mm/transparent_hugepage/defrag", "always defer [madvise] never\n"),
        ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
        ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
        ("sys/class/net/eth0/queues/rx-0/rps_cpus", "0\n"),
        ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
        ("sys/class/net/lo/queues/rx-0/rps_cpus", "0\n"),
        ("usr/lib/systemd/system/tidegate.service", "[Service]\nLimitNOFILE=1048576\n"),
    ] {
        files.push((path.to_owned(), text.to_owned()));
    }
    files
}

fn machine(process: Process, changes: &[(&str, &str)]) -> Machine {
    let root = tempfile::tempdir().unwrap();
    let changes = changes.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
    for (path, text) in files().into_iter().chain(changes) {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    Machine::read(root.path(), process, 0)
}

fn report(machine: &Machine, connections: u64, shards: usize) -> Report {
    let mut config = Config::default();
    config.server.shards = shards;
    examine(machine, Question { connections, config: &config })
}

#[track_caller]
fn of<'a>(report: &'a Report, subject: &str) -> &'a Finding {
    match report.findings.iter().find(|finding| finding.subject == subject) {
        Some(finding) => finding,
        None => panic!("no {subject} in {report:?}"),
    }
}

#[test]
fn a_tuned_machine_has_nothing_to_be_done() {
    let report = report(&machine(process(1 << 20), &[]), 1_000_000, 0);
    assert_eq!(report.worst(), Verdict::Fine, "{}", text(&report));
    assert_eq!((report.reachable >= 1_000_000, &report.binds, short(&report)), (true, &None, None));
    assert_eq!(report.findings.len(), 17 + sysctl::TABLE.len() - 2, "every check has looked");
}

#[test]
fn more_shards_move_the_reachable_number_until_memory_binds() {
    let files = ("proc/sys/fs/file-max", "20000000");
    let small = machine(process(20_000), &[files]);
    let two = report(&small, 10_000_000, 2);
    assert_eq!(two.binds.as_deref(), Some("descriptors"));
    assert_eq!(two.reachable, 2 * (20_000 - u64::from(limits::RESERVED_FILES)));
    assert!(of(&two, "descriptors").command.ends_with("tidegate serve --shards 510"), "{two:?}");
    let memory = of(&two, "memory").reachable.unwrap();
    assert!((10_000_000..14_000_000).contains(&memory), "{memory}");
    assert_eq!(of(&two, "memory").verdict, Verdict::Fine);
    assert_eq!(report(&small, 10_000_000, 8).reachable, 8 * 19_616);
    let many = report(
        &machine(
            process(20_000),
            &[files, ("proc/meminfo", "MemTotal: 8388608 kB\nMemAvailable: 8000000 kB\n")],
        ),
        10_000_000,
        510,
    );
    assert_eq!(many.binds.as_deref(), Some("memory"));
    let most = (8_u64 << 30) / 10 * 9 / limits::BYTES_PER_CONNECTION;
    assert!((most / 3..most).contains(&many.reachable), "{}", many.reachable);
    assert_eq!(of(&many, "descriptors").verdict, Verdict::Fine);
}

#[test]
fn what_keeps_the_server_from_starting_is_said() {
    let mut forbidden = process(64);
    forbidden.io_uring = Err(("seccomp".to_owned(), "a profile".to_owned()));
    forbidden.locked_memory = 64 << 10;
    let report = report(&machine(forbidden, &[]), 1_000, 2);
    assert_eq!(report.worst(), Verdict::Refuses);
    for subject in ["io_uring", "descriptors", "own descriptors", "locked memory"] {
        assert_eq!(of(&report, subject).verdict, Verdict::Refuses, "{subject}");
    }
    assert!(text(&report).ends_with("does not start here: see REFUSES above.\n"));
}

#[test]
fn privileges_lift_limits() {
    let mut few = process(1 << 20);
    few.locked_memory = 64 << 10;
    let bounded = [("proc/sys/fs/file-max", "500000\n")];
    let user = report(&machine(few.clone(), &bounded), 1_000_000, 2);
    assert_eq!(user.binds.as_deref(), Some("open files of the machine"));
    assert_eq!(user.reachable, 497_952);
    assert_eq!(of(&user, "locked memory").verdict, Verdict::Refuses);
    let all = [bounded[0], ("proc/self/status", "CapEff:\t000001ffffffffff\n")];
    let root = report(&machine(few, &all), 1_000_000, 2);
    assert_eq!((root.binds.as_deref(), of(&root, "locked memory").verdict), (None, Verdict::Fine));
    assert_eq!(of(&root, "open files of the machine").verdict, Verdict::Advice);
}

#[test]
fn a_table_of_tracked_connections_binds_only_if_it_is_in_use() {
    let idle = [("proc/sys/net/netfilter/nf_conntrack_max", "262144\n")];
    assert_eq!(report(&machine(process(1 << 20), &idle), 1_000_000, 0).binds, None);
    let used = [idle[0], ("proc/sys/net/netfilter/nf_conntrack_count", "144\n")];
    let report = report(&machine(process(1 << 20), &used), 1_000_000, 0);
    assert_eq!((report.binds.as_deref(), report.reachable), (Some("connection tracking"), 262_000));
    assert!(of(&report, "connection tracking").command.contains("tcp dport 8080 notrack"));
}

/// Each of these alone is advice, with a command that names what was found to go back.
#[test]
fn what_only_hurts_is_advice() {
    for (subject, path, text, command, undo) in [
        ("net.core.somaxconn", "proc/sys/net/core/somaxconn", "4096", "=65535", "='4096'"),
        (
            "net.ipv4.tcp_mem",
            "proc/sys/net/ipv4/tcp_mem",
            "1\t2\t3",
            "='250000 375000 500000'",
            "='1 2 3'",
        ),
        (
            "net.ipv4.tcp_wmem",
            "proc/sys/net/ipv4/tcp_wmem",
            "4096\t16384\t4194304",
            "1048576'",
            "4194304'",
        ),
        ("net.ipv4.tcp_migrate_req", "proc/sys/net/ipv4/tcp_migrate_req", "0", "='1'", "='0'"),
        ("backlog", "proc/sys/net/core/somaxconn", "4096", "=65535", "=4096"),
        (
            "socket table",
            "proc/sys/net/ipv4/tcp_ehash_entries",
            "65536",
            "thash_entries=262144",
            "reboot",
        ),
        ("ports", "proc/sys/net/ipv4/ip_local_port_range", "1024 65535", "=8080,8081", "=''"),
        (
            "huge pages",
            "sys/kernel/mm/transparent_hugepage/enabled",
            "[always] madvise never",
            "",
            "",
        ),
        ("goodbyes", "proc/self/status", "CapEff:\t0\n", "CAP_NET_ADMIN", "rm"),
        (
            "clock source",
            "sys/devices/system/clocksource/clocksource0/current_clocksource",
            "hpet",
            "echo tsc",
            "echo hpet",
        ),
        (
            "interrupts of eth1",
            "sys/class/net/eth1/device/x",
            "",
            "tuning/irq --apply eth1",
            "--undo eth1",
        ),
        (
            "unit",
            "etc/systemd/system/tidegate.service",
            "[Service]\nLimitNOFILE=1024\n",
            "LimitNOFILE=1048576",
            "rm",
        ),
    ] {
        let mut changes = vec![(path, text)];
        if subject == "huge pages" {
            changes.push(("sys/kernel/mm/transparent_hugepage/defrag", "[always] never"));
        }
        let report = report(&machine(process(1 << 20), &changes), 1_000_000, 0);
        let finding = of(&report, subject);
        assert_eq!(finding.verdict, Verdict::Advice, "{finding:?}");
        assert!(finding.command.contains(command.trim_start_matches('=')), "{finding:?}");
        assert!(finding.undo.contains(undo), "{finding:?}");
        assert_eq!((report.worst(), report.binds), (Verdict::Advice, None), "{subject}");
    }
    let swap =
        ("proc/meminfo", "MemTotal: 67108864 kB\nMemAvailable: 1 kB\nSwapTotal: 1048576 kB\n");
    assert_eq!(
        of(&report(&machine(process(1 << 20), &[swap]), 1, 0), "swap").verdict,
        Verdict::Advice
    );
}

#[test]
fn keys_that_allow_more_than_there_is_memory_for_are_named() {
    let small = [("proc/meminfo", "MemTotal: 262144 kB\nMemAvailable: 250000 kB\n")];
    let machine = machine(process(1 << 20), &small);
    let key = "server.max_unfinished_bytes";
    assert_eq!(of(&report(&machine, 10_000, 2), key).verdict, Verdict::Fine, "only a default");
    let flags = vec![FlagValue::new("--set", key, "100000000")];
    let mut config = Config::load(Sources { flags, ..Sources::default() }).unwrap();
    let decided = examine(&machine, Question { connections: 10_000, config: &config });
    assert_eq!(of(&decided, key).verdict, Verdict::Advice);
    config.server.max_message_bytes = 200 << 20;
    let refused = examine(&machine, Question { connections: 10_000, config: &config });
    assert_eq!(of(&refused, "memory").verdict, Verdict::Refuses);
    assert!(of(&refused, "memory").needed.contains("server.max_message_bytes of at most"));
}

#[test]
fn whatever_is_not_fine_has_a_command_and_a_way_back() {
    let mut poor = process(64);
    (poor.io_uring, poor.locked_memory) = (Err(("no".into(), "run another".into())), 1);
    let report = report(
        &machine(poor, &[("proc/sys/fs/file-max", "100"), ("proc/sys/net/core/somaxconn", "1")]),
        10_000_000,
        1_000,
    );
    for finding in &report.findings {
        let troubled = finding.verdict >= Verdict::Advice;
        assert_eq!(
            !finding.command.is_empty() && !finding.undo.is_empty(),
            troubled,
            "{finding:?}"
        );
        assert!(!finding.why.is_empty() && !finding.found.is_empty(), "{finding:?}");
    }
    let parsed: serde_json::Value = serde_json::from_str(&json(&report)).unwrap();
    assert_eq!(parsed["findings"][0]["verdict"], "refuses");
    assert_eq!(parsed["connections"], 10_000_000);
}

#[test]
fn a_machine_without_files_is_unknown_and_no_error() {
    let root = tempfile::tempdir().unwrap();
    let report = report(&Machine::read(root.path(), process(1 << 20), 0), 1_000, 0);
    assert_eq!(of(&report, "memory").verdict, Verdict::Unknown);
    assert_eq!(of(&report, "net.core.somaxconn").verdict, Verdict::Unknown);
    assert_eq!(report.binds, None);
}

#[test]
fn the_machine_that_this_runs_on_has_figures() {
    let here = Machine::read(
        std::path::Path::new("/"),
        Process::ask(crate::ring::probe::check()).unwrap(),
        0,
    );
    let report = report(&here, 10_000_000, 0);
    assert!(of(&report, "memory").reachable.unwrap() > 1_000, "{report:?}");
    assert!(of(&report, "descriptors").reachable.unwrap() > 0);
    assert!(here.sysctls.contains_key("net.core.somaxconn"));
}

proptest! {
    /// Whatever the machine is, more descriptors or more shards never make it hold less.
    #[test]
    fn more_is_never_less(files in 0_u64..2_000_000, more in 0_u64..2_000_000, shards in 1_usize..1024) {
        let mut one = Machine::read(std::path::Path::new("/nonexistent"), process(files), 0);
        let few = report(&one, u64::MAX / 8192, shards).reachable;
        prop_assert!(report(&one, u64::MAX / 8192, shards + 1).reachable >= few);
        one.process.open_files += more;
        prop_assert!(report(&one, u64::MAX / 8192, shards).reachable >= few);
    }
}
