//! Bytes arrive: the head of a request, or frames. They are read in place in the ring's buffer;
//! only what must wait for more bytes is copied.

use tracing::debug;

use super::Shard;
use super::heads::Rank;
use super::refusing::TurnedAway;
use super::unadmitted::Standing;
use crate::close_reason::CloseReason;
use crate::connection::pongs::Pongs;
use crate::connection::{Facts, InFlight, State};
use crate::environment::Environment;
use crate::handler::Inbound;
use crate::http::refusal::{Refusal, Status};
use crate::http::request::{Head, HeadScanner};
use crate::http::{response, upgrade};
use crate::limits;
use crate::ring::{Errno, Frame, Operation, Received, Ring, Token};
use crate::websocket::deflate::{Agreement, Window};
use crate::websocket::frame::{self, Role};
use crate::websocket::{Control, Event, Incoming, OpCode, Rules, Violation, close_frame};

/// A client that is heard again within this many ticks (about a second) ...
const BUSY_TICKS: u32 = 16;

/// ... and has sent at least this many messages is busy: a lasting receive is armed for it
/// instead of a watch, which saves two operations per message and costs 600 bytes of kernel
/// memory until the client has been quiet for some seconds.
const BUSY_MESSAGES: u32 = 4;

/// The answer to an upgrade on a path that no handler serves.
const NO_SUCH_PATH: Refusal = Refusal::new(
    Status::NotFound,
    "no such path; /ws?channel=NAME subscribes, /echo echoes if server.echo is set",
);

/// What is known of a connection that is not upgraded yet. Beside the table of connections,
/// because few are in that state at a time.
#[derive(Debug)]
pub(super) enum BeforeUpgrade {
    /// The beginning of its request has been read; it is kept in `heads`.
    Head(HeadScanner),
    /// It was not admitted; how it is told is seen from its request.
    TurnedAway(TurnedAway),
}

/// How to wait for the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// The buffer was filled: more waits already.
    More,
    /// They will come soon.
    Busy,
    /// They may come some time.
    Idle,
}

/// Where frames are.
pub(super) enum Frames<'a> {
    /// In a buffer of the ring, behind so many bytes of something else.
    Received(&'a Received, usize),
    /// In memory that was kept while the connection waited.
    Kept(&'a mut [u8]),
}

/// What a chunk of frames led to, beside the effects.
enum Ended {
    No,
    /// The replies are as many as may wait; the rest of the chunk is kept.
    Paused,
    Closed {
        code: Option<u16>,
    },
    Violated(Violation),
}

impl<E: Environment> Shard<E> {
    pub(super) fn on_readable(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::WATCH);
        match (connection.state, result) {
            (State::Ending, _) => self.close_if_quiet(token),
            (_, Ok(())) => self.readable.push_back(token),
            (_, Err(_)) => self.end(token, CloseReason::Reset),
        }
    }

    pub(super) fn on_received(
        &mut self,
        token: Token,
        result: Result<Option<Received>, Errno>,
        lasts: bool,
    ) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !lasts {
            connection.in_flight.end(InFlight::RECEIVE);
            connection.in_flight.end(InFlight::LASTING);
        }
        let ending = connection.state == State::Ending;
        match result {
            Ok(Some(received)) => {
                let listen = self.listen_for(token, received.len());
                if !ending {
                    self.on_bytes(token, &received);
                }
                self.ring.give_back(received);
                self.listen_again(token, listen);
            }
            _ if ending => {}
            Ok(None) if self.unread.end(token) => {}
            Ok(None) => self.on_end_of_stream(token),
            Err(Errno(libc::ENOBUFS)) => {
                self.metrics.buffers_starved.add(1);
                self.readable.push_back(token);
            }
            // ECANCELED: a lasting receive has ended because the client is quiet or does not
            // read.
            Err(Errno(libc::EAGAIN | libc::EINTR | libc::ECANCELED)) => {
                self.listen_again(token, Listen::Idle);
            }
            Err(_) => self.end(token, CloseReason::Reset),
        }
        self.close_if_quiet(token);
    }

    /// Begins to read from those who have sent something, the longest waiting first. Each holds a
    /// buffer until the next turn, so a burst does not make a quiet shard keep one for each of them.
    pub(super) fn receive_some(&mut self) {
        for _ in 0..limits::RECEIVES_PER_TURN {
            let Some(token) = self.readable.pop_front() else { break };
            if self.may_listen(token) {
                self.receive(token);
            }
        }
    }

    fn receive(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.begin(InFlight::RECEIVE);
        self.ring.start(Operation::Receive { token, wait: false });
    }

    fn receive_many(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.begin(InFlight::RECEIVE);
        connection.in_flight.begin(InFlight::LASTING);
        let open = connection.state == State::Open;
        self.ring.start(Operation::ReceiveMany(token));
        if open {
            self.set_open_timer(token);
        }
    }

    /// Ends the lasting receive of a client that has gone quiet or does not read.
    pub(super) fn calm(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.in_flight.has(InFlight::LASTING) && !connection.in_flight.has(InFlight::CALM)
        {
            connection.in_flight.begin(InFlight::CALM);
            self.ring.start(Operation::Calm(token));
        }
    }

    pub(super) fn on_calmed(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::CALM);
        let listens = connection.in_flight.has(InFlight::LASTING);
        if connection.state == State::Ending && listens && result.is_err() {
            // Nothing else would end the receive, and the slot would never be free again.
            self.reset(token);
        }
        self.close_if_quiet(token);
    }

    /// How to wait after `len` bytes, by how long the client was quiet before them.
    fn listen_for(&mut self, token: Token, len: usize) -> Listen {
        let tick = self.tick;
        let Some(connection) = self.connections.get_mut(token) else { return Listen::Idle };
        let quiet = tick.wrapping_sub(std::mem::replace(&mut connection.heard_tick, tick));
        if len == self.settings.receive_buffer_bytes {
            Listen::More
        } else if quiet <= BUSY_TICKS && connection.messages >= BUSY_MESSAGES {
            Listen::Busy
        } else {
            Listen::Idle
        }
    }

    /// Arms what tells of the next bytes; nothing while the client does not read what it is
    /// sent.
    pub(super) fn listen_again(&mut self, token: Token, listen: Listen) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.in_flight.has(InFlight::LASTING)
            && connection.held_bytes() > limits::READ_PAUSE_BYTES
        {
            return self.calm(token);
        }
        if self.unread.has(token) {
            return self.read_on(token);
        }
        if !self.may_listen(token) {
            return;
        }
        match listen {
            Listen::More => self.receive(token),
            Listen::Busy => self.receive_many(token),
            Listen::Idle => self.watch(token),
        }
    }

    fn watch(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.begin(InFlight::WATCH);
        self.ring.start(Operation::Watch(token));
    }

    /// True if nothing is armed for the client's next bytes and they are wanted.
    fn may_listen(&mut self, token: Token) -> bool {
        let Some(connection) = self.connections.get_mut(token) else { return false };
        let armed = connection.in_flight.has(InFlight::WATCH)
            || connection.in_flight.has(InFlight::RECEIVE);
        let reads = !matches!(
            connection.state,
            State::Ending
                | State::Flushing
                | State::Vacant
                | State::Awaiting
                | State::Leaving
                | State::Arriving
        );
        let wanted = connection.held_bytes() <= limits::READ_PAUSE_BYTES;
        !armed && reads && wanted && !self.unread.has(token)
    }

    pub(super) fn on_end_of_stream(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        // A client may end its side and still read: what is on its way to it goes out first.
        let sending = connection.in_flight.has(InFlight::SEND);
        match connection.state {
            State::Open if sending => {
                connection.reason = Some(CloseReason::PeerGone);
                self.flush_and_close(token);
            }
            // The deadline of these is set, and goes on.
            State::Closing | State::Lingering | State::Flushing if sending => {
                connection.state = State::Flushing;
            }
            _ => self.end(token, CloseReason::PeerGone),
        }
    }

    fn on_bytes(&mut self, token: Token, received: &Received) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match connection.state {
            State::Unadmitted => self.on_bytes_unadmitted(token, received),
            State::Handshake => self.on_head(token, received, 0),
            State::TurnedAway => self.on_bytes_turned_away(token, received),
            State::Open | State::Closing => self.on_frames(token, Frames::Received(received, 0)),
            _ => {}
        }
    }

    /// Answers with a refusal and closes. If the request was `read_whole`, at once; otherwise
    /// the rest of it is discarded first, or the answer would be lost with it.
    pub(super) fn refuse(&mut self, token: Token, refusal: &Refusal, read_whole: bool) {
        self.before_upgrade.remove(&token.slot);
        self.heads.forget(token.slot);
        let mut bytes = self.spare_buffer();
        response::refuse(refusal, &mut bytes);
        self.send(token, Frame::Own(bytes));
        if read_whole {
            self.flush_and_close(token);
        } else {
            self.flush_and_linger(token);
        }
    }

    /// The bytes after the first `skip` belong to the head of a request.
    pub(super) fn on_head(&mut self, token: Token, received: &Received, skip: usize) {
        let scanner = match self.before_upgrade.remove(&token.slot) {
            Some(BeforeUpgrade::Head(scanner)) => scanner,
            _ => HeadScanner::default(),
        };
        let mut head = self.heads.take(token.slot).unwrap_or_else(|| self.spare_buffer());
        let before = head.len();
        head.extend_from_slice(&self.ring.bytes(received)[skip..]);
        if let Some((len, head)) = self.on_more_head(token, head, scanner) {
            self.on_frames(token, Frames::Received(received, skip + len - before));
            self.recycle(head);
        }
    }

    /// What had been read of a connection that had to wait for its admission.
    pub(super) fn on_kept_head(&mut self, token: Token, kept: Vec<u8>) {
        if let Some((len, mut head)) = self.on_more_head(token, kept, HeadScanner::default()) {
            self.metrics.bytes_received.add((head.len() - len) as u64);
            self.on_frames(token, Frames::Kept(&mut head[len..]));
            self.recycle(head);
        }
        self.listen_again(token, Listen::Idle);
    }

    /// Gives back the length of the head, and what was read, if the connection was upgraded: the
    /// rest of it are frames.
    fn on_more_head(
        &mut self,
        token: Token,
        head: Vec<u8>,
        mut scanner: HeadScanner,
    ) -> Option<(usize, Vec<u8>)> {
        match scanner.scan(&head, self.settings.max_head_bytes) {
            Ok(Head::Incomplete) => {
                self.before_upgrade.insert(token.slot, BeforeUpgrade::Head(scanner));
                self.keep_head(token, head);
                return None;
            }
            Ok(Head::Complete { len }) => match self.standing(token, &head[..len]) {
                Standing::Admitted => match self.upgrade(token, &head[..len]) {
                    Ok(()) => {
                        self.heads.forget(token.slot);
                        return Some((len, head));
                    }
                    Err(refusal) => self.refuse_upgrade(token, &refusal, true),
                },
                Standing::Awaiting => {
                    self.keep_head(token, head);
                    return None;
                }
                Standing::Refused => {}
            },
            Err(refusal) => self.refuse_upgrade(token, &refusal, false),
        }
        self.heads.forget(token.slot);
        self.recycle(head);
        None
    }

    /// Keeps what has been read of a connection that is not upgraded; if that is too much of all
    /// together, others give way, or this one.
    pub(super) fn keep_head(&mut self, token: Token, head: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let admitted = connection.facts.has(Facts::ADMITTED);
        let rank = if admitted { Rank::Admitted } else { Rank::Unadmitted };
        self.heads.keep(token, rank, head);
        while let Some((oldest, rank)) = self.heads.gives_way() {
            match rank {
                Rank::Refused => self.heads.forget(oldest.slot),
                Rank::Unadmitted | Rank::Admitted => self.end(oldest, CloseReason::HeadEvicted),
            }
            debug_assert!(self.heads.get(oldest.slot).is_empty(), "nothing is kept of what ends");
        }
    }

    pub(super) fn refuse_upgrade(&mut self, token: Token, refusal: &Refusal, read_whole: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        debug!(
            slot = token.slot,
            source = %connection.source,
            provenance = connection.facts.provenance().label(),
            status = refusal.status.code(),
            detail = refusal.detail,
            "upgrade refused"
        );
        connection.reason = Some(CloseReason::HandshakeRefused);
        self.refuse(token, refusal, read_whole);
    }

    /// Decides about a complete request and answers 101.
    fn upgrade(&mut self, token: Token, head: &[u8]) -> Result<(), Refusal> {
        let request = upgrade::parse(head, &self.settings.upgrade)?;
        let route = self.routes.iter().position(|(path, _)| **path == *request.path);
        let route = route.ok_or(NO_SUCH_PATH)?;
        let agreement = request.compression(&self.settings.upgrade);
        let window = agreement.map(Agreement::window);
        self.effects.window = window;
        self.routes[route].1.receive(Inbound::Opening { query: request.query }, &mut self.effects);
        if let Some(refusal) = self.effects.take_refusal() {
            return Err(refusal);
        }
        if let Err(refusal) = self.judge_channels() {
            self.effects.forget();
            return Err(refusal);
        }
        let mut answer = self.spare_buffer();
        let extensions = agreement.map(Agreement::response);
        let protocol = request.protocol(&self.settings.upgrade);
        response::switching_protocols(request.key, protocol, extensions.as_deref(), &mut answer);
        self.on_upgraded(token, route as u8, window);
        self.send(token, Frame::Own(answer));
        self.apply_effects(token);
        self.count_compression();
        Ok(())
    }

    fn on_upgraded(&mut self, token: Token, route: u8, window: Option<Window>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.state = State::Open;
        connection.route = route;
        connection.facts.note(Facts::OPENED);
        if let Some(window) = window {
            connection.facts.note_window(window);
            self.metrics.compressing.add(1);
        }
        self.half_open.left();
        let accepted_ms = u64::from(connection.accepted_tick) * limits::TICK_MS;
        let metrics = &self.metrics;
        metrics.open_since_ms.add(accepted_ms);
        metrics.handshaking.set(metrics.handshaking.get().saturating_sub(1));
        metrics.opened.add(1);
        metrics.connections.add(1);
        metrics.connections_peak.raise(metrics.connections.get());
        self.set_open_timer(token);
    }

    pub(super) fn on_frames(&mut self, token: Token, frames: Frames<'_>) {
        let bytes = match frames {
            Frames::Received(received, skip) => {
                let bytes = &mut self.ring.bytes(received)[skip..];
                self.metrics.bytes_received.add(bytes.len() as u64);
                if self.unread.has(token) {
                    self.output.hold(bytes.len());
                    return self.unread.push(token, bytes);
                }
                bytes
            }
            Frames::Kept(bytes) => bytes,
        };
        let Some(connection) = self.connections.get_mut(token) else { return };
        if bytes.is_empty() {
            return;
        }
        let is_open = connection.state == State::Open;
        connection.hear();
        // Pongs go before the messages that wait.
        let pass = connection.has_to_send();
        let mut passing = Vec::new();
        let room = limits::READ_PAUSE_BYTES.saturating_sub(connection.held_bytes());
        let rules =
            Rules { role: Role::Server, max_message_bytes: self.settings.max_message_bytes };
        let handler = &mut self.routes[usize::from(connection.route)].1;
        let effects = &mut self.effects;
        let window = connection.facts.window();
        effects.window = window;
        let unfinished = connection.partial.as_ref().map_or(0, |partial| partial.held_bytes());
        let mut pongs = Pongs::new(connection.outbound.as_ref().map_or(0, |queue| queue.pongs));
        let mut incoming = Incoming::new(bytes, &mut connection.partial, rules);
        if window.is_some() {
            incoming = incoming.inflating(&mut self.inflater);
        }
        let mut messages = 0;
        let ended = loop {
            match incoming.next() {
                Ok(None) => break Ended::No,
                Err(violation) => break Ended::Violated(violation),
                Ok(Some(Event::Close { code, .. })) => break Ended::Closed { code },
                Ok(Some(Event::Pong(_))) => {}
                // After our own Close nothing more may be sent (RFC 6455 5.5.1).
                Ok(Some(_)) if !is_open => {}
                Ok(Some(Event::Ping(payload))) => {
                    pongs.answer(payload, if pass { &mut passing } else { &mut effects.bytes });
                }
                Ok(Some(Event::Text(text))) => {
                    messages += 1;
                    handler.receive(Inbound::Text(text), effects);
                }
                Ok(Some(Event::Binary(bytes))) => {
                    messages += 1;
                    handler.receive(Inbound::Binary(bytes), effects);
                }
            }
            if effects.bytes.len() > room {
                break Ended::Paused;
            }
        };
        let rest = match ended {
            Ended::Paused => incoming.rest().to_vec(),
            Ended::No | Ended::Closed { .. } | Ended::Violated(_) => Vec::new(),
        };
        connection.messages = connection.messages.saturating_add(messages);
        self.metrics.messages_received.add(u64::from(messages));
        if window.is_some() {
            self.count_compression();
        }
        self.apply_effects(token);
        self.send_pongs(token, &pongs, passing);
        if !rest.is_empty() {
            self.keep_unread(token, &rest);
        }
        self.note_unfinished(token, unfinished);
        self.note_pings(token, pongs.pings());
        self.look_at_output();
        match ended {
            Ended::No | Ended::Paused => {}
            Ended::Closed { code } => self.on_peer_close(token, code),
            Ended::Violated(violation) => self.fail(token, violation),
        }
    }

    /// The pongs of a chunk that are not among its replies: those before messages that wait, and
    /// that for its latest ping, if that has none yet.
    fn send_pongs(&mut self, token: Token, pongs: &Pongs, passing: Vec<u8>) {
        if !passing.is_empty() {
            self.send_control(token, Frame::Own(passing));
        }
        if let Some(pong) = pongs.latest() {
            self.send_latest_pong(token, Frame::Own(pong));
        }
        let Some(connection) = self.connections.get_mut(token) else { return };
        if let Some(queue) = &mut connection.outbound {
            queue.pongs += pongs.answered();
        }
    }

    /// What was inflated and compressed for the connection that is served.
    fn count_compression(&mut self) {
        self.metrics.messages_inflated.add(std::mem::take(&mut self.inflater.messages));
        self.metrics.replies_compressed.add(std::mem::take(&mut self.effects.outgoing.compressed));
    }

    fn on_peer_close(&mut self, token: Token, code: Option<u16>) {
        self.drop_unfinished(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        match connection.state {
            State::Closing => {
                connection.facts.note(Facts::ACKNOWLEDGED);
                self.flush_and_close(token);
            }
            State::Open => {
                connection.reason = Some(CloseReason::PeerClosed);
                let mut bytes = self.spare_buffer();
                match code {
                    Some(code) => close_frame::encode(code, "", &mut bytes),
                    None => frame::encode(OpCode::Control(Control::Close), &[], &mut bytes),
                }
                self.send(token, Frame::Own(bytes));
                self.flush_and_close(token);
            }
            _ => {}
        }
    }
}
