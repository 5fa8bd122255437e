//! What a parent leaves to the server changes nothing: blocked and ignored signals, variables that
//! are set to nothing or to nonsense.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::server::{Server, command};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A server with these settings, whose parent has blocked and ignored these signals: `env` of the
/// GNU core utilities does it.
fn start(parent: &[&str], settings: &[&str]) -> Server {
    let server = command(settings);
    let mut env = Command::new("env");
    env.args(parent).arg("--").arg(server.get_program()).args(server.get_args()).env_clear();
    env.env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).stdout(Stdio::null());
    Server::from_command(env)
}

/// The signals of a set in /proc/PID/status, without those of the C library.
fn signals(status: &str, set: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix(set)).unwrap();
    let bits = u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap();
    (1..=64).filter(|signal| bits >> (signal - 1) & 1 == 1 && ![32, 33].contains(signal)).collect()
}

#[test]
fn blocked_signals_to_stop_are_taken() {
    for signal in [Signal::TERM, Signal::INT, Signal::USR2] {
        let mut server = start(&["--block-signal=TERM,INT,USR2,HUP"], &[]);
        server.signal(signal);
        assert_eq!(server.ended().0, Some(0), "{signal:?}");
    }
}

#[test]
fn a_blocked_reload_and_a_blocked_second_signal_are_taken_too() {
    let settings = ["shutdown.pre_drain_delay_ms=20000", "shutdown.deadline_ms=30000"];
    let mut server = start(&["--block-signal"], &settings);
    server.signal(Signal::HUP);
    server.wait_for_log("configuration");
    server.signal(Signal::TERM);
    server.wait_for_log("Received signal 15");
    server.signal(Signal::TERM);
    assert_eq!(server.ended().0, Some(75));
}

/// A hook's exit code is learnt, and the hook begins as if a shell had started it.
fn hook(parent: &[&str]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let status = directory.path().join("status");
    let script = format!("cat /proc/self/status > {}", status.display());
    let hook = json!([{ "name": "look", "command": ["sh", "-c", script] }]);
    let mut server = start(parent, &[&format!("shutdown.hooks={hook}")]);
    let code = server.drain().0;
    (code, std::fs::read_to_string(Path::new(&status)).unwrap())
}

#[test]
fn hooks_end_well_although_the_parent_ignores_sigchld() {
    let (code, _) = hook(&["--ignore-signal=CHLD"]);
    assert_eq!(code, Some(0), "how the hook ended was not learnt");
}

#[test]
fn hooks_begin_with_no_signal_blocked_or_ignored() {
    let inherited = [
        "--ignore-signal=CHLD,HUP,INT,QUIT,PIPE,USR1,TSTP,TTIN,TTOU",
        "--block-signal=TERM,USR1,CHLD",
    ];
    let (code, status) = hook(&inherited);
    assert_eq!(code, Some(0));
    let (blocked, ignored) = (signals(&status, "SigBlk"), signals(&status, "SigIgn"));
    assert_eq!((blocked, ignored), (vec![], vec![]), "{status}");
    // Without anything to reset, a hook is started in the ordinary way.
    let (_, status) = hook(&["--default-signal"]);
    assert!(signals(&status, "SigIgn").is_empty(), "{status}");
}

/// The log of a server that is started with this RUST_LOG and then drained.
fn log_with(value: &str) -> Vec<Value> {
    let mut server = command(&[]);
    server.env("RUST_LOG", value);
    let mut server = Server::from_command(server);
    assert_eq!(server.drain().0, Some(0));
    server.last_line();
    server.log()
}

fn says(log: &[Value], part: &str) -> bool {
    log.iter().any(|line| line["message"].as_str().is_some_and(|said| said.contains(part)))
}

#[test]
fn an_empty_filter_of_the_log_is_none() {
    for value in ["", " "] {
        assert!(!says(&log_with(value), "RUST_LOG"), "{value:?}");
    }
}

#[test]
fn a_filter_that_is_none_is_said_and_info_is_used() {
    let log = log_with("tidegate=loud");
    assert!(says(&log, "RUST_LOG=tidegate=loud is refused"), "{log:?}");
}

/// What a start is refused for, with this RUST_LOG.
fn refusal(value: &str) -> String {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut server = command(&[&format!("server.listen={}", taken.local_addr().unwrap())]);
    let output = server.env("RUST_LOG", value).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    String::from_utf8(output.stderr).unwrap()
}

/// A level that is misspelt is the name of a target to the filter.
#[test]
fn a_misspelt_level_does_not_hide_why_a_start_is_refused() {
    for value in ["inof", "hyper=debug", ""] {
        let said = refusal(value);
        assert!(said.contains("cannot listen on server.listen"), "{value}: {said}");
        assert_eq!(said.contains("names nothing of this server"), !value.is_empty(), "{said}");
    }
    assert_eq!(refusal("off"), "", "who wants no log has none");
}

#[test]
fn settings_of_the_environment_that_are_empty_are_not_set() {
    let mut server = command(&[]);
    let empty = [
        "TIDEGATE_CONFIG",
        "TIDEGATE_PROFILE",
        "TIDEGATE_KEEPALIVE__TIMEOUT_MS",
        "TIDEGATE_ADMIN__TOKEN",
        "SHUTDOWN_TIMEOUT_MS",
        "REDIS_URL",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
    ];
    server.envs(empty.map(|name| (name, "")));
    let mut server = Server::from_command(server);
    assert_eq!(server.drain().0, Some(0));
}
