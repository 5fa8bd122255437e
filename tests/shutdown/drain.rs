//! How a server leaves: every client is told, finishes its message, hears bye and 1001, and is
//! counted under exactly one outcome. A few hundred connections here; the shape is that of any
//! number. How the process ends is in `drain_ends.rs`, what an operator can want meanwhile in
//! `drain_control.rs`, and stages that take too long in `drain_overrun.rs`.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::leaving::{bye, check_sum, clients, close, named, notice, obey};
use crate::support::server::{Server, text};
use crate::support::wire::{
    self, CLOSE, CONTINUATION, Client, End, FIN, Frame, Next, Response, TEXT, close_payload, frame,
    upgrade_request,
};
use crate::support::{PATIENCE, http, socket};
use rustix::process::Signal;
use serde_json::Value;

/// S0.2, S0.3, S0.6, S0.41, S0.45, S1.1, S1.2, S1.10, S1.12, S1.26, S1.27, S2.1, S2.3, S2.5, S2.6,
/// S2.9, S2.15, S2.18, S2.35, S3.2, S3.5, S3.8, S3.24, S3.28, S4.1, S4.2, S4.18, S4.19, S4.21,
/// S4.51.
#[test]
fn every_client_hears_notice_bye_and_1001_and_is_counted() {
    for (signal, name) in
        [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::USR2, "SIGUSR2")]
    {
        let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=200"]);
        let mut clients = clients(&server, 200);
        for (index, client) in clients.iter_mut().enumerate() {
            for _ in 0..index % 3 {
                client.echo("before");
            }
        }
        server.signal(signal);
        for (index, client) in clients.iter_mut().enumerate() {
            notice(client);
            bye(client, index as u64 % 3);
            close(client);
        }
        let (code, last_words) = server.ended();
        assert_eq!(code, Some(0));
        assert_eq!(last_words["reason"], name);
        assert_eq!(last_words["exit_code"], 0);
        assert_eq!(last_words["forced"], false);
        let outcomes = check_sum(&server, &last_words);
        assert_eq!(named(&outcomes), [("close_acknowledged", 200)]);
    }
}

/// Rule 1, rule 11, S0.42, S1.9, S1.13, S1.44, S2.21 to S2.25, S2.34, S3.1, S3.9, S3.27, S3.31,
/// S4.11 to S4.13, S4.53.
#[test]
fn every_way_of_leaving_is_an_outcome_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let report_file = directory.path().join("report.json");
    let report_setting = format!("shutdown.report_file={}", report_file.display());
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=2500",
        "shutdown.close_timeout_ms=1000",
        "handshake.timeout_ms=4000",
        &report_setting,
    ]);
    let mut acknowledge = clients(&server, 60);
    let mut end_without_answer = clients(&server, 40);
    let mut close_first = clients(&server, 30);
    let mut just_end = clients(&server, 10);
    let mut break_off = clients(&server, 20);
    let deaf = clients(&server, 30);
    let request = upgrade_request("/echo");
    let half_request = |_| {
        let mut stream = socket::connect(server.clients).unwrap();
        stream.write_all(&request[..40]).unwrap();
        stream
    };
    let late: Vec<TcpStream> = (0..6).map(half_request).collect();
    let silent: Vec<_> = (0..4).map(|_| socket::connect(server.clients).unwrap()).collect();
    // An answer on a later connection shows nothing about these; a moment must pass.
    std::thread::sleep(Duration::from_millis(300));

    server.signal(Signal::TERM);
    for group in
        [&mut acknowledge, &mut end_without_answer, &mut close_first, &mut just_end, &mut break_off]
    {
        group.iter_mut().for_each(|client| drop(notice(client)));
    }
    for mut client in close_first {
        client.send(&frame(FIN | CLOSE, &close_payload(1000, "")));
        assert_eq!(client.frame().close_code(), Some(1000));
        assert_eq!(client.next(), Next::End(End::Closed));
    }
    drop(just_end);
    break_off.into_iter().for_each(|client| socket::reset(client.stream));
    for mut stream in late {
        stream.write_all(&request[40..]).unwrap();
        let (received, _) = wire::read_to_end(&mut stream).unwrap();
        let response = Response::parse(&received).expect("a late client is told");
        assert_eq!((response.status, response.header("retry-after")), (503, Some("1")));
    }
    for client in &mut acknowledge {
        bye(client, 0);
        close(client);
    }
    for mut client in end_without_answer {
        bye(&mut client, 0);
        assert_eq!(client.frame().close_code(), Some(1001));
    }
    let (code, last_words) = server.ended();
    drop((deaf, silent));
    assert_eq!(code, Some(0), "who does not answer is not a failure of the drain");
    let outcomes = check_sum(&server, &last_words);
    assert_eq!(
        named(&outcomes),
        [
            ("close_acknowledged", 60),
            ("close_sent", 40),
            ("forced", 30),
            ("peer_closed", 40),
            ("refused_late", 10),
            ("reset", 20),
        ]
    );
    check_report(&report_file, &last_words);
}

/// The report in the file says what the last words say, and how long each stage took.
#[track_caller]
fn check_report(path: &Path, last_words: &Value) {
    let report: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for field in ["reason", "connections_at_start", "forced", "exit_code"] {
        assert_eq!(report[field], last_words[field], "{field}");
    }
    let counts: Value = serde_json::from_str(text(last_words, "outcomes")).unwrap();
    assert_eq!(report["outcomes"], counts);
    assert_eq!((&report["cause"], &report["phase"]), (&"signal".into(), &"stopped".into()));
    assert!(report["epoch"].as_u64() > Some(0) && report["started_at"].is_string(), "{report}");
    assert!(report.get("discrepancy").is_none(), "{report}");
    let stages = report["stages"].as_array().unwrap();
    let names: Vec<_> = stages.iter().map(|stage| stage["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["notice", "refusing", "draining", "sessions", "redis", "flushing"]);
    for stage in stages {
        assert!(stage["started_at"].is_string() && stage["duration_ms"].is_u64(), "{stage}");
        let needs_redis = stage["name"] == "redis" || stage["name"] == "sessions";
        let expected = if needs_redis { "skipped" } else { "done" };
        assert_eq!(stage["result"], expected, "{stage}");
    }
}

/// S1.5, S1.34, S2.2, S2.16, S4.93.
#[test]
fn a_message_that_has_begun_is_finished_and_answered_before_bye() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=100"]);
    let mut sender = Client::connect(server.clients, "/echo");
    let mut frame_sender = Client::connect(server.clients, "/echo");
    let mut other = Client::connect(server.clients, "/echo");
    let whole = frame(FIN | TEXT, b"a frame in two halves");
    sender.send(&frame(TEXT, b"half, "));
    frame_sender.send(&whole[..10]);
    other.echo("all are there");
    server.signal(Signal::TERM);
    // Everybody else has gone when the messages go on.
    notice(&mut other);
    bye(&mut other, 1);
    close(&mut other);
    notice(&mut sender);
    notice(&mut frame_sender);
    sender.send(&frame(CONTINUATION, b"more, "));
    assert_eq!(sender.next_within(Duration::from_millis(200)), None, "it is being waited for");
    sender.send(&frame(FIN | CONTINUATION, b"done"));
    assert_eq!(sender.frame().text(), "half, more, done");
    bye(&mut sender, 1);
    close(&mut sender);
    frame_sender.send(&whole[10..]);
    assert_eq!(frame_sender.frame().text(), "a frame in two halves");
    bye(&mut frame_sender, 1);
    close(&mut frame_sender);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_acknowledged", 3)]);
}

/// S3.4.
#[test]
fn a_client_that_ends_its_side_after_close_was_queued_still_gets_everything() {
    let mut server = Server::start(&[
        "server.shards=1",
        "shutdown.notice_ms=100",
        "server.max_queued_bytes=16000000",
    ]);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(8192)).unwrap();
    let mut client = Client::upgrade(stream, "/ws?channel=news").unwrap().unwrap();
    // More than the kernel keeps for a client that does not read.
    let data = "x".repeat(1_000_000);
    for _ in 0..8 {
        let publication = serde_json::json!({ "channel": "news", "data": data });
        http::post(server.admin, "/api/publish", &publication);
    }
    server.signal(Signal::TERM);
    server.wait_for_log("Closing 1 WebSocket connections");
    // Its turn has come within this time, and then its end of stream is met.
    std::thread::sleep(Duration::from_millis(200));
    client.half_close();
    std::thread::sleep(Duration::from_millis(200));
    for _ in 0..8 {
        assert_eq!(client.frame().payload.len(), data.len() + 2);
    }
    notice(&mut client);
    bye(&mut client, 0);
    assert_eq!(client.frame().close_code(), Some(1001));
    assert_eq!(client.next(), Next::End(End::Closed));
    let (_, last_words) = server.ended();
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_sent", 1)]);
}

/// S1.28, S1.34, S2.39.
#[test]
fn clients_are_served_while_the_server_drains() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=1500"]);
    let mut client = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    notice(&mut client);
    for number in 0..20 {
        client.echo(&format!("during the notice {number}"));
    }
    bye(&mut client, 20);
    close(&mut client);
    assert_eq!(server.wait().code(), Some(0));
}

/// Rule 1, S1.41.
#[test]
fn before_the_drain_the_server_still_lets_clients_in() {
    let mut server = Server::start(&[
        "server.shards=1",
        "shutdown.pre_drain_delay_ms=1500",
        "shutdown.notice_ms=100",
    ]);
    let early = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    server.wait_for_log("Starting graceful shutdown process");
    let late = Client::connect(server.clients, "/echo");
    for mut client in [early, late] {
        notice(&mut client);
        bye(&mut client, 0);
        close(&mut client);
    }
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(0), &2.into()));
}

/// S0.40, S1.4, S3.26.
#[test]
fn new_connections_are_told_503_until_the_last_client_has_left() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=100"]);
    let mut client = Client::connect(server.clients, "/echo");
    // In the middle of a message, so that the drain waits for it.
    client.send(&frame(TEXT, b"wait for me"));
    client.send(&frame(FIN | wire::PING, b""));
    assert_eq!(client.frame().opcode(), wire::PONG);
    server.signal(Signal::TERM);
    server.wait_for_log("Closing 1 WebSocket connections");
    for _ in 0..50 {
        let (response, _) = wire::exchange(server.clients, &upgrade_request("/echo")).unwrap();
        assert_eq!(response.status, 503);
        assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
        assert!(response.body().contains("shutting down"));
    }
    client.send(&frame(FIN | CONTINUATION, b""));
    notice(&mut client);
    assert_eq!(client.frame().text(), "wait for me");
    bye(&mut client, 1);
    close(&mut client);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(last_words["connections_at_start"], 1, "the refused are not of the drain");
}

/// S0.45, S2.38.
#[test]
fn a_server_without_clients_ends_at_once() {
    let mut server = Server::start(&["shutdown.notice_ms=10000"]);
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(Duration::from_secs(3)).code(), Some(0));
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(0), &0.into()));
}

/// Rule 9, S0.39, S1.19, S1.33, S2.7, S2.13, S2.29, S2.37, S3.13, S3.21, S3.29, S3.39, S4.95: each
/// line where what it says has become true; of those that are about one connection the first ten
/// of each kind.
#[test]
fn the_log_tells_the_sequence_in_order() {
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=300"]);
    let threads = obey(clients(&server, 30));
    server.signal(Signal::TERM);
    threads.into_iter().for_each(|thread| drop(thread.join().unwrap()));
    server.ended();
    let log = server.log();
    let mut messages = log.iter().filter_map(|event| event["message"].as_str());
    for expected in [
        "Received signal 15, initiating graceful shutdown...",
        "Shutdown signal received, initiating graceful shutdown",
        "Starting graceful shutdown process...",
        "Server received shutdown signal, stopping to accept new connections",
        "Server stopped accepting new connections, starting cleanup",
        "Shutdown notification sent to all consumers",
        "Shutting down WebSocket handler, closing all connections",
        "Closing 30 WebSocket connections",
        "All WebSocket connections closed",
        "Channel layer closed",
        "Graceful shutdown process completed",
        "Graceful shutdown completed in ",
    ] {
        assert!(messages.any(|message| message.contains(expected)), "{expected}: {log:?}");
    }
    for event in ["ws_shutdown_started", "ws_shutdown_bye_sent", "ws_shutdown_completed"] {
        let lines: Vec<_> = log.iter().filter(|line| line["event"] == event).collect();
        assert_eq!(lines.len(), 10, "{event}: {lines:?}");
        assert!(lines.iter().all(|line| line["source"].is_string()), "{lines:?}");
    }
}

/// S0.17, S4.52.
#[test]
fn a_client_in_its_close_handshake_when_the_drain_begins_is_counted_once() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=300"]);
    let mut clients = clients(&server, 40);
    let leave = frame(FIN | CLOSE, &close_payload(1000, ""));
    for client in &mut clients[..20] {
        client.send(&leave);
    }
    server.signal(Signal::TERM);
    for client in &mut clients[20..30] {
        client.send(&leave);
    }
    for client in &mut clients[..30] {
        let (frames, _) = client.read_to_close();
        let last = frames.last().and_then(Frame::close_code);
        assert_eq!(last, Some(1000), "{frames:?}");
    }
    for client in &mut clients[30..] {
        notice(client);
        bye(client, 0);
        close(client);
    }
    let started = Instant::now();
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert!(started.elapsed() < PATIENCE);
    let outcomes = check_sum(&server, &last_words);
    assert_eq!(outcomes["close_acknowledged"], 10, "{outcomes:?}");
    assert!(outcomes["peer_closed"] <= 30, "{outcomes:?}");
}
