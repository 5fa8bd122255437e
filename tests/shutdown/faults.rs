//! What the server survives of its own: a shard that panics takes its connections with it but
//! leaves nobody hanging, the others are drained, and the process ends with 1 so that a
//! supervisor restarts it; a shard that stalls delays nobody else, and says so.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::server::{Server, outcomes, text};
use crate::support::wire::{CLOSE, Client, End, FIN, Next, close_payload, frame};
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

fn shards(server: &Server) -> Vec<Value> {
    let shards: Value = serde_json::from_str(&http::get(server.admin, "/api/v1/shards")).unwrap();
    shards["shards"].as_array().expect("a list").clone()
}

fn inject(server: &Server, fault: &Value) {
    http::post(server.admin, "/api/v1/debug/fault", fault);
}

/// S4.9, S4.71.
#[test]
fn a_panic_in_a_shard_ends_the_server_in_order() {
    let mut server = Server::start(&["server.shards=2", "debug.fault_injection=true"]);
    server.expect_panic();
    let mut clients: Vec<_> = (0..60).map(|_| Client::connect(server.clients, "/echo")).collect();
    let on_first = shards(&server)[0]["connections"].as_u64().unwrap();
    assert!((1..60).contains(&on_first), "both shards have clients: {on_first}");
    let started = Instant::now();
    inject(&server, &json!({ "shard": 0, "fault": "panic" }));

    let (mut cut, mut told) = (0, 0);
    for client in &mut clients {
        match client.next() {
            Next::End(_) => cut += 1,
            Next::Frame(notice) => {
                let notice: Value = serde_json::from_str(notice.text()).unwrap();
                assert_eq!(
                    (&notice["type"], &notice["reason"]),
                    (&json!("server.shutdown"), &json!("failure"))
                );
                assert!(client.frame().text().contains("\"bye\":true"));
                assert_eq!(client.frame().close_code(), Some(1001));
                client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
                assert_eq!(client.next(), Next::End(End::Closed));
                told += 1;
            }
        }
    }
    assert_eq!((cut, told), (on_first, 60 - on_first), "nobody is left hanging");
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(1), "{last_words}");
    // shutdown.force_timeout_ms, with room for a busy machine.
    assert!(started.elapsed() < Duration::from_secs(10));
    let panic = server.wait_for_log("panic: injected");
    assert!(text(&panic, "place").contains("src/shard/"), "{panic}");
    assert!(text(&panic, "backtrace").contains("src/shard/"), "{panic}");
    assert_eq!(text(&panic, "thread"), "tidegate-shard-0");
}

/// S0.8, S4.9.
#[test]
fn without_its_coordinator_the_server_serves_and_is_stopped_in_order() {
    let mut server = Server::start(&["server.shards=2", "debug.fault_injection=true"]);
    server.expect_panic();
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.clients, "/echo")).collect();
    // Standing still, it is not missed.
    inject(&server, &json!({ "fault": "stall", "ms": 1000 }));
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(500) {
        clients.iter_mut().for_each(|client| client.echo("without a coordinator"));
    }
    inject(&server, &json!({ "fault": "panic" }));
    for client in &mut clients {
        let notice: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(notice["reason"], "failure");
        assert!(client.frame().text().contains("\"bye\":true"));
        assert_eq!(client.frame().close_code(), Some(1001));
        client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
        assert_eq!(client.next(), Next::End(End::Closed));
    }
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(1), &json!(20)));
    assert_eq!(outcomes(&last_words)["close_acknowledged"], 20);
}

#[test]
fn a_signal_after_a_panic_does_not_hide_it() {
    let mut server = Server::start(&["server.shards=2", "debug.fault_injection=true"]);
    server.expect_panic();
    let _deaf: Vec<_> = (0..40).map(|_| Client::connect(server.clients, "/echo")).collect();
    inject(&server, &json!({ "shard": 0, "fault": "panic" }));
    server.wait_for_log("a thread ended without being told to");
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["forced"]), (Some(1), &json!(true)), "{last_words}");
}

/// Rule 2, S2.33, S4.33.
#[test]
fn a_shard_that_stands_still_while_the_server_ends_is_in_the_report() {
    let settings = [
        "server.shards=2",
        "debug.fault_injection=true",
        "shutdown.deadline_ms=2000",
        "shutdown.drain_ms=200",
        "shutdown.close_timeout_ms=100",
    ];
    // It comes round while there is time to force its clients, or not before the end.
    for (stall_ms, exit_code, accounted) in [(900, 0, true), (20_000, 70, false)] {
        let mut server = Server::start(&settings);
        let _deaf: Vec<_> = (0..60).map(|_| Client::connect(server.clients, "/echo")).collect();
        inject(&server, &json!({ "shard": 0, "fault": "stall", "ms": stall_ms }));
        server.signal(Signal::TERM);
        let (code, last_words) = server.ended();
        assert_eq!((code, &last_words["forced"]), (Some(exit_code), &json!(true)), "{last_words}");
        assert_eq!(last_words["connections_at_start"], 60, "{last_words}");
        let sum: u64 = outcomes(&last_words).values().sum();
        assert_eq!(sum == 60, accounted, "{last_words}");
        let says_so = |event: &Value| text(event, "message").contains("do not add up");
        assert_eq!(server.log().iter().any(says_so), !accounted);
    }
}

#[test]
fn a_stalled_shard_delays_nobody_else_and_is_seen() {
    let server = Server::start(&["server.shards=2", "debug.fault_injection=true"]);
    // Which shard a source's clients are on shows in the counts.
    let from = |last| {
        let source = Ipv4Addr::new(127, 0, 0, last);
        Client::try_connect_from(source, server.clients, "/echo").unwrap().unwrap()
    };
    let mut on_second = (1..=254)
        .map(from)
        .find(|_| shards(&server)[1]["connections"].as_u64() == Some(1))
        .expect("a source that belongs to the second shard");
    const STALL: Duration = Duration::from_millis(1_500);
    let started = Instant::now();
    inject(&server, &json!({ "shard": 0, "fault": "stall", "ms": STALL.as_millis() as u64 }));
    let mut echoes = 0;
    while started.elapsed() < STALL / 2 {
        on_second.echo("while the other stands still");
        echoes += 1;
    }
    assert!(echoes > 10, "only {echoes} echoes beside a stalled shard");
    eventually("the stall is in the figures", || {
        let page = http::get(server.admin, "/metrics");
        let stall = page
            .lines()
            .find_map(|line| line.strip_prefix("tidegate_shard_stall_seconds{shard=\"0\"} "));
        stall.expect("the metric").parse::<f64>().unwrap() >= 1.4
    });
}
