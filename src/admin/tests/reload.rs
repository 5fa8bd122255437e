//! The route that reads the configuration again: the admin asks, the coordinator acts.

use std::thread;

use super::*;
use crate::config::ReloadReport;
use crate::coordinator::command::ReloadAnswer;

const RELOAD: &str = "/api/v1/config/reload";

/// What a client gets when the coordinator answers so.
fn reply(answered: ReloadAnswer) -> Reply {
    let admin = Admin::start();
    let commands = admin.commands.clone();
    let coordinator = thread::spawn(move || {
        let Ok(Command::Reload { cause, answer: Some(answer) }) = commands.recv() else {
            panic!("no command to reload")
        };
        assert_eq!(cause, format!("POST {RELOAD}"));
        assert!(answer.send(answered).is_ok());
    });
    let reply = admin.post(RELOAD, "");
    coordinator.join().unwrap();
    reply
}

#[test]
fn what_changed_is_202_and_nothing_is_200() {
    let (_, report) = Config::default().reloaded(&{
        let mut config = Config::default();
        config.admission.max_connections_per_ip = 7;
        config.server.backlog = 1;
        config
    });
    let changed = reply(Ok(report));
    assert_eq!(changed.status, 202);
    assert_eq!(changed.json()["changed"][0]["key"], "admission.max_connections_per_ip");
    assert_eq!(changed.json()["changed"][0]["to"], 7);
    assert_eq!(changed.json()["needs_restart"][0], "server.backlog");
    assert_eq!(reply(Ok(ReloadReport::default())).status, 200);
}

#[test]
fn a_refused_configuration_is_422_with_every_error() {
    let refused = reply(Err(vec!["one".to_owned(), "other".to_owned()]));
    refused.is_error(422, "configuration_refused", "2 errors");
    assert_eq!(refused.json()["error"]["errors"], serde_json::json!(["one", "other"]));
}
