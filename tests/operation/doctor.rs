//! `tidegate doctor` names what binds, with the number of connections that it allows, and is
//! right: so many are held, and those beyond are refused and nobody else notices.

use std::process::{Command, Stdio};

use crate::support::figures::metric;
use crate::support::load::Load;
use crate::support::server::{Server, command};
use crate::support::{alone, eventually};
use serde_json::Value;

/// Ten thousand and more connections on each shard would take time and show nothing else.
const DESCRIPTORS: &str = "2000";

/// A command under a limit of descriptors, which is a shell's to set.
fn limited(descriptors: &str, inner: &Command) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("ulimit -n {descriptors} && exec \"$0\" \"$@\"")]);
    shell.arg(inner.get_program()).args(inner.get_args()).env_clear();
    shell.stdin(Stdio::null()).stdout(Stdio::null());
    shell
}

fn doctor(arguments: &[&str]) -> Command {
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    doctor.arg("doctor").args(arguments).env_clear();
    doctor
}

/// Its exit code and its report.
#[track_caller]
fn asked(mut doctor: Command) -> (Option<i32>, Value) {
    let output = doctor.stdout(Stdio::piped()).output().expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    (output.status.code(), report)
}

#[track_caller]
fn reachable_by(report: &Value, subject: &str) -> u64 {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["subject"] == subject);
    finding.and_then(|finding| finding["reachable"].as_u64()).expect(subject)
}

#[test]
fn ten_million_connections_here_are_bound_by_descriptors_or_memory() {
    let arguments = ["--connections", "10000000", "--json", "--shards"];
    let (code, two) = asked(doctor(&[&arguments[..], &["2"]].concat()));
    let (_, four) = asked(doctor(&[&arguments[..], &["4"]].concat()));
    let by_descriptors = [&two, &four].map(|report| reachable_by(report, "descriptors"));
    assert_eq!(by_descriptors[1], 2 * by_descriptors[0], "raising shards moves it");
    let by_memory = [&two, &four].map(|report| reachable_by(report, "memory"));
    assert!(
        by_memory[0].abs_diff(by_memory[1]) * 100 < by_memory[0],
        "shards do not: {by_memory:?}"
    );
    let reachable = two["reachable"].as_u64().unwrap();
    assert!(reachable <= by_descriptors[0].min(by_memory[0]), "{two}");
    assert_eq!(code, Some(i32::from(reachable < 10_000_000)));
    if code == Some(1) {
        assert!(two["binds"].is_string(), "{two}");
    }
}

#[test]
fn as_many_as_the_doctor_says_are_held_and_those_beyond_are_refused() {
    let _alone = alone();
    for shards in ["1", "3"] {
        let question = doctor(&["--connections", "100000", "--json", "--shards", shards]);
        let (code, report) = asked(limited(DESCRIPTORS, &question));
        assert_eq!((code, &report["binds"]), (Some(1), &Value::from("descriptors")), "{report}");
        let reachable = report["reachable"].as_u64().unwrap();
        assert_eq!(reachable, 1_616 * shards.parse::<u64>().unwrap());

        let setting = format!("server.shards={shards}");
        let server = Server::from_command(limited(DESCRIPTORS, &command(&[&setting])));
        let url = format!("ws://{}/ws", server.clients);
        let mut held = Load::start("hold", &url, &["-n", &reachable.to_string()]);
        assert_eq!(metric(&server, "tidegate_connections_capacity"), reachable, "it says so");
        assert_eq!(held.opened(), reachable, "so many are held");
        let beyond = (reachable / 20).to_string();
        let arguments = ["-n", &beyond, "--expect-admitted", "0", "--for", "0s"];
        let refused = Load::start("hold", &url, &arguments).report();
        assert_eq!(refused["ledger"]["balanced"], true, "{refused}");
        assert_eq!(metric(&server, "tidegate_connections"), reachable, "nobody else notices");
        assert_eq!(
            metric(&server, "tidegate_admission_refused_total{reason=\"capacity\"}"),
            reachable / 20
        );
        held.stop();
        held.report();
        eventually("all have left", || metric(&server, "tidegate_connections") == 0);
    }
}

#[test]
fn the_text_names_the_command_and_the_way_back() {
    let mut question = limited(DESCRIPTORS, &doctor(&["--connections", "100000", "--shards", "2"]));
    let output = question.stdout(Stdio::piped()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "BINDS    descriptors",
        "RLIMIT_NOFILE 2000 x 2 shards",
        "ulimit -n 50384",
        "--shards 62",
        "undo: ulimit -n 2000",
        "3232 of 100000 connections can be held here; descriptors binds first.",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[test]
fn a_server_says_at_the_start_what_could_be_better() {
    let (_, report) = asked(doctor(&["--connections", "1616", "--json", "--shards", "1"]));
    let findings = report["findings"].as_array().unwrap();
    let advised = findings.iter().any(|finding| finding["verdict"] == "advice");
    let server = Server::from_command(limited(DESCRIPTORS, &command(&["server.shards=1"])));
    let said = server.log().iter().any(|event| {
        event["message"].as_str().is_some_and(|line| line.starts_with("for 1616 connections this"))
    });
    assert_eq!(said, advised, "{report}");
}
