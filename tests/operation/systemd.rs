//! Under a service manager: ready when it serves, stopping when a drain begins, reloading while the
//! configuration is read, alive as long as every shard comes round. The manager here is a real
//! unix datagram socket. The unit passes systemd's own checks.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::server::{Server, command};
use crate::support::{PATIENCE, http};
use rustix::process::Signal;
use serde_json::json;

/// A socket that takes what a service tells its manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        Self { socket, name: path.to_str().unwrap().to_owned(), _directory: directory }
    }

    /// One of the abstract names, as in containers.
    fn with_abstract_name() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let name = directory.path().to_str().unwrap().to_owned();
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap());
        Self { socket: socket.unwrap(), name: format!("@{name}"), _directory: directory }
    }

    fn serve(&self, settings: &[&str], environment: &[(&str, &str)]) -> Server {
        let mut command = command(settings);
        command.env("NOTIFY_SOCKET", &self.name).envs(environment.iter().copied());
        Server::from_command(command)
    }

    /// The next message within `patience`.
    fn next(&self, patience: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(patience)).unwrap();
        let mut bytes = [0; 4096];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
    }

    /// The next message with this line, whatever comes before it.
    #[track_caller]
    fn wait_for(&self, line: &str) -> String {
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(message) = self.next(PATIENCE)
                && message.lines().any(|found| found == line)
            {
                return message;
            }
        }
        panic!("no {line}");
    }
}

#[track_caller]
fn number(message: &str, key: &str) -> u64 {
    let line = message.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {key} in {message}")).parse().unwrap()
}

#[test]
fn the_manager_hears_of_each_state_once() {
    for manager in [Manager::new(), Manager::with_abstract_name()] {
        let mut server = manager.serve(&["server.shards=2", "shutdown.deadline_ms=70000"], &[]);
        let ready = manager.next(PATIENCE).unwrap();
        assert_eq!(ready, "READY=1\nSTATUS=running", "and nothing before it");
        http::get(server.admin, "/readyz");

        server.signal(Signal::HUP);
        let reloading = manager.next(PATIENCE).unwrap();
        assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
        assert!(number(&reloading, "MONOTONIC_USEC") > 0);
        assert_eq!(manager.next(PATIENCE).unwrap(), "READY=1\nSTATUS=running");

        assert_eq!(server.drain().0, Some(0));
        let stopping = manager.next(PATIENCE).unwrap();
        assert!(stopping.starts_with("STOPPING=1\n"), "{stopping}");
        let extended = number(&stopping, "EXTEND_TIMEOUT_USEC");
        assert_eq!(extended, 80_000_000, "the deadline and a margin");
        let rest: Vec<String> =
            std::iter::from_fn(|| manager.next(Duration::from_millis(1))).collect();
        assert!(!rest.iter().any(|message| message.contains("READY=1")), "{rest:?}");
        assert_eq!(rest.last().unwrap(), "STATUS=stopped");
    }
}

#[test]
fn signs_of_life_come_well_within_the_watchdogs_time_and_say_how_many_are_connected() {
    let manager = Manager::new();
    let mut server = manager.serve(&["server.shards=2"], &[("WATCHDOG_USEC", "2000000")]);
    let first = manager.wait_for("WATCHDOG=1");
    assert!(first.contains("STATUS=running, 0 connections"), "{first}");
    for _ in 0..3 {
        let started = Instant::now();
        manager.wait_for("WATCHDOG=1");
        assert!(started.elapsed() < Duration::from_secs(2), "too late for the manager");
    }
    assert_eq!(server.drain().0, Some(0));
}

#[test]
fn a_thread_that_stands_still_ends_the_signs_of_life_until_it_comes_round() {
    let manager = Manager::new();
    let server = manager
        .serve(&["server.shards=2", "debug.fault_injection=true"], &[("WATCHDOG_USEC", "1000000")]);
    // A shard, and then the coordinator.
    for fault in [
        json!({ "shard": 1, "fault": "stall", "ms": 4_000 }),
        json!({ "fault": "stall", "ms": 4_000 }),
    ] {
        manager.wait_for("WATCHDOG=1");
        http::post(server.admin, "/api/v1/debug/fault", &fault);
        // What was on its way, and those of the first half of the time.
        let stalled = Instant::now();
        while manager.next(Duration::from_millis(1_100)).is_some() {
            assert!(stalled.elapsed() < Duration::from_secs(3), "signs of life go on: {fault}");
        }
        manager.wait_for("WATCHDOG=1");
        assert!(stalled.elapsed() >= Duration::from_secs(2), "it was away: {fault}");
    }
    let lines = server.log();
    let said = lines.iter().filter(|event| {
        event["message"].as_str().is_some_and(|line| line.starts_with("a thread stands still"))
    });
    assert_eq!(said.count(), 2, "once for each");
}

#[test]
fn a_watchdog_for_another_process_is_left_alone() {
    let manager = Manager::new();
    let environment = [("WATCHDOG_USEC", "200000"), ("WATCHDOG_PID", "1")];
    let _server = manager.serve(&["server.shards=1"], &environment);
    manager.wait_for("READY=1");
    assert_eq!(manager.next(Duration::from_millis(500)), None);
}

#[test]
fn a_manager_that_is_gone_is_no_reason_not_to_serve() {
    let mut command = command(&["server.shards=1"]);
    command.env("NOTIFY_SOCKET", "/nonexistent/notify");
    let mut server = Server::from_command(command);
    server.wait_for_log("NOTIFY_SOCKET cannot be used");
    assert_eq!(server.drain().0, Some(0));
}

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/tidegate.service")
}

/// The unit, with the binary of this build.
fn unit_of_this_build(directory: &Path) -> PathBuf {
    let text = fs::read_to_string(unit()).unwrap();
    let path = directory.join("tidegate.service");
    let binary = env!("CARGO_BIN_EXE_tidegate");
    assert!(text.contains("ExecStart=/usr/bin/tidegate serve"), "{text}");
    fs::write(&path, text.replace("ExecStart=/usr/bin/tidegate", &format!("ExecStart={binary}")))
        .unwrap();
    path
}

#[test]
fn the_unit_passes_the_checks_of_systemd() {
    let directory = tempfile::tempdir().unwrap();
    let unit = unit_of_this_build(directory.path());
    let verify = Command::new("systemd-analyze").arg("verify").arg(&unit).output();
    let verify = verify.expect("systemd-analyze; scripts/test installs it");
    let said = String::from_utf8_lossy(&verify.stderr);
    let about_us: Vec<_> = said.lines().filter(|line| line.contains("tidegate")).collect();
    assert!(verify.status.success() && about_us.is_empty(), "{said}");

    let security = ["security", "--offline=true", "--threshold=25", "--no-pager"];
    let exposure = Command::new("systemd-analyze").args(security).arg(&unit).output().unwrap();
    let said = String::from_utf8_lossy(&exposure.stdout);
    assert!(exposure.status.success(), "more exposed than 2.5: {said}");
    assert!(said.contains("Overall exposure level"), "{said}");
}

/// What is asked of a unit, S4.77, and a time to stop that is longer than the deadline.
#[test]
fn the_unit_leaves_more_time_than_the_deadline() {
    let text = fs::read_to_string(unit()).unwrap();
    let value = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("{key}")).to_owned()
    };
    let deadline_s = tidegate::config::Config::default().shutdown.deadline_ms / 1_000;
    let margin_s = tidegate::limits::STOP_MARGIN_MS / 1_000;
    assert!(value("TimeoutStopSec").parse::<u64>().unwrap() >= deadline_s + margin_s);
    for (key, wanted) in [
        ("TimeoutStopSec", "45"),
        ("KillSignal", "SIGTERM"),
        ("SendSIGKILL", "no"),
        ("Restart", "always"),
        ("Type", "notify"),
        ("LimitNOFILE", "1048576"),
        ("LimitMEMLOCK", "infinity"),
    ] {
        assert_eq!(value(key), wanted, "{key}");
    }
}
