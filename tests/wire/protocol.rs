//! What an upgraded connection does with whatever a client sends, on real sockets: RFC 6455 to
//! the letter, a Close with the code that names the fault, bounded answers to those who do not
//! read, and keep-alive. The rows of the attack table for open connections with one attacker.

use crate::support;
use std::io::{ErrorKind, Write};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::server::Server;
use crate::support::wire::{
    BINARY, CLOSE, CONTINUATION, Client, End, FIN, Frame, Next, PING, PONG, TEXT, close_payload,
    frame, header, unmasked_frame,
};
use crate::support::{eventually, socket};

fn server() -> Server {
    Server::start(&["server.shards=1"])
}

/// The Close that the server sends, which must be its last word, followed by an orderly end.
#[track_caller]
fn closes_with(name: &str, client: &mut Client, code: u16) {
    let (frames, end) = client.read_to_close();
    let close = frames.last().and_then(Frame::close_code);
    assert_eq!((close, end), (Some(code), End::Closed), "{name}: {frames:?}");
}

#[test]
fn what_breaks_the_protocol_is_closed_with_the_code_that_names_it() {
    let server = server();
    let text = |bytes: &[u8]| frame(FIN | TEXT, bytes);
    let with_length = |first: u8, length: &[u8]| [&[first][..], length, &[0; 4]].concat();
    let cases: Vec<(&str, u16, Vec<u8>)> = vec![
        ("unmasked text", 1002, unmasked_frame(FIN | TEXT, b"hello")),
        ("unmasked ping", 1002, unmasked_frame(FIN | PING, b"")),
        ("RSV1 (compression was not negotiated)", 1002, frame(FIN | 0x40 | TEXT, b"x")),
        ("RSV2", 1002, frame(FIN | 0x20 | TEXT, b"x")),
        ("RSV3", 1002, frame(FIN | 0x10 | BINARY, b"x")),
        ("RSV1 on a ping", 1002, frame(FIN | 0x40 | PING, b"")),
        ("opcode 3", 1002, frame(FIN | 3, b"")),
        ("opcode 7", 1002, frame(FIN | 7, b"")),
        ("opcode 11", 1002, frame(FIN | 11, b"")),
        ("opcode 15", 1002, frame(FIN | 15, b"")),
        ("fragmented ping", 1002, frame(PING, b"x")),
        ("fragmented close", 1002, frame(CLOSE, &close_payload(1000, ""))),
        ("ping of 126 bytes", 1002, frame(FIN | PING, &[b'x'; 126])),
        ("5 in a 16-bit length", 1002, with_length(FIN | TEXT, &[0xfe, 0, 5])),
        ("125 in a 16-bit length", 1002, with_length(FIN | TEXT, &[0xfe, 0, 125])),
        (
            "65535 in a 64-bit length",
            1002,
            with_length(FIN | TEXT, &[0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
        ),
        ("0 in a 64-bit length", 1002, with_length(FIN | TEXT, &[0xff, 0, 0, 0, 0, 0, 0, 0, 0])),
        (
            "top bit of a 64-bit length",
            1002,
            with_length(FIN | TEXT, &[0xff, 0x80, 0, 0, 0, 0, 0, 0, 1]),
        ),
        ("all bits of a 64-bit length", 1002, with_length(FIN | BINARY, &[0xff; 9])),
        ("continuation of nothing", 1002, frame(FIN | CONTINUATION, b"x")),
        (
            "a new message in a message",
            1002,
            [frame(TEXT, b"one"), frame(FIN | TEXT, b"two")].concat(),
        ),
        ("text that is not UTF-8", 1007, text(b"\xff")),
        ("overlong UTF-8", 1007, text(b"\xc0\x80")),
        ("a surrogate in UTF-8", 1007, text(b"\xed\xa0\x80")),
        ("above U+10FFFF", 1007, text(b"\xf4\x90\x80\x80")),
        ("text that ends within a character", 1007, text(b"\xe2\x82")),
        ("bad UTF-8 in a fragment that is not the last", 1007, frame(TEXT, b"ok \xff")),
        (
            "a character cut off by the last fragment",
            1007,
            [frame(TEXT, b"\xe2\x82"), frame(FIN | CONTINUATION, b"x")].concat(),
        ),
    ];
    for (name, code, bytes) in cases {
        let mut client = Client::connect(server.clients, "/echo");
        client.send(&bytes);
        closes_with(name, &mut client, code);
    }
}

#[test]
fn every_close_is_answered_by_its_own_code_or_by_what_is_wrong_with_it() {
    let server = server();
    let valid = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ];
    let invalid = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
    let codes = valid.map(|code| (code, code)).into_iter();
    for (code, answer) in codes.chain(invalid.map(|code| (code, 1002))) {
        let mut client = Client::connect(server.clients, "/echo");
        client.send(&frame(FIN | CLOSE, &close_payload(code, "why")));
        closes_with(&format!("{code}"), &mut client, answer);
    }
    let payloads: [(&str, &[u8], u16); 3] = [
        ("one byte", b"\x03", 1002),
        ("reason that is not UTF-8", b"\x03\xe8\xff", 1007),
        ("the longest reason", &[&b"\x03\xe8"[..], &[b'x'; 123]].concat(), 1000),
    ];
    for (name, payload, answer) in payloads {
        let mut client = Client::connect(server.clients, "/echo");
        client.send(&frame(FIN | CLOSE, payload));
        closes_with(name, &mut client, answer);
    }
    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(FIN | CLOSE, b""));
    let (frames, end) = client.read_to_close();
    let empty = Frame { first: FIN | CLOSE, payload: Vec::new() };
    assert_eq!((frames, end), (vec![empty], End::Closed), "no code, no code");
}

#[test]
fn fragments_and_the_control_frames_between_them() {
    let server = server();
    let mut client = Client::connect(server.clients, "/echo");
    let parts = [
        frame(TEXT, "gr".as_bytes()),
        frame(FIN | PING, b"first"),
        frame(CONTINUATION, &"ü".as_bytes()[..1]), // a character cut in two
        frame(FIN | PING, b""),
        frame(CONTINUATION, b""),
        frame(CONTINUATION, &"ü".as_bytes()[1..]),
        frame(FIN | PONG, b"nobody asked"),
        frame(FIN | PING, b"third"),
        frame(FIN | CONTINUATION, "ße".as_bytes()),
    ]
    .concat();
    let expect = |client: &mut Client| {
        for payload in [&b"first"[..], b"", b"third"] {
            let pong = Frame { first: FIN | PONG, payload: payload.to_vec() };
            assert_eq!(client.frame(), pong);
        }
        assert_eq!(client.frame().text(), "grüße");
    };
    client.send(&parts);
    expect(&mut client);
    for byte in &parts {
        client.send(&[*byte]);
    }
    expect(&mut client);
    for chunk in parts.chunks(3) {
        client.send(chunk);
    }
    expect(&mut client);
    client.close();
}

/// S0.18.
#[test]
fn messages_of_every_length_class_come_back_as_they_were() {
    let server = server();
    let mut client = Client::connect(server.clients, "/echo");
    for len in [0, 1, 125, 126, 127, 4095, 4096, 4097, 65_535, 65_536, 65_537, 1 << 20] {
        let payload: Vec<u8> = (0..len).map(|index: usize| (index * 7) as u8).collect();
        client.send(&frame(FIN | BINARY, &payload));
        let answer = client.frame();
        assert_eq!(answer.first, FIN | BINARY);
        assert!(answer.payload == payload, "{len} bytes");
    }
    client.close();
}

#[test]
fn bad_utf8_is_answered_at_the_byte_and_not_at_the_end() {
    let server = server();
    let mut client = Client::connect(server.clients, "/echo");
    // The header promises 100 bytes; the fourth is wrong and the rest never comes.
    client.send(&header(FIN | TEXT, 100, true));
    client.send(&[0, 0, 0, 0, b'a', b'b', b'c', 0xff]);
    closes_with("bad byte", &mut client, 1007);
}

#[test]
fn a_message_that_is_too_big_is_refused_from_its_header() {
    let server = Server::start(&["server.shards=1", "server.max_message_bytes=1000"]);
    for len in [1001, 1 << 16, 1 << 40, i64::MAX as u64] {
        let mut client = Client::connect(server.clients, "/echo");
        client.send(&header(FIN | BINARY, len, true));
        client.send(&[0; 4]);
        closes_with(&format!("{len} announced, none sent"), &mut client, 1009);
    }
    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(BINARY, &[0; 600]));
    client.send(&header(CONTINUATION, 401, true));
    client.send(&[0; 4]);
    closes_with("the sum of the fragments", &mut client, 1009);

    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(FIN | BINARY, &[0; 1000]));
    assert_eq!(client.frame().payload.len(), 1000, "the limit itself is allowed");
    client.close();
}

#[test]
fn empty_fragments_without_end_are_a_message_that_is_too_big() {
    let server = Server::start(&["server.shards=1", "server.max_message_bytes=100000"]);
    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(TEXT, b""));
    let burst = frame(CONTINUATION, b"").repeat(1000);
    for _ in 0..100 {
        // It may have been cut already: that is the point.
        if client.stream.write_all(&burst).is_err() {
            break;
        }
    }
    let (frames, _) = client.read_to_close();
    assert_eq!(frames.last().and_then(Frame::close_code), Some(1009));
}

#[test]
fn what_follows_a_close_is_ignored() {
    let server = server();
    let close = frame(FIN | CLOSE, &close_payload(1000, ""));
    let after: [(&str, Vec<u8>); 4] = [
        ("text", frame(FIN | TEXT, b"ignored")),
        ("a ping", frame(FIN | PING, b"ignored")),
        ("another close", frame(FIN | CLOSE, &close_payload(4000, ""))),
        ("a broken frame", unmasked_frame(FIN | 0x70 | 15, b"ignored")),
    ];
    for (name, bytes) in after {
        let mut client = Client::connect(server.clients, "/echo");
        let before = frame(FIN | TEXT, b"before");
        client.send(&[&before[..], &close, &bytes].concat());
        assert_eq!(client.frame().text(), "before");
        closes_with(name, &mut client, 1000);
    }
}

#[test]
fn a_client_that_ended_its_side_still_gets_its_replies() {
    let server = server();
    let mut client = Client::connect(server.clients, "/echo");
    let payload: Vec<u8> = (0..900_000_u32).map(|index| index as u8).collect();
    client.send(&frame(FIN | BINARY, &payload));
    client.send(&frame(FIN | TEXT, b"last"));
    client.half_close();
    assert!(client.frame().payload == payload);
    assert_eq!(client.frame().text(), "last");
    assert_eq!(client.next(), Next::End(End::Closed));
}

#[test]
fn a_busy_client_that_closes_and_ends_its_side_is_not_reset() {
    let server = server();
    for (name, last, code) in [
        ("Close", frame(FIN | CLOSE, &close_payload(1000, "")), 1000),
        ("a violation", unmasked_frame(FIN | TEXT, b""), 1002),
    ] {
        for _ in 0..30 {
            let mut client = Client::connect(server.clients, "/echo");
            (0..10).for_each(|_| client.echo("busy"));
            client.send(&[frame(FIN | TEXT, b"before"), last.clone()].concat());
            client.half_close();
            // By now a reset would have come too.
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(client.frame().text(), "before", "{name}");
            closes_with(name, &mut client, code);
        }
    }
}

#[test]
fn a_flood_of_pings_by_a_client_that_does_not_read_is_bounded() {
    let server = Server::start(&["server.shards=1", "server.max_pings_per_second=0"]);
    let mut flooder = Client::silent(
        socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096)).unwrap(),
    );
    flooder.send(&support::wire::upgrade_request("/echo"));
    let before = resident_bytes(&server);
    let pings = frame(FIN | PING, &[b'p'; 125]).repeat(500);
    // What the server does not bound would be all of this, in its memory.
    let sent = 64 << 20;
    for _ in 0..sent / pings.len() {
        flooder.send(&pings);
    }
    flooder.send(&frame(FIN | PING, b"the latest"));
    let grown = resident_bytes(&server).saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for {sent} bytes of pings");

    // Others notice nothing, and the flooder gets the pong for its latest ping once it reads.
    Client::connect(server.clients, "/echo").echo("meanwhile");
    let mut flooder = Client::read_answer(flooder.stream).unwrap().unwrap();
    let mut pongs = 0;
    while flooder.frame().payload != b"the latest" {
        pongs += 1;
    }
    // Those that the sockets have room for, and no more.
    assert!(pongs < sent / 131 / 2, "{pongs} pongs");
}

fn resident_bytes(server: &Server) -> u64 {
    let path = format!("/proc/{}/status", server.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(path).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_client_that_never_reads_is_cut_and_others_are_not() {
    let server = Server::start(&["server.shards=1", "server.write_timeout_ms=500"]);
    let mut stuck = Client::silent(
        socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096)).unwrap(),
    );
    stuck.send(&support::wire::upgrade_request("/echo"));
    let message = frame(FIN | BINARY, &vec![0; 1 << 20]);
    let mut honest = Client::connect(server.clients, "/echo");
    // Its replies fill the socket, then the queue; then it is not read from any more.
    stuck.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    eventually("the client that does not read is cut", || {
        honest.echo("meanwhile");
        match stuck.stream.write(&message) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => support::wire::is_reset(&error),
        }
    });
    honest.close();
}

#[test]
fn a_silent_client_is_pinged_and_then_cut() {
    let server = Server::start(&[
        "server.shards=1",
        "keepalive.ping_interval_ms=300",
        "keepalive.timeout_ms=400",
    ]);
    let started = Instant::now();
    let mut client = Client::connect(server.clients, "/echo");
    assert_eq!(client.frame(), Frame { first: FIN | PING, payload: Vec::new() });
    assert!(started.elapsed() >= Duration::from_millis(250));
    let Next::End(_) = client.next() else { panic!("one ping is enough") };
    assert!(started.elapsed() >= Duration::from_millis(600));
}

#[test]
fn pings_come_at_their_interval_also_when_the_timeout_is_longer() {
    let server = Server::start(&[
        "server.shards=1",
        "keepalive.ping_interval_ms=100",
        "keepalive.timeout_ms=60000",
    ]);
    let mut client = Client::connect(server.clients, "/echo");
    for _ in 0..4 {
        let ping = client.frame();
        assert_eq!(ping.opcode(), PING);
        client.send(&frame(FIN | PONG, &ping.payload));
    }
}

#[test]
fn a_client_that_answers_its_pings_stays() {
    let server = Server::start(&[
        "server.shards=1",
        "keepalive.ping_interval_ms=100",
        "keepalive.timeout_ms=2000",
    ]);
    let mut client = Client::connect(server.clients, "/echo");
    let started = Instant::now();
    let mut pings = 0;
    // Longer than a client that does not answer would be kept.
    while started.elapsed() < Duration::from_millis(2600) {
        let ping = client.frame();
        assert_eq!(ping.opcode(), PING);
        client.send(&frame(FIN | PONG, &ping.payload));
        pings += 1;
    }
    assert!(pings > 1);
    // Any other sign of life counts as well.
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2600) {
        client.send(&frame(FIN | PONG, b"unasked"));
        std::thread::sleep(Duration::from_millis(20));
    }
    client.send(&frame(FIN | TEXT, b"still here"));
    let mut frames = std::iter::from_fn(|| Some(client.frame()));
    let text = frames.find(|frame| frame.opcode() != PING).unwrap();
    assert_eq!(text.text(), "still here");
}

#[test]
fn a_client_that_is_still_taking_a_long_reply_is_not_taken_for_dead() {
    let server = Server::start(&[
        "server.shards=1",
        "server.max_message_bytes=8388608",
        "keepalive.ping_interval_ms=200",
        "keepalive.timeout_ms=500",
    ]);
    let small = Some(64 << 10);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, small).unwrap();
    let mut client = Client::upgrade(stream, "/echo").unwrap().unwrap();
    let payload = vec![7; 8 << 20];
    client.send(&frame(FIN | BINARY, &payload));
    // Eight megabytes in more than a second, a piece at a time; the ping is behind them. What the
    // kernel has taken of them, up to half, is not seen any more, and has to be gone in time.
    let mut received = Vec::<u8>::new();
    while received.len() < payload.len() {
        let mut piece = vec![0; 256 << 10];
        match std::io::Read::read(&mut client.stream, &mut piece) {
            Ok(len) if len > 0 => received.extend(&piece[..len]),
            end => panic!("{end:?} after {} bytes", received.len()),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
