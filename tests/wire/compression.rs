//! permessage-deflate (RFC 7692) on real sockets: what is offered and what is answered, messages
//! both ways, one compression for any number of subscribers, and what must not be done with it.

use crate::support;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::figures::{Figures, metric};
use crate::support::server::Server;
use crate::support::wire::{
    BINARY, CLOSE, COMPRESSED, CONTINUATION, Client, End, FIN, Frame, Next, PING, PONG, Response,
    TEXT, close_payload, frame, upgrade_request_with,
};
use crate::support::{eventually, http, socket};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use serde_json::json;

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";

/// The payload of a compressed message.
fn deflated(message: &[u8], level: u32) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(level), false);
    let mut bytes = Vec::with_capacity(message.len() + 1000);
    compress.compress_vec(message, &mut bytes, FlushCompress::Sync).unwrap();
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// The message in a compressed payload, read with a window of so many bits.
fn inflated(payload: &[u8], bits: u8) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 << 20);
    let mut state = Decompress::new_with_window_bits(false, bits);
    let whole = [payload, &[0, 0, 0xff, 0xff]].concat();
    state.decompress_vec(&whole, &mut bytes, FlushDecompress::Sync).unwrap();
    assert_eq!(state.total_in() as usize, whole.len());
    bytes
}

fn connect(server: &Server, path: &str, headers: &[&str]) -> Client {
    let mut stream = socket::connect(server.clients).unwrap();
    stream.write_all(&upgrade_request_with(path, headers)).unwrap();
    Client::read_answer(stream).unwrap().unwrap()
}

/// The value of a header in the answer to a request with these headers.
fn answered(server: &Server, headers: &[&str], name: &str) -> Option<String> {
    let mut stream = socket::connect(server.clients).unwrap();
    stream.write_all(&upgrade_request_with("/echo", headers)).unwrap();
    // So that the answer is all there is to read.
    stream.write_all(&frame(FIN | CLOSE, b"")).unwrap();
    let (bytes, _) = support::wire::read_to_end(&mut stream).unwrap();
    let response = Response::parse(&bytes).unwrap();
    assert_eq!(response.status, 101);
    response.header(name).map(str::to_owned)
}

fn text() -> String {
    (0..100).map(|n| format!("{{\"id\":{n},\"name\":\"tide\"}},")).collect()
}

#[test]
fn every_offer_has_its_answer() {
    const AGREED: &str =
        "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let server = Server::start(&["server.shards=1"]);
    let cases: [(&[&str], Option<String>); 9] = [
        (&[], None),
        (&["permessage-deflate"], Some(AGREED.to_owned())),
        (&["permessage-deflate; client_max_window_bits"], Some(AGREED.to_owned())),
        (
            &["permessage-deflate; server_max_window_bits=10; server_no_context_takeover"],
            Some(format!("{AGREED}; server_max_window_bits=10")),
        ),
        (&["permessage-deflate; server_max_window_bits=7"], None),
        (&["permessage-deflate; frobnicate"], None),
        (&["permessage-deflate; frobnicate, permessage-deflate"], Some(AGREED.to_owned())),
        (&["foo", "permessage-deflate"], Some(AGREED.to_owned())),
        (&["\"", ";;;,,,===", "permessage-deflate; =\"\""], None),
    ];
    for (offers, expected) in cases {
        let lines: Vec<_> =
            offers.iter().map(|offer| format!("Sec-WebSocket-Extensions: {offer}")).collect();
        let lines: Vec<_> = lines.iter().map(String::as_str).collect();
        assert_eq!(answered(&server, &lines, "sec-websocket-extensions"), expected, "{offers:?}");
    }
    let off = Server::start(&["server.compression=false"]);
    assert_eq!(answered(&off, &[OFFER], "sec-websocket-extensions"), None);
}

#[test]
fn the_first_of_the_clients_subprotocols_that_is_configured_is_answered() {
    let server = Server::start(&["server.subprotocols=chat.v1,chat.v2"]);
    let cases = [
        ("chat.v2, chat.v1", Some("chat.v2")),
        ("chat.v3, chat.v1", Some("chat.v1")),
        ("chat.v3", None),
    ];
    for (offered, expected) in cases {
        let line = format!("Sec-WebSocket-Protocol: {offered}");
        let found = answered(&server, &[&line], "sec-websocket-protocol");
        assert_eq!(found.as_deref(), expected, "{offered}");
    }
}

#[test]
fn messages_go_both_ways_whole_and_in_fragments() {
    let server = Server::start(&["server.shards=1", "server.compression_threshold_bytes=100"]);
    let mut client = connect(&server, "/echo", &[OFFER]);
    let text = text();
    for level in [0, 1, 9] {
        let payload = deflated(text.as_bytes(), level);
        client.send(&frame(FIN | COMPRESSED | TEXT, &payload));
        let echo = client.frame();
        assert_eq!(echo.first, FIN | COMPRESSED | TEXT, "level {level}");
        assert!(echo.payload.len() < text.len() / 4);
        assert!(inflated(&echo.payload, 15) == text.as_bytes());
        // In fragments, with a ping between them.
        let (one, rest) = payload.split_at(payload.len() / 3);
        client.send(&frame(COMPRESSED | BINARY, one));
        client.send(&frame(FIN | PING, b"between"));
        client.send(&frame(CONTINUATION, b""));
        client.send(&frame(FIN | CONTINUATION, rest));
        assert_eq!(client.frame().payload, b"between");
        let echo = client.frame();
        assert_eq!(echo.first, FIN | COMPRESSED | BINARY);
        assert!(inflated(&echo.payload, 15) == text.as_bytes());
    }
    // Neither side has to compress, and an empty message is one too.
    client.send(&frame(FIN | TEXT, text.as_bytes()));
    assert_eq!(client.frame().first, FIN | COMPRESSED | TEXT);
    client.send(&frame(FIN | COMPRESSED | TEXT, &deflated(b"short", 6)));
    assert_eq!(client.frame().text(), "short");
    client.send(&frame(FIN | COMPRESSED | TEXT, &[0]));
    assert_eq!(client.frame().text(), "");
    client.close();
    assert_eq!(metric(&server, "tidegate_messages_inflated_total"), 8);
    eventually("nobody is left who compresses", || {
        metric(&server, "tidegate_compressing_connections") == 0
    });
}

#[test]
fn the_window_that_a_client_asks_for_is_kept() {
    let server = Server::start(&["server.shards=1", "server.compression_threshold_bytes=1"]);
    // A message that repeats itself a kilobyte apart.
    let kilobyte: Vec<u8> = (0..1024_u32).map(|n| (n * n / 7) as u8).collect();
    let message = kilobyte.repeat(4);
    let mut lengths = Vec::new();
    for bits in [8, 9, 10, 11, 15] {
        let offer =
            format!("Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits={bits}");
        let mut client = connect(&server, "/echo", &[&offer]);
        client.send(&frame(FIN | BINARY, &[b'x'; 200]));
        let short = client.frame();
        assert_eq!(short.first, FIN | COMPRESSED | BINARY);
        client.send(&frame(FIN | BINARY, &message));
        let echo = client.frame();
        let payload = match echo.first & COMPRESSED {
            0 => echo.payload,
            _ => inflated(&echo.payload, bits.max(9)),
        };
        assert!(payload == message, "{bits}");
        lengths.push(short.payload.len());
        client.close();
    }
    assert!(lengths.iter().all(|len| *len < 50), "{lengths:?}");
}

#[test]
fn a_publication_is_compressed_once_for_all_who_can_read_it() {
    const CLIENTS: usize = 100;
    let server = Server::start(&["server.shards=1"]);
    let narrow = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9";
    let path = "/ws?channel=news";
    let mut wide: Vec<_> = (0..CLIENTS).map(|_| connect(&server, path, &[OFFER])).collect();
    let mut other = [connect(&server, path, &[narrow]), connect(&server, path, &[])];
    let text = text();
    let publish = |data: &str| {
        let body = json!({ "channel": "news", "data": data });
        assert_eq!(http::post(server.admin, "/api/publish", &body), json!({ "result": {} }));
    };
    publish(&text);
    let expected = json!(text).to_string();
    for client in &mut wide {
        let frame = client.frame();
        assert_eq!(frame.first, FIN | COMPRESSED | TEXT);
        assert!(inflated(&frame.payload, 15) == expected.as_bytes());
    }
    for client in &mut other {
        assert_eq!(client.frame().text(), expected, "as it is");
    }
    let figures = Figures::of(&server);
    assert_eq!(figures.sum("tidegate_publications_compressed_total"), 1);
    assert_eq!(figures.sum("tidegate_compressing_connections"), CLIENTS as u64 + 1);
    // Below the threshold nothing is compressed, and without anybody who asked neither.
    publish("short");
    wide.iter_mut().for_each(|client| assert_eq!(client.frame().text(), "\"short\""));
    drop(wide);
    eventually("one is left", || metric(&server, "tidegate_compressing_connections") == 1);
    publish(&text);
    assert_eq!(metric(&server, "tidegate_publications_compressed_total"), 1);
}

#[test]
fn what_must_not_be_done_with_compression_is_closed_with_its_code() {
    let server = Server::start(&["server.shards=1"]);
    let hello = deflated(b"Hello", 6);
    let bomb = deflated(&vec![0; 64 << 20], 9);
    let compressed = FIN | COMPRESSED;
    let cases: [(&str, &[&str], u16, Vec<u8>); 9] = [
        ("not negotiated", &[], 1002, frame(compressed | TEXT, &hello)),
        (
            "offer declined",
            &["Sec-WebSocket-Extensions: x"],
            1002,
            frame(compressed | TEXT, &hello),
        ),
        ("a ping", &[OFFER], 1002, frame(compressed | PING, b"")),
        ("a close", &[OFFER], 1002, frame(compressed | CLOSE, &close_payload(1000, ""))),
        (
            "a continuation",
            &[OFFER],
            1002,
            [frame(COMPRESSED | TEXT, &hello[..2]), frame(compressed | CONTINUATION, &hello[2..])]
                .concat(),
        ),
        ("RSV2 beside it", &[OFFER], 1002, frame(compressed | 0x20 | TEXT, &hello)),
        ("not DEFLATE", &[OFFER], 1007, frame(compressed | TEXT, b"Hello")),
        ("not UTF-8", &[OFFER], 1007, frame(compressed | TEXT, &deflated(b"\xff\xfe", 6))),
        ("a bomb", &[OFFER], 1009, frame(compressed | BINARY, &bomb)),
    ];
    for (name, headers, code, bytes) in cases {
        let mut client = connect(&server, "/echo", headers);
        client.send(&bytes);
        let close = client.frame();
        assert_eq!(close.close_code(), Some(code), "{name}: {close:?}");
        assert_eq!(client.next(), Next::End(End::Closed), "{name}");
    }
}

#[test]
fn a_message_of_the_longest_length_is_read_however_little_it_can_be_compressed() {
    let server = Server::start(&["server.shards=1", "server.max_message_bytes=100000"]);
    let mut random = 1_u32;
    let mut noise = || {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (random >> 24) as u8
    };
    let longest: Vec<u8> = (0..100_000).map(|_| noise()).collect();
    let mut client = connect(&server, "/echo", &[OFFER]);
    for level in [0, 6] {
        client.send(&frame(FIN | COMPRESSED | BINARY, &deflated(&longest, level)));
        assert!(client.frame().payload == longest, "sent as it is: it would only be longer");
    }
    let longer = [&longest[..], b"x"].concat();
    client.send(&frame(FIN | COMPRESSED | BINARY, &deflated(&longer, 6)));
    assert_eq!(client.frame().close_code(), Some(1009));
}

/// A window of 512 bytes. Replies of more than 256 KiB are not compressed with any.
const SMALL_WINDOW: &str = "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=9";

/// 64 kB are 60 MiB of replies. They are made as they are taken, and nothing is lost.
#[test]
fn replies_that_are_a_thousand_times_as_long_are_made_as_they_are_taken() {
    const COUNT: usize = 60;
    const BYTES: usize = 1 << 20;
    for receive_buffer in [4096, 65_536] {
        let server = Server::start(&[
            "server.shards=1",
            &format!("server.receive_buffer_bytes={receive_buffer}"),
        ]);
        let mut client = connect(&server, "/echo", &[SMALL_WINDOW]);
        let messages = (0..COUNT).map(|n| vec![n as u8; BYTES]);
        let bombs: Vec<u8> = messages
            .flat_map(|message| frame(FIN | COMPRESSED | BINARY, &deflated(&message, 9)))
            .collect();
        assert!(bombs.len() < 80_000, "{}", bombs.len());
        client.send(&bombs);
        client.send(&frame(FIN | PING, b"behind all of them"));
        eventually("a reply waits", || metric(&server, "tidegate_output_held_bytes") > 0);
        let mut most = 0;
        for _ in 0..20 {
            most = most.max(metric(&server, "tidegate_output_held_bytes"));
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // One reply, what fits before it, and what has been received.
        assert!(most < 2 << 20, "{most} bytes");
        for n in 0..COUNT {
            let reply = client.frame();
            assert_eq!((reply.payload.len(), reply.payload[0]), (BYTES, n as u8));
        }
        assert_eq!(client.frame().payload, b"behind all of them");
        eventually("nothing waits", || metric(&server, "tidegate_output_held_bytes") == 0);
        client.send(&frame(FIN | BINARY, b"and on it goes"));
        assert_eq!(client.frame().payload, b"and on it goes");
        client.close();
    }
}

/// A message of a kilobyte that is one of a megabyte.
fn bomb() -> Vec<u8> {
    frame(FIN | BINARY | COMPRESSED, &deflated(&vec![0; 1_000_000], 9))
}

/// What reads that were found heavy have cost.
fn heavy_time(server: &Server) -> f64 {
    let lines = Figures::of(server).lines("tidegate_heavy_reads_time_seconds_total");
    lines.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[test]
fn bombs_without_a_pause_have_a_part_of_the_time_of_their_shard_and_no_more() {
    let _alone = support::alone();
    let server = Server::start(&["server.shards=1"]);
    let bombs = bomb().repeat(16);
    let ends = AtomicBool::new(false);
    let heavy = || metric(&server, "tidegate_heavy_reads_total");
    thread::scope(|scope| {
        for path in ["/ws?channel=x", "/ws?channel=y"] {
            let mut hostile = connect(&server, path, &[OFFER]).stream;
            hostile.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            let (bombs, ends) = (&bombs, &ends);
            scope.spawn(move || {
                let mut at = 0;
                while !ends.load(Ordering::Relaxed) {
                    // As much as there is room for, always from where it ended.
                    at = (at + hostile.write(&bombs[at..]).unwrap_or(0)) % bombs.len();
                }
            });
        }
        eventually("what they send is found heavy", || heavy() >= 20);
        let (begun, spent, reads) = (Instant::now(), heavy_time(&server), heavy());
        let mut honest = Client::connect(server.clients, "/echo");
        for number in 0..200 {
            honest.echo(&number.to_string());
        }
        eventually("it goes on", || heavy() >= reads + 200);
        let (spent, passed) = (heavy_time(&server) - spent, begun.elapsed().as_secs_f64());
        ends.store(true, Ordering::Relaxed);
        assert!(spent < passed * 0.27 + 0.03, "{spent} of {passed} seconds");
    });
}

/// Those who wait their turn lose nothing, in whatever way they send.
#[test]
fn clients_with_heavy_messages_all_have_their_turn() {
    let _alone = support::alone();
    let server = Server::start(&["server.shards=1"]);
    // Long replies may be sent as they are.
    let len = |reply: &Frame| match reply.first {
        first if first == FIN | BINARY | COMPRESSED => inflated(&reply.payload, 15).len(),
        first => {
            assert_eq!(first, FIN | BINARY);
            reply.payload.len()
        }
    };
    let mut clients: Vec<_> = (0..16).map(|_| connect(&server, "/echo", &[OFFER])).collect();
    for client in &mut clients {
        client.send(&[bomb().repeat(4), frame(FIN | PING, b"behind")].concat());
    }
    // One by one, so that a lasting receive is armed; and one that ends its side behind its messages.
    for client in &mut clients[..4] {
        (0..8).for_each(|_| client.send(&bomb()));
    }
    clients[15].half_close();
    for (number, client) in clients.iter_mut().enumerate() {
        let messages = if number < 4 { 12 } else { 4 };
        let replies: Vec<_> = (0..=messages).map(|_| client.frame()).collect();
        let (pongs, replies): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|reply| reply.opcode() == PONG);
        assert_eq!((pongs.len(), replies.len()), (1, messages));
        assert!(replies.iter().all(|reply| len(reply) == 1_000_000));
    }
    assert!(metric(&server, "tidegate_heavy_reads_total") >= 16 * 3);
    clients.truncate(15);
    clients.iter_mut().for_each(|client| client.send(&frame(FIN | TEXT, b"done")));
    clients.iter_mut().for_each(|client| assert_eq!(client.frame().text(), "done"));
}
