//! What a client reads on its socket for each kind of upgrade request: 101 only for the exact
//! good form, otherwise the status that names the fault, and then the end of the connection;
//! nothing behind a refused request is ever looked at. However the bytes are cut.

use crate::support;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::server::Server;
use crate::support::wire::{self, Client, End, Next, Response, TEXT, upgrade_request};
use crate::support::{PATIENCE, judge, socket};

/// The header lines of a valid request but for the blank line.
const GOOD: [&str; 5] = [
    "Host: localhost",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

fn request(line: &str, headers: &[&str]) -> Vec<u8> {
    format!("{line}\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes()
}

/// A valid request with these lines behind it.
fn with(more: &[&str]) -> Vec<u8> {
    request("GET /echo HTTP/1.1", &[&GOOD[..], more].concat())
}

/// A valid request with the line that begins like `name` replaced, or left out if that is empty.
fn replacing(name: &str, line: &str) -> Vec<u8> {
    assert!(GOOD.iter().any(|good| good.starts_with(name)));
    let lines = GOOD.map(|good| if good.starts_with(name) { line } else { good });
    let lines: Vec<_> = lines.into_iter().filter(|line| !line.is_empty()).collect();
    request("GET /echo HTTP/1.1", &lines)
}

fn line(line: &str) -> Vec<u8> {
    request(line, &GOOD)
}

/// Bytes of a valid request with one part replaced by another.
fn bytes(from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(with(&[])).unwrap();
    assert!(text.contains(from));
    text.replacen(from, to, 1).into_bytes()
}

fn many_headers(count: usize) -> Vec<u8> {
    let lines: Vec<_> = (0..count - GOOD.len()).map(|number| format!("X-{number}: y")).collect();
    with(&lines.iter().map(String::as_str).collect::<Vec<_>>())
}

fn long_header(total: usize) -> Vec<u8> {
    let short = with(&["X-Long: "]).len();
    let long = with(&[&format!("X-Long: {}", "y".repeat(total - short))]);
    assert_eq!(long.len(), total);
    long
}

/// A key whose last digit has bits that carry nothing set (erratum 3150 of RFC 6455).
const ERRATUM: &str = "the key of erratum 3150";

/// Reads the answer to a request of the table.
fn read_answer(name: &str, stream: TcpStream) -> Result<Client, Response> {
    let accept = if name == ERRATUM { "OfS0wDaT5NoxF2gqm7Zj2YtetzM=" } else { wire::ACCEPT };
    Client::read_answer_with(accept, stream).unwrap()
}

/// Every request with the status it is answered with.
fn table() -> Vec<(&'static str, u16, Vec<u8>)> {
    vec![
        ("the good form", 101, with(&[])),
        ("/ws", 101, line("GET /ws HTTP/1.1")),
        ("/ws with a channel", 101, line("GET /ws?channel=news HTTP/1.1")),
        (
            "/ws with others' parameters",
            101,
            line("GET /ws?channel=news&utm_source=caf%E9&session_id=1 HTTP/1.1"),
        ),
        (
            "/ws with one channel 65 times",
            101,
            line(&format!("GET /ws?{} HTTP/1.1", ["channel=news"; 65].join("&"))),
        ),
        ("absolute form", 101, line("GET http://localhost/echo HTTP/1.1")),
        ("names in any case", 101, replacing("Upgrade", "uPgRaDe: WebSocket")),
        ("connection is a list", 101, replacing("Connection", "Connection: keep-alive, upgrade")),
        ("connection in two lines", 101, with(&["Connection: keep-alive"])),
        ("no space after the colon", 101, replacing("Host", "Host:localhost")),
        ("content-length 0", 101, with(&["Content-Length: 0"])),
        ("empty line before", 101, [b"\r\n", &with(&[])[..]].concat()),
        ("64 headers", 101, many_headers(64)),
        ("8192 bytes", 101, long_header(8192)),
        ("an extension is declined", 101, with(&["Sec-WebSocket-Extensions: permessage-deflate"])),
        ("bad extension offer", 101, with(&["Sec-WebSocket-Extensions: ;;=,=\"", "X: y"])),
        ("a subprotocol is declined", 101, with(&["Sec-WebSocket-Protocol: chat, superchat"])),
        (
            ERRATUM,
            101,
            replacing("Sec-WebSocket-Key", "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC=="),
        ),
        ("no host", 400, replacing("Host", "")),
        ("two hosts", 400, with(&["Host: localhost"])),
        ("empty host", 400, replacing("Host", "Host: ")),
        ("host with a path", 400, replacing("Host", "Host: a/b")),
        ("no upgrade", 400, replacing("Upgrade", "")),
        ("upgrade to h2c", 400, replacing("Upgrade", "Upgrade: h2c")),
        ("no connection", 400, replacing("Connection", "")),
        ("connection: close", 400, replacing("Connection", "Connection: close")),
        ("no key", 400, replacing("Sec-WebSocket-Key", "")),
        ("two keys", 400, with(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="])),
        ("short key", 400, replacing("Sec-WebSocket-Key", "Sec-WebSocket-Key: c2hvcnQ=")),
        (
            "key that is not base64",
            400,
            replacing("Sec-WebSocket-Key", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25j*Q=="),
        ),
        ("two versions", 400, with(&["Sec-WebSocket-Version: 13"])),
        ("a body", 400, with(&["Content-Length: 5"])),
        ("negative content-length", 400, with(&["Content-Length: -1"])),
        ("two content-lengths", 400, with(&["Content-Length: 0", "Content-Length: 0"])),
        ("transfer-encoding", 400, with(&["Transfer-Encoding: chunked"])),
        (
            "transfer-encoding and content-length",
            400,
            with(&["Content-Length: 0", "Transfer-Encoding: chunked"]),
        ),
        ("folded header", 400, with(&["X-Fold: a\r\n b"])),
        ("space before the colon", 400, with(&["X-Space : a"])),
        ("header without a colon", 400, with(&["X-None"])),
        ("header without a name", 400, with(&[": x"])),
        ("NUL in a value", 400, with(&["X-Nul: a\0b"])),
        ("control character in a name", 400, with(&["X-\x01: a"])),
        ("bare LF", 400, bytes("\r\nUpgrade", "\nUpgrade")),
        ("bare CR", 400, bytes("\r\nUpgrade", "\rUpgrade")),
        ("HTTP/1.0", 400, line("GET /echo HTTP/1.0")),
        ("HTTP/2.0", 400, line("GET /echo HTTP/2.0")),
        ("no version", 400, line("GET /echo")),
        ("lower-case http", 400, line("GET /echo http/1.1")),
        ("two spaces", 400, line("GET  /echo HTTP/1.1")),
        ("target is not a path", 400, line("GET echo HTTP/1.1")),
        ("target with a fragment", 400, line("GET /echo#a HTTP/1.1")),
        ("two origins", 400, with(&["Origin: http://a.example", "Origin: http://b.example"])),
        ("a TLS client hello", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("HTTP/2 preface", 400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("bad channel", 400, line("GET /ws?channel= HTTP/1.1")),
        ("channel that is not UTF-8", 400, line("GET /ws?channel=caf%E9 HTTP/1.1")),
        ("nearly a channel", 400, line("GET /ws?chanel=news HTTP/1.1")),
        ("another origin", 403, with(&["Origin: http://evil.example"])),
        ("origin null", 403, with(&["Origin: null"])),
        ("unknown path", 404, line("GET /nope HTTP/1.1")),
        ("path below a known one", 404, line("GET /echo/ HTTP/1.1")),
        ("POST", 405, line("POST /echo HTTP/1.1")),
        ("HEAD", 405, line("HEAD /echo HTTP/1.1")),
        ("lower-case get", 405, line("get /echo HTTP/1.1")),
        ("version 8", 426, replacing("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8")),
        ("no websocket version", 426, replacing("Sec-WebSocket-Version", "")),
        ("an ordinary GET", 426, request("GET /echo HTTP/1.1", &["Host: localhost"])),
        ("65 headers", 431, many_headers(65)),
        ("8193 bytes", 431, long_header(8193)),
    ]
}

/// The server of the table: pages of one origin may connect.
fn server() -> Server {
    Server::start(&["server.shards=1", "server.allowed_origins=http://good.example"])
}

/// A refusal as it must be: complete, closing, and nothing behind it.
fn check_refusal(name: &str, received: &[u8]) -> Response {
    let response = Response::parse(received).unwrap_or_else(|| panic!("{name}: {received:?}"));
    let connection = response.header("connection").unwrap_or_default();
    assert!(connection.starts_with("close"), "{name}: {response:?}");
    let body_bytes: usize = response.header("content-length").unwrap().parse().unwrap();
    let expected = if name == "HEAD" { 0 } else { body_bytes };
    assert_eq!(response.rest.len(), expected, "{name}: one answer and no more: {response:?}");
    match response.status {
        405 => assert_eq!(response.header("allow"), Some("GET"), "{name}"),
        426 => assert_eq!(response.header("sec-websocket-version"), Some("13"), "{name}"),
        _ => {}
    }
    response
}

/// S0.14.
#[test]
fn each_request_has_its_status_and_a_refusal_is_the_last_thing_read() {
    let server = server();
    for (name, status, request) in table() {
        let mut stream = socket::connect(server.clients).unwrap();
        if status == 101 {
            stream.write_all(&request).unwrap();
            let client = read_answer(name, stream);
            client.unwrap_or_else(|response| panic!("{name}: {response:?}")).close();
            continue;
        }
        // A valid request right behind the refused one, in the same segment.
        stream.write_all(&[&request[..], &upgrade_request("/echo")].concat()).unwrap();
        let (received, _) = wire::read_to_end(&mut stream).unwrap();
        assert_eq!(check_refusal(name, &received).status, status, "{name}");
    }
}

#[test]
fn single_bytes_make_no_difference() {
    let server = server();
    for (name, status, request) in table() {
        let mut stream = socket::connect(server.clients).unwrap();
        for (position, byte) in request.iter().enumerate() {
            match stream.write_all(&[*byte]) {
                Ok(()) => {}
                // Refused before its end.
                Err(error) if wire::is_reset(&error) && status != 101 => break,
                Err(error) => panic!("{name}, byte {position}: {error}"),
            }
        }
        if status == 101 {
            let client = read_answer(name, stream);
            client.unwrap_or_else(|response| panic!("{name}: {response:?}")).close();
            continue;
        }
        let (received, _) = wire::read_to_end(&mut stream).unwrap();
        assert_eq!(check_refusal(name, &received).status, status, "{name}");
    }
}

#[test]
fn a_cut_at_any_byte_makes_no_difference() {
    // Hundreds of connections at once, each cut at another byte.
    let server = server();
    support::crowd::raise_open_files();
    for (name, status, request) in table() {
        // Of the very long ones every 61st byte; each by itself is cut in `http/upgrade`.
        let step = if request.len() > 1000 { 61 } else { 1 };
        let begin = |cut: usize| {
            let mut stream = socket::connect(server.clients).unwrap();
            stream.write_all(&request[..cut]).unwrap();
            (cut, stream)
        };
        let begun: Vec<_> = (1..request.len()).step_by(step).map(begin).collect();
        for (cut, mut stream) in begun {
            match stream.write_all(&request[cut..]) {
                Ok(()) => {}
                Err(error) if wire::is_reset(&error) && status != 101 => {}
                Err(error) => panic!("{name}, cut at {cut}: {error}"),
            }
            if status == 101 {
                let client = read_answer(name, stream);
                client.unwrap_or_else(|response| panic!("{name}, cut at {cut}: {response:?}"));
                continue;
            }
            let (received, _) = wire::read_to_end(&mut stream).unwrap();
            let response = check_refusal(name, &received);
            assert_eq!(response.status, status, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn an_allowed_origin_and_no_origin_are_let_in() {
    let server = server();
    for headers in [&[][..], &["Origin: http://good.example"]] {
        let mut stream = socket::connect(server.clients).unwrap();
        stream.write_all(&with(headers)).unwrap();
        Client::read_answer(stream).unwrap().unwrap().close();
    }
}

#[test]
fn the_second_opinion_of_the_mutation_tests_agrees_with_the_table() {
    for (name, status, request) in table() {
        // It knows neither origins, other paths nor other forms of the target.
        let knows = !name.starts_with("/ws") && name != "absolute form";
        if knows && status != 403 {
            assert_eq!(judge::is_upgrade(&request), status == 101, "{name}");
        }
    }
}

#[test]
fn frames_in_the_segment_of_the_request_are_answered() {
    let server = server();
    let mut stream = socket::connect(server.clients).unwrap();
    let frames = [wire::frame(wire::FIN | TEXT, b"one"), wire::frame(wire::FIN | TEXT, b"two")];
    stream.write_all(&[&upgrade_request("/echo")[..], &frames.concat()].concat()).unwrap();
    let mut client = Client::read_answer(stream).unwrap().unwrap();
    assert_eq!(client.frame().text(), "one");
    assert_eq!(client.frame().text(), "two");
    client.close();
}

#[test]
fn a_frame_that_is_cut_by_the_end_of_the_first_segment_is_answered() {
    let server = server();
    for cut in 1..9 {
        let mut stream = socket::connect(server.clients).unwrap();
        let frame = wire::frame(wire::FIN | TEXT, b"cut");
        stream.write_all(&[&upgrade_request("/echo")[..], &frame[..cut]].concat()).unwrap();
        let mut client = Client::read_answer(stream).unwrap().unwrap();
        client.send(&frame[cut..]);
        assert_eq!(client.frame().text(), "cut");
    }
}

/// What is wrong with a request for this path, which is refused with 400.
#[track_caller]
fn why_bad(server: &Server, path: &str) -> String {
    let request = line(&format!("GET {path} HTTP/1.1"));
    let (response, _) = wire::exchange(server.clients, &request).unwrap();
    assert_eq!(response.status, 400, "{path}: {response:?}");
    let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
    body["error"].as_str().unwrap().to_owned()
}

/// Two names in Latin-1 would be one name if what is not UTF-8 were replaced.
#[test]
fn names_that_are_not_utf_8_are_refused_with_the_reason() {
    let server = server();
    for value in ["caf%E9", "caf%E8", "%C3", "a%C0%AFb", "%ED%A0%80", "%FF%FE"] {
        let why = why_bad(&server, &format!("/ws?channel=news&channel={value}"));
        assert_eq!(why, "query parameter channel: not UTF-8 once it is decoded", "{value}");
        let why = why_bad(&server, &format!("/ws?session=sess{value}ion"));
        assert!(why.starts_with("query parameter session: "), "{why}");
    }
    // The replacement character itself is a character.
    Client::connect(server.clients, "/ws?channel=caf%EF%BF%BD").close();
    let query = "/api/v1/admission/refused?limit=1%E9";
    let request = format!("GET {query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let (response, _) = wire::exchange(server.admin, request.as_bytes()).unwrap();
    assert_eq!(response.status, 400);
}

#[test]
fn a_parameter_that_is_nearly_one_of_ours_is_refused_with_the_one_that_was_meant() {
    let server = server();
    for (query, meant) in [
        ("chanel=news", "channel"),
        ("channels=news&channel=news", "channel"),
        ("Channel=news", "channel"),
        ("channel=news&sesion=new", "session"),
    ] {
        let why = why_bad(&server, &format!("/ws?{query}"));
        assert_eq!(why, format!("unknown query parameter; did you mean {meant}?"), "{query}");
    }
}

#[test]
fn a_head_may_be_as_long_as_it_is_set() {
    for most in [1_024, 32_768] {
        let server = Server::start(&[&format!("handshake.max_head_bytes={most}")]);
        for step in [most, 700] {
            for (len, status) in [(most, 101), (most + 1, 431)] {
                let mut stream = socket::connect(server.clients).unwrap();
                for part in long_header(len).chunks(step) {
                    stream.write_all(part).unwrap();
                }
                match Client::read_answer(stream).unwrap() {
                    Ok(client) => {
                        assert_eq!(status, 101, "{len} bytes");
                        client.close();
                    }
                    Err(response) => {
                        assert_eq!(response.status, status, "{len} bytes");
                        assert!(response.body().contains("handshake.max_head_bytes"));
                    }
                }
            }
        }
    }
}

#[test]
fn files_and_embedded_browsers_can_be_allowed() {
    let server = Server::start(&["server.allowed_origins=file://, app://., null"]);
    for (origin, status) in [
        ("file://", 101),
        ("app://.", 101),
        ("null", 101),
        ("file:///tmp/page.html", 403),
        ("app://a", 403),
        ("https://good.example", 403),
    ] {
        let mut stream = socket::connect(server.clients).unwrap();
        stream.write_all(&with(&[&format!("Origin: {origin}")])).unwrap();
        let answer = Client::read_answer(stream).unwrap();
        assert_eq!(answer.map_or_else(|response| response.status, |_| 101), status, "{origin}");
    }
    let warned = |part: &str| {
        let has = |event: &serde_json::Value| {
            event["level"] == "WARN" && event["message"].as_str().unwrap_or_default().contains(part)
        };
        server.log().iter().any(has)
    };
    assert!(warned("server.allowed_origins has null: every page"));
    assert!(warned("server.allowed_origins has file://: every file"));
    assert!(!warned("app://."));
}

/// Sends a byte every 50 ms until the server has had enough; returns when that was, and the
/// connection.
fn trickle(server: SocketAddr, bytes: impl Iterator<Item = u8>) -> (Duration, TcpStream) {
    let started = Instant::now();
    let mut stream = socket::connect(server).unwrap();
    for byte in bytes {
        if stream.write_all(&[byte]).is_err() || has_ended(&stream) {
            return (started.elapsed(), stream);
        }
        assert!(started.elapsed() < PATIENCE, "still connected");
    }
    panic!("the bytes ran out before the server's patience");
}

fn has_ended(stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    match stream.peek(&mut [0; 1]) {
        Ok(_) => true,
        Err(error) => wire::is_reset(&error),
    }
}

#[test]
fn a_slow_handshake_is_cut_at_its_deadline_whatever_trickles_in() {
    let server = Server::start(&["handshake.timeout_ms=1000"]);
    let endless = upgrade_request("/echo").into_iter().filter(|byte| *byte != b'\n').cycle();
    for bytes in [b"GET /echo HTTP/1.1\r\nX: ".to_vec(), b"\r\n".to_vec()] {
        let bytes = bytes.into_iter().chain(endless.clone().map(plain));
        let (took, mut stream) = trickle(server.clients, bytes);
        assert!(took >= Duration::from_millis(900), "cut after {took:?}");
        let (received, end) = wire::read_to_end(&mut stream).unwrap();
        let response = check_refusal("slow", &received);
        assert_eq!((response.status, end), (408, End::Closed));
        assert!(response.body().contains("handshake.timeout_ms"), "{response:?}");
    }
}

/// Browsers and probes open connections that they may never use; a 408 on one would be taken for
/// the answer to the request that comes at last.
#[test]
fn who_has_not_begun_a_request_is_told_nothing_at_the_deadline() {
    let server = Server::start(&["handshake.timeout_ms=500"]);
    let (_, mut stream) = trickle(server.clients, b"\r\n".iter().copied().cycle());
    let (received, _) = wire::read_to_end(&mut stream).unwrap();
    assert!(received.is_empty(), "{received:?}");
}

#[test]
fn there_are_as_many_408_as_closes_and_the_rest_is_cut() {
    let server = Server::start(&[
        "server.shards=1",
        "handshake.timeout_ms=500",
        "refusal.close_per_second=4",
        "refusal.http_per_second=0",
    ]);
    let begin = |_| {
        let mut stream = socket::connect(server.clients).unwrap();
        stream.write_all(b"GET /ws HTTP/1.1\r\n").unwrap();
        stream
    };
    let begun: Vec<_> = (0..20).map(begin).collect();
    let mut told = 0;
    for mut stream in begun {
        let (received, end) = wire::read_to_end(&mut stream).unwrap();
        match Response::parse(&received) {
            Some(response) => {
                assert_eq!((response.status, end), (408, End::Closed));
                told += 1;
            }
            None => assert_eq!((received.len(), end), (0, End::Reset)),
        }
    }
    // A burst of one second's, and what comes back while the machine is busy.
    assert!((4..20).contains(&told), "{told}");
}

/// No byte that would end the line or be refused.
fn plain(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte } else { b'x' }
}

#[test]
fn a_connection_that_says_nothing_is_cut_at_the_same_deadline() {
    let server = Server::start(&["handshake.timeout_ms=500"]);
    let started = Instant::now();
    let mut stream = socket::connect(server.clients).unwrap();
    let (received, _) = wire::read_to_end(&mut stream).unwrap();
    assert!(received.is_empty(), "{received:?}");
    assert!(started.elapsed() >= Duration::from_millis(400));
}

#[test]
fn a_client_that_leaves_in_its_handshake_leaves_nothing_behind() {
    let mut server = Server::start(&["server.shards=1"]);
    for cut in [0, 1, 50] {
        let mut stream = socket::connect(server.clients).unwrap();
        stream.write_all(&upgrade_request("/echo")[..cut]).unwrap();
        match cut {
            50 => socket::reset(stream),
            _ => drop(stream),
        }
    }
    let mut client = Client::connect(server.clients, "/echo");
    client.echo("still here");
    let half = socket::connect(server.clients).unwrap();
    half.shutdown(std::net::Shutdown::Write).unwrap();
    let mut half = Client::silent(half);
    assert_eq!(half.next(), Next::End(End::Closed));
    client.close();
    let (code, last_words) = server.drain();
    assert_eq!((code, &last_words["connections_at_start"]), (Some(0), &0.into()));
}
