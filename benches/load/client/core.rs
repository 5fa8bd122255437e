//! What the handlers of a ring's clients and the scenarios share: ring, table, books, pace.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{
    FileSlot, Frame, KernelRing, Operation, Ring, RingSettings, SendBatch, Token,
};
use tidegate::sys::event_fd::EventFd;
use tidegate::websocket::frame;
use tidegate::websocket::{Control, Data, OpCode};

use super::connection::{Stage, Table};
use super::returning::{Begun, Door, Returns};
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::pace::Pace;
use crate::sources::Sources;
use crate::target::Target;

/// The longest that a ring sleeps, so that it notices a new phase of the run.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// Direct descriptors of a ring beyond its connections: the kernel frees a slot a little after
/// its close has completed.
pub(crate) const SPARE_FILES: u32 = 64;
/// How long no attempt is made when the kernel has no room for another socket.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Sent buffers that are kept for reuse.
const SPARE_BUFFERS: usize = 1_024;

/// What every upgrade request of a run says of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Manner {
    /// The Origin header, if there is one.
    pub(crate) origin: Option<Arc<str>>,
    /// The key; `None` makes a new one for each request, as clients have to.
    pub(crate) key: Option<Arc<str>>,
    /// As a proxy, name so many clients in turn; 0 names none.
    pub(crate) clients: u32,
}

/// One ring's part of a run.
#[derive(Clone)]
pub(crate) struct Job {
    /// Where to connect.
    pub(crate) target: Arc<Target>,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Where to connect from.
    pub(crate) sources: Sources,
    /// Number of this ring's first connection over all rings.
    pub(crate) first_index: u64,
    /// Connections of this ring, one after the other or at once.
    pub(crate) connections: u64,
    /// The most of them that it has room for at one time.
    pub(crate) files: u64,
    /// This ring's share of the rate at which attempts are made.
    pub(crate) pace: Pace,
    /// Attempts that may be unanswered at once.
    pub(crate) max_opening: u64,
    /// How long an attempt may take.
    pub(crate) connect_timeout: Duration,
    /// Plain TCP: connected is admitted.
    pub(crate) raw: bool,
    /// What the requests say beyond the target.
    pub(crate) manner: Manner,
    /// Zero of all times of the run.
    pub(crate) epoch: Instant,
}

impl Job {
    fn ring_settings(&self) -> RingSettings {
        RingSettings {
            submissions: 1_024,
            completions: 16_384,
            files: self.files as u32 + SPARE_FILES,
            accepts: 1,
            buffers: 1_024,
            buffer_bytes: 4_096,
        }
    }
}

/// The state of a ring's clients.
pub(crate) struct Core<C> {
    pub(super) ring: KernelRing,
    pub(super) table: Table<C>,
    pub(super) job: Job,
    /// The books of this ring.
    pub(crate) ledger: Ledger,
    /// From the start of the attempt to 101.
    pub(crate) admissions: Latencies,
    /// When the last attempt so far got its answer.
    pub(crate) last_answer: Option<Instant>,
    /// Pings that were answered.
    pub(crate) pings: u64,
    /// The books of clients that come back.
    pub(crate) again: Ledger,
    pub(super) begun: VecDeque<Begun>,
    pub(super) returns: Returns,
    pub(super) paused_until: Option<Instant>,
    pub(super) deadlines: VecDeque<(u64, Token)>,
    pub(super) next_index: u64,
    pub(super) began: Option<Instant>,
    pub(super) finished: bool,
    starved: Vec<Token>,
    spare: Vec<Vec<u8>>,
    random: u64,
    now: Instant,
}

impl<C> Core<C> {
    pub(super) fn new(job: Job) -> io::Result<Self> {
        let ring = KernelRing::new(job.ring_settings(), EventFd::new()?, None)?;
        Ok(Self {
            ring,
            table: Table::new(),
            ledger: Ledger::default(),
            admissions: Latencies::new(),
            last_answer: None,
            pings: 0,
            again: Ledger::default(),
            begun: VecDeque::new(),
            returns: Returns::new(Door {
                target: Arc::clone(&job.target),
                address: job.address,
                sources: job.sources,
            }),
            paused_until: None,
            deadlines: VecDeque::new(),
            next_index: 0,
            began: None,
            finished: false,
            starved: Vec::new(),
            spare: Vec::new(),
            // Any odd start will do; the ring's number keeps rings apart.
            random: job.first_index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Instant::now(),
            job,
        })
    }

    /// Connections in the table, in whatever stage.
    pub(crate) fn live(&self) -> usize {
        self.table.live() + self.begun.len()
    }

    /// The time when this turn's completions were collected.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    pub(super) fn refresh_clock(&mut self) {
        self.now = Instant::now();
    }

    /// Milliseconds since the run's epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now.duration_since(self.job.epoch).as_millis() as u64
    }

    /// Time from the first attempt to this turn.
    pub(crate) fn since_first(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| self.now.saturating_duration_since(began))
    }

    /// Microseconds since the run's epoch.
    pub(crate) fn now_us(&self) -> u64 {
        self.now.duration_since(self.job.epoch).as_micros() as u64
    }

    /// Makes no more attempts; those that have begun go on.
    pub(crate) fn stop_opening(&mut self) {
        self.job.connections = self.next_index;
    }

    /// What the scenario keeps for a connection that is open, and its number.
    pub(crate) fn open_state(&mut self, slot: FileSlot) -> Option<(&mut C, u64)> {
        let connection = self.table.at(slot)?;
        (connection.stage == Stage::Open).then_some((&mut connection.state, connection.index))
    }

    /// What the scenario keeps for a connection in whatever stage.
    pub(crate) fn state(&mut self, slot: FileSlot) -> Option<&mut C> {
        self.table.at(slot).map(|connection| &mut connection.state)
    }

    /// The slots of all open connections.
    pub(crate) fn open_slots(&mut self) -> Vec<FileSlot> {
        let slots = self.table.slots();
        let is_open = |slot: &FileSlot| {
            self.table.at(*slot).is_some_and(|connection| connection.stage == Stage::Open)
        };
        (0..slots).filter(is_open).collect()
    }

    /// A masking key. Masking protects intermediaries from clients that run foreign scripts; a
    /// load generator only needs keys that differ.
    pub(crate) fn mask_key(&mut self) -> [u8; 4] {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let [_, _, a, b, c, d, _, _] = self.random.to_le_bytes();
        [a, b, c, d]
    }

    /// Sends a text message.
    pub(crate) fn send_text(&mut self, slot: FileSlot, text: &[u8]) {
        self.send_frame(slot, OpCode::Data(Data::Text), text);
    }

    /// Sends a binary message.
    pub(crate) fn send_binary(&mut self, slot: FileSlot, bytes: &[u8]) {
        self.send_frame(slot, OpCode::Data(Data::Binary), bytes);
    }

    pub(super) fn send_pong(&mut self, slot: FileSlot, payload: &[u8]) {
        self.pings += 1;
        self.send_frame(slot, OpCode::Control(Control::Pong), payload);
    }

    fn send_frame(&mut self, slot: FileSlot, opcode: OpCode, payload: &[u8]) {
        let key = self.mask_key();
        self.send_with(slot, |out| frame::encode_masked(opcode, payload, key, out));
    }

    /// Sends what `write` appends, behind what is already on its way.
    pub(crate) fn send_with(&mut self, slot: FileSlot, write: impl FnOnce(&mut Vec<u8>)) {
        let Some(connection) = self.table.at(slot) else { return };
        if connection.stage == Stage::Ending {
            return;
        }
        if connection.outbox.capacity() == 0 {
            connection.outbox = self.spare.pop().unwrap_or_default();
        }
        write(&mut connection.outbox);
        self.flush(slot);
    }

    /// Looks whether the connection is still there without reading or sending anything: an
    /// empty send fails once the peer has reset the connection.
    pub(crate) fn probe(&mut self, slot: FileSlot) {
        let Some(connection) = self.table.at(slot) else { return };
        if !connection.sending && connection.stage == Stage::Open {
            connection.sending = true;
            let token = self.table.token(slot);
            let nothing = SendBatch::one(Frame::Own(Vec::new()));
            self.ring.start(Operation::Send(token, nothing));
        }
    }

    /// Starts a send if there is something to send and none is in flight: two would interleave.
    pub(super) fn flush(&mut self, slot: FileSlot) {
        let token = self.table.token(slot);
        let Some(connection) = self.table.at(slot) else { return };
        if connection.sending || connection.outbox.is_empty() {
            return;
        }
        connection.sending = true;
        let bytes = std::mem::take(&mut connection.outbox);
        self.ring.start(Operation::Send(token, SendBatch::one(Frame::Own(bytes))));
    }

    pub(super) fn recycle(&mut self, batch: SendBatch) {
        if let SendBatch::One { frame: Frame::Own(mut bytes), .. } = batch
            && self.spare.len() < SPARE_BUFFERS
            && bytes.capacity() > 0
        {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Never reads from this connection (until [`discard`](Self::discard)).
    pub(crate) fn make_deaf(&mut self, slot: FileSlot) {
        if let Some(connection) = self.table.at(slot) {
            connection.deaf = true;
        }
    }

    /// Reads once from a connection that is deaf otherwise.
    pub(crate) fn sip(&mut self, slot: FileSlot) {
        let token = self.table.token(slot);
        let Some(connection) = self.table.at(slot) else { return };
        if !connection.reading && connection.stage == Stage::Open {
            connection.reading = true;
            self.ring.start(Operation::Receive { token, wait: true });
        }
    }

    /// Reads from a connection that was deaf, only to learn how it ended.
    pub(crate) fn discard(&mut self, slot: FileSlot) {
        if let Some(connection) = self.table.at(slot) {
            connection.deaf = false;
            connection.discarding = true;
            self.arm_watch(slot);
        }
    }

    pub(super) fn arm_watch(&mut self, slot: FileSlot) {
        self.arm(slot, Operation::Watch);
    }

    pub(super) fn arm_receive(&mut self, slot: FileSlot, wait: bool) {
        self.arm(slot, |token| Operation::Receive { token, wait });
    }

    pub(super) fn arm_lasting(&mut self, slot: FileSlot) {
        self.arm(slot, Operation::ReceiveMany);
        if let Some(connection) = self.table.at(slot) {
            connection.lasting = connection.reading;
        }
    }

    fn arm(&mut self, slot: FileSlot, operation: impl FnOnce(Token) -> Operation) {
        let token = self.table.token(slot);
        let Some(connection) = self.table.at(slot) else { return };
        if !connection.reading && !connection.deaf && connection.stage != Stage::Ending {
            connection.reading = true;
            self.ring.start(operation(token));
        }
    }

    /// All receive buffers were in use; tries again in the next turn. It counts as reading.
    pub(super) fn starve(&mut self, token: Token) {
        self.starved.push(token);
    }

    pub(super) fn retry_starved(&mut self) {
        for token in std::mem::take(&mut self.starved) {
            self.ring.start(Operation::Receive { token, wait: false });
        }
    }
}
