//! The kernel settings of `tuning/` are those that `tidegate doctor` wants, and `tuning/apply` and
//! `tuning/irq` put back exactly what they found.
//!
//! What belongs to a network namespace is set in one of its own. What the machine has once is
//! printed by the dry run and compared; a test does not set it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::network::Network;
use tidegate::doctor::sysctl::{self, PROFILES, Scope, TABLE};

fn tuning() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning")
}

fn run(script: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(tuning().join(script));
    command.args(arguments).output().expect("the script runs")
}

/// What it said; its exit code must be this.
#[track_caller]
fn said(script: &str, arguments: &[&str], code: i32) -> String {
    let output = run(script, arguments);
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{script} {arguments:?}: {text}{error}");
    text
}

fn setting(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Every setting of this network.
fn settings() -> String {
    let output = Command::new("sysctl").args(["-a", "--pattern", "^net\\."]).output();
    let text = String::from_utf8(output.expect("sysctl").stdout).unwrap();
    assert!(text.lines().count() > 200, "{text}");
    text
}

fn of_the_machine() -> Vec<Option<String>> {
    let rows = TABLE.iter().filter(|row| row.scope == Scope::Machine);
    rows.map(|row| setting(row.name)).collect()
}

#[test]
fn the_files_are_what_the_doctor_prints() {
    for (profile, connections) in PROFILES {
        let path = tuning().join(format!("sysctl.d/90-tidegate-{profile}.conf"));
        let file = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            file == sysctl::file(connections),
            "{} is not what this prints: tidegate doctor --connections {connections} --sysctl",
            path.display()
        );
    }
    let files = fs::read_dir(tuning().join("sysctl.d")).unwrap().count();
    assert_eq!(files, PROFILES.len(), "no others, which would be applied as well");
}

#[test]
fn the_readme_has_each_value_with_its_reason_and_source() {
    let text = fs::read_to_string(tuning().join("README.md")).unwrap();
    let rows = sysctl::markdown();
    assert!(text.contains(&rows), "the rows should be:\n{rows}");
}

#[test]
fn a_network_is_as_it_was_after_apply_check_and_undo() {
    let Some(network) = Network::new("tuning") else { return };
    network.run(|| {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("deep/before");
        let state = state.to_str().unwrap();
        // Not a default: what was there comes back, whatever it was.
        fs::write("/proc/sys/net/ipv4/tcp_rmem", "5000 20000 3000000").unwrap();
        fs::write("/proc/sys/net/core/somaxconn", "70000").unwrap();
        let (before, machine) = (settings(), of_the_machine());
        for (profile, connections) in PROFILES {
            let with = |action: &'static str| {
                ["--profile", profile, "--scope", "network", "--state", state, action]
            };
            said("apply", &with("--check"), 1);
            let applied = said("apply", &with("--apply"), 0);
            assert!(applied.contains("from '5000 20000 3000000' to"), "{applied}");
            said("apply", &with("--check"), 0);
            said("apply", &with("--apply"), 0);
            for row in TABLE.iter().filter(|row| row.scope == Scope::Network) {
                let found = setting(row.name).expect(row.name);
                assert_eq!(row.holds(&found, connections, 4096), Some(true), "{}", row.name);
            }
            assert_eq!(setting("net.core.somaxconn").as_deref(), Some("70000"), "not lowered");
            said("apply", &with("--undo"), 0);
            assert!(!Path::new(state).exists());
            assert_eq!(settings(), before, "profile {profile}");
        }
        assert!(said("apply", &["--state", state, "--undo"], 0).contains("nothing to undo"));
        assert_eq!(of_the_machine(), machine);
    });
}

#[test]
fn what_the_machine_has_once_is_shown_and_left() {
    let before = of_the_machine();
    for (profile, connections) in PROFILES {
        let shown = said("apply", &["--profile", profile, "--scope", "machine"], 0);
        for row in TABLE.iter().filter(|row| row.scope == Scope::Machine) {
            let Some(found) = setting(row.name) else { continue };
            let wanted = row.text(connections, 4096);
            let line = match row.holds(&found, connections, 4096) {
                Some(true) => format!("ok      {} = {found}\n", row.name),
                _ => format!("change  {} from '{found}' to '{wanted}'\n", row.name),
            };
            assert!(shown.contains(&line), "{line} is not in:\n{shown}");
        }
    }
    assert_eq!(of_the_machine(), before);
}

#[test]
fn files_for_the_next_boot_come_and_go() {
    let Some(network) = Network::new("persist") else { return };
    network.run(|| {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("etc/sysctl.d/90-tidegate.conf");
        fs::create_dir_all(own.parent().unwrap()).unwrap();
        fs::write(&own, "vm.swappiness = 1\n").unwrap();
        let state = root.path().join("before");
        let with = |action: &[&'static str]| {
            let mut arguments = vec!["--scope", "network"];
            arguments.extend(["--state", state.to_str().unwrap()]);
            arguments.extend(["--root", root.path().to_str().unwrap()]);
            arguments.extend(action);
            said("apply", &arguments, 0);
        };
        with(&["--apply", "--persist"]);
        with(&["--apply", "--persist"]);
        let written = fs::read_to_string(&own).unwrap();
        assert!(written.contains("net.ipv4.tcp_migrate_req = 1\n"), "{written}");
        assert!(root.path().join("etc/security/limits.d/90-tidegate.conf").exists());
        with(&["--undo"]);
        assert_eq!(fs::read_to_string(&own).unwrap(), "vm.swappiness = 1\n");
        assert!(!root.path().join("etc/security/limits.d/90-tidegate.conf").exists());
        assert_eq!(fs::read_dir(own.parent().unwrap()).unwrap().count(), 1);
    });
}

#[test]
fn wrong_usage_changes_nothing() {
    for arguments in [&["--profile", "5m"][..], &["--scope", "all?"], &["--aply"], &["--state"]] {
        assert_eq!(run("apply", arguments).status.code(), Some(64), "{arguments:?}");
    }
    assert_eq!(run("irq", &["--apply", "no-such-interface"]).status.code(), Some(64));
    assert_eq!(run("irq", &[]).status.code(), Some(64));
}

/// A network card with one queue more for sending than for receiving, made of files.
#[test]
fn the_work_of_a_card_is_spread_and_put_back() {
    let root = tempfile::tempdir().unwrap();
    let files = [
        ("proc/irq/40/smp_affinity", "f\n"),
        ("sys/class/net/eth9/queues/rx-0/rps_cpus", "00000000,00000000\n"),
        ("sys/class/net/eth9/queues/tx-0/xps_cpus", "0\n"),
        ("sys/class/net/eth9/queues/tx-1/xps_cpus", "0\n"),
        ("sys/class/net/eth9/device/msi_irqs/40", "msix\n"),
    ];
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let now = || files.map(|(path, _)| fs::read_to_string(root.path().join(path)).unwrap());
    let before = now();
    let state = root.path().join("before");
    let with = |action: &'static str, code: i32| {
        let place = ["--root", root.path().to_str().unwrap(), "--state", state.to_str().unwrap()];
        said("irq", &[&place[..], &[action, "eth9"]].concat(), code)
    };
    with("--check", 1);
    assert_eq!(now(), before);
    with("--apply", 0);
    with("--check", 0);
    assert_eq!((now()[0].trim(), now()[2].trim()), ("1", "1"), "interrupt and queue 0 to core 0");
    assert_ne!(now(), before);
    with("--undo", 0);
    assert_eq!(now(), before);
    assert!(!state.exists());
}
