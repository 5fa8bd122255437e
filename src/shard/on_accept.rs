//! A connection arrives: its source is known, so it is admitted or not before a byte is read;
//! unless its peer is a trusted proxy, which first has to say for whom it connects.
//!
//! Accepting stops before the table of direct descriptors is full, because the kernel would drop
//! the connection without an answer; the backlog holds it meanwhile. Those who are refused and
//! say nothing do not stop it for long: the oldest of them give up their descriptors
//! (`half_open`).

use std::net::SocketAddr;

use tracing::warn;

use super::admitting::OVERLOAD;
use super::machine::Event;
use super::on_tick::ACCEPT_PAUSE_TICKS;
use super::{Shard, unadmitted};
use crate::admission::SourceKey;
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::environment::Environment;
use crate::limits;
use crate::ring::{Accepted, Errno, Operation, Ring, Token};

/// Accepts in flight, and why there may be fewer than wanted.
#[derive(Debug)]
pub(super) struct Accepting {
    capacity: u32,
    in_flight: u32,
    /// Some have completed in this turn.
    goes_on: bool,
    paused_until: Option<u32>,
    table_full: bool,
    logged_tick: Option<u32>,
}

/// A machine that is short of something pauses and goes on many times in a second; that is
/// logged about every ten seconds, and counted each time.
const LOG_TICKS: u32 = 160;

impl Accepting {
    /// Of `files` descriptors some are left to connections that other shards hand over.
    pub(super) fn new(files: u32) -> Self {
        let capacity = files - limits::ARRIVALS.min(files / 8);
        Self {
            capacity,
            in_flight: 0,
            goes_on: false,
            paused_until: None,
            table_full: false,
            logged_tick: None,
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused_until.is_some()
    }

    /// True if a pause that begins at `tick` is to be logged.
    fn is_worth_a_line(&mut self, tick: u32) -> bool {
        let last = self.logged_tick.filter(|last| tick.wrapping_sub(*last) < LOG_TICKS);
        self.logged_tick = last.or(Some(tick));
        last.is_none()
    }
}

/// What accept answers when the trouble is the one connection and not the machine.
const PASSING: [i32; 9] = [
    libc::ECONNABORTED,
    libc::EINTR,
    libc::EPROTO,
    libc::ENETDOWN,
    libc::ENETUNREACH,
    libc::EHOSTDOWN,
    libc::EHOSTUNREACH,
    libc::EAGAIN,
    libc::EAFNOSUPPORT,
];

impl<E: Environment> Shard<E> {
    /// Keeps as many accepts in flight as there are descriptors for, up to the limit.
    pub(super) fn begin_accepting(&mut self) {
        // While many wait for the coordinator, more wait in the backlog.
        let silent = self.cx.refusing.is_silent(self.cx.clock.tick);
        let waits = self.admitting.deferred.len() >= limits::DEFERRED_PAUSE;
        if waits || self.accepting.is_paused() || silent {
            return;
        }
        let taken = self.connections.live() as u32 + self.accepting.in_flight;
        let free = self.accepting.capacity.saturating_sub(taken);
        let more_come_free = self.make_room_for_accepts(free + self.accepting.in_flight);
        let wanted = limits::ACCEPTS.saturating_sub(self.accepting.in_flight);
        for _ in 0..wanted.min(free) {
            self.accepting.in_flight += 1;
            self.ring.start(Operation::Accept);
        }
        let full = self.accepting.in_flight == 0 && !more_come_free;
        if full && !self.accepting.table_full {
            self.cx.metrics.accept_paused.add(1);
            if self.accepting.is_worth_a_line(self.cx.clock.tick) {
                warn!(
                    shard = self.index,
                    descriptors = self.accepting.capacity,
                    "accepting paused: every direct descriptor is in use; raise RLIMIT_NOFILE or \
                     server.shards"
                );
            }
        }
        self.accepting.table_full = full;
    }

    pub(super) fn on_accept(&mut self, result: Result<Accepted, Errno>) {
        self.accepting.in_flight -= 1;
        match result {
            Ok(accepted) => {
                self.cx.clock.accepts_late = accepted.more_wait;
                self.take_in(accepted);
            }
            Err(Errno(code)) if PASSING.contains(&code) => {}
            // The listener was shut down.
            Err(Errno(libc::EINVAL | libc::EBADF | libc::ECANCELED)) => return,
            Err(errno) => self.pause_accepting(errno),
        }
        self.accepting.goes_on = true;
    }

    /// As many accepts as have completed in this turn, one behind the other: the kernel is faster
    /// with operations of one kind in a row.
    pub(super) fn go_on_accepting(&mut self) {
        if std::mem::take(&mut self.accepting.goes_on) {
            self.begin_accepting();
        }
    }

    /// The kernel is short of something; trying again at once would only burn the core.
    fn pause_accepting(&mut self, errno: Errno) {
        if !self.accepting.is_paused() {
            self.cx.metrics.accept_paused.add(1);
            if self.accepting.is_worth_a_line(self.cx.clock.tick) {
                warn!(
                    shard = self.index,
                    error = %errno,
                    "accepting paused; the backlog holds new connections"
                );
            }
        }
        self.accepting.paused_until = Some(self.cx.clock.tick.wrapping_add(ACCEPT_PAUSE_TICKS));
    }

    /// Tries again when the pause is over, or when a connection has ended.
    pub(super) fn resume_accepting(&mut self, a_slot_came_free: bool) {
        if let Some(until) = self.accepting.paused_until {
            if !a_slot_came_free
                && !crate::connection::deadline::is_reached(until, self.cx.clock.tick)
            {
                return;
            }
            self.accepting.paused_until = None;
        }
        self.begin_accepting();
    }

    fn take_in(&mut self, accepted: Accepted) {
        self.cx.metrics.accepted.add(1);
        let peer = accepted.address;
        let source = self.cx.settings.prefixes.key(peer.ip());
        let tick = self.cx.clock.tick;
        let (id, connection) = self.connections.begin(accepted.slot, State::Awaiting);
        connection.source = source;
        connection.port = peer.port();
        (connection.accepted_tick, connection.heard_tick) = (tick, tick);
        self.begin_half_open(id);
        if self.cx.shutdown.phase.accepts() && self.cx.settings.trusted_proxies.contains(peer.ip())
        {
            return self.begin_proxied(id, source, peer);
        }
        self.admit(id, source);
    }

    /// The peer is a trusted proxy, which has to say first for whom it connects.
    fn begin_proxied(&mut self, id: Token, source: SourceKey, peer: SocketAddr) {
        let waiting = self.cx.handshakes.unadmitted.len();
        let others = self.connections.live() - 1;
        let files = self.ring.file_capacity() as usize;
        if !unadmitted::has_room(waiting, others, self.seats() as usize, files) {
            return self.give_verdict(id, source, OVERLOAD);
        }
        let to = self.lighter_shard();
        self.with_connection(id, Event::Proxied { peer, to });
    }

    /// A connection is here and not upgraded: it has its handshake's deadline, and the oldest such
    /// goes if there are too many.
    pub(super) fn begin_half_open(&mut self, id: Token) {
        self.cx.metrics.handshaking.add(1);
        let deadline = self.cx.clock.tick.wrapping_add(self.cx.settings.deadlines.handshake);
        self.timing.timers.set(&mut self.connections, id.slot, deadline);
        if let Some(oldest) = self.cx.handshakes.half_open.begin(id, &self.connections) {
            self.with_connection(oldest, Event::Evict(CloseReason::HandshakeEvicted));
        }
    }

    /// Ends the oldest refused connections if `free` descriptors are too few to go on accepting.
    /// Those that are ending give theirs back in a moment, and count as free. Returns whether
    /// there are such.
    fn make_room_for_accepts(&mut self, free: u32) -> bool {
        let unopened = self.cx.metrics.handshaking.get();
        let ending = unopened.saturating_sub(self.cx.handshakes.half_open.live() as u64);
        let short = u64::from(limits::ACCEPTS_KEPT).saturating_sub(u64::from(free) + ending);
        for _ in 0..short {
            let half_open = &mut self.cx.handshakes.half_open;
            let oldest = half_open.pop_refused(&self.connections, self.cx.clock.tick);
            let Some(oldest) = oldest else { break };
            self.with_connection(oldest, Event::Evict(CloseReason::HandshakeEvicted));
        }
        self.cx.metrics.handshaking.get() > self.cx.handshakes.half_open.live() as u64
    }
}
