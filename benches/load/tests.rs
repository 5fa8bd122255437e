//! Whole runs against small servers on loopback that treat each connection in a known way.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use clap::Parser;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::arguments::{Arguments, Command};
use crate::report::Report;
use crate::{run_drain_watch, run_echo, run_flood, run_hold};

/// Serves each connection by `serve`, which gets its number; returns the port.
fn server(serve: impl Fn(usize, TcpStream) + Clone + Send + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let serve = serve.clone();
            thread::spawn(move || serve(number, stream.unwrap()));
        }
    });
    port
}

fn run(line: &str) -> Report {
    let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
    let report = match &arguments.command {
        Command::Hold(hold) => run_hold(hold),
        Command::Echo(echo) => run_echo(echo),
        Command::DrainWatch(watch) => run_drain_watch(watch),
        Command::Flood(flood) => run_flood(flood),
    };
    report.unwrap()
}

fn read_request(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() > 0 {
        head.push(byte[0]);
    }
}

/// Reads to the end of the connection; true if the peer answered our Close.
fn read_to_end(mut socket: WebSocket<TcpStream>) -> bool {
    loop {
        match socket.read() {
            Ok(_) => {}
            Err(error) => return matches!(error, tungstenite::Error::ConnectionClosed),
        }
    }
}

fn close(socket: &mut WebSocket<TcpStream>) {
    close_with(socket, 1012, "restart");
}

fn close_with(socket: &mut WebSocket<TcpStream>, code: u16, reason: &'static str) {
    socket.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).unwrap();
}

#[test]
fn every_connection_has_the_fate_that_the_server_gave_it() {
    let port = server(|number, mut stream| match number % 5 {
        0 => drop(read_to_end(tungstenite::accept(stream).unwrap())),
        1 => {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n").unwrap();
        }
        2 => {
            let mut socket = tungstenite::accept(stream).unwrap();
            close(&mut socket);
            assert!(read_to_end(socket), "Close is answered");
        }
        3 => drop(tungstenite::accept(stream).unwrap()),
        _ => read_request(&mut stream),
    });
    let report = run(&format!(
        "tidegate-load hold ws://127.0.0.1:{port}/ -n 50 --threads 2 --for 300ms \
         --expect-admitted 30 --allow-closed"
    ));
    assert!(report.is_good(), "{}", report.table());
    let ledger = &report.json()["ledger"];
    assert_eq!(ledger["attempts"], 50);
    assert_eq!(ledger["open"], 10);
    assert_eq!(ledger["refused_by_status"]["503"], 10);
    assert_eq!(ledger["ended_by_reason"]["code 1012"], 10);
    assert_eq!(ledger["ended_by_reason"]["end of stream without close"], 10);
    assert_eq!(ledger["failed_by_cause"]["closed without an answer"], 10);
    assert_eq!(ledger["balanced"], true);
}

#[test]
fn gaps_and_repetitions_of_a_numbered_stream_are_found() {
    let publish = |numbers: &'static [u64]| {
        server(move |_, stream| {
            let mut socket = tungstenite::accept(stream).unwrap();
            for number in numbers {
                socket.send(Message::text(format!(r#"{{"seq":{number}}}"#))).unwrap();
            }
            read_to_end(socket);
        })
    };
    let line = |port: u16| {
        format!("tidegate-load hold ws://127.0.0.1:{port}/ -n 8 --for 300ms --check-sequence seq")
    };
    let perfect = run(&format!("{} --expect-messages 3", line(publish(&[4, 5, 6]))));
    assert!(perfect.is_good(), "{}", perfect.table());
    let report = run(&line(publish(&[4, 6, 6])));
    assert!(!report.is_good());
    let sequence = &report.json()["sequence"];
    assert_eq!((&sequence["missing"], &sequence["repeated_or_late"]), (&8.into(), &8.into()));
}

#[test]
fn echoes_are_compared_and_timed() {
    let echo = |wrong: bool| {
        server(move |number, stream| {
            let mut socket = tungstenite::accept(stream).unwrap();
            while let Ok(message) = socket.read() {
                if message.is_close() {
                    continue;
                }
                let mut bytes = message.into_data().to_vec();
                if wrong && number == 3 {
                    bytes[20] ^= 1;
                }
                if socket.send(Message::binary(bytes)).is_err() {
                    break;
                }
            }
        })
    };
    let line = |port: u16, more: &str| {
        format!("tidegate-load echo ws://127.0.0.1:{port}/ -n 6 --warm-up 50ms --for 300ms {more}")
    };
    for more in ["", "--in-flight 4 --payload 9000", "--rate 500"] {
        let report = run(&line(echo(false), more));
        assert!(report.is_good(), "{more}: {}", report.table());
        assert!(report.json()["latency_us"]["p50"].as_f64().unwrap() > 0.0);
    }
    let report = run(&line(echo(true), ""));
    assert!(!report.is_good());
    assert_eq!(report.json()["ledger"]["ended_by_reason"]["echo differs"], 1);
}

#[test]
fn a_drain_is_recorded_step_by_step() {
    let port = server(|_, stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        thread::sleep(Duration::from_millis(300));
        let notice = r#"{"type":"server.shutdown","reconnect_after_ms":700}"#;
        socket.send(Message::text(notice)).unwrap();
        // Only the unfinished messages come to an end; the others stay silent.
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        if let Ok(message) = socket.read() {
            socket.send(message).unwrap();
        }
        socket.get_ref().set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket.send(Message::text(r#"{"bye":true,"total":1}"#)).unwrap();
        close(&mut socket);
        read_to_end(socket);
    });
    let report = run(&format!(
        "tidegate-load drain-watch ws://127.0.0.1:{port}/ -n 12 --stuck 2 --mid-message 4 \
         --mid-path /half --timeout 4s"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    let drain = &json["drain"];
    assert_eq!((&drain["notices"], &drain["byes"]), (&10.into(), &10.into()));
    assert_eq!(drain["close_frames"]["1012 \"restart\""], 10);
    assert_eq!(drain["close_answered"], 10);
    assert_eq!(drain["mid_message_replied"], 4);
    assert_eq!(json["ledger"]["ended"], 12, "the stuck ones ended too: {}", report.table());
    assert_eq!(json["reconnect_after_ms"]["max"], 700);
}

/// Treats attempts in a known way, in turn: six different fates.
fn gatekeeper() -> u16 {
    server(|number, mut stream| match number % 6 {
        0 => drop(read_to_end(tungstenite::accept(stream).unwrap())),
        1 => {
            read_request(&mut stream);
            let answer = b"HTTP/1.1 429 Too Many\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).unwrap();
        }
        2 => {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 2\r\n\r\n").unwrap();
        }
        3 => {
            let mut socket = tungstenite::accept(stream).unwrap();
            close_with(&mut socket, 1013, "full");
            read_to_end(socket);
        }
        // Closing with the request unread resets.
        4 => while matches!(stream.peek(&mut [0]), Ok(0)) {},
        _ => {
            let mut socket = tungstenite::accept(stream).unwrap();
            socket.send(Message::text("welcome")).unwrap();
            close_with(&mut socket, 1013, "later");
            read_to_end(socket);
        }
    })
}

#[test]
fn every_attempt_of_a_flood_has_one_fate() {
    let port = gatekeeper();
    // One at a time, so that the server's numbers are those of the attempts.
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ -n 60 --in-flight 1 --sources 7 --no-admin"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    let ledger = &json["ledger"];
    assert_eq!(ledger["attempts"], 60);
    assert_eq!(ledger["admitted"], 20, "a Close after a message refuses nothing");
    assert_eq!(ledger["refused"], 30);
    assert_eq!((&ledger["refused_429"], &ledger["refused_503"]), (&10.into(), &10.into()));
    assert_eq!(ledger["refused_by_close_1013"], 10);
    assert_eq!(ledger["reset"], 10);
    assert_eq!(ledger["open_at_the_end"], 10);
    assert_eq!(ledger["balanced"], true);
    assert_eq!(json["time_to_refusal_us"]["count"], 30);
    let retry_after = &json["retry_after"];
    assert_eq!((&retry_after["min_s"], &retry_after["max_s"]), (&2.into(), &7.into()));
}

#[test]
fn a_flood_that_leaves_ends_its_connections_and_knows_who_was_refused() {
    let port = server(|number, stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        if number % 2 == 1 {
            close_with(&mut socket, 1013, "full");
        }
        read_to_end(socket);
    });
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ -n 40 --rings 2 --leave --no-admin"
    ));
    assert!(report.is_good(), "{}", report.table());
    let ledger = &report.json()["ledger"];
    assert_eq!((&ledger["admitted"], &ledger["refused_by_close_1013"]), (&20.into(), &20.into()));
    assert_eq!(ledger["open_at_the_end"], 0);
    assert_eq!(ledger["ended_by_reason"]["code 1000"], 20);
}

#[test]
fn a_flood_ends_by_the_clock_and_keeps_its_rate() {
    let port = server(|_, stream| {
        read_to_end(tungstenite::accept(stream).unwrap());
    });
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ --duration 500ms --rate 200 --no-admin"
    ));
    assert!(report.is_good(), "{}", report.table());
    let attempts = report.json()["ledger"]["attempts"].as_u64().unwrap();
    assert!((1..=200).contains(&attempts), "{attempts}");
}

#[test]
fn a_server_that_counts_differently_is_reported() {
    let pages = Arc::new(AtomicU64::new(0));
    let admin = server(move |_, mut stream| {
        read_request(&mut stream);
        // The second scrape and all later ones know of one connection too many.
        let page = pages.fetch_add(1, Relaxed);
        let opened = if page == 0 { 100 } else { 106 };
        let body = format!("tidegate_connections_opened_total {opened}\n");
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
    });
    let port = server(|_, stream| {
        read_to_end(tungstenite::accept(stream).unwrap());
    });
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ -n 5 --admin http://127.0.0.1:{admin}"
    ));
    assert!(!report.is_good());
    assert!(report.table().contains("counted 6 connections as opened, here it was 5"));
}
