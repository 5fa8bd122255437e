//! A connection is let in or not, and goes to a lighter shard before a byte of it has been read.

use std::net::SocketAddr;

use tracing::debug;

use super::Machine;
use super::Reply;
use super::context::{Action, Timer};
use super::receive::Listen;
use crate::admission::{RefusalReason, Verdict};
use crate::client_address::Provenance;
use crate::connection::{Facts, State};
use crate::limits::{self, TICK_MS};
use crate::mesh::message::Handed;
use crate::ring::Errno;

impl Machine<'_> {
    /// Whether the connection is admitted is known.
    pub(super) fn on_verdict(&mut self, verdict: Verdict, to: Option<usize>) -> Reply {
        if self.connection.state != State::Awaiting {
            return Reply::Passed;
        }
        match verdict {
            Verdict::Deferred => return Reply::Later,
            Verdict::Refused { reason, retry_after_ms } => {
                self.refuse_attempt(reason, retry_after_ms);
            }
            Verdict::Admitted => {
                self.be_admitted();
                let read = self.cx.handshakes.heads.take(self.id.slot);
                // What a proxy has said of it is not among what travels with it.
                let to = to.filter(|_| self.connection.facts.provenance() == Provenance::Peer);
                match (read, to) {
                    (Some(read), _) => self.on_kept_head(read),
                    (None, Some(to)) => self.leave(to),
                    (None, None) => self.listen = Listen::Request,
                }
            }
        }
        Reply::Done
    }

    fn be_admitted(&mut self) {
        self.connection.state = State::Handshake;
        self.connection.facts.note(Facts::ADMITTED);
    }

    /// Counts the attempt, and tells the connection as far as it may be told.
    fn refuse_attempt(&mut self, reason: RefusalReason, retry_after_ms: u64) {
        let read = self.cx.handshakes.heads.take(self.id.slot);
        self.cx.handshakes.heads.forget(self.id.slot);
        if read.is_none() {
            self.listen = Listen::Request;
        }
        self.note_refused(reason);
        self.turn_away(reason, retry_after_ms, read.unwrap_or_default());
    }

    /// Its descriptor goes to another shard.
    pub(super) fn leave(&mut self, to: usize) {
        debug_assert!(self.connection.in_flight.is_empty());
        self.connection.state = State::Leaving;
        self.cx.next.timer = Timer::Clear;
        self.cx.next.send_to = Some(to);
    }

    /// The other shard has the descriptor, or has no room for it.
    pub(super) fn on_sent_to(&mut self, to: usize, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.cx.metrics.placements_failed.add(1);
            debug!(slot = self.id.slot, to, error = %errno, "the other shard has no room");
            return self.stay();
        }
        let admitted = self.connection.facts.has(Facts::ADMITTED);
        let waited = self.cx.clock.tick.wrapping_sub(self.connection.accepted_tick);
        let papers = Handed {
            from: self.cx.sessions.shard(),
            token: self.id,
            source: self.connection.source,
            port: self.connection.port,
            proxy: self.cx.handshakes.unadmitted.remove(&self.id.slot).map(|waiting| waiting.peer),
            age_ms: u64::from(waited) * TICK_MS,
        };
        self.connection.facts.forget(Facts::ADMITTED);
        self.connection.facts.note(Facts::MOVED);
        self.connection.state = State::Ending;
        self.cx.handshakes.half_open.left();
        let handshaking = &self.cx.metrics.handshaking;
        handshaking.set(handshaking.get().saturating_sub(1));
        self.cx.metrics.placed.add(1);
        self.cx.actions.push((self.id, Action::Transfer { to, papers, admitted }));
    }

    /// The connection stays here after all.
    fn stay(&mut self) {
        let proxied = self.cx.handshakes.unadmitted.contains_key(&self.id.slot);
        self.connection.state = if proxied { State::Unadmitted } else { State::Handshake };
        self.set_timer_in(self.cx.settings.deadlines.handshake);
        self.begin_request();
    }

    /// A connection that may have been on its way while the server began to refuse.
    fn begin_request(&mut self) {
        self.listen = Listen::Request;
        if !self.cx.shutdown.phase.accepts() {
            self.cx.handshakes.unadmitted.remove(&self.id.slot);
            self.refuse_attempt(RefusalReason::Draining, limits::RETRY_AFTER_MS);
        }
    }

    /// What belongs to a descriptor that came from another shard.
    pub(super) fn on_arrived(&mut self, papers: &Handed) -> Reply {
        if self.connection.state != State::Arriving {
            return Reply::Passed;
        }
        let age = (papers.age_ms / TICK_MS) as u32;
        self.connection.accepted_tick = self.connection.accepted_tick.wrapping_sub(age);
        self.connection.source = papers.source;
        self.connection.port = papers.port;
        match papers.proxy {
            Some(peer) => self.begin_unadmitted(peer),
            None => self.be_admitted(),
        }
        self.begin_request();
        Reply::Done
    }

    /// The peer is a trusted proxy, which has to say for whom it connects.
    pub(super) fn on_proxied(&mut self, peer: SocketAddr, to: Option<usize>) {
        self.begin_unadmitted(peer);
        match to {
            Some(to) => self.leave(to),
            None => self.listen = Listen::Request,
        }
    }
}
