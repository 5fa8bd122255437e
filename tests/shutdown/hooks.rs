//! Commands of the configuration that run at a shutdown of the real server: before the drain and
//! after it, in their time; one that fails or hangs is named by the log, the report, the metrics
//! of the next start and the exit code, and holds nobody up. None learns a secret.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::server::{Server, command, text};
use crate::support::wire::{CLOSE, Client, End, FIN, Next, close_payload, frame};
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server with these hooks, which writes its report.
fn start(hooks: &Value, report: &Path, settings: &[&str]) -> Server {
    Server::from_command(serving(hooks, report, settings))
}

fn serving(hooks: &Value, report: &Path, settings: &[&str]) -> Command {
    let hooks = format!("shutdown.hooks={hooks}");
    let report = format!("shutdown.report_file={}", report.display());
    let mut all = vec!["server.shards=2", hooks.as_str(), report.as_str()];
    all.extend_from_slice(settings);
    command(&all)
}

fn shell(name: &str, stage: &str, timeout_ms: u64, script: &str) -> Value {
    let command = ["sh", "-c", script];
    json!({ "name": name, "stage": stage, "timeout_ms": timeout_ms, "command": command })
}

/// The stages of the report with their results, those of the server itself left out.
fn hooks_of(report: &Path) -> Vec<(String, String)> {
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let stages = report["stages"].as_array().unwrap();
    let name_and_result =
        |stage: &Value| (text(stage, "name").to_owned(), text(stage, "result").to_owned());
    stages.iter().map(name_and_result).filter(|(name, _)| name.contains(':')).collect()
}

fn leave(mut client: Client) {
    while client.frame().close_code() != Some(1001) {}
    client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    assert_eq!(client.next(), Next::End(End::Closed));
}

/// Rule 1, rule 8, S1.62, S1.64, S4.58, S4.17.
#[test]
fn hooks_run_before_and_after_the_drain() {
    let directory = tempfile::tempdir().unwrap();
    let (report, ran) = (directory.path().join("report.json"), directory.path().join("ran"));
    let note = |what: &str| format!("echo {what} >> {}", ran.display());
    let wait = format!("while [ ! -e {}/go ]; do sleep 0.02; done", directory.path().display());
    let hooks = json!([
        shell("last words", "last", 5_000, &note("last")),
        shell("leave the registry", "before", 15_000, &format!("{}; {wait}", note("before"))),
        shell("save", "database", 5_000, &note("database")),
    ]);
    let mut server = start(&hooks, &report, &["shutdown.notice_ms=100"]);
    let early = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    eventually("the first hook runs", || ran.exists());
    // Whoever looks it up there still finds it, and is let in.
    let late = Client::connect(server.clients, "/echo");
    std::fs::write(directory.path().join("go"), "").unwrap();
    leave(early);
    leave(late);
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(0), &json!(2)));
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "before\ndatabase\nlast\n");
    let done = |name: &str| (name.to_owned(), "done".to_owned());
    let expected = ["before:leave the registry", "database:save", "last:last words"].map(done);
    assert_eq!(hooks_of(&report), expected);
}

/// Rule 2, rule 8, S1.49, S1.50, S1.52, S2.33.
#[test]
fn a_hook_that_hangs_is_killed_and_named_and_the_next_one_runs() {
    let directory = tempfile::tempdir().unwrap();
    let (report, ran) = (directory.path().join("report.json"), directory.path().join("ran"));
    let hooks = json!([
        shell("stuck", "before", 700, "echo 'no route to host' >&2; sleep 600"),
        shell("refuses", "cache", 5_000, "echo 'not today' >&2; exit 7"),
        shell("endless", "database", 600_000, "trap '' TERM; while :; do sleep 600; done"),
        shell("next", "last", 5_000, &format!("echo next >> {}", ran.display())),
    ]);
    let settings = ["shutdown.deadline_ms=6000", "shutdown.drain_ms=1000"];
    let mut server = start(&hooks, &report, &settings);
    let deaf = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    let signalled = Instant::now();
    let (code, last_words) = server.ended();
    // The deadline, and a second for a machine that is busy.
    assert!(signalled.elapsed() < Duration::from_secs(7), "{:?}", signalled.elapsed());
    assert_eq!((code, &last_words["exit_code"]), (Some(74), &json!(74)), "{last_words}");
    assert_eq!(std::fs::read_to_string(&ran).unwrap(), "next\n");
    let named = |(name, result): (&str, &str)| (name.to_owned(), result.to_owned());
    assert_eq!(
        hooks_of(&report),
        [
            ("before:stuck", "timed_out"),
            ("cache:refuses", "failed"),
            ("database:endless", "timed_out"),
            ("last:next", "done"),
        ]
        .map(named)
    );
    let stuck = server.wait_for_log("Stuck: closing timed out");
    assert_eq!((text(&stuck, "last_word"), text(&stuck, "level")), ("no route to host", "WARN"));
    let refuses = server.wait_for_log("Refuses: closing failed");
    assert!(text(&refuses, "error").ends_with("not today"), "{refuses}");
    drop(deaf);

    let next = start(&json!([]), &report, &[]);
    let page = http::get(next.admin, "/metrics");
    let line = |stage: &str, result: &str| {
        format!(
            "tidegate_last_shutdown_stage_duration_seconds{{stage=\"{stage}\",result=\"{result}\"}} "
        )
    };
    assert!(page.contains(&line("database:endless", "timed_out")), "{page}");
    assert!(page.contains(&line("last:next", "done")), "{page}");
}

/// A second signal leaves hooks no more than a second, and its exit code is above theirs.
#[test]
fn a_forced_shutdown_does_not_wait_for_hooks() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let hooks = json!([
        shell("fails", "before", 20_000, "exit 1"),
        shell("slow", "before", 20_000, "sleep 600"),
        shell("slow", "last", 20_000, "sleep 600"),
    ]);
    let mut server = start(&hooks, &report, &[]);
    server.signal(Signal::TERM);
    server.wait_for_log("Closing slow");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(Duration::from_secs(4)).code(), Some(75));
    let named = |(name, result): (&str, &str)| (name.to_owned(), result.to_owned());
    let expected =
        [("before:fails", "failed"), ("before:slow", "timed_out"), ("last:slow", "timed_out")];
    assert_eq!(hooks_of(&report), expected.map(named));
}

/// In each stage: what the server was given for itself is not passed on, wherever it came from, but
/// for what everybody needs and what the hook asks for by name. Nor are its files and sockets.
#[test]
fn a_hook_is_given_a_short_environment_and_nothing_that_is_open() {
    const STAGES: [&str; 6] = ["before", "background", "cache", "database", "external", "last"];
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let hooks: Vec<Value> = STAGES
        .iter()
        .map(|stage| {
            let script = format!(
                "tr '\\0' '\\n' </proc/$$/environ >{0}; ls /proc/$$/fd >{0}.open",
                at(stage).display()
            );
            let mut hook = shell(stage, stage, 5_000, &script);
            hook["environment"] = json!(["REGION", "NOT_SET"]);
            hook
        })
        .collect();
    let mut serving = serving(&json!(hooks), &at("report.json"), &["shutdown.notice_ms=50"]);
    let path = std::env::var("PATH").unwrap();
    serving.envs([
        ("PATH", path.as_str()),
        ("HOME", "/nonexistent"),
        ("TZ", "UTC"),
        ("REGION", "north"),
        ("TIDEGATE_ADMIN__TOKEN", "0123456789abcdef0123456789abcdef"),
        ("REDIS_URL", "redis://:password@127.0.0.1:1"),
        ("DATABASE_URL", "postgres://user:password@database/"),
        ("CREDENTIALS_DIRECTORY", "/run/credentials/tidegate.service"),
        ("NOTIFY_SOCKET", "/nonexistent"),
        ("BASH_ENV", "/nonexistent"),
    ]);
    let mut server = Server::from_command(serving);
    server.signal(Signal::TERM);
    server.wait();
    for stage in STAGES {
        let text = std::fs::read_to_string(at(stage)).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        let path = format!("PATH={path}");
        assert_eq!(lines, ["HOME=/nonexistent", &path, "REGION=north", "TZ=UTC"], "{stage}");
        // Standard input, output and error, and the shell's own for what it redirects.
        let open = std::fs::read_to_string(at(&format!("{stage}.open"))).unwrap();
        let inherited = open.lines().filter(|fd| fd.parse::<u32>().unwrap() < 10);
        assert_eq!(inherited.collect::<Vec<_>>(), ["0", "1", "2"], "{stage}");
    }
}

/// A secret is not handed on even to a hook that asks for it, under any of its names.
#[test]
fn a_hook_that_asks_for_a_secret_is_refused_at_the_start() {
    for name in ["TIDEGATE_ADMIN__TOKEN", "TIDEGATE_REDIS__URL", "REDIS_URL"] {
        let mut hook = shell("curious", "last", 1_000, "true");
        hook["environment"] = json!(["HOME", name]);
        let output = command(&[&format!("shutdown.hooks=[{hook}]")]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(&format!("curious: environment has {name}")), "{said}");
    }
}
