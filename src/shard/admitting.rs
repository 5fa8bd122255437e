//! May this source connect? The owner of the source knows; it may be this shard or another, and
//! it may have to ask the coordinator for more of the global budgets first. Until the answer is
//! there a connection waits, and nothing is read from it.
//!
//! Invariant: a connection that is admitted is booked with the owner of its source, until the
//! owner has been told that it ended, whichever shard holds it and whatever becomes of it.

use std::collections::VecDeque;

use tracing::warn;

use super::Shard;
use super::machine::{Event, Reply};
use crate::admission::{Abroad, Admission, Owners, RefusalReason, Room, SourceKey, Verdict};
use crate::connection::State;
use crate::coordinator::command::Command;
use crate::environment::Environment;
use crate::limits;
use crate::mesh::message::ShardMessage;
use crate::ring::Token;

/// What this shard knows of who may come in: of the sources whose owner it is, and of the owners of
/// others.
pub(super) struct Admitting {
    pub(super) admission: Admission,
    pub(super) owners: Owners,
    pub(super) abroad: Abroad,
    /// Attempts whose source belongs to this shard, and which wait for the coordinator.
    pub(super) deferred: VecDeque<(Asker, SourceKey)>,
}

impl Admitting {
    pub(super) fn new(admission: Admission, owners: Owners, shards: usize) -> Self {
        Self { admission, owners, abroad: Abroad::new(shards), deferred: VecDeque::new() }
    }
}

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

pub(super) const OVERLOAD: Verdict =
    Verdict::Refused { reason: RefusalReason::Overload, retry_after_ms: limits::RETRY_AFTER_MS };

impl<E: Environment> Shard<E> {
    /// Asks whether a connection of `source` is admitted. [`Verdict::Deferred`] means that the
    /// answer comes later, to [`Self::give_verdict`].
    pub(super) fn ask_admission(&mut self, token: Token, source: SourceKey) -> Verdict {
        if !self.cx.shutdown.phase.accepts() {
            return DRAINING;
        }
        let owner = self.admitting.owners.of(source);
        if owner == self.index {
            return self.judge(Asker::Here(token), source);
        }
        if self.admitting.abroad.is_dead(owner) {
            return OVERLOAD;
        }
        self.cx.metrics.owner_asked.add(1);
        self.mesh.outbox.post(owner, ShardMessage::Ask { from: self.index, token, source });
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
        if !self.cx.shutdown.phase.accepts() {
            return DRAINING;
        }
        let verdict = self.admitting.admission.admit(source, self.cx.clock.now.ns());
        if verdict == Verdict::Deferred {
            if self.admitting.deferred.len() >= limits::DEFERRED {
                return OVERLOAD;
            }
            self.cx.metrics.admission_deferred.add(1);
            self.admitting.deferred.push_back((asker, source));
        }
        verdict
    }

    fn answer(&mut self, shard: usize, token: Token, source: SourceKey, verdict: Verdict) {
        if verdict == Verdict::Admitted && !self.admitting.abroad.lend(shard) {
            return self.admitting.admission.released(source, self.cx.clock.now.ns());
        }
        self.mesh.outbox.post(shard, ShardMessage::Verdict { token, source, verdict });
    }

    /// The owner of `source` has answered a question of this shard.
    pub(super) fn on_owner_verdict(&mut self, token: Token, source: SourceKey, verdict: Verdict) {
        if verdict == Verdict::Admitted {
            self.admitting.abroad.welcome(self.admitting.owners.of(source));
        }
        self.give_verdict(token, source, verdict);
    }

    /// Asks whether a connection of `source` is admitted, and tells it.
    pub(super) fn admit(&mut self, id: Token, source: SourceKey) {
        let verdict = self.ask_admission(id, source);
        self.give_verdict(id, source, verdict);
    }

    /// Whether a connection that waits is admitted is known now. What it does not need any more
    /// goes back.
    pub(super) fn give_verdict(&mut self, id: Token, source: SourceKey, verdict: Verdict) {
        let is_admitted = verdict == Verdict::Admitted;
        // Only the owner of its source can say where else it is.
        let may_go = is_admitted && self.admitting.owners.of(source) == self.index;
        let to = if may_go { self.lighter_shard() } else { None };
        let reply = self.with_connection(id, Event::Verdict { verdict, to });
        if is_admitted && matches!(reply, Reply::Gone | Reply::Passed) {
            self.release(source);
        }
    }

    fn is_awaiting(&mut self, token: Token) -> bool {
        self.connections.get_mut(token).is_some_and(|c| c.state == State::Awaiting)
    }

    /// A connection that was booked has ended.
    pub(super) fn release(&mut self, source: SourceKey) {
        let owner = self.admitting.owners.of(source);
        if owner == self.index {
            self.admitting.admission.released(source, self.cx.clock.now.ns());
        } else if self.admitting.abroad.farewell(owner) {
            self.mesh.outbox.ended(owner, source);
        }
    }

    /// Connections that are booked here have ended on another shard.
    pub(super) fn on_ended(&mut self, from: usize, sources: &[SourceKey]) {
        for source in sources {
            if self.admitting.abroad.ended(from) {
                self.admitting.admission.released(*source, self.cx.clock.now.ns());
            }
        }
    }

    /// Another shard has died: its connections are closed, and its sources have no owner.
    pub(super) fn on_death(&mut self, shard: usize) {
        let lost = self.admitting.abroad.on_death(shard);
        self.admitting.admission.leases_mut().release(lost);
        warn!(shard = self.index, dead = shard, lost, "a shard has died; its places are free");
        for (id, source) in self.awaiting_of(shard) {
            self.give_verdict(id, source, OVERLOAD);
        }
        self.forget_arrivals(shard);
    }

    /// Connections that wait for a verdict of an owner.
    fn awaiting_of(&self, owner: usize) -> Vec<(Token, SourceKey)> {
        let slots = 0..self.connections.end();
        let awaiting = slots.filter_map(|slot| {
            let connection = self.connections.slot(slot)?;
            let is_awaiting = connection.state == State::Awaiting;
            is_awaiting.then_some((self.connections.token(slot)?, connection.source))
        });
        awaiting.filter(|(_, source)| self.admitting.owners.of(*source) == owner).collect()
    }

    /// Judges those who wait once more if there is something to judge by, and tells the
    /// coordinator what this shard needs or can spare.
    pub(super) fn go_on_admitting(&mut self) {
        let paused = self.admitting.deferred.len() >= limits::DEFERRED_PAUSE;
        for _ in 0..self.admitting.deferred.len() {
            let knows =
                self.admitting.admission.leases().room(self.cx.clock.now.ns()) != Room::Unknown;
            if !knows && self.cx.shutdown.phase.accepts() {
                break;
            }
            let Some((asker, source)) = self.admitting.deferred.pop_front() else { break };
            self.judge_again(asker, source);
        }
        if paused {
            self.begin_accepting();
        }
        self.talk_about_budget(false);
        self.mesh.outbox.go_on();
    }

    fn judge_again(&mut self, asker: Asker, source: SourceKey) {
        match asker {
            Asker::Here(token) if self.is_awaiting(token) => {
                let verdict = self.judge(asker, source);
                self.give_verdict(token, source, verdict);
            }
            Asker::Here(_) => {}
            Asker::There { shard, token } => self.on_ask(shard, token, source),
        }
    }

    /// At a tick it is also said what has been spent.
    pub(super) fn talk_about_budget(&mut self, tick: bool) {
        let deferred = self.admitting.deferred.len() as u32;
        let leases = self.admitting.admission.leases_mut();
        // What the coordinator has no room for is said in the next turn.
        if let Some(say) = leases.to_say(deferred, tick, self.cx.clock.now.ns())
            && self.mesh.commands.try_send(Command::Budget { shard: self.index, say }).is_ok()
        {
            leases.said(&say);
        }
        if let Some((dead, left)) = self.admitting.abroad.to_say() {
            let orphans = Command::Orphans { shard: self.index, dead, left };
            if self.mesh.commands.try_send(orphans).is_ok() {
                self.admitting.abroad.said(dead);
            }
        }
        let leases = self.admitting.admission.leases();
        self.cx.metrics.admitted.set(leases.used().into());
        self.cx.metrics.slots_granted.set(leases.granted().into());
        self.cx.metrics.tokens_held.set(leases.tokens().into());
        self.cx.metrics.slots_reclaimed.set(leases.reclaimed());
    }
}
