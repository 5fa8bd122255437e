//! A drain in the hands of an operator: its pace is checked and can be changed, it can be held and
//! go on, it can be cancelled, each visible at once; what it is for decides what clients hear; and
//! deliveries go on to its last connection. Through the admin API; `tidegate drain` and
//! `tidegate status` over it are in `drain_cli.rs`.

use std::time::{Duration, Instant};

use crate::support::figures::metric;
use crate::support::leaving::{Fate, ask, check_sum, clients, fates, named, obey, status};
use crate::support::server::{Server, text};
use crate::support::wire::{CLOSE, Client, FIN, Frame, TEXT, close_payload, frame};
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("a number instead of {value}"))
}

fn done(server: &Server) -> u64 {
    number(&status(server)["progress"]["done"])
}

/// Starts a drain with these wishes; the answer.
#[track_caller]
fn drain(server: &Server, wishes: &Value) -> Value {
    let (code, answer) = ask(server, "shutdown", wishes);
    assert_eq!((code, &answer["started"]), (202, &json!(true)), "{answer}");
    answer
}

/// S4.22, S4.30, S4.87: held, nobody goes; going on and faster, everybody does, and the books are
/// right.
#[test]
fn a_drain_is_held_goes_on_and_gets_another_pace_and_each_shows_at_once() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    let threads = obey(clients(&server, 120));
    let plan = drain(&server, &json!({ "connections_per_second": 20 }))["plan"].clone();
    assert_eq!(plan["connections_per_second"], 20);
    eventually("some have gone", || done(&server) >= 5);
    assert_eq!(ask(&server, "pause", &json!({})).0, 202);
    let paused = status(&server);
    assert_eq!(paused["progress"]["paused"], true, "{paused}");
    assert!(paused["progress"]["eta_ms"].is_null(), "{paused}");
    // Whoever has been told to go meanwhile goes.
    std::thread::sleep(Duration::from_millis(300));
    let held = done(&server);
    std::thread::sleep(Duration::from_millis(700));
    assert_eq!(done(&server), held, "somebody went while the drain was held");
    assert!(held < 120);
    assert_eq!(ask(&server, "pause", &json!({})).0, 200, "it is held already");

    assert_eq!(ask(&server, "resume", &json!({})).0, 202);
    assert_eq!(status(&server)["progress"]["paused"], false);
    eventually("more have gone", || done(&server) > held);
    let (code, answer) = ask(&server, "pace", &json!({ "connections_per_second": 5000 }));
    assert_eq!((code, &answer["plan"]["connections_per_second"]), (202, &json!(5000)));
    let (left, stayed) = fates(threads);
    assert_eq!((left.len(), stayed.len()), (120, 0));
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_acknowledged", 120)]);
}

/// Time in which it is held is no time of the drain.
#[test]
fn a_drain_that_is_held_is_not_cut_at_its_deadline() {
    let mut server = Server::start(&["shutdown.notice_ms=50", "drain_operator.deadline_ms=3000"]);
    let threads = obey(clients(&server, 20));
    drain(&server, &json!({ "connections_per_second": 1 }));
    assert_eq!(ask(&server, "pause", &json!({})).0, 202);
    std::thread::sleep(Duration::from_secs(4));
    assert!(number(&status(&server)["connections_left"]) > 10);
    assert_eq!(ask(&server, "pace", &json!({ "connections_per_second": 10_000 })).0, 202);
    assert_eq!(ask(&server, "resume", &json!({})).0, 202);
    assert_eq!(fates(threads).0.len(), 20);
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["forced"]), (Some(0), &json!(false)), "{last_words}");
}

/// rule 4, S4.87: in the answer, in the status and in the log, with a number that does.
#[test]
fn a_pace_that_is_too_slow_is_said_with_the_one_that_would_do() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    let threads = obey(clients(&server, 60));
    let answer = drain(&server, &json!({ "connections_per_second": 1 }));
    let needed = number(&answer["plan"]["needed_per_second"]);
    let warning = text(&answer["plan"], "warning").to_owned();
    assert!(warning.contains(&format!("{needed} per second would do")), "{warning}");
    assert!(status(&server)["plan"]["warning"].is_string());
    server.wait_for_log("connections at 1 per second need");
    let (code, answer) = ask(&server, "pace", &json!({ "connections_per_second": needed + 1 }));
    assert_eq!(code, 202);
    assert!(answer["plan"].get("warning").is_none(), "{answer}");
    assert_eq!(fates(threads).0.len(), 60);
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["forced"]), (Some(0), &json!(false)), "{last_words}");
}

/// Who has been sent a Close leaves; everybody else hears that the server stays, and is served;
/// new clients come in again; and the next drain has books of its own.
#[test]
fn a_cancelled_drain_keeps_whoever_is_left_and_both_drains_add_up() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    let threads = obey(clients(&server, 60));
    drain(&server, &json!({ "connections_per_second": 20 }));
    eventually("some have gone", || done(&server) >= 5);
    let (code, answer) = ask(&server, "cancel", &json!({}));
    assert_eq!((code, &answer["phase"]), (202, &json!("running")), "{answer}");
    assert!(http::get(server.admin, "/readyz").contains("ready"));
    let (left, mut stayed) = fates(threads);
    assert!(left.len() >= 5 && left.len() < 60, "{} left", left.len());
    assert_eq!(left.len() + stayed.len(), 60);
    for client in &mut stayed {
        client.echo("still here");
    }
    let mut newcomer = Client::connect(server.clients, "/echo");
    newcomer.echo("let in again");
    newcomer.close();
    let mut cancelled = Value::Null;
    eventually("the cancelled drain is settled", || {
        cancelled = status(&server)["cancelled"].clone();
        cancelled["connections_left"] == 0
    });
    let outcomes = &cancelled["outcomes"];
    assert_eq!(number(&outcomes["stayed"]), stayed.len() as u64, "{cancelled}");
    assert_eq!(number(&outcomes["close_acknowledged"]), left.len() as u64, "{cancelled}");
    assert_eq!(cancelled["connections_at_start"], 60);
    let last_stage = cancelled["stages"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last_stage["result"], "cancelled");

    let there = stayed.len() as u64;
    let threads = obey(stayed);
    eventually("the new one has gone", || metric(&server, "tidegate_connections") == there);
    server.signal(Signal::TERM);
    let (left, _) = fates(threads);
    assert_eq!(left.len() as u64, there);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    let outcomes = check_sum(&server, &last_words);
    assert_eq!(outcomes["close_acknowledged"], there, "{outcomes:?}");
    assert_eq!(outcomes["stayed"], 0);
}

/// In the phases before the first Close everybody stays; who has not heard of it hears nothing.
#[test]
fn a_drain_is_cancelled_before_anybody_was_closed() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=20000"]);
    let threads = obey(clients(&server, 40));
    drain(&server, &json!({}));
    server.wait_for_log("Shutdown notification sent to all consumers");
    assert_eq!(ask(&server, "cancel", &json!({})).0, 202);
    let mut stayed = Vec::new();
    for thread in threads {
        let Fate::Stayed(client, frames) = thread.join().unwrap() else { panic!("one left") };
        assert_eq!(frames.len(), 2, "the notice, and that it is taken back: {frames:?}");
        stayed.push(client);
    }
    assert_eq!(status(&server)["cancelled"]["outcomes"]["stayed"], 40);
    // Again at once: nothing of the first is left over.
    drain(&server, &json!({}));
    assert_eq!(ask(&server, "cancel", &json!({})).0, 202);
    for (what, body) in [("pause", "{}"), ("resume", "{}"), ("cancel", "{}")] {
        let body: Value = serde_json::from_str(body).unwrap();
        let (code, answer) = ask(&server, what, &body);
        assert_eq!((code, &answer["error"]["code"]), (409, &json!("conflict")), "{what}");
    }
    server.signal(Signal::TERM);
    server.wait_for_log("Received signal 15");
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(75), &json!(40)));
    check_sum(&server, &last_words);
    drop(stayed);
}

/// S2.35, rule 3: the code is 1001 unless the cause says otherwise. D22: where to come back is
/// in the notice.
#[test]
fn each_cause_has_its_profile() {
    let settings = [
        "shutdown.notice_ms=50",
        "drain_deploy.close_code=1012",
        "drain_scale_in.reason=fewer of us",
        "drain_emergency.drain_ms=200",
    ];
    for (cause, reason, code) in [
        ("deploy", "deploy", 1012),
        ("scale-in", "fewer of us", 1001),
        ("emergency", "emergency", 1001),
        ("operator", "shutdown", 1001),
    ] {
        let mut server = Server::start(&settings);
        let threads = obey(clients(&server, 3));
        let address = "wss://b.example/ws?from=a";
        drain(&server, &json!({ "cause": cause, "reconnect_to": address }));
        for frames in fates(threads).0 {
            let notice: Value = serde_json::from_str(frames[0].text()).unwrap();
            assert_eq!(
                (&notice["reason"], &notice["reconnect_to"]),
                (&json!(reason), &json!(address))
            );
            assert_eq!(frames.last().and_then(Frame::close_code), Some(code), "{cause}");
        }
        let (_, last_words) = server.ended();
        check_sum(&server, &last_words);
        assert_eq!(server.wait_for_log("Starting graceful shutdown process")["cause"], cause);
    }
}

/// D22: the slots of all clients together are a flat line at the pace at which they may come back.
#[test]
fn clients_are_told_to_come_back_one_after_the_other() {
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=300",
        "shutdown.reconnect_per_second=100",
    ]);
    let threads = obey(clients(&server, 200));
    let answer = drain(&server, &json!({ "connections_per_second": 400 }));
    assert_eq!(answer["plan"]["reconnect"]["per_second"], 100);
    let mut slots: Vec<u64> = fates(threads)
        .0
        .iter()
        .map(|frames| {
            let notice: Value = serde_json::from_str(frames[0].text()).unwrap();
            number(&notice["reconnect_after_ms"])
        })
        .collect();
    slots.sort_unstable();
    // 10 ms from one to the next, of which 2.5 pass between their Closes.
    assert_eq!(slots[0], 100);
    assert!((1_500..=1_620).contains(&slots[199]), "{slots:?}");
    let widest = slots.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(widest <= 16, "a gap of {widest} ms: {slots:?}");
    server.ended();
}

/// When the pace changes so that the slots are others, clients are told the new ones.
#[test]
fn a_faster_pace_gives_clients_other_slots() {
    let server = Server::start(&[
        "server.shards=1",
        "shutdown.notice_ms=300",
        "shutdown.reconnect_per_second=10",
    ]);
    let mut all = clients(&server, 20);
    drain(&server, &json!({ "connections_per_second": 10 }));
    let slot = |client: &mut Client| {
        let notice: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(notice["type"], "server.shutdown", "{notice}");
        number(&notice["reconnect_after_ms"])
    };
    let first: Vec<_> = all.iter_mut().map(slot).collect();
    assert!(first.iter().all(|ms| *ms == 100), "they leave as slowly as they may come: {first:?}");
    assert_eq!(ask(&server, "pace", &json!({ "connections_per_second": 1000 })).0, 202);
    let last = all.last_mut().unwrap();
    assert!(slot(last) > 1_000, "100 ms each, for those who are left");
}

/// A drain that somebody asked for can take long. A supervisor that comes later has its own
/// deadline: the drain goes on and ends in that time.
#[test]
fn a_signal_during_a_long_drain_ends_it_in_the_time_of_signals() {
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=50",
        "shutdown.deadline_ms=4000",
        "shutdown.close_timeout_ms=500",
    ]);
    let threads = obey(clients(&server, 50));
    let answer = drain(&server, &json!({ "within_ms": 600_000 }));
    assert!(number(&answer["deadline_ms"]) > 600_000, "{answer}");
    assert_eq!(ask(&server, "pause", &json!({})).0, 202);
    let signalled = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(fates(threads).0.len(), 50, "nobody is cut");
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["forced"]), (Some(0), &json!(false)), "{last_words}");
    assert!(signalled.elapsed() < Duration::from_secs(8), "{:?}", signalled.elapsed());
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_acknowledged", 50)]);
}

/// S1.65, S1.66, S2.39: what a back end publishes reaches whoever is still there, in every phase
/// of the drain, and clients' messages are answered. (Clients cannot publish on `/ws`.)
#[test]
fn publications_reach_whoever_is_still_there() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=700"]);
    let mut subscriber = Client::connect(server.clients, "/ws?channel=news");
    let mut talker = Client::connect(server.clients, "/echo");
    // In the middle of a message: the drain waits for both.
    subscriber.send(&frame(TEXT, b"wait for me"));
    talker.send(&frame(TEXT, b"wait for me too"));
    let publish = |data: &str| {
        let publication = json!({ "channel": "news", "data": data });
        http::post(server.admin, "/api/publish", &publication);
    };
    drain(&server, &json!({}));
    eventually("it refuses", || status(&server)["phase"] == "refusing");
    publish("while refusing");
    eventually("it drains", || status(&server)["phase"] == "draining");
    publish("while draining");
    let mut heard = Vec::new();
    while heard.len() < 3 {
        heard.push(subscriber.frame().text().to_owned());
    }
    assert!(heard[0].contains("server.shutdown"), "{heard:?}");
    assert_eq!(heard[1..], ["\"while refusing\"", "\"while draining\""]);
    talker.send(&frame(FIN, b", and answer"));
    let frames = [talker.frame(), talker.frame()];
    assert_eq!(frames[1].text(), "wait for me too, and answer");
    subscriber.send(&frame(FIN, b""));
    for client in [&mut subscriber, &mut talker] {
        assert!(client.frame().text().contains("\"bye\":true"));
        assert_eq!(client.frame().close_code(), Some(1001));
        client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    }
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_acknowledged", 2)]);
}
