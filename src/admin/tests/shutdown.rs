//! The routes that end the server: the admin asks, the coordinator acts.

use std::thread;

use super::*;
use crate::coordinator::command::ShutdownAnswer;
use crate::coordinator::report::ShutdownReport;

const DRAIN: &str = "/api/v1/shutdown/shutdown";

/// Answers one shutdown command.
fn coordinate(admin: &Admin, started: bool) -> thread::JoinHandle<(bool, String)> {
    let commands = admin.commands.clone();
    thread::spawn(move || {
        let Ok(Command::Shutdown { force, reason, answer, .. }) = commands.recv() else {
            panic!("no shutdown command")
        };
        let phase = "refusing".to_owned();
        let report = ShutdownReport { phase, reason: reason.clone(), ..Default::default() };
        assert!(answer.send(ShutdownAnswer { started, report }).is_ok());
        (force, reason)
    })
}

/// S4.30, S4.31: what was started is 202, what was under way already is 200.
#[test]
fn a_drain_is_started_once() {
    let admin = Admin::start();
    for (method, body, started, status) in [
        ("POST", "", true, 202),
        ("POST", "{}", false, 200),
        ("DELETE", "", true, 202),
        ("DELETE", "{}", false, 200),
    ] {
        let coordinator = coordinate(&admin, started);
        let reply = admin.ask(method, DRAIN, "content-type: application/json\r\n", body);
        assert_eq!(reply.status, status, "{reply:?}");
        assert_eq!(reply.json()["started"], started);
        assert_eq!(reply.json()["phase"], "refusing");
        let (force, reason) = coordinator.join().unwrap();
        assert_eq!((force, reason), (method == "DELETE", format!("{method} {DRAIN}")));
    }
    let coordinator = coordinate(&admin, true);
    assert_eq!(admin.ask("DELETE", DRAIN, "", "").status, 202, "no body, no content type");
    coordinator.join().unwrap();
}

/// Rule 5.
/// Rule 5.
#[test]
fn a_get_never_drains() {
    let admin = Admin::start();
    for method in ["GET", "HEAD", "PUT"] {
        let reply = admin.ask(method, DRAIN, "", "");
        assert_eq!(reply.status, 405);
        assert!(reply.head.contains("allow: post, delete"), "{reply:?}");
    }
    assert!(admin.commands.is_empty());
}

#[test]
fn a_coordinator_that_is_full_absent_or_mute_is_503() {
    let mut admin = Admin::start();
    let (commands, mute) = (admin.commands.clone(), admin.post(DRAIN, "{}"));
    mute.is_error(503, "unavailable", "did not answer within 2000 ms");
    assert!(mute.head.contains("retry-after: 1"), "{mute:?}");
    admin.post(DRAIN, "{}").is_error(503, "unavailable", "too many commands");

    let Ok(Command::Shutdown { answer, .. }) = commands.recv() else { panic!("no command") };
    drop(answer);
    let dropping = thread::spawn(move || drop(commands.recv()));
    admin.post(DRAIN, "{}").is_error(503, "unavailable", "without an answer");
    dropping.join().unwrap();

    admin.commands = bounded(1).1;
    admin.post(DRAIN, "{}").is_error(503, "unavailable", "has ended");
    assert_eq!(admin.get("/api/v1/shutdown/status").json()["shutting_down"], false);
}
