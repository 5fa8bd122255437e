//! The kernel of a simulated machine: sockets with a client at one end and a shard's ring at the
//! other, and everything that io_uring promises of them, late and in any order between sockets.
//!
//! Invariants that it holds against the shard: no operation on an empty descriptor, no two
//! operations of one kind on a socket, no close while something is armed, each receive buffer
//! given back once, no accept into a full table.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate::mesh::inbox::Bell;
use tidegate::ring::{Accepted, Completion, Errno, Operation, Outcome, Received, SendBatch, Token};

use super::fault::{Fault, Faults};
use super::random::Random;

pub(crate) type SocketId = usize;

/// Nanoseconds in a millisecond.
pub(crate) const MS: u64 = 1_000_000;

/// One TCP connection, both ends of it.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) peer: SocketAddr,
    pub(crate) to_server: VecDeque<u8>,
    pub(crate) client_fin: bool,
    pub(crate) client_reset: bool,
    pub(crate) to_client: VecDeque<u8>,
    /// What the server has closed cleanly: the client reads the rest, then the end.
    pub(crate) server_fin: bool,
    pub(crate) server_reset: bool,
    /// Most bytes on their way to the client.
    room: usize,
    /// Tables of descriptors that hold it.
    held: usize,
    /// The server has let go of it, or never had it.
    pub(crate) gone: bool,
}

impl Socket {
    fn is_broken(&self) -> bool {
        self.client_reset || self.server_reset
    }

    fn has_news(&self) -> bool {
        !self.to_server.is_empty() || self.client_fin || self.is_broken()
    }
}

/// An operation that has not completed.
#[derive(Debug)]
enum Waiting {
    Watch,
    Receive,
    ReceiveMany,
    Send { batch: SendBatch, done: usize },
}

#[derive(Debug)]
struct Armed {
    token: Token,
    waiting: Waiting,
    /// When it completes for no reason of the client's, if it does.
    disturbed_ns: Option<u64>,
}

/// The bell of a simulated ring.
#[derive(Clone, Debug, Default)]
pub(crate) struct SimulatedBell(Arc<AtomicBool>);

impl Bell for SimulatedBell {
    fn ring(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// The kernel's side of one ring.
#[derive(Debug)]
pub(crate) struct RingState {
    started: Vec<Operation>,
    files: Vec<Option<SocketId>>,
    next_file: usize,
    pub(crate) backlog: VecDeque<SocketId>,
    pub(crate) listens: bool,
    accepts: usize,
    armed: Vec<Armed>,
    ready: BTreeMap<(u64, u64), Completion>,
    /// Completions of one descriptor keep their order.
    last_ready: HashMap<u32, u64>,
    visible: VecDeque<Completion>,
    wakes: bool,
    tick: Option<(u64, u64)>,
    free_buffers: Vec<u16>,
    lent_buffers: Vec<u16>,
    withheld_buffers: Vec<u16>,
    memory: Vec<Vec<u8>>,
    pub(crate) bell: SimulatedBell,
    pub(crate) is_alive: bool,
}

/// Everything that the simulated machine knows.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) now_ns: u64,
    pub(crate) random: Random,
    pub(crate) faults: Faults,
    pub(crate) sockets: Vec<Socket>,
    pub(crate) rings: Vec<RingState>,
    pub(crate) violation: Option<String>,
    pub(crate) buffer_bytes: usize,
    /// Requests of a fault to block a thread, by shard; taken by the world.
    pub(crate) stalled_ns: u64,
    sequence: u64,
}

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingSizes {
    pub(crate) files: usize,
    pub(crate) buffers: u16,
    pub(crate) buffer_bytes: usize,
}

impl Kernel {
    pub(crate) fn new(random: Random, faults: Faults, rings: usize, sizes: RingSizes) -> Self {
        let ring = |_| RingState {
            started: Vec::new(),
            files: vec![None; sizes.files],
            next_file: 0,
            backlog: VecDeque::new(),
            listens: true,
            accepts: 0,
            armed: Vec::new(),
            ready: BTreeMap::new(),
            last_ready: HashMap::new(),
            visible: VecDeque::new(),
            wakes: false,
            tick: None,
            free_buffers: (0..sizes.buffers / 2).collect(),
            lent_buffers: Vec::new(),
            withheld_buffers: (sizes.buffers / 2..sizes.buffers).collect(),
            memory: vec![vec![0; sizes.buffer_bytes]; sizes.buffers.into()],
            bell: SimulatedBell::default(),
            is_alive: true,
        };
        Self {
            now_ns: 0,
            random,
            faults,
            sockets: Vec::new(),
            rings: (0..rings).map(ring).collect(),
            violation: None,
            buffer_bytes: sizes.buffer_bytes,
            stalled_ns: 0,
            sequence: 0,
        }
    }

    /// Only the first is of interest.
    pub(crate) fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Whether a fault happens now; counted if it does.
    fn strikes(&mut self, fault: Fault) -> bool {
        self.faults.strikes(fault, &mut self.random)
    }

    // What clients do.

    /// A client connects to the listener of `ring`; refused if nobody listens there.
    pub(crate) fn connect(&mut self, ring: usize, peer: SocketAddr) -> Option<SocketId> {
        if !self.rings[ring].listens || !self.rings[ring].is_alive {
            return None;
        }
        let room = self.random.of(&[64, 1_000, 16_000, 200_000]);
        self.sockets.push(Socket {
            peer,
            to_server: VecDeque::new(),
            client_fin: false,
            client_reset: false,
            to_client: VecDeque::new(),
            server_fin: false,
            server_reset: false,
            room,
            held: 0,
            gone: false,
        });
        let id = self.sockets.len() - 1;
        self.rings[ring].backlog.push_back(id);
        Some(id)
    }

    // What a shard does.

    pub(crate) fn start(&mut self, ring: usize, operation: Operation) {
        self.rings[ring].started.push(operation);
    }

    pub(crate) fn unsubmitted(&self, ring: usize) -> usize {
        self.rings[ring].started.len()
    }

    pub(crate) fn file_capacity(&self, ring: usize) -> u32 {
        self.rings[ring].files.len() as u32
    }

    pub(crate) fn next_completion(&mut self, ring: usize) -> Option<Completion> {
        self.rings[ring].visible.pop_front()
    }

    pub(crate) fn take_buffer(&mut self, ring: usize, received: &Received) -> Vec<u8> {
        let memory = &mut self.rings[ring].memory[usize::from(received.buffer())];
        std::mem::take(memory)
    }

    pub(crate) fn put_buffer(&mut self, ring: usize, buffer: u16, memory: Vec<u8>) {
        self.rings[ring].memory[usize::from(buffer)] = memory;
    }

    pub(crate) fn give_back(&mut self, ring: usize, received: &Received) {
        let state = &mut self.rings[ring];
        let id = received.buffer();
        match state.lent_buffers.iter().position(|lent| *lent == id) {
            Some(place) => {
                state.lent_buffers.swap_remove(place);
                state.free_buffers.push(id);
            }
            None => self.violated(format!("buffer {id} was given back and had not been lent")),
        }
    }

    /// Submits what was started: what io_uring_enter does.
    pub(crate) fn submit(&mut self, ring: usize) {
        let started = std::mem::take(&mut self.rings[ring].started);
        for operation in started {
            self.begin(ring, operation);
        }
        self.poll(ring);
    }

    /// Moves completions whose time has come to where the shard sees them.
    pub(crate) fn collect(&mut self, ring: usize) {
        let now = self.now_ns;
        let state = &mut self.rings[ring];
        while let Some(entry) = state.ready.first_entry() {
            if entry.key().0 > now {
                break;
            }
            state.visible.push_back(entry.remove());
        }
    }

    /// When the next completion of a ring can be seen.
    pub(crate) fn next_ready(&self, ring: usize) -> Option<u64> {
        let state = &self.rings[ring];
        let ready = state.ready.first_key_value().map(|((at, _), _)| *at);
        let tick = state.tick.map(|(_, next)| next);
        ready.into_iter().chain(tick).min()
    }

    fn begin(&mut self, ring: usize, operation: Operation) {
        match operation {
            Operation::Accept => self.rings[ring].accepts += 1,
            Operation::Watch(token) => self.arm(ring, token, Waiting::Watch),
            Operation::Receive { token, .. } => self.arm(ring, token, Waiting::Receive),
            Operation::ReceiveMany(token) => self.arm(ring, token, Waiting::ReceiveMany),
            Operation::Send(token, batch) => {
                self.arm(ring, token, Waiting::Send { batch, done: 0 });
            }
            Operation::Unacknowledged(token) => {
                if let Some(socket) = self.socket_of(ring, token) {
                    let bytes = self.sockets[socket].to_client.len() as u32;
                    self.complete(ring, token, Outcome::Unacknowledged(Ok(bytes)));
                }
            }
            Operation::Calm(token) => self.calm(ring, token),
            Operation::Cut(token) => self.cut(ring, token),
            Operation::HalfClose(token) => {
                if let Some(socket) = self.socket_of(ring, token) {
                    self.sockets[socket].server_fin = true;
                    self.complete(ring, token, Outcome::HalfClosed);
                }
            }
            Operation::Close(token) => self.close(ring, token),
            Operation::Hand { token, to } => self.hand(ring, token, to),
            Operation::Wake => {
                if std::mem::replace(&mut self.rings[ring].wakes, true) {
                    self.violated("two wake-ups are armed".to_owned());
                }
            }
            Operation::Tick(interval) => {
                let interval = interval.as_nanos() as u64;
                self.rings[ring].tick = Some((interval, self.now_ns + interval));
            }
            Operation::Open { .. } | Operation::Bind(..) | Operation::Connect(..) => {
                self.violated(format!("a server started {operation:?}"));
            }
        }
    }

    fn socket_of(&mut self, ring: usize, token: Token) -> Option<SocketId> {
        let socket = self.rings[ring].files.get(token.slot as usize).copied().flatten();
        if socket.is_none() {
            self.violated(format!("ring {ring}: an operation on empty descriptor {token:?}"));
        }
        socket
    }

    fn arm(&mut self, ring: usize, token: Token, waiting: Waiting) {
        if self.socket_of(ring, token).is_none() {
            return;
        }
        let reads = |waiting: &Waiting| !matches!(waiting, Waiting::Send { .. });
        let twice = self.rings[ring].armed.iter().any(|armed| {
            armed.token.slot == token.slot && reads(&armed.waiting) == reads(&waiting)
        });
        if twice {
            return self.violated(format!("ring {ring}: {waiting:?} of {token:?} beside another"));
        }
        let disturbed = match waiting {
            Waiting::Watch => self.strikes(Fault::SpuriousReadiness),
            Waiting::Receive | Waiting::ReceiveMany => self.strikes(Fault::ReceiveInterrupted),
            Waiting::Send { .. } => false,
        };
        let disturbed_ns = disturbed.then(|| self.now_ns + self.random.below(50_000_000) as u64);
        self.rings[ring].armed.push(Armed { token, waiting, disturbed_ns });
    }

    fn calm(&mut self, ring: usize, token: Token) {
        let lasting =
            |armed: &Armed| armed.token == token && matches!(armed.waiting, Waiting::ReceiveMany);
        let found = self.rings[ring].armed.iter().position(lasting);
        let result = match found {
            Some(place) => {
                self.rings[ring].armed.swap_remove(place);
                let result = Err(Errno(libc::ECANCELED));
                self.complete(ring, token, Outcome::Received { result, lasts: false });
                Ok(())
            }
            None => Err(Errno(libc::ENOENT)),
        };
        self.complete(ring, token, Outcome::Calmed(result));
    }

    fn cut(&mut self, ring: usize, token: Token) {
        let Some(socket) = self.socket_of(ring, token) else { return };
        self.reset_by_server(socket);
        self.poll(ring);
        self.complete(ring, token, Outcome::Cut(Ok(())));
    }

    fn reset_by_server(&mut self, socket: SocketId) {
        let socket = &mut self.sockets[socket];
        socket.server_reset = true;
        socket.to_client.clear();
        socket.to_server.clear();
    }

    fn close(&mut self, ring: usize, token: Token) {
        let Some(id) = self.socket_of(ring, token) else { return };
        if let Some(armed) = self.rings[ring].armed.iter().find(|a| a.token.slot == token.slot) {
            let what = format!("ring {ring}: {token:?} was closed with {armed:?}");
            return self.violated(what);
        }
        self.rings[ring].files[token.slot as usize] = None;
        self.let_go(id);
        self.complete(ring, token, Outcome::Closed);
    }

    fn let_go(&mut self, id: SocketId) {
        self.sockets[id].held -= 1;
        if self.sockets[id].held > 0 {
            return;
        }
        self.sockets[id].gone = true;
        if self.sockets[id].to_server.is_empty() {
            self.sockets[id].server_fin = true;
        } else {
            self.reset_by_server(id);
        }
    }

    fn hand(&mut self, ring: usize, token: Token, to: usize) {
        let Some(id) = self.socket_of(ring, token) else { return };
        let refused = self.strikes(Fault::NoRoomForArrival);
        let there = (!refused && self.rings[to].is_alive).then(|| self.free_file(to)).flatten();
        let result = match there {
            Some(slot) => {
                self.rings[to].files[slot as usize] = Some(id);
                self.sockets[id].held += 1;
                let outcome = Outcome::HandedHere { from: ring, slot };
                self.complete_at(to, slot, Completion { token, outcome });
                Ok(())
            }
            None => Err(Errno(libc::ENFILE)),
        };
        self.complete(ring, token, Outcome::HandedOver { to, result });
    }

    fn free_file(&mut self, ring: usize) -> Option<u32> {
        let state = &mut self.rings[ring];
        let count = state.files.len();
        let slot = (0..count).map(|step| (state.next_file + step) % count);
        let slot = slot.into_iter().find(|slot| state.files[*slot].is_none())?;
        state.next_file = slot + 1;
        Some(slot as u32)
    }

    fn complete(&mut self, ring: usize, token: Token, outcome: Outcome) {
        self.complete_at(ring, token.slot, Completion { token, outcome });
    }

    /// Shows a completion after a while; those of one descriptor in their order.
    fn complete_at(&mut self, ring: usize, slot: u32, completion: Completion) {
        let delay = match self.strikes(Fault::LateCompletion) {
            true => self.random.below(20 * MS as usize) as u64,
            false => self.random.below(30_000) as u64,
        };
        let last = self.rings[ring].last_ready.entry(slot).or_default();
        *last = (self.now_ns + delay).max(*last);
        let key = (*last, self.sequence);
        self.sequence += 1;
        self.rings[ring].ready.insert(key, completion);
    }

    /// Completes what can be completed.
    pub(crate) fn poll(&mut self, ring: usize) {
        if !self.rings[ring].is_alive {
            return;
        }
        self.poll_bell(ring);
        self.poll_tick(ring);
        self.poll_accepts(ring);
        let mut index = 0;
        while index < self.rings[ring].armed.len() {
            if self.poll_armed(ring, index) {
                self.rings[ring].armed.swap_remove(index);
            } else {
                index += 1;
            }
        }
    }

    fn poll_bell(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        if state.wakes && state.bell.0.swap(false, Ordering::SeqCst) {
            state.wakes = false;
            let outcome = Outcome::Woken;
            let key = (self.now_ns + self.random.below(20_000) as u64, self.sequence);
            self.sequence += 1;
            self.rings[ring].ready.insert(key, Completion { token: Token::new(0, 0), outcome });
        }
    }

    fn poll_tick(&mut self, ring: usize) {
        let Some((interval, next)) = self.rings[ring].tick else { return };
        if next > self.now_ns {
            return;
        }
        let lasts = !self.strikes(Fault::TickEnds);
        self.rings[ring].tick = lasts.then_some((interval, self.now_ns + interval));
        let outcome = Outcome::Ticked { lasts };
        let key = (self.now_ns, self.sequence);
        self.sequence += 1;
        self.rings[ring].ready.insert(key, Completion { token: Token::new(0, 0), outcome });
    }

    fn poll_accepts(&mut self, ring: usize) {
        while self.rings[ring].accepts > 0 {
            if !self.rings[ring].listens && self.rings[ring].backlog.is_empty() {
                break;
            }
            let Some(id) = self.rings[ring].backlog.front().copied() else { break };
            self.rings[ring].accepts -= 1;
            let result = if self.strikes(Fault::AcceptAborted) {
                self.rings[ring].backlog.pop_front();
                self.refuse(id);
                Err(Errno(libc::ECONNABORTED))
            } else if self.strikes(Fault::AcceptShort) {
                Err(Errno(self.random.of(&[libc::EMFILE, libc::ENOBUFS, libc::ENOMEM])))
            } else {
                self.rings[ring].backlog.pop_front();
                self.accept(ring, id)
            };
            let slot = result.as_ref().map_or(u32::MAX, |accepted| accepted.slot);
            let outcome = Outcome::Accepted(result);
            self.complete_at(ring, slot, Completion { token: Token::new(0, 0), outcome });
        }
    }

    fn refuse(&mut self, id: SocketId) {
        self.reset_by_server(id);
        self.sockets[id].gone = true;
    }

    fn accept(&mut self, ring: usize, id: SocketId) -> Result<Accepted, Errno> {
        let Some(slot) = self.free_file(ring) else {
            self.violated(format!("ring {ring}: accepted into a full table"));
            self.refuse(id);
            return Err(Errno(libc::ENFILE));
        };
        self.rings[ring].files[slot as usize] = Some(id);
        self.sockets[id].held = 1;
        let more_wait = !self.rings[ring].backlog.is_empty();
        Ok(Accepted { slot, address: self.sockets[id].peer, more_wait })
    }

    /// True if the operation is over.
    fn poll_armed(&mut self, ring: usize, index: usize) -> bool {
        let token = self.rings[ring].armed[index].token;
        let Some(id) = self.rings[ring].files[token.slot as usize] else { return true };
        let disturbed =
            self.rings[ring].armed[index].disturbed_ns.is_some_and(|at| at <= self.now_ns);
        match self.rings[ring].armed[index].waiting {
            Waiting::Watch => {
                let ready = self.sockets[id].has_news() || disturbed;
                if ready {
                    self.complete(ring, token, Outcome::Readable(Ok(())));
                }
                ready
            }
            Waiting::Receive | Waiting::ReceiveMany if disturbed => {
                let result = Err(Errno(self.random.of(&[libc::EAGAIN, libc::EINTR])));
                self.complete(ring, token, Outcome::Received { result, lasts: false });
                true
            }
            Waiting::Receive => {
                let Some(result) = self.receive(ring, id) else { return false };
                self.complete(ring, token, Outcome::Received { result, lasts: false });
                true
            }
            Waiting::ReceiveMany => loop {
                let Some(result) = self.receive(ring, id) else { return false };
                let good = matches!(result, Ok(Some(_)));
                let lasts = good && !self.strikes(Fault::LastingEnds);
                self.complete(ring, token, Outcome::Received { result, lasts });
                if !lasts {
                    return true;
                }
            },
            Waiting::Send { .. } => self.poll_send(ring, index, token, id),
        }
    }

    fn receive(&mut self, ring: usize, id: SocketId) -> Option<Result<Option<Received>, Errno>> {
        if self.sockets[id].is_broken() {
            let codes = [libc::ECONNRESET, libc::ETIMEDOUT, libc::EHOSTUNREACH];
            return Some(Err(Errno(self.random.of(&codes))));
        }
        if self.sockets[id].to_server.is_empty() {
            return self.sockets[id].client_fin.then_some(Ok(None));
        }
        let Some(buffer) = self.rings[ring].free_buffers.pop() else {
            // As the real ring: it offers another, or says that there is none.
            let Some(another) = self.rings[ring].withheld_buffers.pop() else {
                self.faults.saw(Fault::NoBuffers);
                return Some(Err(Errno(libc::ENOBUFS)));
            };
            self.rings[ring].free_buffers.push(another);
            return Some(Err(Errno(libc::EAGAIN)));
        };
        let most = match self.strikes(Fault::ShortReceive) {
            true => 1 + self.random.below(7),
            false => self.buffer_bytes,
        };
        let socket = &mut self.sockets[id];
        let len = most.min(socket.to_server.len());
        let memory = &mut self.rings[ring].memory[usize::from(buffer)];
        for (place, byte) in memory.iter_mut().zip(socket.to_server.drain(..len)) {
            *place = byte;
        }
        self.rings[ring].lent_buffers.push(buffer);
        Some(Ok(Some(Received::lent(buffer, len as u32))))
    }

    fn poll_send(&mut self, ring: usize, index: usize, token: Token, id: SocketId) -> bool {
        let broken = self.sockets[id].is_broken();
        let short = self.strikes(Fault::ShortSend);
        let socket = &mut self.sockets[id];
        let Waiting::Send { batch, done } = &mut self.rings[ring].armed[index].waiting else {
            return true;
        };
        let bytes = bytes_of(batch);
        let room = socket.room.saturating_sub(socket.to_client.len());
        let len = if broken { 0 } else { room.min(bytes.len() - *done) };
        let len = if short { len.div_ceil(2) } else { len };
        socket.to_client.extend(&bytes[*done..*done + len]);
        *done += len;
        if *done == 0 && !broken && !bytes.is_empty() {
            return false;
        }
        let sent = *done;
        let waiting = std::mem::replace(&mut self.rings[ring].armed[index].waiting, Waiting::Watch);
        let Waiting::Send { batch, .. } = waiting else { return true };
        let result = match sent {
            0 if broken => Err(Errno(self.random.of(&[libc::EPIPE, libc::ECONNRESET]))),
            sent => Ok(sent),
        };
        self.complete(ring, token, Outcome::Sent(result, batch));
        true
    }

    /// A shard's thread is gone, and its ring with it.
    pub(crate) fn close_ring(&mut self, ring: usize) {
        let state = &mut self.rings[ring];
        state.is_alive = false;
        state.listens = false;
        state.armed.clear();
        state.ready.clear();
        state.visible.clear();
        state.started.clear();
        state.tick = None;
        let files: Vec<_> = state.files.iter_mut().filter_map(Option::take).collect();
        let backlog: Vec<_> = state.backlog.drain(..).collect();
        files.into_iter().for_each(|id| self.let_go(id));
        backlog.into_iter().for_each(|id| self.refuse(id));
    }

    /// Descriptors that a ring holds.
    pub(crate) fn held_files(&self, ring: usize) -> usize {
        self.rings[ring].files.iter().flatten().count()
    }

    /// Receive buffers that a shard has not given back.
    pub(crate) fn lent_buffers(&self, ring: usize) -> usize {
        let unseen = |completion: &Completion| {
            matches!(completion.outcome, Outcome::Received { result: Ok(Some(_)), .. })
        };
        let state = &self.rings[ring];
        let waiting = state.ready.values().chain(&state.visible).filter(|c| unseen(c)).count();
        state.lent_buffers.len() - waiting
    }
}

/// The bytes that a send still has to carry.
fn bytes_of(batch: &SendBatch) -> Vec<u8> {
    match batch {
        SendBatch::One { frame, sent } => frame.bytes()[*sent..].to_vec(),
        SendBatch::Many { frames, sent } => {
            let all: Vec<u8> =
                frames.iter().flat_map(|frame| frame.bytes().iter().copied()).collect();
            all[*sent..].to_vec()
        }
    }
}
