//! The alert rules for Prometheus: Prometheus takes them, each fires for what it is about, and
//! every metric that they name is one that a server has.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::support::redis::Redis;
use crate::support::server::Server;
use crate::support::{eventually, http};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

fn rules() -> String {
    fs::read_to_string(directory().join("rules.yml")).unwrap()
}

#[track_caller]
fn promtool(arguments: &[&str]) {
    let mut promtool = Command::new("promtool");
    promtool.args(arguments).current_dir(directory()).stdin(Stdio::null());
    let output = promtool.output().expect("promtool; scripts/test installs it");
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success(), "{arguments:?}: {}", said.concat());
}

/// What follows `key` on its lines.
fn values(text: &str, key: &str) -> BTreeSet<String> {
    let line = |line: &str| {
        line.trim_start()
            .trim_start_matches("- ")
            .strip_prefix(key)
            .map(|rest| rest.trim().to_owned())
    };
    text.lines().filter_map(line).collect()
}

/// Rule 9, S0.56 to S0.59, S1.52, S4.83 to S4.85.
#[test]
fn prometheus_takes_the_rules_and_each_fires_for_what_it_is_about() {
    promtool(&["check", "rules", "rules.yml"]);
    promtool(&["test", "rules", "rules_test.yml"]);
    let tests = fs::read_to_string(directory().join("rules_test.yml")).unwrap();
    let (alerts, tested) = (values(&rules(), "alert:"), values(&tests, "alertname:"));
    assert!(alerts.len() > 15, "{alerts:?}");
    assert_eq!(alerts, tested, "every alert has a test");
}

/// The names of metrics in the rules, in what they say to people too.
fn names(text: &str) -> BTreeSet<&str> {
    let text = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = text.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    words.filter(|word| word.starts_with("tidegate_") || word.starts_with("process_")).collect()
}

/// Rule 9, rule 11.
#[test]
fn every_metric_of_the_rules_is_one_that_a_server_has() {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let setting = format!("shutdown.report_file={}", report.display());
    let mut first = Server::start(&["server.shards=1", &setting]);
    first.signal(rustix::process::Signal::TERM);
    assert_eq!(first.ended().0, Some(0));

    let redis = Redis::start();
    let server = Server::start(&["server.shards=2", &setting, &redis.url()]);
    let page = || http::get(server.admin, "/metrics");
    eventually("a flush is in", || page().contains("tidegate_redis_last_success_age_seconds "));
    let page = page();
    let exported: BTreeSet<&str> = page
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let rules = rules();
    let names = names(&rules);
    assert!(names.len() > 20, "{names:?}");
    let missing: Vec<_> = names.difference(&exported).collect();
    assert!(missing.is_empty(), "no server has {missing:?}");
}
