//! Autobahn|Testsuite finds of each case what `conformance/expected.tsv` says: nothing failed,
//! nothing non-strict. With the default limits only messages over the limit differ, with 1009.
//!
//! `cargo test` runs the cases that take no long time; `scripts/conformance` runs them all
//! (CONFORMANCE=all). The suite needs a Python 2.7: without one these tests say so and pass, except
//! in continuous integration (CI=true), where they fail.

use crate::support;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::server::Server;
use serde_json::{Value, json};

const EXPECTED: &str = "tests/conformance/expected.tsv";

/// What the suite found, by case: behaviour, behaviour at the close, and our close code.
type Results = BTreeMap<Case, (String, String, Option<u64>)>;

/// The number of a case, in the order in which people count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Case(Vec<u32>);

impl Case {
    fn parse(text: &str) -> Self {
        Self(text.split('.').map(|part| part.parse().expect("a number")).collect())
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where the suite is installed; `None` if there is no Python 2.7 for it.
fn suite() -> Option<PathBuf> {
    let directory = match std::env::var_os("CONFORMANCE_SUITE") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("conformance"),
    };
    let prepare = Command::new("timeout")
        .arg("900")
        .arg(repository("scripts/conformance"))
        .arg("--prepare")
        .env("CONFORMANCE_SUITE", &directory)
        .stdin(Stdio::null())
        .output()
        .expect("scripts/conformance");
    let said = String::from_utf8_lossy(&prepare.stderr);
    match prepare.status.code() {
        Some(0) => Some(directory),
        Some(3) if std::env::var_os("CI").is_none() => {
            eprintln!("\n*** SKIPPED: conformance is not tested here. {said}\n");
            None
        }
        _ => panic!("scripts/conformance --prepare: {said}"),
    }
}

/// Runs these groups of cases against a server with these settings, all groups at once: most cases
/// wait for something most of the time, and the suite uses one core only.
fn run(suite: &Path, name: &str, groups: &[&[&str]], settings: &[&str]) -> Results {
    let server = Server::start(settings);
    let report = suite.join("report").join(name);
    let _ = fs::remove_dir_all(&report);
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        for (index, cases) in groups.iter().enumerate() {
            let (server, report) = (&server, report.join(index.to_string()));
            running.push(scope.spawn(move || run_group(suite, &report, cases, server)));
        }
        running.into_iter().flat_map(|group| group.join().expect("results")).collect()
    })
}

fn run_group(suite: &Path, report: &Path, cases: &[&str], server: &Server) -> Results {
    fs::create_dir_all(report).unwrap();
    let specification = json!({
        "outdir": report,
        "servers": [{ "agent": "tidegate", "url": format!("ws://{}/echo", server.clients) }],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    });
    fs::write(report.join("specification.json"), specification.to_string()).unwrap();
    let output = Command::new("timeout")
        .arg("3000")
        .arg(suite.join("venv/bin/wstest"))
        .args(["-m", "fuzzingclient", "-s"])
        .arg(report.join("specification.json"))
        .stdin(Stdio::null())
        .output()
        .expect("wstest");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let index = fs::read_to_string(report.join("index.json")).expect("a report");
    let index: Value = serde_json::from_str(&index).unwrap();
    let found = index["tidegate"].as_object().expect("results").iter().map(|(case, result)| {
        let text = |field: &str| result[field].as_str().expect("a verdict").to_owned();
        let code = result["remoteCloseCode"].as_u64();
        (Case::parse(case), (text("behavior"), text("behaviorClose"), code))
    });
    found.collect()
}

fn expected() -> BTreeMap<Case, (String, String)> {
    let text = fs::read_to_string(repository(EXPECTED)).expect(EXPECTED);
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split('\t').collect::<Vec<_>>());
    let rows = fields.map(|fields| match fields[..] {
        [case, behaviour, close] => (Case::parse(case), (behaviour.into(), close.into())),
        _ => panic!("{EXPECTED}: {fields:?}"),
    });
    rows.collect()
}

fn count(results: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    results.for_each(|name| *counts.entry(name).or_default() += 1);
    counts
}

fn mode() -> String {
    std::env::var("CONFORMANCE").unwrap_or_else(|_| "quick".to_owned())
}

fn save(results: &Results) {
    let mut text =
        "# Case, behaviour and behaviour at the close, as Autobahn|Testsuite names them.\n\
                    # Written by scripts/conformance --save.\n"
            .to_owned();
    for (case, (behaviour, close, _)) in results {
        text += &format!("{case}\t{behaviour}\t{close}\n");
    }
    fs::write(repository(EXPECTED), text).unwrap();
}

/// Everything that is quick: of the long messages and of the compressed ones a few.
const QUICK: [&str; 22] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "9.2.2", "9.3.5", "9.4.9", "9.5.6",
    "9.7.1", "10.*", "12.1.1", "12.2.4", "12.3.11", "13.1.5", "13.3.9", "13.5.2", "13.6.11",
    "13.7.6",
];

/// All 517, in groups of similar length.
const ALL: [&[&str]; 8] = [
    &["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"],
    &["9.*"],
    &["12.1.*", "12.2.*"],
    &["12.3.*", "12.4.*"],
    &["12.5.*", "13.1.*"],
    &["13.2.*", "13.3.*"],
    &["13.4.*", "13.5.*"],
    &["13.6.*", "13.7.*"],
];

#[test]
fn every_case_is_as_the_committed_results_say() {
    let Some(suite) = suite() else { return };
    let _alone = support::alone();
    let mode = mode();
    let groups = if mode == "quick" { &[&QUICK[..]][..] } else { &ALL };
    // The longest cases have 16 MiB; every reply is compressed that can be.
    let settings = ["server.max_message_bytes=16777216"];
    let results = run(&suite, "cases", groups, &settings);
    println!("{:?}", count(results.values().map(|result| result.0.clone())));
    if mode == "save" {
        save(&results);
    }
    let expected = expected();
    let strict = ("OK".to_owned(), "OK".to_owned());
    // What has no committed result yet has to be right.
    let differ: Vec<_> = results
        .iter()
        .filter(|(case, (behaviour, close, _))| {
            expected.get(case).unwrap_or(&strict) != &(behaviour.clone(), close.clone())
        })
        .collect();
    assert!(differ.is_empty(), "not as expected: {differ:#?}");
    let least = if mode == "quick" { 261 } else { 517 };
    assert!(results.len() >= least, "only {} cases ran", results.len());
}

#[test]
fn the_committed_results_have_nothing_failed_and_nothing_lenient() {
    for (case, (behaviour, close)) in expected() {
        let good = |verdict: &str| matches!(verdict, "OK" | "INFORMATIONAL");
        assert!(good(&behaviour) && good(&close), "{case}: {behaviour}, {close}");
    }
}

#[test]
fn with_the_default_limits_only_what_is_over_them_differs_and_ends_with_1009() {
    let Some(suite) = suite() else { return };
    let _alone = support::alone();
    let quick = ["9.1.3", "9.1.4", "9.2.6", "9.3.1", "9.4.9"];
    let cases = if mode() == "quick" { &quick[..] } else { &["9.*", "10.*"] };
    let results = run(&suite, "default-limits", &[cases], &[]);
    let expected = expected();
    let mut over = 0;
    for (case, (behaviour, close, code)) in &results {
        // 4 MiB and more: the length in 9.1 and 9.2, the whole message in 9.3 and 9.4.
        let longer = match case.0[..] {
            [9, 1 | 2, size] => size >= 4,
            [9, 3 | 4, _] => true,
            _ => false,
        };
        if longer {
            assert_eq!((behaviour.as_str(), *code), ("FAILED", Some(1009)), "{case}");
            over += 1;
        } else {
            assert_eq!(expected.get(case), Some(&(behaviour.clone(), close.clone())), "{case}");
        }
    }
    println!("{over} of {} cases are over the default limit", results.len());
    assert!(over > 0 && over < results.len());
}
