//! What a client can hold is bounded: bytes, time, connections. None of it ends the thread or
//! keeps the next client from being answered.

use std::io::ErrorKind;
use std::thread;

use super::*;
use crate::limits::{ADMIN_CONNECTIONS, MAX_ADMIN_BODY_BYTES, MAX_ADMIN_HEADERS};

const JSON: &str = "content-type: application/json\r\n";

fn impatient() -> Admin {
    let patience = Patience {
        head: Duration::from_millis(300),
        body: Duration::from_millis(300),
        idle: Duration::from_millis(300),
        answer: Duration::from_millis(300),
        linger: Duration::from_millis(300),
    };
    Admin::with(Config::default(), 100, patience)
}

#[test]
fn requests_on_one_connection_are_answered_in_order() {
    let admin = Admin::start();
    let text = admin.exchange(
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n\
         POST /api/info HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 2\r\n\r\n{}\
         GET /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n\
         HEAD /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n\
         GET /readyz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    );
    let statuses: Vec<_> =
        text.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)).collect();
    assert_eq!(statuses, ["200", "200", "404", "200", "200"], "{text}");
    assert!(text.contains("\"alive\"") && text.contains("num_clients"), "{text}");
    assert!(text.ends_with("}\n") && text.contains("\"ready\""), "{text}");
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let reply = Reply::read(&Admin::start().exchange("GET /livez HTTP/1.0\r\n\r\n"));
    assert_eq!(reply.status, 200);
}

/// Bytes that trickle in do not extend the time for the head.
#[test]
fn a_slow_head_and_an_idle_connection_are_closed() {
    let admin = impatient();
    let mut slow = admin.connect();
    let mut idle = admin.connect();
    idle.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
    let began = Instant::now();
    let mut closed = false;
    for byte in b"GET /livez HTTP/1.1\r\nhost: localhost\r\n".iter().cycle().take(100) {
        if slow.write_all(&[*byte]).is_err() {
            closed = true;
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(closed && began.elapsed() < Duration::from_millis(1_500), "{:?}", began.elapsed());
    let mut text = String::new();
    idle.read_to_string(&mut text).unwrap();
    assert_eq!(Reply::read(&text).status, 200);
    assert_eq!(admin.get("/livez").status, 200);
}

#[test]
fn a_slow_body_is_told_so() {
    let reply = impatient().exchange(format!(
        "POST /api/info HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: 2\r\n\r\n{{"
    ));
    Reply::read(&reply).is_error_in_numbers(408, 107);
}

impl Reply {
    fn is_error_in_numbers(&self, status: u16, code: u16) {
        assert_eq!(
            (self.status, &self.json()["error"]["code"]),
            (status, &code.into()),
            "{self:?}"
        );
    }
}

#[test]
fn a_body_that_is_too_long_is_told_so() {
    let admin = Admin::start();
    let mut body = format!(r#"{{"message":"{}"}}"#, "x".repeat(MAX_ADMIN_BODY_BYTES));
    let limit = "longer than 4194304 bytes";
    admin.post("/api/v1/broadcast", &body).is_error(413, "body_too_large", limit);
    let chunked = format!(
        "POST /api/v1/broadcast HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{JSON}\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    Reply::read(&admin.exchange(chunked)).is_error(413, "body_too_large", limit);
    let waiting = format!(
        "POST /api/v1/broadcast HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{JSON}\
         expect: 100-continue\r\ncontent-length: 5000000\r\n\r\n"
    );
    Reply::read(&admin.exchange(waiting)).is_error(413, "body_too_large", limit);
    assert!(admin.inboxes[0].take().is_none());
    body.truncate(MAX_ADMIN_BODY_BYTES - 2);
    body.push_str("\"}");
    assert_eq!(admin.post("/api/v1/broadcast", &body).status, 202, "exactly as long as allowed");
}

#[test]
fn what_is_not_http_is_refused_and_the_next_is_answered() {
    let admin = Admin::start();
    let many = format!(
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n{}\r\n",
        "x: y\r\n".repeat(MAX_ADMIN_HEADERS + 1)
    );
    let long =
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(20_000));
    for (bytes, status) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00"[..], "400"),
        (b"GET /livez\r\n\r\n", "400"),
        (b"GET /livez HTTP/1.1\r\nhost : localhost\r\n\r\n", "400"),
        (
            b"POST /api/info HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
            "400",
        ),
        (b"GET /livez HTTP/1.1\r\n\r\n", "400"),
        (many.as_bytes(), "431"),
        (long.as_bytes(), "431"),
    ] {
        let mut stream = admin.connect();
        // The listener may close before all of it is written.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let found = answer.split(' ').nth(1);
        assert_eq!(found, Some(status), "{:?}: {answer}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(admin.get("/livez").status, 200);
}

/// Without a token and without a word; each new one is answered all the same.
#[test]
fn silent_connections_give_way_to_new_ones() {
    let admin = Admin::start();
    let mut open: Vec<_> = (0..ADMIN_CONNECTIONS + 50).map(|_| admin.connect()).collect();
    assert_eq!(admin.get("/livez").status, 200);
    assert_eq!(admin.get("/health/status").status, 200);
    let mut first = open.swap_remove(0);
    let ended = first.read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)) && !is_timeout(&ended), "{ended:?}");
}

fn is_timeout(read: &std::io::Result<usize>) -> bool {
    read.as_ref()
        .is_err_and(|error| matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

/// Asks for more than any buffer holds and reads nothing.
#[test]
fn a_reader_that_stands_still_is_cut() {
    let admin = impatient();
    let mut stream = admin.connect();
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let request = b"GET /api/v1/shutdown/overview HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let began = Instant::now();
    let end = loop {
        match stream.write_all(request) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => break error,
            Ok(()) => {}
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still open");
    };
    assert!(matches!(end.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{end}");
    assert_eq!(admin.get("/livez").status, 200);
}

/// An answer that is being made when the listener stops still leaves.
#[test]
fn stopping_waits_for_the_answer_under_way() {
    let mut admin = Admin::start();
    let mut stream = admin.connect();
    let request = format!(
        "POST /api/v1/shutdown/shutdown HTTP/1.1\r\nhost: localhost\r\n{JSON}content-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let Ok(Command::Shutdown { answer, .. }) = admin.commands.recv() else { panic!("no command") };
    let idle = admin.connect();
    let handle = admin.handle.take().unwrap();
    let address = handle.address();
    let stopping =
        thread::spawn(move || handle.stop_within(Duration::from_secs(5), Duration::from_secs(5)));
    thread::sleep(Duration::from_millis(50));
    drop(answer);
    let mut text = [0; 12];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"HTTP/1.1 503");
    stopping.join().unwrap();
    assert_eq!((&idle).read(&mut text).unwrap_or(0), 0, "closed as well");
    drop((stream, idle));
    assert!(bind(address).is_ok(), "the port is free again");
}
