//! Clients of a server that leaves: what they hear, and how the books of it add up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::http;
use super::server::{Server, outcomes};
use super::wire::{CLOSE, Client, End, FIN, Frame, Next, close_payload, frame};

/// So many clients on `/echo`.
pub(crate) fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.clients, "/echo")).collect()
}

/// Reads the notice.
#[track_caller]
pub(crate) fn notice(client: &mut Client) -> Value {
    let notice: Value = serde_json::from_str(client.frame().text()).expect("JSON");
    // Which signal it was is not the clients' business.
    assert_eq!(notice["type"], "server.shutdown", "{notice}");
    assert_eq!(notice["reason"], "shutdown", "{notice}");
    assert!(notice["reconnect_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{notice}");
    notice
}

/// Reads bye, with the number of messages that the client had sent.
#[track_caller]
pub(crate) fn bye(client: &mut Client, messages: u64) {
    let bye: Value = serde_json::from_str(client.frame().text()).expect("JSON");
    let expected = serde_json::json!({
        "bye": true,
        "total": messages,
        "message": "Server is shutting down gracefully",
    });
    assert_eq!(bye, expected);
}

/// Reads Close with 1001, answers it and reads the end.
#[track_caller]
pub(crate) fn close(client: &mut Client) {
    assert_eq!(client.frame().close_code(), Some(1001));
    client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    assert_eq!(client.next(), Next::End(End::Closed));
}

/// The last words add up, and nothing in the log says otherwise.
#[track_caller]
pub(crate) fn check_sum(server: &Server, last_words: &Value) -> BTreeMap<String, u64> {
    let outcomes = outcomes(last_words);
    let sum: u64 = outcomes.values().sum();
    assert_eq!(last_words["connections_at_start"], sum, "{last_words}");
    let errors: Vec<_> =
        server.log().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "{errors:?}");
    outcomes
}

/// Outcomes that are not zero.
pub(crate) fn named(outcomes: &BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    outcomes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (name.as_str(), *count))
        .collect()
}

/// What the server says of its shutdown.
#[track_caller]
pub(crate) fn status(server: &Server) -> Value {
    serde_json::from_str(&http::get(server.admin, "/api/v1/shutdown/status")).expect("JSON")
}

/// Asks for something of a drain: status and answer.
#[track_caller]
pub(crate) fn ask(server: &Server, what: &str, body: &Value) -> (u16, Value) {
    http::try_post(server.admin, &format!("/api/v1/shutdown/{what}"), body)
}

/// How a client fared.
pub(crate) enum Fate {
    /// It was told to go and went, in order, after these frames.
    Left(Vec<Frame>),
    /// It was told that the server stays, after these frames.
    Stayed(Client, Vec<Frame>),
}

/// Does as it is told, on a thread of its own for each client.
pub(crate) fn obey(clients: Vec<Client>) -> Vec<std::thread::JoinHandle<Fate>> {
    let obey_one = |client: Client| std::thread::spawn(move || obey_as_told(client));
    clients.into_iter().map(obey_one).collect()
}

fn obey_as_told(mut client: Client) -> Fate {
    let mut frames = Vec::new();
    loop {
        // A drain at a slow pace takes longer than one answer.
        let next = client.next_within(Duration::from_secs(60)).expect("some word");
        let Next::Frame(heard) = next else { panic!("{next:?} after {frames:?}") };
        if heard.opcode() == CLOSE {
            frames.push(heard);
            client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
            assert_eq!(client.next(), Next::End(End::Closed));
            return Fate::Left(frames);
        }
        let stays = heard.text().contains("server.shutdown_cancelled");
        frames.push(heard);
        if stays {
            return Fate::Stayed(client, frames);
        }
    }
}

/// The fates of all of them: who left, with what each heard, and who stayed.
#[track_caller]
pub(crate) fn fates(threads: Vec<std::thread::JoinHandle<Fate>>) -> (Vec<Vec<Frame>>, Vec<Client>) {
    let (mut left, mut stayed) = (Vec::new(), Vec::new());
    for thread in threads {
        match thread.join().expect("a client that fared well") {
            Fate::Left(frames) => left.push(frames),
            Fate::Stayed(client, _) => stayed.push(client),
        }
    }
    (left, stayed)
}
