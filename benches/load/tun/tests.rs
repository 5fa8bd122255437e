//! The clients against a server that is a model, over a network that loses, repeats and swaps.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddrV4;
use std::time::Duration;

use proptest::prelude::*;
use tidegate::http::response;
use tidegate::websocket::frame::encode;
use tidegate::websocket::{Control, Data, OpCode, close_frame};

use super::addresses::Addresses;
use super::peers::{Peers, Request};
use super::segment::{ACK, FIN, RST, SYN, Segment};

const STEP_US: u64 = 50_000;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The server's half of one connection.
#[derive(Default)]
struct Half {
    isn: u32,
    receive: u32,
    got: Vec<u8>,
    /// Everything that is ever sent, and how much of it was acknowledged.
    stream: Vec<u8>,
    acknowledged: usize,
    closing: bool,
    peer_finished: bool,
    reset: bool,
    sent_us: u64,
}

/// Answers with 101, says what is in `frames`, answers Close, and ends the stream after it.
struct Model {
    address: SocketAddrV4,
    halves: BTreeMap<SocketAddrV4, Half>,
    frames: Vec<u8>,
    /// Says Close by itself.
    closes: bool,
}

impl Model {
    fn on_segment(&mut self, segment: &Segment<'_>, now_us: u64, out: &mut VecDeque<Vec<u8>>) {
        let half = self.halves.entry(segment.from).or_insert_with(|| Half {
            isn: segment.seq ^ 0x5555_aaaa,
            receive: segment.seq.wrapping_add(1),
            ..Half::default()
        });
        if segment.flags & RST != 0 {
            half.reset = true;
            return;
        }
        let (from, to) = (self.address, segment.from);
        if segment.flags & SYN != 0 {
            assert_eq!(segment.seq.wrapping_add(1), half.receive, "the same SYN again");
            return write(out, from, to, half.isn, half.receive, SYN | ACK, &[]);
        }
        let acknowledged = segment.ack.wrapping_sub(half.isn).wrapping_sub(1) as usize;
        let most = half.stream.len() + usize::from(half.closing);
        assert!(acknowledged <= most, "nothing is acknowledged that was not sent");
        half.acknowledged = half.acknowledged.max(acknowledged);
        if segment.seq == half.receive {
            half.got.extend_from_slice(segment.payload);
            let fin = u32::from(segment.flags & FIN != 0);
            half.peer_finished |= fin > 0;
            half.receive = half.receive.wrapping_add(segment.payload.len() as u32 + fin);
        }
        Self::act(half, &self.frames, self.closes);
        if !segment.payload.is_empty() || segment.flags & FIN != 0 {
            Self::send(half, from, to, now_us, out);
        }
    }

    /// What the application behind the socket does.
    fn act(half: &mut Half, frames: &[u8], closes: bool) {
        let Some(end) = half.got.windows(4).position(|part| part == b"\r\n\r\n") else { return };
        if half.stream.is_empty() {
            let head = String::from_utf8(half.got[..end].to_vec()).unwrap();
            let key = head.split("Sec-WebSocket-Key: ").nth(1).unwrap();
            let key = key.split("\r\n").next().unwrap();
            response::switching_protocols(key, None, None, &mut half.stream);
            half.stream.extend_from_slice(frames);
            if closes {
                close_frame::encode(1001, "bye", &mut half.stream);
            }
        }
        // The first byte of a Close behind the request, or behind a pong of 6 + 5 bytes.
        let said_close = half.got[end + 4..].contains(&0x88);
        if said_close && !half.closing {
            if !closes {
                close_frame::encode(1000, "", &mut half.stream);
            }
            half.closing = true;
        }
    }

    fn send(
        half: &mut Half,
        from: SocketAddrV4,
        to: SocketAddrV4,
        now_us: u64,
        out: &mut VecDeque<Vec<u8>>,
    ) {
        half.sent_us = now_us;
        let mut at = half.acknowledged.min(half.stream.len());
        let mut sent = 0;
        while at < half.stream.len() && sent < 20 {
            let until = (at + 1_000).min(half.stream.len());
            let fin = if half.closing && until == half.stream.len() { FIN } else { 0 };
            let seq = half.isn.wrapping_add(1 + at as u32);
            write(out, from, to, seq, half.receive, ACK | fin, &half.stream[at..until]);
            (at, sent) = (until, sent + 1);
        }
        if sent == 0 {
            let left = half.closing && half.acknowledged <= half.stream.len();
            let seq = half.isn.wrapping_add(1 + half.acknowledged as u32);
            let flags = if left { ACK | FIN } else { ACK };
            write(out, from, to, seq, half.receive, flags, &[]);
        }
    }

    fn on_tick(&mut self, now_us: u64, out: &mut VecDeque<Vec<u8>>) {
        for (to, half) in &mut self.halves {
            let left = half.acknowledged < half.stream.len() + usize::from(half.closing);
            if left && !half.reset && now_us - half.sent_us > 300_000 {
                Self::send(half, self.address, *to, now_us, out);
            }
        }
    }
}

fn write(
    out: &mut VecDeque<Vec<u8>>,
    from: SocketAddrV4,
    to: SocketAddrV4,
    seq: u32,
    ack: u32,
    flags: u8,
    payload: &[u8],
) {
    let mut packet = Vec::new();
    Segment { from, to, seq, ack, flags, payload }.write(&mut packet);
    out.push_back(packet);
}

struct World {
    peers: Peers,
    model: Model,
    to_server: VecDeque<Vec<u8>>,
    to_clients: VecDeque<Vec<u8>>,
    now_us: u64,
    /// Of a thousand packets, so many are lost, repeated, and swapped with the next.
    trouble: u64,
    state: u64,
}

impl World {
    fn new(frames: Vec<u8>, closes: bool, trouble: u64, seed: u64) -> Self {
        let address: SocketAddrV4 = "198.18.77.1:8080".parse().unwrap();
        let addresses = Addresses::new(address, "100.64.0.1".parse().unwrap(), 7);
        let request =
            Request { authority: "a:1".into(), path: "/ws?channel=x".into(), raw: false, seed };
        Self {
            peers: Peers::new(addresses, request, Duration::from_secs(1_000)),
            model: Model { address, halves: BTreeMap::new(), frames, closes },
            to_server: VecDeque::new(),
            to_clients: VecDeque::new(),
            now_us: 1,
            trouble,
            state: seed | 1,
        }
    }

    /// What of the packets under way arrives, in which order.
    fn arrivals(&mut self, packets: VecDeque<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut arrived: Vec<Vec<u8>> = Vec::new();
        for packet in packets {
            match random(&mut self.state) % 1_000 {
                dice if dice < self.trouble => {}
                dice if dice < 2 * self.trouble => {
                    arrived.push(packet.clone());
                    arrived.push(packet);
                }
                dice if dice < 3 * self.trouble => {
                    let at = arrived.len().saturating_sub(1);
                    arrived.insert(at, packet);
                }
                _ => arrived.push(packet),
            }
        }
        arrived
    }

    fn step(&mut self) {
        self.now_us += STEP_US;
        self.peers.on_tick(self.now_us);
        self.model.on_tick(self.now_us, &mut self.to_clients);
        self.to_server.extend(self.peers.out.iter().map(<[u8]>::to_vec));
        self.peers.out.clear();
        let packets = std::mem::take(&mut self.to_server);
        for packet in self.arrivals(packets) {
            let segment = Segment::parse(&packet).unwrap();
            self.model.on_segment(&segment, self.now_us, &mut self.to_clients);
        }
        let packets = std::mem::take(&mut self.to_clients);
        for packet in self.arrivals(packets) {
            self.peers.on_segment(&Segment::parse(&packet).unwrap(), self.now_us);
        }
    }

    /// Steps until `done`, for at most ten minutes of the model's time.
    fn until(&mut self, done: impl Fn(&Self) -> bool) {
        for _ in 0..12_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("never came: {:?}", self.peers.ledger);
    }
}

fn frames() -> Vec<u8> {
    let mut frames = Vec::new();
    encode(OpCode::Data(Data::Text), &[b'x'; 5_000], &mut frames);
    encode(OpCode::Control(Control::Ping), b"alive", &mut frames);
    encode(OpCode::Data(Data::Binary), b"short", &mut frames);
    frames
}

const CLIENTS: u64 = 20;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_client_hears_everything_once_whatever_the_network_does(
        trouble in 0..80_u64, seed in any::<u64>(),
    ) {
        let mut world = World::new(frames(), true, trouble, seed);
        for _ in 0..CLIENTS {
            world.peers.open(world.now_us, world.now_us);
        }
        world.until(|world| world.peers.live() == 0);
        let ledger = &world.peers.ledger;
        prop_assert_eq!(ledger.balance(), Ok(()));
        prop_assert_eq!((ledger.attempts, ledger.admitted), (CLIENTS, CLIENTS), "{:?}", ledger);
        let closed = crate::fate::Ending::Close(Some(1001));
        prop_assert_eq!(ledger.ended.get(&closed), Some(&CLIENTS), "{:?}", ledger);
        prop_assert_eq!(world.peers.messages, 2 * CLIENTS);
        prop_assert_eq!(world.peers.pings, CLIENTS);
        for half in world.model.halves.values() {
            prop_assert!(half.peer_finished, "the stream has an end");
            let end = half.got.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
            // A masked pong of five bytes, and a masked Close with a code, and nothing else.
            prop_assert_eq!(half.got.len() - end, 11 + 8);
        }
    }

    #[test]
    fn those_who_leave_are_answered_and_forgotten(trouble in 0..80_u64, seed in any::<u64>()) {
        let mut world = World::new(Vec::new(), false, trouble, seed);
        for _ in 0..CLIENTS {
            world.peers.open(world.now_us, world.now_us);
        }
        world.until(|world| world.peers.ledger.admitted == CLIENTS);
        world.peers.close_books();
        for index in 0..CLIENTS as u32 {
            world.peers.leave(index, true, world.now_us);
        }
        world.until(|world| world.peers.live() == 0);
        prop_assert_eq!(world.peers.ledger.balance(), Ok(()));
        prop_assert_eq!(world.peers.ledger.open, CLIENTS);
        prop_assert_eq!(world.peers.leaving(), 0);
    }
}

#[test]
fn an_idle_client_costs_its_entry_and_nothing_else() {
    let mut world = World::new(Vec::new(), false, 0, 3);
    for _ in 0..10_000 {
        world.peers.open(world.now_us, world.now_us);
        if world.peers.opened().is_multiple_of(100) {
            world.step();
        }
    }
    world.until(|world| world.peers.ledger.admitted == 10_000);
    for _ in 0..40 {
        world.step();
    }
    assert_eq!(world.peers.under_way(), 0, "nothing is kept for those who are idle");
}

#[test]
fn a_server_that_is_not_there_is_a_failed_attempt() {
    let mut world = World::new(Vec::new(), false, 0, 5);
    world.peers.open(1, 1);
    let syn = world.peers.out.iter().next().unwrap().to_vec();
    let syn = Segment::parse(&syn).unwrap();
    let (from, to) = (syn.to, syn.from);
    let rst =
        Segment { from, to, seq: 0, ack: syn.seq.wrapping_add(1), flags: RST | ACK, payload: &[] };
    world.peers.on_segment(&rst, 2);
    assert_eq!(world.peers.ledger.failed_total(), 1);
    assert_eq!((world.peers.live(), world.peers.ledger.balance()), (0, Ok(())));
}

#[test]
fn nobody_answers_and_the_attempt_is_given_up() {
    let mut world = World::new(Vec::new(), false, 1_000, 5);
    world.peers.open(1, 1);
    world.until(|world| world.peers.live() == 0);
    assert!(world.peers.sent_again > 0);
    assert_eq!(world.peers.ledger.failed_total(), 1);
}

#[test]
fn a_reset_from_another_life_is_not_believed() {
    let mut world = World::new(Vec::new(), false, 0, 9);
    world.peers.open(1, 1);
    world.until(|world| world.peers.ledger.admitted == 1);
    let (to, half) = world.model.halves.iter().next().unwrap();
    let (from, to) = (world.model.address, *to);
    let seq = half.isn.wrapping_add(1 << 30);
    world.peers.on_segment(&Segment { from, to, seq, ack: 0, flags: RST, payload: &[] }, 2);
    assert_eq!(world.peers.live(), 1);
}
