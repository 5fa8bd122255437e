//! How a server leaves: every client is told, finishes its message, hears bye and 1001, and is
//! counted under exactly one outcome; who does not go is cut; the process ends by itself with the
//! exit code that says how. A few hundred connections here; the shape is that of any number.
//!
//! Exit code 70 (the overall deadline ended the process) cannot be made to happen from outside:
//! each stage has a cap and the caps add up to less than the deadline.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::server::{Server, command, outcomes, text};
use support::wire::{
    self, CLOSE, CONTINUATION, Client, End, FIN, Frame, Next, Response, TEXT, close_payload, frame,
    upgrade_request,
};
use support::{PATIENCE, http, socket};

fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.clients, "/echo")).collect()
}

/// Reads the notice.
#[track_caller]
fn notice(client: &mut Client) -> Value {
    let notice: Value = serde_json::from_str(client.frame().text()).unwrap();
    // Which signal it was is not the clients' business.
    assert_eq!(notice["type"], "server.shutdown", "{notice}");
    assert_eq!(notice["reason"], "shutdown", "{notice}");
    assert!(notice["reconnect_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{notice}");
    notice
}

/// Reads bye, with the number of messages that the client had sent.
#[track_caller]
fn bye(client: &mut Client, messages: u64) {
    let bye: Value = serde_json::from_str(client.frame().text()).unwrap();
    let expected = serde_json::json!({
        "bye": true,
        "total": messages,
        "message": "Server is shutting down gracefully",
    });
    assert_eq!(bye, expected);
}

/// Reads Close with 1001, answers it and reads the end.
#[track_caller]
fn close(client: &mut Client) {
    assert_eq!(client.frame().close_code(), Some(1001));
    client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    assert_eq!(client.next(), Next::End(End::Closed));
}

/// The last words add up, and nothing in the log says otherwise.
#[track_caller]
fn check_sum(server: &Server, last_words: &Value) -> std::collections::BTreeMap<String, u64> {
    let outcomes = outcomes(last_words);
    let sum: u64 = outcomes.values().sum();
    assert_eq!(last_words["connections_at_start"], sum, "{last_words}");
    let errors: Vec<_> =
        server.log().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "{errors:?}");
    outcomes
}

/// Outcomes that are not zero.
fn named(outcomes: &std::collections::BTreeMap<String, u64>) -> Vec<(&str, u64)> {
    outcomes
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (name.as_str(), *count))
        .collect()
}

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
    assert_eq!(names, ["notice", "refusing", "draining", "redis", "flushing"]);
    for stage in stages {
        assert!(stage["started_at"].is_string() && stage["duration_ms"].is_u64(), "{stage}");
        let expected = if stage["name"] == "redis" { "skipped" } else { "done" };
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
    server.wait_for_log("shutdown initiated");
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

/// S0.39, S1.19, S1.33, S2.7, S2.37, S3.13, S3.39, S4.95.
#[test]
fn the_log_tells_the_sequence_in_order() {
    let mut server = Server::start(&["shutdown.notice_ms=50"]);
    let mut clients = clients(&server, 3);
    server.signal(Signal::TERM);
    for client in &mut clients {
        notice(client);
        bye(client, 0);
        close(client);
    }
    server.ended();
    let log = server.log();
    let mut messages = log.iter().filter_map(|event| event["message"].as_str());
    for expected in [
        "Shutdown signal received, initiating graceful shutdown",
        "shutdown initiated",
        "Server received shutdown signal, stopping to accept new connections",
        "Closing 3 WebSocket connections",
        "Graceful shutdown completed in ",
    ] {
        assert!(messages.any(|message| message.contains(expected)), "{expected}: {log:?}");
    }
}

/// S1.51, S4.8.
#[test]
fn a_second_signal_cuts_what_is_left_within_a_second() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::USR2)] {
        let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=8000"]);
        let mut clients = clients(&server, 50);
        server.signal(first);
        clients.iter_mut().for_each(|client| drop(notice(client)));
        server.signal(second);
        let code = server.wait_at_most(Duration::from_secs(1)).code();
        assert_eq!(code, Some(75));
        let (_, last_words) = server.ended();
        assert_eq!((&last_words["exit_code"], &last_words["forced"]), (&75.into(), &true.into()));
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)]);
        // Even so they are told: the bytes were on their way before the cut.
        for client in &mut clients {
            bye(client, 0);
            assert_eq!(client.frame().close_code(), Some(1001));
        }
    }
}

#[test]
fn a_second_signal_that_comes_at_once_is_not_lost() {
    let mut server = Server::start(&["shutdown.notice_ms=8000"]);
    let _clients = clients(&server, 20);
    server.signal(Signal::TERM);
    server.wait_for_log("Shutdown signal received");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(Duration::from_secs(1)).code(), Some(75));
    let (_, last_words) = server.ended();
    check_sum(&server, &last_words);
}

/// S0.43, S1.36, S1.50, S4.53.
#[test]
fn clients_that_neither_read_nor_answer_are_cut_when_the_drain_ends() {
    let mut server = Server::start(&[
        "server.shards=2",
        "shutdown.notice_ms=100",
        "shutdown.drain_ms=1500",
        "shutdown.close_timeout_ms=60000",
    ]);
    let deaf = clients(&server, 100);
    server.signal(Signal::TERM);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(last_words["forced"], true);
    assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 100)]);
    drop(deaf);
}

/// Rule 2, S1.42, S2.4, S2.14, S2.38, S3.28, S3.34.
#[test]
fn a_short_deadline_is_kept_and_everybody_is_accounted_for() {
    for deadline_ms in [600_u64, 2000] {
        let setting = format!("shutdown.deadline_ms={deadline_ms}");
        let mut server = Server::start(&["server.shards=2", &setting]);
        let deaf = clients(&server, 50);
        let signalled = Instant::now();
        server.signal(Signal::TERM);
        // The process ends at its deadline; a second more for a machine that is busy.
        let code = server.wait_at_most(Duration::from_millis(deadline_ms + 1000)).code();
        let (_, last_words) = server.ended();
        assert_eq!(code, Some(0), "{deadline_ms}: {:?}, {last_words}", signalled.elapsed());
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)], "{deadline_ms}");
        drop(deaf);
    }
}

#[test]
fn a_second_signal_under_a_short_deadline_cuts_everybody_too() {
    for deadline_ms in [1000, 2000] {
        let setting = format!("shutdown.deadline_ms={deadline_ms}");
        let mut server = Server::start(&["server.shards=2", &setting, "shutdown.notice_ms=5000"]);
        let deaf = clients(&server, 50);
        server.signal(Signal::TERM);
        server.wait_for_log("Shutdown signal received");
        server.signal(Signal::TERM);
        let (code, last_words) = server.ended();
        assert_eq!(code, Some(75), "{last_words}");
        assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 50)], "{deadline_ms}");
        drop(deaf);
    }
}

/// How an attempt around the end of a server went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attempt {
    /// 101, and after it the whole goodbye with 1001.
    Served,
    /// 503.
    Refused,
    /// There was no listener any more.
    NoListener,
    /// Connected, but then neither: the only bad end.
    Lost,
}

fn attempt(server: SocketAddr) -> Attempt {
    let stream = match socket::connect(server) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Attempt::NoListener,
        // The listener was closed between the two halves of the TCP handshake.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => return Attempt::NoListener,
        Err(error) => panic!("{error}"),
    };
    match Client::upgrade(stream, "/echo") {
        Ok(Ok(client)) => served(client),
        Ok(Err(response)) if response.status == 503 => Attempt::Refused,
        Ok(Err(response)) => panic!("{response:?}"),
        Err(_) => Attempt::Lost,
    }
}

fn served(mut client: Client) -> Attempt {
    loop {
        match client.next() {
            Next::Frame(frame) if frame.opcode() == CLOSE => {
                assert_eq!(frame.close_code(), Some(1001));
                let answer = wire::frame(FIN | CLOSE, &close_payload(1001, ""));
                // It may have been cut while the answer was on its way.
                let _ = client.stream.write_all(&answer);
                return Attempt::Served;
            }
            Next::Frame(_) => {}
            Next::End(_) => return Attempt::Lost,
        }
    }
}

/// Clients that keep coming from before the signal until nobody listens: how each attempt went.
fn burst(server: &mut Server, threads: usize) -> Vec<Attempt> {
    let address = server.clients;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let come = || {
            let mut attempts = Vec::new();
            while attempts.last() != Some(&Attempt::NoListener) && !over.load(Ordering::Relaxed) {
                attempts.push(attempt(address));
            }
            attempts
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(come)).collect();
        std::thread::sleep(Duration::from_millis(100));
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0));
        // Each thread finds out for itself that nobody listens.
        std::thread::sleep(Duration::from_millis(100));
        over.store(true, Ordering::Relaxed);
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    })
}

/// S1.35.
#[test]
fn a_client_that_comes_around_the_signal_is_served_or_told_or_finds_no_listener() {
    let _alone = support::alone();
    for shards in [1, 2] {
        let setting = format!("server.shards={shards}");
        let mut server = Server::start(&[&setting, "shutdown.notice_ms=100"]);
        let attempts = burst(&mut server, 40);
        let count = |wanted| attempts.iter().filter(|attempt| **attempt == wanted).count();
        let lost = count(Attempt::Lost);
        assert_eq!(lost, 0, "with {shards} shards of {}", attempts.len());
        assert!(count(Attempt::Served) > 0, "nobody came before the signal");
        let (_, last_words) = server.ended();
        check_sum(&server, &last_words);
    }
}

/// Rule 1, S1.35.
#[test]
fn the_backlog_is_answered_and_not_reset() {
    let _alone = support::alone();
    let mut server = Server::start(&["server.shards=2", "shutdown.notice_ms=50"]);
    // Stopped, the server accepts nothing: all of these wait in the kernel.
    server.signal(Signal::STOP);
    let waiting: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut stream = socket::connect(server.clients).unwrap();
            stream.write_all(&upgrade_request("/echo")).unwrap();
            stream
        })
        .collect();
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    let attempts: Vec<Attempt> = waiting
        .into_iter()
        .map(|stream| match Client::read_answer(stream) {
            Ok(Ok(client)) => served(client),
            Ok(Err(response)) if response.status == 503 => Attempt::Refused,
            Ok(Err(response)) => panic!("{response:?}"),
            Err(_) => Attempt::Lost,
        })
        .collect();
    let lost = attempts.iter().filter(|attempt| **attempt == Attempt::Lost).count();
    assert_eq!(lost, 0, "{attempts:?}");
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    check_sum(&server, &last_words);
}

/// S4.20.
#[test]
fn after_a_kill_the_next_server_has_the_port_at_once() {
    let mut server = Server::start(&["server.shards=2"]);
    let (listen, admin) = (server.clients, server.admin);
    for _ in 0..3 {
        let mut clients = clients(&server, 300);
        let killed = Instant::now();
        server.signal(Signal::KILL);
        let settings = [
            "server.shards=2",
            &format!("server.listen={listen}"),
            &format!("admin.listen={admin}"),
        ];
        let next = Server::start(&settings);
        Client::connect(next.clients, "/echo").echo("served again");
        let took = killed.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
        for client in &mut clients {
            assert!(matches!(client.next(), Next::End(_)), "the kernel tells the old clients");
        }
        server = next;
    }
}

#[test]
fn a_signal_while_the_server_starts_is_obeyed() {
    for delay_us in [0, 500, 1000, 1500, 2000, 3000, 4000, 6000, 8000, 16_000] {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut child = command(&[]).stderr(log.reopen().unwrap()).spawn().unwrap();
        std::thread::sleep(Duration::from_micros(delay_us));
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let signalled = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if signalled.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(log.path()).unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("a signal after {delay_us} us was lost; the log: {log:?}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        // Before the first line of main the signal ends the process without a word.
        let by_signal = status.signal() == Some(15);
        assert!(status.code() == Some(0) || by_signal, "{delay_us}: {status}");
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
