//! Every stage of a shutdown is made to take too long, in turn and together: the next one starts,
//! the process ends by itself before its deadline, and report and exit code say which it was.
//! A Redis that does not answer at all is in `redis.rs` as well, with every way to fail.
//!
//! With `TIDEGATE_TEST_CONNECTIONS=10000` there are so many clients that do not read; 2,000 without.

use crate::support;
use std::time::{Duration, Instant};

use crate::support::crowd::crowd;
use crate::support::leaving::{check_sum, clients, named};
use crate::support::redis::Redis;
use crate::support::server::Server;
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A place for the report, and the setting that names it.
fn report_in(directory: &TempDir) -> String {
    format!("shutdown.report_file={}", directory.path().join("report.json").display())
}

/// The stages of a report: name and result of each.
fn stages(directory: &TempDir) -> Vec<(String, String)> {
    let report = std::fs::read(directory.path().join("report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let stages = report["stages"].as_array().unwrap().iter();
    stages.map(|stage| (text(&stage["name"]), text(&stage["result"]))).collect()
}

fn listed(stages: &[(String, String)]) -> Vec<(&str, &str)> {
    stages.iter().map(|(name, result)| (name.as_str(), result.as_str())).collect()
}

fn deaf_clients() -> usize {
    let number = std::env::var("TIDEGATE_TEST_CONNECTIONS").ok();
    number.map_or(2_000, |number| number.parse().expect("a number"))
}

/// S0.42, S0.43, S1.36, S1.49, S1.50, S1.52, S2.38, S4.53.
#[test]
fn clients_that_never_read_nor_answer_make_the_drain_overrun_and_are_cut() {
    let _alone = support::alone();
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=200",
        "shutdown.drain_ms=2000",
        "shutdown.close_timeout_ms=60000",
        "shutdown.deadline_ms=10000",
        // Most of them have not had their turn when the time is over; those who had are cut when
        // the answer to their Close does not come.
        "shutdown.drain_connections_per_second=200",
        &report_in(&directory),
    ]);
    let count = deaf_clients();
    let deaf = crowd(server.clients, std::iter::repeat_n("/ws", count));
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert!(signalled.elapsed() < Duration::from_secs(11), "{:?}", signalled.elapsed());
    assert_eq!((code, &last_words["forced"]), (Some(0), &json!(true)), "{last_words}");
    assert_eq!(named(&check_sum(&server, &last_words)), [("forced", count as u64)]);
    assert_eq!(
        listed(&stages(&directory)),
        [
            ("notice", "done"),
            ("refusing", "done"),
            ("draining", "timed_out"),
            ("forcing", "done"),
            ("sessions", "skipped"),
            ("redis", "skipped"),
            ("flushing", "done"),
        ]
    );
    let warned = |event: &Value| event["stage"] == "draining" && event["level"] == "WARN";
    assert!(server.log().iter().any(warned), "a stage that timed out is a warning");
    drop(deaf);
}

/// S1.14, S1.49, S2.14: the drain and Redis both, under a deadline that is short for both.
#[test]
fn deaf_clients_and_a_redis_that_stands_still_together_stay_under_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let redis = Redis::start();
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.deadline_ms=4000",
        "shutdown.drain_connections_per_second=5",
        "redis.flush_interval_ms=100",
        &redis.url(),
        &report_in(&directory),
    ]);
    let deaf = clients(&server, 50);
    eventually("the node is in Redis", || {
        http::get(server.admin, "/health/status").contains("\"status\":\"ok\"")
    });
    redis.pause();
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    redis.go_on();
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    assert_eq!(code, Some(0), "everybody was let go: {last_words}");
    assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)]);
    let stages = stages(&directory);
    for stage in [("draining", "timed_out"), ("forcing", "done"), ("redis", "timed_out")] {
        assert!(listed(&stages).contains(&stage), "{stage:?} is not in {stages:?}");
    }
    drop(deaf);
}

/// S1.49, S2.33, S4.33: a shard that never comes round again makes every stage overrun; each is
/// followed by the next, and the end has its own exit code.
#[test]
fn a_shard_that_stands_still_makes_every_stage_overrun_and_none_the_last() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = Server::start(&[
        "server.shards=2",
        "debug.fault_injection=true",
        "shutdown.deadline_ms=3000",
        "shutdown.drain_ms=400",
        "shutdown.close_timeout_ms=100",
        &report_in(&directory),
    ]);
    let _deaf = clients(&server, 60);
    let stall = json!({ "shard": 0, "fault": "stall", "ms": 30_000 });
    http::post(server.admin, "/api/v1/debug/fault", &stall);
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert!(signalled.elapsed() < Duration::from_secs(5), "{:?}", signalled.elapsed());
    assert_eq!((code, &last_words["exit_code"]), (Some(70), &json!(70)), "{last_words}");
    let stages = stages(&directory);
    for stage in ["refusing", "draining", "forcing", "flushing"] {
        assert!(listed(&stages).contains(&(stage, "timed_out")), "{stage} in {stages:?}");
    }
}

/// S2.33: the last resort, when a coordinator was held up itself.
#[test]
fn a_coordinator_that_is_late_still_ends_the_process_at_its_deadline() {
    let mut server = Server::start(&[
        "server.shards=1",
        "debug.fault_injection=true",
        "shutdown.deadline_ms=1000",
    ]);
    let _deaf = clients(&server, 10);
    server.signal(Signal::TERM);
    server.wait_for_log("phase entered");
    let stall = json!({ "fault": "stall", "ms": 1_500 });
    http::post(server.admin, "/api/v1/debug/fault", &stall);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(70), "{last_words}");
    server.wait_for_log("Shutdown timeout (1s) reached, forcing exit");
}
