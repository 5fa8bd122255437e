//! Behind a proxy the client counts and not the proxy: on real sockets, for each way in which a
//! proxy says who the client is, however its bytes are cut, and for nobody but a proxy that is
//! trusted. One shard, on which every limit is exact.

use crate::support;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::server::{self, Server, outcomes, text};
use crate::support::wire::{self, Client, FIN, Next, Response, TEXT, frame, upgrade_request};
use crate::support::{eventually, socket};
use rustix::process::Signal;

const TRUSTED: &str = "server.trusted_proxies=127.0.0.2, 127.0.0.3";
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const OTHER_PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const STRANGER: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// How a proxy says who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    V1,
    V2,
    XForwardedFor,
    Forwarded,
}

const WAYS: [Way; 4] = [Way::V1, Way::V2, Way::XForwardedFor, Way::Forwarded];

impl Way {
    fn provenance(self) -> &'static str {
        match self {
            Way::V1 => "proxy_protocol_v1",
            Way::V2 => "proxy_protocol_v2",
            Way::XForwardedFor => "x_forwarded_for",
            Way::Forwarded => "forwarded",
        }
    }

    /// An upgrade request as a proxy forwards it for `client`.
    fn request(self, client: Ipv4Addr) -> Vec<u8> {
        let request = upgrade_request("/echo");
        match self {
            Way::V1 => [v1(client), request].concat(),
            Way::V2 => [v2(0x21, client), request].concat(),
            Way::XForwardedFor => with_line(&format!("X-Forwarded-For: 6.6.6.6, {client}")),
            Way::Forwarded => {
                with_line(&format!("Forwarded: for=\"6.6.6.6, for=\"{client}:4660\";proto=http"))
            }
        }
    }
}

fn v1(client: Ipv4Addr) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.9 4660 80\r\n").into_bytes()
}

/// `command`: 0x20 is LOCAL, 0x21 PROXY. With three bytes of TLV.
fn v2(command: u8, client: Ipv4Addr) -> Vec<u8> {
    let start = b"\r\n\r\n\0\r\nQUIT\n";
    let tail = [127, 0, 0, 9, 0x12, 0x34, 0, 80, 4, 0, 0];
    [&start[..], &[command, 0x11, 0, 15], &client.octets(), &tail].concat()
}

/// An upgrade request with one more header line.
fn with_line(line: &str) -> Vec<u8> {
    let mut request = upgrade_request("/echo");
    request.truncate(request.len() - 2);
    [&request[..], line.as_bytes(), b"\r\n\r\n"].concat()
}

fn client(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, n)
}

fn start(settings: &[&str]) -> Server {
    Server::start(&[&["server.shards=1", TRUSTED], settings].concat())
}

/// Sends `bytes` from `peer` and reads the answer.
fn send(server: &Server, peer: Ipv4Addr, bytes: &[u8]) -> Result<Client, Response> {
    let mut stream = socket::connect_from(peer, server.clients).unwrap();
    stream.write_all(bytes).unwrap();
    Client::read_answer(stream).unwrap()
}

#[track_caller]
fn refused(answer: Result<Client, Response>) -> (u16, String) {
    let response = match answer {
        Ok(_) => panic!("upgraded"),
        Err(response) => response,
    };
    let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
    (response.status, body["error"].as_str().unwrap().to_owned())
}

fn silent(server: &Server, peer: Ipv4Addr) -> TcpStream {
    socket::connect_from(peer, server.clients).unwrap()
}

/// Whether the server's own figure of this name, of its only shard, has this value.
fn shows(server: &Server, name: &str, value: u64) -> bool {
    let metrics = support::http::get(server.admin, "/metrics");
    let line = metrics.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()) == Some(value)
}

#[test]
fn the_limit_of_a_source_is_that_of_the_client_and_not_of_the_proxy() {
    for way in WAYS {
        let server = start(&[
            "server.proxy_protocol=accept",
            "admission.connections_per_ip_per_minute=1",
            "admission.connections_per_ip_burst=2",
        ]);
        let mut open = Vec::new();
        for n in [1, 2] {
            for peer in [PROXY, OTHER_PROXY] {
                let mut client = send(&server, peer, &way.request(client(n))).unwrap();
                client.echo("through the proxy");
                open.push(client);
            }
            // Through one proxy or the other, it is the same client.
            for peer in [PROXY, OTHER_PROXY] {
                let answer = send(&server, peer, &way.request(client(n)));
                let detail = "too many connection attempts from this address".to_owned();
                assert_eq!(refused(answer), (429, detail), "{way:?}");
            }
        }
        // The proxies have used nothing of their own.
        for peer in [PROXY, OTHER_PROXY] {
            open.push(send(&server, peer, &upgrade_request("/echo")).unwrap());
        }
    }
}

#[test]
fn the_rule_for_a_block_is_that_of_the_client_and_not_of_the_proxy() {
    for way in WAYS {
        let server = start(&[
            "server.proxy_protocol=accept",
            "admission.max_connections_per_ip=1",
            "admission.deny=192.0.2.1/32, 127.0.0.3/32",
            "admission.allow=192.0.2.2/32, 127.0.0.2/32",
            "admission.overrides=192.0.2.3/32 max_concurrent=2",
        ]);
        let mut open = Vec::new();
        for (n, most) in [(2, 5), (3, 2), (4, 1)] {
            for _ in 0..most {
                open.push(send(&server, OTHER_PROXY, &way.request(client(n))).unwrap());
            }
        }
        let denied = (403, "address not allowed".to_owned());
        for (n, status) in [(1, 403), (3, 429), (4, 429)] {
            let answer = refused(send(&server, PROXY, &way.request(client(n))));
            assert_eq!(answer.0, status, "{way:?} of client {n}");
            assert!(status != 403 || answer == denied, "{answer:?}");
        }
        // A rule for a proxy counts where the proxy itself is the client.
        assert_eq!(refused(send(&server, OTHER_PROXY, &upgrade_request("/echo"))), denied);
        for _ in 0..3 {
            open.push(send(&server, PROXY, &upgrade_request("/echo")).unwrap());
        }
    }
}

#[test]
fn the_place_of_a_client_is_given_back_to_it() {
    let server = start(&["server.proxy_protocol=accept", "admission.max_connections_per_ip=1"]);
    for (way, one, other) in [(WAYS[0], 1, 2), (WAYS[1], 3, 4), (WAYS[2], 5, 6), (WAYS[3], 7, 8)] {
        let mut first = send(&server, PROXY, &way.request(client(one))).unwrap();
        let again = send(&server, OTHER_PROXY, &way.request(client(one)));
        assert_eq!(refused(again).0, 429, "{way:?}");
        send(&server, PROXY, &way.request(client(other))).unwrap().close();
        first.echo("still here");
        first.close();
        for n in [one, other] {
            eventually("the place is free", || {
                send(&server, PROXY, &way.request(client(n))).map(Client::close).is_ok()
            });
        }
    }
}

#[test]
fn nobody_else_can_say_who_it_is() {
    for setting in ["off", "accept", "require"] {
        let protocol = format!("server.proxy_protocol={setting}");
        let server = start(&[&protocol, "admission.max_connections_per_ip=1"]);
        let _only = send(&server, STRANGER, &upgrade_request("/echo")).unwrap();
        for way in WAYS {
            let answer = send(&server, STRANGER, &way.request(client(1)));
            assert_eq!(refused(answer).0, 429, "{way:?} with {setting}");
        }
        let server = start(&[&protocol]);
        for way in [Way::V1, Way::V2] {
            let answer = send(&server, STRANGER, &way.request(client(1)));
            assert_eq!(refused(answer).0, 400, "{way:?} with {setting}");
        }
        let unknown = [b"PROXY UNKNOWN\r\n", &upgrade_request("/echo")[..]].concat();
        assert_eq!(refused(send(&server, STRANGER, &unknown)).0, 400, "{setting}");
        for way in [Way::XForwardedFor, Way::Forwarded] {
            send(&server, STRANGER, &way.request(client(1))).unwrap().echo("as itself");
        }
    }
    // By default nobody is trusted.
    let server = Server::start(&["server.shards=1", "admission.max_connections_per_ip=1"]);
    let _only = send(&server, PROXY, &Way::XForwardedFor.request(client(1))).unwrap();
    assert_eq!(refused(send(&server, PROXY, &Way::XForwardedFor.request(client(2)))).0, 429);
}

#[test]
fn a_proxy_protocol_that_is_off_is_malformed_also_from_a_proxy() {
    let server = start(&[]);
    for way in [Way::V1, Way::V2] {
        assert_eq!(refused(send(&server, PROXY, &way.request(client(1)))).0, 400, "{way:?}");
    }
    send(&server, PROXY, &Way::XForwardedFor.request(client(1))).unwrap().echo("but this works");
}

/// A request with these header lines more.
fn with_lines(lines: &[&str]) -> Vec<u8> {
    with_line(&lines.join("\r\n"))
}

/// A proxy that writes `X-Forwarded-For` passes on the `Forwarded` of its client, which must not be
/// able to get rid of its own address so.
#[test]
fn a_request_with_both_headers_is_refused_and_never_let_through() {
    let mut server = start(&[
        "admission.deny=192.0.2.1/32, 192.0.2.2/32",
        "admission.allow=127.0.0.2/32",
        "admission.max_connections_per_ip=1",
    ]);
    let by_proxy = "X-Forwarded-For: 192.0.2.1";
    assert_eq!(refused(send(&server, PROXY, &with_line(by_proxy))).0, 403);
    for by_client in [
        "Forwarded: for=8.8.8.8",
        "Forwarded: for=192.0.2.1",
        "Forwarded: for=unknown",
        "Forwarded: for=_hidden",
        "Forwarded: for=\"[fe80::1%25eth0]\"",
        "forwarded:",
        "FORWARDED: ,",
    ] {
        for lines in [[by_proxy, by_client], [by_client, by_proxy]] {
            let (status, why) = refused(send(&server, PROXY, &with_lines(&lines)));
            assert_eq!(status, 400, "{lines:?}");
            assert!(why.contains("server.forwarded_header"), "{why}");
        }
    }
    // The other way round.
    let lines = ["Forwarded: for=192.0.2.2", "X-Forwarded-For:"];
    assert_eq!(refused(send(&server, PROXY, &with_lines(&lines))).0, 400);
    // Nobody else's headers are looked at.
    send(&server, STRANGER, &with_lines(&[by_proxy, "Forwarded: for=8.8.8.8"])).unwrap().close();
    let warning = server.wait_for_log("both X-Forwarded-For and Forwarded");
    assert!(text(&warning, "message").contains("set server.forwarded_header"), "{warning}");
    // None of them is left, neither as an attempt nor as a connection that waits.
    eventually("nobody waits", || shows(&server, "tidegate_connections_handshaking", 0));
    let figures = support::figures::Figures::of(&server);
    assert_eq!(figures.sum("tidegate_connections_opened_total"), 1);
}

/// A header that is named is believed alone, whatever else comes, and from a proxy only.
#[test]
fn the_header_that_is_named_says_who_the_client_is_and_no_other() {
    let others = [
        "X-Forwarded-For: 192.0.2.9",
        "Forwarded: for=192.0.2.9",
        "X-Real-IP: 192.0.2.9",
        "CF-Connecting-IP: 192.0.2.9",
    ];
    for (name, value) in [
        ("x-forwarded-for", "192.0.2.9, 192.0.2.1"),
        ("forwarded", "for=192.0.2.9, for=\"192.0.2.1:4660\""),
        ("x-real-ip", "192.0.2.1"),
        ("CF-Connecting-IP", "192.0.2.1:4660"),
        ("x-envoy-external-address", "192.0.2.1"),
    ] {
        let server = start(&[
            &format!("server.forwarded_header={name}"),
            "admission.deny=192.0.2.1/32",
            "admission.max_connections_per_ip=1",
        ]);
        let line = format!("{}: {value}", name.to_uppercase());
        let beside: Vec<&str> =
            others.iter().copied().filter(|other| !is_header(other, name)).collect();
        let lines: Vec<&str> = beside.iter().copied().chain([line.as_str()]).collect();
        assert_eq!(refused(send(&server, PROXY, &with_lines(&lines))).0, 403, "{lines:?}");
        // Without it the proxy is the client, and of a stranger nothing is believed.
        let _proxy = send(&server, PROXY, &with_lines(&beside)).unwrap();
        assert_eq!(refused(send(&server, PROXY, &upgrade_request("/echo"))).0, 429, "{name}");
        send(&server, STRANGER, &with_lines(&lines)).unwrap().close();
    }
}

fn is_header(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
}

/// A proxy replaces such a header; what it has not replaced could be the client's.
#[test]
fn a_header_for_one_address_that_has_none_or_two_is_refused() {
    let mut server = start(&["server.forwarded_header=x-real-ip", "admission.deny=192.0.2.1/32"]);
    for lines in [
        &["X-Real-IP: 192.0.2.1", "X-Real-IP: 8.8.8.8"][..],
        &["X-Real-IP: 8.8.8.8", "x-real-ip: 8.8.8.8"],
        &["X-Real-IP: 8.8.8.8, 192.0.2.1"],
        &["X-Real-IP:"],
        &["X-Real-IP: unknown"],
        &["X-Real-IP: _hidden"],
        &["X-Real-IP: 192.0.2.1:0x50"],
        &["X-Real-IP: 2001:db8::1%eth0"],
        &["X-Real-IP: 0.0.0.0"],
    ] {
        let expected = (400, "not one address in the header of server.forwarded_header".to_owned());
        assert_eq!(refused(send(&server, PROXY, &with_lines(lines))), expected, "{lines:?}");
    }
    let warning = server.wait_for_log("does not hold one address");
    assert_eq!(text(&warning, "header"), "x-real-ip");
    for line in ["X-Real-IP: [2001:db8::1]:4660", "X-Real-IP: fe80::1%eth0", "X-Real-IP: 8.8.8.8"] {
        send(&server, PROXY, &with_line(line)).unwrap().close();
    }
}

/// A proxy that forwards TCP writes no header of HTTP: whatever is there is its client's.
#[test]
fn with_none_no_header_says_who_the_client_is() {
    let server = start(&[
        "server.proxy_protocol=accept",
        "server.forwarded_header=none",
        "admission.max_connections_per_ip=1",
        "admission.deny=192.0.2.1/32",
    ]);
    let lines = ["X-Forwarded-For: 8.8.8.8", "Forwarded: for=8.8.4.4", "None: 8.8.8.8"];
    let _proxy = send(&server, PROXY, &with_lines(&lines)).unwrap();
    for line in lines {
        assert_eq!(refused(send(&server, PROXY, &with_line(line))).0, 429, "{line}");
    }
    assert_eq!(refused(send(&server, PROXY, &Way::V2.request(client(1)))).0, 403);
}

/// Nobody's limit counts an attempt of which nobody can tell whose it is, so the rate of the
/// answers bounds what a flood of them costs.
#[test]
fn requests_that_name_no_client_are_answered_at_the_rate_of_refusals() {
    let server = start(&[
        "server.proxy_protocol=accept",
        "refusal.http_per_second=4",
        "refusal.close_per_second=0",
    ]);
    let both = with_lines(&["X-Forwarded-For: 192.0.2.1", "Forwarded: for=8.8.8.8"]);
    let malformed = b"PROXY TCP4 nobody 127.0.0.1 1 1\r\n".to_vec();
    let mut told = 0;
    const ATTEMPTS: usize = 200;
    for attempt in 0..ATTEMPTS {
        let request = if attempt % 2 == 0 { &both } else { &malformed };
        let answer = socket::connect_from(PROXY, server.clients).and_then(|mut stream| {
            stream.write_all(request)?;
            Client::read_answer(stream)
        });
        match answer {
            Ok(Err(response)) => {
                assert_eq!(response.status, 400);
                told += 1;
            }
            Ok(Ok(_)) => panic!("upgraded"),
            Err(error) => assert!(wire::is_reset(&error), "{error}"),
        }
    }
    assert!((4..ATTEMPTS).contains(&told), "{told}");
    send(&server, PROXY, &Way::V2.request(client(1))).unwrap().echo("not affected");
}

#[test]
fn a_required_header_is_required_of_proxies_only() {
    let server = start(&["server.proxy_protocol=require"]);
    for way in [Way::V1, Way::V2] {
        send(&server, PROXY, &way.request(client(1))).unwrap().echo("with a header");
    }
    for bytes in [upgrade_request("/echo"), Way::XForwardedFor.request(client(1)), b"X".to_vec()] {
        let expected = (400, "this proxy has to send a PROXY header".to_owned());
        assert_eq!(refused(send(&server, PROXY, &bytes)), expected);
    }
    send(&server, STRANGER, &upgrade_request("/echo")).unwrap().echo("without one");
}

#[test]
fn bytes_may_be_cut_anywhere() {
    let server = start(&["server.proxy_protocol=accept"]);
    let hello = frame(FIN | TEXT, b"hello");
    let mut every = WAYS.map(|way| [way.request(client(1)), hello.clone()].concat()).to_vec();
    // What only begins like a header is a request.
    every.push([b"\r\n\r\n", &upgrade_request("/echo")[..], &hello].concat());
    for bytes in every {
        let mut ends: Vec<_> = (0..bytes.len()).step_by(7).chain(1..30).collect();
        ends.push(bytes.len());
        for end in ends {
            let (one, other) = bytes.split_at(end);
            let mut stream = silent(&server, PROXY);
            stream.write_all(one).unwrap();
            if end % 3 == 1 {
                std::thread::sleep(Duration::from_millis(1));
            }
            stream.write_all(other).unwrap();
            let mut client = Client::read_answer(stream).unwrap().unwrap();
            assert_eq!(client.frame().text(), "hello", "cut at {end}");
        }
        let mut stream = silent(&server, PROXY);
        for byte in &bytes {
            stream.write_all(&[*byte]).unwrap();
        }
        let mut client = Client::read_answer(stream).unwrap().unwrap();
        assert_eq!(client.frame().text(), "hello", "byte by byte");
    }
}

#[test]
fn what_is_not_exactly_a_header_is_refused() {
    let server = start(&["server.proxy_protocol=accept"]);
    let request = upgrade_request("/echo");
    let malformed = "malformed PROXY header";
    let twice = |header: &[u8]| [header, header, &request].concat();
    let v2_of = |command, family, len: u16| {
        let mut bytes = v2(command, client(1));
        bytes[13] = family;
        bytes[14..16].copy_from_slice(&len.to_be_bytes());
        [&bytes[..], &request].concat()
    };
    let line = |line: &str| [line.as_bytes(), &request].concat();
    for (name, bytes, detail) in [
        ("no address", line("PROXY TCP4 nobody 127.0.0.1 1 1\r\n"), malformed),
        ("bare LF", line("PROXY TCP4 192.0.2.1 127.0.0.1 1 1\n"), malformed),
        ("a line without end", line(&format!("PROXY UNKNOWN {}", "x".repeat(200))), malformed),
        ("datagrams", v2_of(0x21, 0x12, 15), malformed),
        ("another version", v2_of(0x11, 0x11, 15), malformed),
        ("too long", v2_of(0x21, 0x11, 521), malformed),
        ("two lines", twice(&v1(client(1))), "HTTP/1.1 is required"),
        ("two binary ones", twice(&v2(0x21, client(1))), "control character in the head"),
        (
            "garbage",
            vec![0xde, 0xad, 0xbe, 0xef, b'\r', b'\n', b'\r', b'\n'],
            "invalid request line",
        ),
    ] {
        let (status, found) = refused(send(&server, PROXY, &bytes));
        assert_eq!((status, found.as_str()), (400, detail), "{name}");
    }
}

#[test]
fn a_proxy_that_speaks_for_itself_or_for_nobody_is_counted_as_itself() {
    let server = start(&["server.proxy_protocol=require", "admission.max_connections_per_ip=1"]);
    let request = upgrade_request("/echo");
    let unknown = [b"PROXY UNKNOWN\r\n", &request[..]].concat();
    let local = [&v2(0x20, client(1))[..], &request].concat();
    let _only = send(&server, PROXY, &unknown).unwrap();
    assert_eq!(refused(send(&server, PROXY, &local)).0, 429);
    send(&server, OTHER_PROXY, &local).unwrap().echo("another source");
    send(&server, PROXY, &Way::V2.request(client(1))).unwrap().echo("a client");
    // A header that has named the client is the last word.
    let _client = send(&server, PROXY, &Way::V1.request(client(2))).unwrap();
    let both = [v1(client(2)), Way::XForwardedFor.request(client(3))].concat();
    assert_eq!(refused(send(&server, PROXY, &both)).0, 429);
}

#[test]
fn a_client_that_is_refused_reads_why_when_its_request_follows_its_header() {
    let server = start(&["server.proxy_protocol=require", "admission.max_connections_per_ip=1"]);
    let _only = send(&server, PROXY, &Way::V2.request(client(1))).unwrap();
    let mut stream = silent(&server, PROXY);
    stream.write_all(&v2(0x21, client(1))).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(&upgrade_request("/echo")).unwrap();
    assert_eq!(refused(Client::read_answer(stream).unwrap()).0, 429);
}

#[test]
fn a_header_that_does_not_come_is_waited_for_until_the_deadline() {
    let server = start(&["server.proxy_protocol=accept", "handshake.timeout_ms=500"]);
    let started = Instant::now();
    let (one, two) = (v1(client(1)), v2(0x21, client(1)));
    let mut waiting = Vec::new();
    let request = upgrade_request("/echo");
    let begun = [&one[..], &request[..40]].concat();
    for (beginning, status) in [
        (&b""[..], None),
        (&one[..20], None),
        (&two[..14], None),
        (&one, None),
        (&request[..40], Some(408)),
        (&begun, Some(408)),
    ] {
        let mut stream = silent(&server, PROXY);
        stream.write_all(beginning).unwrap();
        waiting.push((stream, status));
    }
    // Bytes that trickle in do not extend it.
    let mut trickling = silent(&server, PROXY);
    for byte in &two[..20] {
        if trickling.write_all(&[*byte]).is_err() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let trickled = started.elapsed();
    waiting.push((trickling, None));
    for (mut stream, expected) in waiting {
        let (received, _) = wire::read_to_end(&mut stream).unwrap();
        assert_eq!(Response::parse(&received).map(|response| response.status), expected);
    }
    assert!(started.elapsed() < trickled + Duration::from_millis(500));
    eventually("nobody waits any more", || shows(&server, "tidegate_connections_handshaking", 0));
}

#[test]
fn those_who_wait_leave_room_for_everybody_else() {
    let server = start(&[
        "server.proxy_protocol=require",
        "server.direct_descriptors=200",
        "admission.max_global_connections=1",
        "handshake.timeout_ms=6000",
    ]);
    // The places of the table, and a part of the descriptors for refusals, may be waited on.
    let mut waiting: Vec<_> = (0..125).map(|_| silent(&server, PROXY)).collect();
    let full = (503, "server is overloaded".to_owned());
    eventually("there is no room for another", || {
        let answer = send(&server, PROXY, &Way::V2.request(client(1)));
        answer.is_err_and(|response| refused(Err(response)) == full)
    });
    // Others are served, and told when the server is full.
    let only = send(&server, STRANGER, &upgrade_request("/echo")).unwrap();
    let answer = send(&server, STRANGER, &upgrade_request("/echo"));
    assert_eq!(refused(answer), (503, "server is full".to_owned()));
    // One that waited and says for whom now is told so too.
    let mut stream = waiting.pop().unwrap();
    stream.write_all(&Way::V2.request(client(1))).unwrap();
    let answer = Client::read_answer(stream).unwrap();
    assert_eq!(refused(answer), (503, "server is full".to_owned()));
    // The rest is cut at the deadline, and then there is room.
    only.close();
    for stream in waiting {
        assert!(matches!(Client::silent(stream).next(), Next::End(_)));
    }
    eventually("there is room", || send(&server, PROXY, &Way::V2.request(client(1))).is_ok());
}

#[test]
fn a_drain_tells_those_who_wait_and_does_not_count_them() {
    let mut server = start(&["server.proxy_protocol=accept", "handshake.timeout_ms=60000"]);
    let mut open = send(&server, PROXY, &Way::V2.request(client(1))).unwrap();
    open.echo("here");
    let mut waiting = Vec::new();
    let (one, request) = (v1(client(2)), upgrade_request("/echo"));
    for beginning in [&b""[..], &one[..20], &request[..40]] {
        let mut stream = silent(&server, PROXY);
        stream.write_all(beginning).unwrap();
        waiting.push(stream);
    }
    // And one that is admitted, in its handshake.
    let mut handshaking = silent(&server, PROXY);
    handshaking.write_all(&one).unwrap();
    eventually("all are accepted, two admitted", || {
        shows(&server, "tidegate_connections_handshaking", 4)
            && shows(&server, "tidegate_admission_tracked_sources", 2)
    });
    server.signal(Signal::TERM);
    for mut stream in waiting.into_iter().chain([handshaking]) {
        let (received, _) = wire::read_to_end(&mut stream).unwrap();
        assert_eq!(Response::parse(&received).map(|response| response.status), Some(503));
    }
    let (frames, _) = open.read_to_close();
    assert_eq!(frames.last().and_then(wire::Frame::close_code), Some(1001));
    drop(open);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    let outcomes = outcomes(&last_words);
    assert_eq!(outcomes.values().sum::<u64>(), 2, "{outcomes:?}");
    assert_eq!(outcomes.get("refused_late"), Some(&1), "{outcomes:?}");
}

#[test]
fn a_server_that_drains_says_so_behind_a_header() {
    let mut server = start(&["server.proxy_protocol=require", "shutdown.notice_ms=2000"]);
    let open = send(&server, PROXY, &Way::V1.request(client(1))).unwrap();
    server.signal(Signal::TERM);
    server.wait_for_log("stopping to accept new connections");
    let mut stream = silent(&server, PROXY);
    stream.write_all(&v1(client(2))).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    stream.write_all(&upgrade_request("/echo")).unwrap();
    let answer = Client::read_answer(stream).unwrap();
    assert_eq!(refused(answer), (503, "server is shutting down".to_owned()));
    drop(open);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_log_names_the_client_and_who_said_so() {
    let settings = [
        "server.shards=1",
        TRUSTED,
        "server.proxy_protocol=accept",
        "admission.max_connections_per_ip=1",
    ];
    let mut command = server::command(&settings);
    command.env("RUST_LOG", "tidegate=debug");
    let server = Server::from_command(command);
    for (n, way) in (1..).zip(WAYS) {
        let first = send(&server, PROXY, &way.request(client(n))).unwrap();
        assert_eq!(refused(send(&server, PROXY, &way.request(client(n)))).0, 429);
        first.close();
    }
    send(&server, STRANGER, &Way::XForwardedFor.request(client(9))).unwrap().close();
    let mut expected: Vec<_> =
        (1..).zip(WAYS).map(|(n, way)| (client(n).to_string(), way.provenance())).collect();
    expected.push((STRANGER.to_string(), "peer"));
    for (source, provenance) in expected {
        let has = |message: &str| {
            server.log().iter().any(|event| {
                text(event, "message") == message
                    && text(event, "source") == source
                    && text(event, "provenance") == provenance
            })
        };
        eventually("the end is in the log", || has("connection closed"));
        assert!(provenance == "peer" || has("connection refused"), "{source} {provenance}");
    }
}

#[test]
fn what_is_no_network_and_no_header_is_refused_at_the_start() {
    for (setting, problem) in [
        (
            "server.trusted_proxies=10.0.0.1/8",
            "flag --set: server.trusted_proxies = 10.0.0.1/8 is refused (\"10.0.0.1/8\": it has \
             bits behind its prefix; the network is 10.0.0.0/8); allowed: addresses and networks, \
             as in 10.0.0.7, 10.0.0.0/8 or fd00::/8",
        ),
        (
            "server.proxy_protocol=yes",
            "flag --set: server.proxy_protocol = yes is refused; allowed: off, accept, require",
        ),
        (
            "server.forwarded_header=X-Forwarded-Fro",
            "flag --set: server.forwarded_header = X-Forwarded-Fro is refused (did you mean \
             x-forwarded-for?); allowed: empty, x-forwarded-for, forwarded, x-real-ip, \
             cf-connecting-ip, none, or another name of 1 to 64 letters, digits and \
             !#$%&'*+-.^_`|~",
        ),
        ("server.forwarded_header=a header", "server.forwarded_header = a header is refused; "),
    ] {
        let output = server::command(&[setting]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        assert!(said.contains(problem), "{said}");
    }
}
