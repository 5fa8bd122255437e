//! Many TCP clients in user space: segments and time in, segments out. No clock, no device.
//!
//! This is a load client, not a stack. It does: the handshake, the upgrade, data in order,
//! acknowledgements, both ways of closing, and sending again what the server has not
//! acknowledged. It does not: windows of the server, congestion control, segments out of order
//! (they are acknowledged again and thus sent again), SACK, timestamps, window scaling,
//! keep-alive, path MTU, IPv6.
//!
//! Invariant: a client is in the books once, and an idle one costs [`Peer`] and nothing else;
//! what is under way for it is in maps that shrink when it is done.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use hashbrown::HashMap;
use tidegate::websocket::{Control, OpCode, close_frame, frame};

use super::addresses::Addresses;
use super::flight::Flight;
use super::frames::{self, Said, Unread};
use super::segment::{ACK, FIN, PSH, Packets, RST, SYN, Segment};
use crate::fate::{Ending, Failure, Fate, Step};
use crate::latency::Latencies;
use crate::ledger::Ledger;

/// The first wait for an acknowledgement; it doubles with each attempt.
const RETRY_US: u64 = 1_000_000;
/// Attempts to send the same bytes.
const RETRIES_MAX: u8 = 6;
/// A segment further away than this belongs to another life.
const FAR: u32 = 1 << 17;

/// Where a client is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
enum Stage {
    #[default]
    Unused,
    SynSent,
    Requested,
    Open,
    /// The server's Close was answered; it ends the stream.
    Answered,
    /// Our Close is out.
    Leaving,
    /// Our FIN is out.
    Finishing,
    Done,
}

/// One client: 16 bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Peer {
    /// The next byte to send.
    send: u32,
    /// The next byte to receive.
    receive: u32,
    /// When the attempt was due, the lower half, until the upgrade is answered.
    due_us: u32,
    stage: Stage,
    settled: bool,
}

const _: () = assert!(size_of::<Peer>() == 16);

/// What every client asks for.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// The Host header.
    pub(crate) authority: String,
    /// Path and query.
    pub(crate) path: String,
    /// Plain TCP: connected is admitted.
    pub(crate) raw: bool,
    /// Makes keys and sequence numbers differ between runs.
    pub(crate) seed: u64,
}

/// The clients of a run.
pub(crate) struct Peers {
    addresses: Addresses,
    request: Request,
    timeout_us: u64,
    peers: Vec<Peer>,
    flights: HashMap<u32, Flight>,
    unread: HashMap<u32, Unread>,
    timers: BinaryHeap<Reverse<(u64, u32)>>,
    deadlines: VecDeque<(u64, u32)>,
    live: u64,
    /// Clients that are in one of the stages of closing.
    closing: u64,
    pub(crate) out: Packets,
    pub(crate) ledger: Ledger,
    pub(crate) admissions: Latencies,
    pub(crate) messages: u64,
    pub(crate) pings: u64,
    /// Segments that were sent again.
    pub(crate) sent_again: u64,
}

impl Peers {
    /// Nobody yet.
    pub(crate) fn new(addresses: Addresses, request: Request, timeout: Duration) -> Self {
        Self {
            addresses,
            request,
            timeout_us: timeout.as_micros() as u64,
            peers: Vec::new(),
            flights: HashMap::new(),
            unread: HashMap::new(),
            timers: BinaryHeap::new(),
            deadlines: VecDeque::new(),
            live: 0,
            closing: 0,
            out: Packets::default(),
            ledger: Ledger::default(),
            admissions: Latencies::new(),
            messages: 0,
            pings: 0,
            sent_again: 0,
        }
    }

    /// Clients that have a connection or are about to.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// Clients that are closing and not done.
    pub(crate) fn leaving(&self) -> u64 {
        self.closing
    }

    /// Clients for which something is kept beside their entry.
    #[cfg(test)]
    pub(super) fn under_way(&self) -> usize {
        self.flights.len() + self.unread.len()
    }

    fn enter(&mut self, index: u32, stage: Stage) {
        let closes = |stage| matches!(stage, Stage::Answered | Stage::Leaving | Stage::Finishing);
        let old = std::mem::replace(&mut self.peers[index as usize].stage, stage);
        self.closing += u64::from(closes(stage));
        self.closing -= u64::from(closes(old));
    }

    /// Clients that were ever opened.
    pub(crate) fn opened(&self) -> u32 {
        self.peers.len() as u32
    }

    /// Bytes of this process for all clients, as far as they are here.
    pub(crate) fn bytes(&self) -> usize {
        self.peers.capacity() * size_of::<Peer>()
            + self.flights.allocation_size()
            + self.unread.allocation_size()
            + self.timers.capacity() * size_of::<Reverse<(u64, u32)>>()
            + self.deadlines.capacity() * size_of::<(u64, u32)>()
    }

    /// Opens the next client, whose attempt was due at `due_us`.
    pub(crate) fn open(&mut self, due_us: u64, now_us: u64) {
        let index = self.opened();
        let isn = (self.request.seed as u32).wrapping_add(index.wrapping_mul(0x9e37_79b9));
        self.peers.push(Peer {
            send: isn,
            due_us: due_us as u32,
            stage: Stage::SynSent,
            ..Peer::default()
        });
        self.live += 1;
        self.ledger.attempts += 1;
        self.deadlines.push_back((now_us + self.timeout_us, index));
        self.transmit(index, SYN, &[], now_us);
    }

    /// A packet has come from the server.
    pub(crate) fn on_segment(&mut self, segment: &Segment<'_>, now_us: u64) {
        let index = self.addresses.index_of(segment.to);
        let index = index.filter(|_| segment.from == self.addresses.server());
        let stage = index.and_then(|index| self.peers.get(index as usize)).map(|peer| peer.stage);
        match (index, stage) {
            (_, None | Some(Stage::Unused | Stage::Done)) | (None, _) => self.refuse(segment),
            (Some(index), Some(Stage::SynSent)) => self.on_first(index, segment, now_us),
            (Some(index), Some(_)) => self.on_next(index, segment, now_us),
        }
    }

    /// Whoever speaks to nobody is told so.
    fn refuse(&mut self, segment: &Segment<'_>) {
        if segment.flags & RST == 0 {
            let (from, to) = (segment.to, segment.from);
            let seq = segment.ack;
            self.out.push(&Segment { from, to, seq, ack: 0, flags: RST, payload: &[] });
        }
    }

    /// The answer to our SYN.
    fn on_first(&mut self, index: u32, segment: &Segment<'_>, now_us: u64) {
        let peer = &mut self.peers[index as usize];
        if segment.flags & ACK == 0 || segment.ack != peer.send {
            return;
        }
        if segment.flags & RST != 0 {
            let refused = Failure::Errno(Step::Connect, libc::ECONNREFUSED);
            return self.end(index, Fate::Failed(refused));
        }
        if segment.flags & SYN == 0 {
            return;
        }
        peer.receive = segment.seq.wrapping_add(1);
        peer.stage = Stage::Requested;
        self.flights.remove(&index);
        if self.request.raw {
            self.admit(index, now_us);
            return self.transmit(index, ACK, &[], now_us);
        }
        let mut request = Vec::with_capacity(256);
        let Request { authority, path, .. } = &self.request;
        let key = self.key(index);
        tidegate::http::request::client_upgrade(authority, path, &key, &mut request);
        self.transmit(index, PSH | ACK, &request, now_us);
    }

    fn on_next(&mut self, index: u32, segment: &Segment<'_>, now_us: u64) {
        let expected = self.peers[index as usize].receive;
        // How far the segment begins before the byte that is wanted.
        let behind = expected.wrapping_sub(segment.seq);
        let ahead = segment.seq.wrapping_sub(expected);
        if behind > FAR && ahead > FAR {
            return;
        }
        if segment.flags & RST != 0 {
            return self.on_reset(index);
        }
        if segment.flags & ACK != 0 {
            self.on_acknowledged(index, segment.ack);
        }
        let fin = segment.flags & FIN != 0;
        if segment.payload.is_empty() && !fin && segment.flags & SYN == 0 {
            return;
        }
        let before = self.out.len();
        let known = behind as usize;
        let whole = segment.payload.len() + usize::from(fin);
        if behind <= FAR && known < whole {
            let news = segment.payload.get(known..).unwrap_or_default();
            let peer = &mut self.peers[index as usize];
            peer.receive = expected.wrapping_add((whole - known) as u32);
            self.on_bytes(index, news, now_us);
            if fin {
                self.on_end_of_stream(index, now_us);
            }
        }
        let stage = self.peers[index as usize].stage;
        if self.out.len() == before && stage != Stage::Done {
            self.transmit(index, ACK, &[], now_us);
        }
    }

    fn on_acknowledged(&mut self, index: u32, ack: u32) {
        let Some(flight) = self.flights.get_mut(&index) else { return };
        let had_fin = flight.fin;
        if !flight.acknowledge(ack) {
            return;
        }
        flight.retries = 0;
        if flight.len() > 0 {
            return;
        }
        self.flights.remove(&index);
        if had_fin && self.peers[index as usize].stage == Stage::Finishing {
            self.forget(index);
        }
    }

    fn on_bytes(&mut self, index: u32, bytes: &[u8], now_us: u64) {
        if bytes.is_empty() || self.request.raw {
            return;
        }
        let mut unread = self.unread.remove(&index).unwrap_or_default();
        let mut said = Vec::new();
        if self.peers[index as usize].stage == Stage::Requested {
            let key = self.key(index);
            if let Some(answer) = frames::answer(&mut unread, bytes, &key) {
                let behind = std::mem::take(&mut unread.kept);
                said.push(answer);
                frames::frames(&mut unread, &behind, |next| said.push(next));
            }
        } else {
            frames::frames(&mut unread, bytes, |next| said.push(next));
        }
        if unread != Unread::default() {
            self.unread.insert(index, unread);
        }
        for next in said {
            self.on_said(index, next, now_us);
        }
    }

    fn on_said(&mut self, index: u32, said: Said, now_us: u64) {
        let stage = self.peers[index as usize].stage;
        match (stage, said) {
            (Stage::Requested, Said::Admitted) => self.admit(index, now_us),
            (Stage::Requested, Said::Refused(status)) => {
                self.settle(index, Fate::Refused(status));
                self.finish_stream(index, now_us);
            }
            (Stage::Requested, _) => self.cut(index, Fate::Failed(Failure::BadAnswer)),
            (Stage::Open, Said::Message) => self.messages += 1,
            (Stage::Open | Stage::Leaving, Said::Ping(payload)) => {
                self.pings += 1;
                let mut pong = Vec::new();
                let key = index.to_be_bytes();
                frame::encode_masked(OpCode::Control(Control::Pong), &payload, key, &mut pong);
                self.transmit(index, PSH | ACK, &pong, now_us);
            }
            (Stage::Open, Said::Close(code)) => {
                self.settle(index, Fate::Ended(Ending::Close(code)));
                self.enter(index, Stage::Answered);
                self.send_close(index, code, now_us);
            }
            (Stage::Open, _) => self.cut(index, Fate::Ended(Ending::Violation)),
            _ => {}
        }
    }

    fn admit(&mut self, index: u32, now_us: u64) {
        let peer = &mut self.peers[index as usize];
        peer.stage = Stage::Open;
        let took = (now_us as u32).wrapping_sub(peer.due_us);
        self.ledger.admitted += 1;
        self.admissions.record(Duration::from_micros(took.into()));
    }

    fn on_reset(&mut self, index: u32) {
        let fate = match self.peers[index as usize].stage {
            Stage::Requested => Fate::Failed(Failure::Errno(Step::Upgrade, libc::ECONNRESET)),
            _ => Fate::Ended(Ending::Reset),
        };
        self.end(index, fate);
    }

    fn on_end_of_stream(&mut self, index: u32, now_us: u64) {
        match self.peers[index as usize].stage {
            Stage::Requested => self.settle(index, Fate::Failed(Failure::ClosedUnanswered)),
            Stage::Open => self.settle(index, Fate::Ended(Ending::Eof)),
            Stage::Done | Stage::Finishing => return,
            _ => {}
        }
        self.finish_stream(index, now_us);
    }

    /// Ends our half of the stream.
    fn finish_stream(&mut self, index: u32, now_us: u64) {
        self.enter(index, Stage::Finishing);
        self.transmit(index, FIN | ACK, &[], now_us);
    }

    fn send_close(&mut self, index: u32, code: Option<u16>, now_us: u64) {
        let (key, mut close) = (index.to_be_bytes(), Vec::new());
        match code {
            Some(code) => close_frame::encode_masked(code, "", key, &mut close),
            None => frame::encode_masked(OpCode::Control(Control::Close), &[], key, &mut close),
        }
        self.transmit(index, PSH | ACK, &close, now_us);
    }

    /// Closes the books: attempts without an answer have failed, what is open is open.
    pub(crate) fn close_books(&mut self) {
        for index in 0..self.opened() {
            let unfinished = |step| Fate::Failed(Failure::Unfinished(step));
            match self.peers[index as usize].stage {
                Stage::SynSent => self.settle(index, unfinished(Step::Connect)),
                Stage::Requested => self.settle(index, unfinished(Step::Upgrade)),
                Stage::Open => self.settle(index, Fate::Open),
                _ => {}
            }
        }
    }

    /// Ends a client that is still there, after the books were closed. Politely it says Close,
    /// otherwise it is gone at once.
    pub(crate) fn leave(&mut self, index: u32, politely: bool, now_us: u64) {
        match self.peers.get(index as usize).map(|peer| peer.stage) {
            Some(Stage::Open) if politely && self.request.raw => self.finish_stream(index, now_us),
            Some(Stage::Open) if politely => {
                self.enter(index, Stage::Leaving);
                self.send_close(index, Some(1000), now_us);
            }
            Some(Stage::SynSent | Stage::Requested | Stage::Open) => self.cut(index, Fate::Open),
            _ => {}
        }
    }

    /// Sends again what was not acknowledged in time, and gives up on who does not answer.
    pub(crate) fn on_tick(&mut self, now_us: u64) {
        while let Some(Reverse((due_us, index))) = self.timers.peek().copied() {
            if due_us > now_us {
                break;
            }
            self.timers.pop();
            if self.flights.get(&index).is_some_and(|flight| flight.due_us == due_us) {
                self.send_again(index, now_us);
            }
        }
        let peers = &self.peers;
        let over = |(due_us, index): &mut (u64, u32)| {
            let stage = peers[*index as usize].stage;
            *due_us <= now_us || !matches!(stage, Stage::SynSent | Stage::Requested)
        };
        let mut late = Vec::new();
        while let Some((due_us, index)) = self.deadlines.pop_front_if(over) {
            if due_us <= now_us {
                late.push(index);
            }
        }
        self.shrink();
        for index in late {
            match self.peers[index as usize].stage {
                Stage::SynSent => self.cut(index, Fate::Failed(Failure::TimedOut(Step::Connect))),
                Stage::Requested => self.cut(index, Fate::Failed(Failure::TimedOut(Step::Upgrade))),
                _ => {}
            }
        }
    }

    /// Gives back what a burst has left behind.
    fn shrink(&mut self) {
        let roomy = |used: usize, room: usize| room > 4_096 && used < room / 8;
        if roomy(self.deadlines.len(), self.deadlines.capacity()) {
            self.deadlines.shrink_to_fit();
        }
        if roomy(self.timers.len(), self.timers.capacity()) {
            self.timers.shrink_to_fit();
        }
        if roomy(self.flights.len(), self.flights.capacity()) {
            self.flights.shrink_to_fit();
        }
        if roomy(self.unread.len(), self.unread.capacity()) {
            self.unread.shrink_to_fit();
        }
    }

    /// When `on_tick` has something to do again.
    pub(crate) fn next_due_us(&self) -> Option<u64> {
        let timer = self.timers.peek().map(|Reverse((due_us, _))| *due_us);
        timer.into_iter().chain(self.deadlines.front().map(|(due_us, _)| *due_us)).min()
    }

    fn send_again(&mut self, index: u32, now_us: u64) {
        let Some(flight) = self.flights.get_mut(&index) else { return };
        flight.retries += 1;
        if flight.retries > RETRIES_MAX {
            let fate = match self.peers[index as usize].stage {
                Stage::SynSent => Fate::Failed(Failure::TimedOut(Step::Connect)),
                Stage::Requested => Fate::Failed(Failure::TimedOut(Step::Upgrade)),
                _ => Fate::Ended(Ending::Errno(libc::ETIMEDOUT)),
            };
            return self.cut(index, fate);
        }
        flight.due_us = now_us + (RETRY_US << flight.retries);
        self.timers.push(Reverse((flight.due_us, index)));
        let (flags, payload) = flight.first();
        let (from, to) = (self.addresses.of(index), self.addresses.server());
        let ack = self.peers[index as usize].receive;
        self.sent_again += 1;
        self.out.push(&Segment { from, to, seq: flight.start, ack, flags, payload });
    }

    /// Sends a segment, and remembers what of it the server has to acknowledge.
    fn transmit(&mut self, index: u32, flags: u8, payload: &[u8], now_us: u64) {
        let (from, to) = (self.addresses.of(index), self.addresses.server());
        let peer = &mut self.peers[index as usize];
        let (seq, ack) = (peer.send, peer.receive);
        let (syn, fin) = (flags & SYN != 0, flags & FIN != 0);
        let count = payload.len() as u32 + u32::from(syn) + u32::from(fin);
        peer.send = seq.wrapping_add(count);
        self.out.push(&Segment { from, to, seq, ack, flags, payload });
        if count == 0 {
            return;
        }
        let flight = self.flights.entry(index).or_insert_with(|| {
            let due_us = now_us + RETRY_US;
            self.timers.push(Reverse((due_us, index)));
            Flight { start: seq, due_us, ..Flight::default() }
        });
        flight.syn |= syn;
        flight.fin |= fin;
        flight.bytes.extend_from_slice(payload);
    }

    /// Resets the connection.
    fn cut(&mut self, index: u32, fate: Fate) {
        let (from, to) = (self.addresses.of(index), self.addresses.server());
        let Peer { send: seq, receive: ack, stage, .. } = self.peers[index as usize];
        let flags = if stage == Stage::SynSent { RST } else { RST | ACK };
        self.out.push(&Segment { from, to, seq, ack, flags, payload: &[] });
        self.end(index, fate);
    }

    fn end(&mut self, index: u32, fate: Fate) {
        self.settle(index, fate);
        self.forget(index);
    }

    fn forget(&mut self, index: u32) {
        if self.peers[index as usize].stage != Stage::Done {
            self.enter(index, Stage::Done);
            self.live -= 1;
        }
        self.flights.remove(&index);
        self.unread.remove(&index);
    }

    /// Enters the fate of a client into the books, once.
    fn settle(&mut self, index: u32, fate: Fate) {
        let peer = &mut self.peers[index as usize];
        if !std::mem::replace(&mut peer.settled, true) {
            self.ledger.settle(fate);
        }
    }

    /// The key of a client's request: 16 bytes in base64, made again when they are needed.
    fn key(&self, index: u32) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut state = self.request.seed ^ (u64::from(index) + 1);
        let mut key = String::with_capacity(24);
        for place in 0..22 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // The last digit stands for two bits only.
            let digit = (state >> 58) as usize & if place == 21 { 0x30 } else { 0x3f };
            key.push(char::from(DIGITS[digit]));
        }
        key.push_str("==");
        key
    }
}
