//! `tidegate drain` and `tidegate status`: what they say, what they do, and how they fail.

use crate::support;
use std::process::{Command, Output};

use crate::support::eventually;
use crate::support::leaving::{clients, fates, obey, status};
use crate::support::server::Server;
use serde_json::json;

/// The binary with these arguments, in an environment that holds nothing but what is given.
fn tidegate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_clear().envs(environment.iter().copied());
    command.output().expect("the binary starts")
}

/// The same for this server, which must succeed; its standard output.
#[track_caller]
fn said(server: &Server, arguments: &[&str]) -> String {
    let admin = server.admin.to_string();
    let output = tidegate(arguments, &[("TIDEGATE_ADMIN__LISTEN", &admin)]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {out}{err}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

#[test]
fn a_drain_is_begun_watched_held_paced_and_cancelled_from_the_command_line() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    let threads = obey(clients(&server, 60));
    assert!(said(&server, &["status"]).starts_with("running: 60 connections\n"));

    let plan = said(&server, &["drain", "--within", "20s", "--dry-run", "--cause", "deploy"]);
    assert!(plan.contains("dry run, nothing is changed"), "{plan}");
    assert!(plan.contains("60 connections at 4 per second (cause deploy)"), "{plan}");
    assert!(plan.contains("redis.url is not set"), "{plan}");
    assert_eq!(status(&server)["phase"], "running");

    let begun = said(&server, &["drain", "--rate", "10", "--reconnect-to", "ws://b.example/ws"]);
    assert!(begun.contains("draining at 10 connections per second"), "{begun}");
    assert!(begun.contains("clients come back at ws://b.example/ws"), "{begun}");
    assert!(said(&server, &["drain", "pause"]).contains("PAUSED"));
    assert!(said(&server, &["drain", "pause"]).contains("nothing changed"));
    assert!(said(&server, &["status"]).contains("PAUSED"));
    assert!(!said(&server, &["drain", "resume"]).contains("PAUSED"));
    said(&server, &["drain", "pace", "--rate", "15"]);
    assert_eq!(status(&server)["plan"]["connections_per_second"], 15);
    let cancelled = said(&server, &["drain", "cancel"]);
    assert!(cancelled.contains("the server stays"), "{cancelled}");
    assert!(said(&server, &["status"]).starts_with("running: "));
    let (_, stayed) = fates(threads);
    assert!(!stayed.is_empty());

    let json: serde_json::Value =
        serde_json::from_str(&said(&server, &["status", "--json"])).unwrap();
    assert_eq!(json["cancelled"]["connections_at_start"], 60);

    // To the end, watched by two.
    let threads = obey(stayed);
    let admin = server.admin.to_string();
    let watcher = std::thread::spawn(move || {
        tidegate(&["status", "--watch"], &[("TIDEGATE_ADMIN__LISTEN", &admin)])
    });
    eventually("the watcher has begun", || {
        support::figures::metric(&server, "tidegate_admin_answers_total") > 0
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    said(&server, &["drain", "--wait"]);
    let watched = watcher.join().unwrap();
    assert_eq!(watched.status.code(), Some(0), "{}", text(&watched.stderr));
    assert!(text(&watched.stdout).starts_with("running: "), "{}", text(&watched.stdout));
    assert!(text(&watched.stderr).contains("the server has ended"));
    threads.into_iter().for_each(|thread| drop(thread.join()));
    assert_eq!(server.ended().0, Some(0));
}

#[test]
fn a_failure_names_its_cause_and_a_remedy() {
    let token = "a token of sixteen or more characters".replace(' ', "-");
    let server = Server::start(&[&format!("admin.token={token}")]);
    let admin = server.admin.to_string();
    let fails = |arguments: &[&str], environment: &[(&str, &str)], code, said: &str| {
        let output = tidegate(arguments, environment);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(said), "{arguments:?}: no {said:?} in {err}");
    };
    let here = [("TIDEGATE_ADMIN__LISTEN", admin.as_str())];
    fails(&["status"], &here, 1, "TIDEGATE_ADMIN__TOKEN");
    fails(&["drain"], &here, 1, "TIDEGATE_ADMIN__TOKEN");
    let with_token = [here[0], ("TIDEGATE_ADMIN__TOKEN", token.as_str())];
    fails(&["drain", "pause"], &with_token, 1, "no shutdown is under way");
    fails(&["drain", "--reconnect-to", "http://a"], &with_token, 64, "`reconnect_to`");
    fails(&["drain", "--within", "20"], &here, 64, "500ms, 20s, 2m or 1h");
    fails(&["drain", "--within", "1s", "--rate", "1"], &here, 64, "cannot be used with");
    fails(&["drain", "pace"], &here, 64, "required");
    fails(&["drain", "--admin", "nowhere"], &[], 64, "expected IP:PORT");
    fails(&["status", "--admin", "127.0.0.1:1"], &[], 1, "is the server running?");
    let body = json!({ "phase": status_with(&server, &token) });
    assert_eq!(body["phase"], "running", "nothing of this changed anything");
}

fn status_with(server: &Server, token: &str) -> serde_json::Value {
    let admin = server.admin.to_string();
    let environment = [("TIDEGATE_ADMIN__LISTEN", &admin[..]), ("TIDEGATE_ADMIN__TOKEN", token)];
    let output = tidegate(&["status", "--json"], &environment);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["phase"].clone()
}
