//! Whole runs against small servers on loopback that treat each connection in a known way.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use clap::Parser;
use tidegate::websocket::{Data, OpCode};
use tungstenite::handshake::server::Request;
use tungstenite::protocol::frame::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::arguments::Arguments;
use crate::report::Report;

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
    let mut arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
    crate::run(&mut arguments.command).unwrap()
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
    let began = std::time::Instant::now();
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ --duration 500ms --rate 200 --no-admin"
    ));
    assert!(report.is_good(), "{}", report.table());
    let attempts = report.json()["ledger"]["attempts"].as_f64().unwrap();
    // On a busy machine half a second is longer than that.
    let most = 200.0 * began.elapsed().as_secs_f64() + 1.0;
    assert!((1.0..=most).contains(&attempts), "{attempts} of {most}");
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

/// Tells each client its slot, and where to go if `to` is a port, and closes.
fn leaving_server(to: Option<u16>) -> u16 {
    server(move |number, stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        let to =
            to.map_or(String::new(), |port| format!(r#","reconnect_to":"ws://127.0.0.1:{port}""#));
        let after = 100 + 10 * number;
        let notice = format!(r#"{{"type":"server.shutdown","reconnect_after_ms":{after}{to}}}"#);
        socket.send(Message::text(notice)).unwrap();
        close_with(&mut socket, 1001, "going away");
        read_to_end(socket);
    })
}

/// Admits everybody and keeps them; the first attempt of every other one is refused.
fn welcoming_server(refuse: bool) -> (u16, Arc<AtomicU64>) {
    let admitted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&admitted);
    let port = server(move |number, mut stream| {
        if refuse && number % 2 == 0 && number < 50 {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 503 Busy\r\nRetry-After: 0\r\n\r\n").unwrap();
            return;
        }
        // The callback's error is a whole response; it is the library's choice.
        #[allow(clippy::result_large_err)]
        let same_path = |request: &Request, response| {
            assert_eq!(request.uri(), "/ws?channel=a", "the same is asked of the other server");
            Ok(response)
        };
        let socket = tungstenite::accept_hdr(stream, same_path);
        count.fetch_add(1, Relaxed);
        read_to_end(socket.unwrap());
    });
    (port, admitted)
}

#[test]
fn clients_come_back_in_their_slots_to_where_the_notice_says() {
    let (other, admitted) = welcoming_server(false);
    let port = leaving_server(Some(other));
    let report = run(&format!(
        "tidegate-load reconnect ws://127.0.0.1:{port}/ws?channel=a -n 300 --threads 2 \
         --timeout 20s --stay 50ms --expect-slots-flat 3"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    assert_eq!(admitted.load(Relaxed), 300);
    let returns = &json["returns"];
    assert_eq!((&returns["lost"], &returns["returned"]), (&300.into(), &300.into()));
    assert_eq!((&returns["with_a_slot"], &returns["told_where"]), (&300.into(), &300.into()));
    assert_eq!(returns["lost_by_reason"]["code 1001"], 300);
    let again = &json["ledger_of_those_who_return"];
    assert_eq!((&again["admitted"], &again["open"]), (&300.into(), &300.into()));
    let span = &json["line"]["last_return_ms"].as_u64().unwrap();
    assert!(*span >= 2_900, "the last slot is 3.09 s behind the end: {}", report.table());
}

#[test]
fn clients_that_are_refused_when_they_come_back_try_again() {
    let (other, admitted) = welcoming_server(true);
    for (manners, told) in [("slots", 50), ("immediate", 50), ("backoff", 50)] {
        let port = leaving_server(None);
        let before = admitted.load(Relaxed);
        let report = run(&format!(
            "tidegate-load reconnect ws://127.0.0.1:{port}/ws?channel=a -n 50 --timeout 30s \
             --target ws://127.0.0.1:{other}/ws?channel=a --clients {manners} --stay 50ms \
             --backoff-base 200ms"
        ));
        assert!(report.is_good(), "{manners}: {}", report.table());
        assert_eq!(admitted.load(Relaxed) - before, 50, "{manners}");
        let returns = &report.json()["returns"];
        assert_eq!(returns["with_a_slot"], told);
        if manners == "slots" {
            assert_eq!(returns["refused_by_status"]["503"], 25);
            assert_eq!(report.json()["ledger_of_those_who_return"]["attempts"], 75);
        }
    }
}

#[test]
fn clients_that_find_nobody_are_not_called_back() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = leaving_server(Some(gone));
    let report = run(&format!(
        "tidegate-load reconnect ws://127.0.0.1:{port}/ws -n 5 --timeout 1s --clients immediate"
    ));
    assert!(!report.is_good());
    let json = report.json();
    assert_eq!(json["returns"]["not_yet_back"], 5, "{}", report.table());
    assert_eq!(json["ledger_of_those_who_return"]["balanced"], true);
}

#[test]
fn a_server_that_never_answers_leaves_no_attempt_without_room() {
    // Connects are answered by the kernel, and nobody reads.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut held = Vec::new();
    let accepting = thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            held.push(stream);
            if held.len() > 9_000 {
                held.clear();
            }
        }
    });
    let began = std::time::Instant::now();
    let report = run(&format!(
        "tidegate-load flood ws://127.0.0.1:{port}/ --duration 2s --in-flight 1000000 \
         --connect-timeout 300ms --sources 400 --no-admin --abandon"
    ));
    assert!(began.elapsed() < Duration::from_secs(40), "the clock ends it");
    let json = report.json();
    assert_eq!(json["ledger"]["balanced"], true, "{}", report.table());
    let causes = json["ledger"]["failed_by_cause"].as_object().unwrap();
    let without_room: Vec<_> = causes.keys().filter(|cause| cause.contains("socket")).collect();
    assert!(without_room.is_empty(), "{}", report.table());
    drop(accepting);
}

/// Accepts and keeps; answers each Close.
fn keeping_server() -> u16 {
    server(|_, stream| {
        read_to_end(tungstenite::accept(stream).unwrap());
    })
}

#[test]
fn a_ramp_says_up_to_which_rate_all_were_admitted() {
    let port = keeping_server();
    let report = run(&format!(
        "tidegate-load ramp ws://127.0.0.1:{port}/ -n 300 --from 50 --to 250 --over 1s \
         --p99-limit 20s --threads 2 --expect-per-second 200"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    assert_eq!(json["ledger"]["admitted"], 150, "the mean of both rates for a second");
    let steps = json["ramp"]["steps"].as_array().unwrap();
    let admitted: u64 = steps.iter().map(|step| step["admitted"].as_u64().unwrap()).sum();
    assert_eq!(admitted, 150);
}

#[test]
fn a_ramp_into_refusals_ends_where_they_begin() {
    let port = server(|number, mut stream| {
        if number < 40 {
            read_to_end(tungstenite::accept(stream).unwrap());
        } else {
            read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").unwrap();
        }
    });
    let report = run(&format!(
        "tidegate-load ramp ws://127.0.0.1:{port}/ -n 300 --from 50 --to 250 --over 1s \
         --p99-limit 20s --expect-per-second 200"
    ));
    assert!(!report.is_good(), "{}", report.table());
    let kept = report.json()["ramp"]["kept_per_second"].as_f64().unwrap();
    assert!((60.0..200.0).contains(&kept), "{}", report.table());
}

#[test]
fn those_who_come_and_go_are_in_the_books() {
    let port = keeping_server();
    let report = run(&format!(
        "tidegate-load churn ws://127.0.0.1:{port}/ -n 40 --lifetime 200ms --for 1s --threads 2"
    ));
    assert!(report.is_good(), "{}", report.table());
    let ledger = &report.json()["ledger"];
    let of = |name: &str| ledger[name].as_u64().unwrap();
    assert!(of("ended") > 20, "{}", report.table());
    assert_eq!(ledger["ended_by_reason"]["code 1000"], of("ended"));
    assert_eq!(of("admitted"), of("ended") + of("open"));
}

/// Hands each text message on to everybody who is there, himself included.
fn hub() -> u16 {
    let everybody: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    server(move |_, stream| {
        let mut socket = tungstenite::accept(stream).unwrap();
        everybody.lock().unwrap().push(socket.get_ref().try_clone().unwrap());
        while let Ok(message) = socket.read() {
            let Message::Text(text) = message else { continue };
            let mut frame = Vec::new();
            let text = text.as_bytes();
            tidegate::websocket::frame::encode(OpCode::Data(Data::Text), text, &mut frame);
            for mut peer in everybody.lock().unwrap().iter() {
                // Who does not read is left out.
                let _ = peer.set_write_timeout(Some(Duration::from_millis(50)));
                let _ = peer.write_all(&frame);
            }
        }
    })
}

#[test]
fn every_publication_is_timed_from_when_it_was_due_to_each_reader() {
    let port = hub();
    let report = run(&format!(
        "tidegate-load broadcast ws://127.0.0.1:{port}/ -n 20 --threads 2 --through client \
         --publish-url ws://127.0.0.1:{port}/ --publish-rate 50 --for 600ms --warm-up 100ms"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    let publications = json["broadcast"]["publications"].as_u64().unwrap();
    assert!(publications > 0);
    assert_eq!(json["broadcast"]["deliveries"], publications * 20);
    assert_eq!(json["latency_us"]["count"], publications * 20);
    assert_eq!(json["last_reader_us"]["count"], publications);
    assert_eq!(json["sequence"]["missing"], 0);
}

#[test]
fn those_who_do_not_read_are_counted_apart() {
    let port = hub();
    let report = run(&format!(
        "tidegate-load slow-readers ws://127.0.0.1:{port}/ -n 20 --slow 3 --through client \
         --slow-bytes-per-second 2000 --publish-url ws://127.0.0.1:{port}/ --publish-rate 20 \
         --for 500ms --warm-up 100ms"
    ));
    assert!(report.is_good(), "{}", report.table());
    let json = report.json();
    assert_eq!(
        (&json["slow_readers"]["connections"], &json["broadcast"]["readers"]),
        (&3.into(), &17.into())
    );
    assert_eq!(json["slow_readers"]["still_open"], 3);
}
