//! Ten thousand damaged upgrade requests and ten thousand damaged frame streams, each on a socket
//! of its own, while fifty honest clients go on: the server does not fall, gives 101 exactly to
//! those requests that a second, simple parser accepts, sends nothing that a server may not send,
//! and no honest client loses a byte.
//!
//! A failure names its seed; MUTATIONS_SEED=N runs the same inputs again, MUTATIONS=N sets how
//! many of each there are.

use crate::support;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::server::Server;
use crate::support::wire::{
    self, BINARY, CLOSE, CONTINUATION, Client, FIN, Frame, PING, PONG, TEXT, close_payload, frame,
    parse_server_frame, upgrade_request,
};
use crate::support::{judge, socket};

const ATTACKERS: u64 = 8;
const HONEST: usize = 50;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// Pseudo-random numbers (xorshift64*): the same for the same seed on every machine.
struct Random(u64);

impl Random {
    /// Numbers for one input of a run.
    fn for_input(seed: u64, input: u64) -> Self {
        // Neighbouring inputs must not begin with similar numbers.
        let mixed =
            (seed ^ input.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) as usize) % end.max(1)
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// Damages `bytes` one to four times.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let len = 1 + random.below(16);
        let end = (at + len).min(bytes.len());
        match random.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let new = random.bytes(len);
                bytes.splice(at..at, new);
            }
            5 if random.below(4) == 0 => bytes.truncate(at),
            6 => {
                // Bytes that mean something in one of the two languages.
                let special = random.one_of(&[
                    &b"\r\n"[..],
                    b"\n",
                    b"\r\n\r\n",
                    b" ",
                    b"\t",
                    b":",
                    b",",
                    b"\0",
                    b"\x80",
                    b"\x7f",
                    b"\xff\xff\xff\xff\xff\xff\xff\xff",
                    b"\x00\x00\x00\x00",
                    b"?",
                    b"//",
                    b"Host: a\r\n",
                    b"Content-Length: 1\r\n",
                    b"Upgrade: h2c\r\n",
                    b"\x88\x00",
                ]);
                bytes.splice(at..at, special.iter().copied());
            }
            _ => {}
        }
    }
}

/// A valid request, one of several forms.
fn request(random: &mut Random) -> Vec<u8> {
    let extra = random.one_of(&[
        "",
        "Origin: http://a.example\r\n",
        "Sec-WebSocket-Protocol: chat, superchat\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n",
        "User-Agent: mutations\r\nAccept: */*\r\n",
        "Content-Length: 0\r\n",
    ]);
    let text = String::from_utf8(upgrade_request(random.one_of(&["/echo", "/echo?a=b"]))).unwrap();
    text.replacen("Upgrade:", &format!("{extra}Upgrade:"), 1).into_bytes()
}

/// A valid stream of frames.
fn frames(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=random.below(6) {
        let len = random.one_of(&[0, 1, 5, 125, 126, 300, 5000]);
        match random.below(6) {
            0 => bytes.extend(frame(FIN | TEXT, "grüße €".repeat(len / 10).as_bytes())),
            1 => bytes.extend(frame(FIN | BINARY, &random.bytes(len))),
            2 => bytes.extend(frame(FIN | PING, &random.bytes(len.min(125)))),
            3 => bytes.extend(frame(FIN | PONG, b"")),
            4 => {
                bytes.extend(frame(TEXT, "eins €".as_bytes()));
                bytes.extend(frame(FIN | PING, b"between"));
                bytes.extend(frame(CONTINUATION, b""));
                bytes.extend(frame(FIN | CONTINUATION, b"zwei"));
            }
            _ => bytes.extend(frame(FIN | CLOSE, &close_payload(1000, "bye"))),
        }
    }
    bytes
}

/// Sends `bytes` in one to three pieces, ends this side, and reads all that comes.
fn converse(mut stream: TcpStream, bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut start = 0;
    for _ in 0..random.below(3) {
        let end = start + random.below(bytes.len() - start + 1);
        if !write(&mut stream, &bytes[start..end]) {
            break;
        }
        start = end;
    }
    write(&mut stream, &bytes[start..]);
    // It may be cut already.
    let _ = stream.shutdown(Shutdown::Write);
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Ok(_) => received,
        Err(error) if wire::is_reset(&error) => received,
        Err(error) => panic!("the connection does not end: {error}, {received:?}"),
    }
}

/// False if the server has cut the connection: it may, when it has read enough.
fn write(stream: &mut TcpStream, bytes: &[u8]) -> bool {
    match stream.write_all(bytes) {
        Ok(()) => true,
        Err(error) if wire::is_reset(&error) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs `attack` for every input on parallel connections while honest clients echo.
fn attack_while_honest_clients_go_on(attack: impl Fn(SocketAddr, Ipv4Addr, Random) + Sync) {
    let _alone = support::alone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = number("MUTATIONS_SEED").unwrap_or(now);
    let inputs = number("MUTATIONS").unwrap_or(10_000);
    eprintln!("MUTATIONS_SEED={seed} MUTATIONS={inputs}");
    let mut server = Server::start(&["server.shards=2", "handshake.timeout_ms=2000"]);
    let (address, over) = (server.clients, AtomicBool::new(false));
    let next = AtomicU64::new(0);
    let echoes = std::thread::scope(|scope| {
        let (over, next, attack) = (&over, &next, &attack);
        let honest: Vec<_> = (0..HONEST)
            .map(|number| scope.spawn(move || echo_until(over, address, number as u64)))
            .collect();
        let attackers: Vec<_> = (0..ATTACKERS)
            .map(|attacker| {
                let source = Ipv4Addr::new(127, 0, 3, attacker as u8 + 1);
                scope.spawn(move || {
                    loop {
                        let input = next.fetch_add(1, Ordering::Relaxed);
                        if input >= inputs {
                            return;
                        }
                        attack(address, source, Random::for_input(seed, input));
                    }
                })
            })
            .collect();
        let attacked: Vec<_> = attackers.into_iter().map(|thread| thread.join()).collect();
        over.store(true, Ordering::Relaxed);
        let echoes: Vec<u64> = honest.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(attacked.iter().all(Result::is_ok), "MUTATIONS_SEED={seed}");
        echoes
    });
    assert!(echoes.iter().all(|count| *count > 0), "every honest client was served: {echoes:?}");
    assert!(server.is_running(), "MUTATIONS_SEED={seed}");
    Client::connect(address, "/echo").echo("alive");
    let errors: Vec<_> =
        server.log().into_iter().filter(|event| event["level"] == "ERROR").collect();
    assert!(errors.is_empty(), "MUTATIONS_SEED={seed}: {errors:?}");
    let (code, last_words) = server.drain();
    assert_eq!(code, Some(0), "MUTATIONS_SEED={seed}: {last_words}");
}

/// An honest client: whatever it sends comes back as it was. Returns how often.
fn echo_until(over: &AtomicBool, address: SocketAddr, number: u64) -> u64 {
    let mut client = Client::connect(address, "/echo");
    let mut random = Random::for_input(number, number);
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        let len = random.below(3000);
        let payload = random.bytes(len);
        client.send(&frame(FIN | BINARY, &payload));
        let answer = client.frame();
        assert!(answer.first == FIN | BINARY && answer.payload == payload, "client {number}");
        count += 1;
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    client.close();
    count
}

#[test]
fn damaged_requests_are_upgraded_only_if_they_still_are_requests() {
    let upgraded = AtomicU64::new(0);
    attack_while_honest_clients_go_on(|address, source, mut random| {
        let mut bytes = request(&mut random);
        mutate(&mut bytes, &mut random);
        let stream = socket::connect_from(source, address).unwrap();
        let received = converse(stream, &bytes, &mut random);
        let shown = String::from_utf8_lossy(&bytes);
        let response = wire::Response::parse(&received);
        let got_101 = response.as_ref().is_some_and(|response| response.status == 101);
        assert_eq!(got_101, judge::is_upgrade(&bytes), "{shown:?}: {response:?}");
        upgraded.fetch_add(u64::from(got_101), Ordering::Relaxed);
        match response {
            Some(response) if got_101 => check_frames(&response.rest, &shown),
            Some(response) => {
                let known = [400, 404, 405, 426, 431].contains(&response.status);
                assert!(known, "{shown:?}: {response:?}");
                assert!(!response.head.contains("101"), "{shown:?}: {response:?}");
                let method_head = response.status == 405;
                assert!(method_head || !response.body().is_empty(), "{shown:?}: {response:?}");
            }
            None => assert!(received.is_empty(), "{shown:?}: half an answer: {received:?}"),
        }
    });
    assert!(upgraded.into_inner() > 0, "some damage is harmless");
}

#[test]
fn damaged_frames_are_answered_by_frames_that_a_server_may_send() {
    attack_while_honest_clients_go_on(|address, source, mut random| {
        let mut bytes = frames(&mut random);
        mutate(&mut bytes, &mut random);
        let request = upgrade_request("/echo");
        let mut stream = socket::connect_from(source, address).unwrap();
        stream.write_all(&request).unwrap();
        let head = read_head(&mut stream);
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{head:?}");
        let received = converse(stream, &bytes, &mut random);
        check_frames(&received, &format!("{bytes:02x?}"));
    });
}

fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            end => panic!("{end:?} after {head:?}"),
        }
    }
    head
}

/// What the server sent are whole frames of a server that echoes: text in UTF-8, no ping that is
/// not its own, and after a Close nothing.
fn check_frames(mut bytes: &[u8], input: &str) {
    let mut frames: Vec<Frame> = Vec::new();
    loop {
        match parse_server_frame(bytes) {
            Ok(Some((frame, len))) => {
                assert!(frames.last().is_none_or(|last| last.opcode() != CLOSE), "{input}");
                frames.push(frame);
                bytes = &bytes[len..];
            }
            Ok(None) => break,
            Err(what) => panic!("{input}: {what}"),
        }
    }
    assert!(bytes.is_empty(), "{input}: half a frame: {bytes:02x?}");
    for frame in &frames {
        match frame.opcode() {
            TEXT => assert!(std::str::from_utf8(&frame.payload).is_ok(), "{input}"),
            CLOSE => {
                let allowed = |code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
                let code = frame.close_code();
                assert!(code.map_or(frame.payload.is_empty(), allowed), "{input}: {frame:?}");
            }
            BINARY | PONG | PING => {}
            other => panic!("{input}: opcode {other}"),
        }
    }
}
