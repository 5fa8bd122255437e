//! Commands of the configuration that run at a shutdown of the real server: before the drain and
//! after it, in their time; one that fails or hangs is named by the log, the report, the metrics
//! of the next start and the exit code, and holds nobody up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::server::{Server, text};
use support::wire::{CLOSE, Client, End, FIN, Next, close_payload, frame};
use support::{eventually, http};

/// A server with these hooks, which writes its report.
fn start(hooks: &Value, report: &Path, settings: &[&str]) -> Server {
    let hooks = format!("shutdown.hooks={hooks}");
    let report = format!("shutdown.report_file={}", report.display());
    let mut all = vec!["server.shards=2", hooks.as_str(), report.as_str()];
    all.extend_from_slice(settings);
    Server::start(&all)
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
