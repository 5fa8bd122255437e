//! May this source connect? The owner of the source knows; it may be this shard or another, and
//! it may have to ask the coordinator for more of the global budgets first. Until the answer is
//! there a connection waits, and nothing is read from it.
//!
//! Invariant: a connection that is admitted is booked with the owner of its source, until the
//! owner has been told that it ended, whichever shard holds it and whatever becomes of it.

use std::collections::VecDeque;

use tracing::{debug, warn};

use super::Shard;
use super::on_receive::Listen;
use crate::admission::{RefusalReason, Room, SourceKey, Verdict};
use crate::connection::{Facts, InFlight, State};
use crate::coordinator::command::Command;
use crate::environment::Environment;
use crate::limits;
use crate::mesh::message::ShardMessage;
use crate::ring::{Operation, Ring, Token};

/// Attempts whose source belongs to this shard, and which wait for the coordinator.
pub(super) type Deferred = VecDeque<(Asker, SourceKey)>;

/// Who waits for a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    /// A connection of this shard.
    Here(Token),
    /// A connection of another.
    There { shard: usize, token: Token },
}

pub(super) const DRAINING: Verdict =
    Verdict::Refused { reason: RefusalReason::Draining, retry_after_ms: limits::RETRY_AFTER_MS };

const OVERLOAD: Verdict =
    Verdict::Refused { reason: RefusalReason::Overload, retry_after_ms: limits::RETRY_AFTER_MS };

impl<E: Environment> Shard<E> {
    /// Asks whether a connection of `source` is admitted. [`Verdict::Deferred`] means that the
    /// answer comes later, to [`Self::on_verdict`].
    pub(super) fn ask_admission(&mut self, token: Token, source: SourceKey) -> Verdict {
        if !self.phase.accepts() {
            return DRAINING;
        }
        let owner = self.owners.of(source);
        if owner == self.index {
            return self.judge(Asker::Here(token), source);
        }
        if self.abroad.is_dead(owner) {
            return OVERLOAD;
        }
        self.metrics.owner_asked.add(1);
        self.outbox.post(owner, ShardMessage::Ask { from: self.index, token, source });
        Verdict::Deferred
    }

    /// Another shard asks about a source that belongs to this one.
    pub(super) fn on_ask(&mut self, from: usize, token: Token, source: SourceKey) {
        match self.judge(Asker::There { shard: from, token }, source) {
            Verdict::Deferred => {}
            verdict => self.answer(from, token, source, verdict),
        }
    }

    fn judge(&mut self, asker: Asker, source: SourceKey) -> Verdict {
        if !self.phase.accepts() {
            return DRAINING;
        }
        let verdict = self.admission.admit(source, self.now.ns());
        if verdict == Verdict::Deferred {
            if self.deferred.len() >= limits::DEFERRED {
                return OVERLOAD;
            }
            self.metrics.admission_deferred.add(1);
            self.deferred.push_back((asker, source));
        }
        verdict
    }

    fn answer(&mut self, shard: usize, token: Token, source: SourceKey, verdict: Verdict) {
        if verdict == Verdict::Admitted && !self.abroad.lend(shard) {
            return self.admission.released(source, self.now.ns());
        }
        self.outbox.post(shard, ShardMessage::Verdict { token, source, verdict });
    }

    /// The owner of `source` has answered a question of this shard.
    pub(super) fn on_owner_verdict(&mut self, token: Token, source: SourceKey, verdict: Verdict) {
        if verdict == Verdict::Admitted {
            self.abroad.welcome(self.owners.of(source));
        }
        if self.is_awaiting(token) {
            self.on_verdict(token, verdict);
        } else if verdict == Verdict::Admitted {
            self.release(source); // it did not wait
        }
    }

    /// Whether a connection that waits is admitted is known now.
    pub(super) fn on_verdict(&mut self, token: Token, verdict: Verdict) {
        match verdict {
            Verdict::Deferred => {}
            Verdict::Admitted => {
                self.note_admitted(token);
                if let Some(kept) = self.heads.take(token.slot) {
                    self.on_kept_head(token, kept);
                } else if !self.place(token) {
                    self.listen_for_request(token);
                }
            }
            Verdict::Refused { reason, retry_after_ms } => {
                self.note_refused(token, reason);
                let Some(kept) = self.heads.take(token.slot) else {
                    return self.turn_away_unread(token, reason, retry_after_ms);
                };
                self.heads.forget(token.slot);
                self.turn_away(token, reason, retry_after_ms, &kept);
                self.listen_again(token, Listen::Idle);
            }
        }
    }

    /// The request follows at once, or is there: a receive costs one operation, a watch would cost
    /// three.
    pub(super) fn listen_for_request(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.begin(InFlight::RECEIVE);
        let wait = !self.accepting.is_behind();
        self.ring.start(Operation::Receive { token, wait });
    }

    pub(super) fn note_admitted(&mut self, token: Token) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.state = State::Handshake;
            connection.facts.note(Facts::ADMITTED);
        }
    }

    pub(super) fn note_refused(&mut self, token: Token, reason: RefusalReason) {
        self.metrics.admission_refused[reason.index()].add(1);
        let Some(connection) = self.connections.get_mut(token) else { return };
        self.refusing.most_refused.count(connection.source, reason, self.now.ns());
        debug!(
            slot = token.slot,
            source = %connection.source,
            port = connection.port,
            provenance = connection.facts.provenance().label(),
            reason = reason.label(),
            "connection refused"
        );
    }

    fn is_awaiting(&mut self, token: Token) -> bool {
        self.connections.get_mut(token).is_some_and(|c| c.state == State::Awaiting)
    }

    /// A connection that was booked has ended.
    pub(super) fn release(&mut self, source: SourceKey) {
        let owner = self.owners.of(source);
        if owner == self.index {
            self.admission.released(source, self.now.ns());
        } else if self.abroad.farewell(owner) {
            self.outbox.ended(owner, source);
        }
    }

    /// Connections that are booked here have ended on another shard.
    pub(super) fn on_ended(&mut self, from: usize, sources: &[SourceKey]) {
        for source in sources {
            if self.abroad.ended(from) {
                self.admission.released(*source, self.now.ns());
            }
        }
    }

    /// Another shard has died: its connections are closed, and its sources have no owner.
    pub(super) fn on_death(&mut self, shard: usize) {
        let lost = self.abroad.on_death(shard);
        self.admission.leases_mut().release(lost);
        warn!(shard = self.index, dead = shard, lost, "a shard has died; its places are free");
        for slot in 0..self.connections.end() {
            let Some(token) = self.connections.token(slot) else { continue };
            if !self.is_awaiting(token) {
                continue;
            }
            let source = self.connections.get_mut(token).map(|connection| connection.source);
            if source.is_some_and(|source| self.owners.of(source) == shard) {
                self.on_verdict(token, OVERLOAD);
            }
        }
        self.forget_arrivals(shard);
    }

    /// Judges those who wait once more if there is something to judge by, and tells the
    /// coordinator what this shard needs or can spare.
    pub(super) fn go_on_admitting(&mut self) {
        let paused = self.deferred.len() >= limits::DEFERRED_PAUSE;
        for _ in 0..self.deferred.len() {
            let knows = self.admission.leases().room(self.now.ns()) != Room::Unknown;
            if !knows && self.phase.accepts() {
                break;
            }
            let Some((asker, source)) = self.deferred.pop_front() else { break };
            self.judge_again(asker, source);
        }
        if paused {
            self.begin_accepting();
        }
        self.talk_about_budget(false);
        self.outbox.go_on();
    }

    fn judge_again(&mut self, asker: Asker, source: SourceKey) {
        match asker {
            Asker::Here(token) if self.is_awaiting(token) => {
                let verdict = self.judge(asker, source);
                self.on_verdict(token, verdict);
            }
            Asker::Here(_) => {}
            Asker::There { shard, token } => self.on_ask(shard, token, source),
        }
    }

    /// At a tick it is also said what has been spent.
    pub(super) fn talk_about_budget(&mut self, tick: bool) {
        let deferred = self.deferred.len() as u32;
        let leases = self.admission.leases_mut();
        // What the coordinator has no room for is said in the next turn.
        if let Some(say) = leases.to_say(deferred, tick, self.now.ns())
            && self.commands.try_send(Command::Budget { shard: self.index, say }).is_ok()
        {
            leases.said(&say);
        }
        if let Some((dead, left)) = self.abroad.to_say() {
            let orphans = Command::Orphans { shard: self.index, dead, left };
            if self.commands.try_send(orphans).is_ok() {
                self.abroad.said(dead);
            }
        }
        let leases = self.admission.leases();
        self.metrics.admitted.set(leases.used().into());
        self.metrics.slots_granted.set(leases.granted().into());
        self.metrics.tokens_held.set(leases.tokens().into());
        self.metrics.slots_reclaimed.set(leases.reclaimed());
    }
}
