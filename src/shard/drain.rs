//! A shard lets its connections go: notice, then bye and Close at its share of the pace, then
//! the cut. The coordinator sets pace and deadline and collects; it sees no connection. What
//! clients hear is in `farewell`, how many may go by when in `outflow`, and what becomes of them
//! when the drain is cancelled in `staying`.
//!
//! Invariant: every connection that was admitted when the shard began to refuse is marked, and
//! its end is counted as exactly one outcome.

use std::sync::Arc;
use std::time::Duration;

use super::Shard;
use super::machine::context::DrainTerms;
use super::machine::{Event, Notice, Reply};
use super::outflow::Outflow;
use super::staying::Staying;
use crate::clock::Now;
use crate::close_reason::DrainOutcome;
use crate::connection::deadline::Deadlines;
use crate::connection::{Connection, Facts, State};
use crate::coordinator::command::Command;
use crate::coordinator::phase::Phase;
use crate::environment::Environment;
use crate::limits;
use crate::mesh::message::{DrainOrder, PhaseOrder};
use crate::ring::{FileSlot, Ring, Token};
use crate::tables::Queue;

/// While connections leave at a pace the shard comes round at least this often.
pub(super) const PACE_INTERVAL: Duration = Duration::from_millis(5);

/// When the listener lets nobody begin any more: the time that connections which have begun get
/// to complete. How long they may take to be answered is in the order.
const LAST_ARRIVALS_MS: u64 = 50;

/// The last part of a drain: since when, the next slot to say goodbye to at once, and the next to
/// cut.
#[derive(Clone, Copy, Debug)]
struct Forcing {
    since: Now,
    goodbye_next: FileSlot,
    cut_next: FileSlot,
}

/// The drain of this shard.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) order: Arc<DrainOrder>,
    /// Connections there were, and how many of them have not ended.
    total: u64,
    left: u64,
    reported: bool,
    /// The visits of the last turn were used up before there was nothing more to do.
    has_work: bool,
    /// Notices: the next slot to look at, and how many have been sent.
    notice_next: FileSlot,
    noticed: u64,
    /// Closing: whether it has begun, how many may go, the next slot to look at, how many were
    /// told to go.
    closing: bool,
    outflow: Outflow,
    close_next: FileSlot,
    told: u64,
    /// Connections in the middle of a message at their turn.
    in_message: Queue<Token>,
    forcing: Option<Forcing>,
    /// Stopping: since when.
    stopping_since: Option<Now>,
    end: FileSlot,
}

/// The drain that is under way, and the way through the connections of one that was cancelled.
#[derive(Debug, Default)]
pub(super) struct Draining {
    pub(super) drain: Option<Drain>,
    pub(super) cancelled: Option<Staying>,
}

impl Drain {
    /// True while there is something to do that does not wait for time or clients.
    pub(super) fn has_work(&self) -> bool {
        self.has_work
    }

    /// True while connections leave at a pace, or the end is near.
    pub(super) fn is_pacing(&self) -> bool {
        self.closing || self.forcing.is_some() || self.stopping_since.is_some()
    }

    /// Connections in slots before this one have been sent a notice.
    pub(super) fn noticed_before(&self) -> FileSlot {
        if self.order.notice_round > 0 { self.end } else { self.notice_next }
    }

    /// The slot after the last that the drain looks at.
    pub(super) fn end(&self) -> FileSlot {
        self.end
    }

    /// Another order of the same drain.
    fn obey(&mut self, order: Arc<DrainOrder>) {
        if order.notice_round != self.order.notice_round {
            (self.notice_next, self.noticed) = (0, 0);
        }
        self.order = order;
    }

    fn begin_forcing(&mut self, now: Now) {
        self.forcing.get_or_insert(Forcing { since: now, goodbye_next: 0, cut_next: 0 });
    }

    /// What its connections have to know of it.
    fn terms(&self) -> DrainTerms {
        let forcing_at_ms = if self.forcing.is_some() { 0 } else { self.order.forcing_at_ms };
        DrainTerms { close_patience: Deadlines::ticks(self.order.close_timeout_ms), forcing_at_ms }
    }

    /// What the next connection is told.
    fn notice(&self) -> Notice<'_> {
        Notice {
            reason: &self.order.reason,
            reconnect_after_ms: self.next_slot_ms(),
            reconnect_to: self.order.reconnect_to.as_deref(),
        }
    }

    /// How many of this shard's connections may have been told to go by now.
    fn allowance(&self, now: Now) -> u64 {
        self.outflow.due(now, self.total, self.order.connections)
    }

    /// When the next client that is noticed should come back, in milliseconds after it was
    /// closed: the slots of all shards together make a flat line.
    pub(super) fn next_slot_ms(&self) -> u64 {
        // Of all that are left to leave, this shard has its share.
        let all = u128::from(self.order.connections.max(self.total));
        let ahead = all * u128::from(self.noticed) / u128::from(self.total.max(1));
        let offset_ms = ahead * u128::from(self.order.slot_spacing_ns) / 1_000_000;
        self.order.first_slot_ms + u64::try_from(offset_ms).unwrap_or(u64::MAX)
    }
}

/// Marks a connection that is there when the drain begins; false if it is none of the drain's.
fn mark(connection: &mut Connection) -> bool {
    let is_counted = match connection.state {
        State::Handshake
        | State::Open
        | State::Closing
        | State::Flushing
        | State::Lingering
        | State::Ending => connection.facts.has(Facts::ADMITTED),
        State::Vacant
        | State::Unadmitted
        | State::Awaiting
        | State::TurnedAway
        | State::Leaving
        | State::Arriving => false,
    };
    if is_counted {
        connection.facts.note(Facts::DRAINED);
    }
    is_counted
}

impl<E: Environment> Shard<E> {
    /// The server has entered a phase.
    pub(super) fn enter(&mut self, order: PhaseOrder) {
        if order.epoch <= self.cx.metrics.epoch.get() {
            return self.acknowledge(order.epoch); // sent again: the answer was lost
        }
        self.cx.shutdown.phase = order.phase;
        self.take_drain_order(&order);
        // Read anew: time that this turn has taken so far is not the clients'.
        let now = self.environment.now();
        if let Some(drain) = &mut self.draining.drain {
            match order.phase {
                Phase::Draining => {
                    drain.closing = true;
                    let (rate, ramp_ms) = (drain.order.connections_per_second, drain.order.ramp_ms);
                    drain.outflow.set(rate, ramp_ms, now);
                }
                Phase::Forcing => drain.begin_forcing(now),
                Phase::Flushing | Phase::Stopped => {
                    drain.stopping_since = Some(now);
                    self.ring.let_nobody_begin();
                }
                Phase::Starting | Phase::Running | Phase::Notice | Phase::Refusing => {}
            }
        }
        self.cx.shutdown.terms = self.draining.drain.as_ref().map(Drain::terms);
        self.cx.metrics.epoch.set(order.epoch);
        self.acknowledge(order.epoch);
    }

    /// Begins a drain, changes the one that is under way, or ends it because it was cancelled.
    fn take_drain_order(&mut self, order: &PhaseOrder) {
        let of_now = self.draining.drain.as_ref().map(|drain| drain.order.number);
        let wanted = order.drain.as_ref().map(|order| order.number);
        // The order that took back the last drain may have been replaced by that of the next.
        let is_another = wanted.is_some() && of_now != wanted;
        if (order.phase.accepts() || is_another)
            && let Some(cancelled) = self.draining.drain.take()
        {
            self.begin_staying(&cancelled);
        }
        if order.phase.accepts() {
            return;
        }
        match (&mut self.draining.drain, &order.drain) {
            (None, drain) => self.begin_drain(drain.clone().unwrap_or_default()),
            (Some(drain), Some(order)) => drain.obey(Arc::clone(order)),
            (Some(_), None) => {}
        }
    }

    fn acknowledge(&self, epoch: u64) {
        // If the coordinator's inbox is full it asks again.
        let _ =
            self.mesh.commands.try_send(Command::ShardAcknowledged { shard: self.index, epoch });
    }

    /// Marks who is there, and refuses those who are still in their handshake.
    fn begin_drain(&mut self, order: Arc<DrainOrder>) {
        self.settle_cancelled();
        self.cx.shutdown.log.renew();
        let mut total = 0;
        for slot in 0..self.connections.end() {
            let Some(id) = self.connections.token(slot) else { continue };
            total += u64::from(self.connections.slot_mut(slot).is_some_and(mark));
            let is_open = |connection: &Connection| connection.state == State::Open;
            if !self.connections.slot(slot).is_some_and(is_open) {
                self.with_connection(id, Event::RefusingBegins);
            }
        }
        self.cx.metrics.drain_started_with.set(total);
        self.cx.metrics.drain_noticed.set(0);
        self.cx.metrics.drain_all_noticed.set(0);
        self.draining.drain = Some(Drain {
            order,
            total,
            left: total,
            reported: false,
            has_work: false,
            notice_next: 0,
            noticed: 0,
            closing: false,
            outflow: Outflow::default(),
            close_next: 0,
            told: 0,
            in_message: Queue::default(),
            forcing: None,
            stopping_since: None,
            end: self.connections.end(),
        });
    }

    pub(super) fn on_drained(&mut self, outcome: DrainOutcome) {
        self.cx.metrics.drain_outcomes[outcome.index()].add(1);
        if let Some(drain) = &mut self.draining.drain {
            drain.left = drain.left.saturating_sub(1);
        }
    }

    pub(super) fn go_on_draining(&mut self) {
        let Some(mut drain) = self.draining.drain.take() else { return };
        let more_to_end = match drain.forcing {
            None => self.close_at_pace(&mut drain),
            Some(mut forcing) => {
                let has_more = self.force(&mut drain, &mut forcing);
                drain.forcing = Some(forcing);
                has_more
            }
        };
        // Whose turn it is already hears everything at once.
        drain.has_work = more_to_end || self.send_notices(&mut drain);
        if drain.left == 0 && !drain.reported {
            let epoch = self.cx.metrics.epoch.get();
            let drained = Command::ShardDrained { shard: self.index, epoch };
            drain.reported = self.mesh.commands.try_send(drained).is_ok();
        }
        self.draining.drain = Some(drain);
    }

    /// True if there are more to send at once.
    fn send_notices(&mut self, drain: &mut Drain) -> bool {
        for _ in 0..limits::VISITS_PER_TURN {
            if drain.notice_next >= drain.end {
                self.cx.metrics.drain_all_noticed.set(1);
                return false;
            }
            let id = self.connections.token(drain.notice_next);
            drain.notice_next += 1;
            if let Some(id) = id
                && self.with_connection(id, Event::Notice(drain.notice())) == Reply::Done
            {
                self.note_noticed(drain);
            }
        }
        true
    }

    fn note_noticed(&mut self, drain: &mut Drain) {
        drain.noticed += 1;
        self.cx.metrics.drain_noticed.add(1);
    }

    /// True if more may be closed at once.
    fn close_at_pace(&mut self, drain: &mut Drain) -> bool {
        let allowed = drain.allowance(self.cx.clock.now);
        let patient = self.cx.clock.now.ms() < drain.order.patience_until_ms;
        for _ in 0..drain.in_message.len().min(limits::VISITS_PER_TURN) {
            let Some(id) = drain.in_message.pop_front() else { break };
            if self.say_goodbye(id, drain, patient) == Reply::Later {
                drain.in_message.push_back(id);
            }
        }
        for _ in 0..limits::VISITS_PER_TURN {
            if drain.close_next >= drain.end || drain.told >= allowed {
                return !patient && !drain.in_message.is_empty();
            }
            let id = self.connections.token(drain.close_next);
            drain.close_next += 1;
            let Some(id) = id else { continue };
            match self.say_goodbye(id, drain, patient) {
                Reply::Done => drain.told += 1,
                Reply::Later => {
                    drain.told += 1;
                    drain.in_message.push_back(id);
                }
                Reply::Gone | Reply::Passed | Reply::Settled(_) => {}
            }
        }
        true
    }

    /// Bye and Close, and before them the notice if it has not been sent.
    fn say_goodbye(&mut self, id: Token, drain: &mut Drain, patient: bool) -> Reply {
        let is_new = id.slot >= drain.notice_next;
        let notice = is_new.then(|| drain.notice());
        let close_code = drain.order.close_code;
        let reply = self.with_connection(id, Event::Goodbye { notice, close_code, patient });
        if is_new && reply == Reply::Done {
            self.note_noticed(drain);
        }
        reply
    }

    /// Everybody is told at once, and cut a moment later. True if there are more of them.
    fn force(&mut self, drain: &mut Drain, forcing: &mut Forcing) -> bool {
        for _ in 0..limits::VISITS_PER_TURN {
            if forcing.goodbye_next >= drain.end {
                break;
            }
            if let Some(id) = self.connections.token(forcing.goodbye_next) {
                self.say_goodbye(id, drain, false);
                self.with_connection(id, Event::OnlyClose);
            }
            forcing.goodbye_next += 1;
        }
        if self.cx.clock.now.since(forcing.since)
            < Duration::from_millis(drain.order.last_moment_ms)
        {
            return forcing.goodbye_next < drain.end;
        }
        for _ in 0..limits::VISITS_PER_TURN {
            if forcing.cut_next >= drain.end {
                return false;
            }
            if let Some(id) = self.connections.token(forcing.cut_next) {
                self.with_connection(id, Event::DrainCut);
            }
            forcing.cut_next += 1;
        }
        true
    }

    /// Counts whoever is left when the shard ends: closing its ring cuts them.
    pub fn account_for_rest(&mut self) {
        let left = self.draining.drain.as_ref().map_or(0, |drain| drain.left);
        (0..left).for_each(|_| self.on_drained(DrainOutcome::Forced));
        for slot in self.cx.sessions.slots() {
            if let Some(id) = self.connections.token(slot) {
                self.with_connection(id, Event::ShardEnds);
            }
        }
    }

    /// True when the coordinator has ended the shard and the backlog is empty: whoever was
    /// waiting has been told 503.
    pub fn is_finished(&self) -> bool {
        let Some(drain) = &self.draining.drain else { return false };
        let Some(since) = drain.stopping_since else { return false };
        let waited_ms = self.cx.clock.now.since(since).as_millis() as u64;
        let all_gone = self.connections.live() == 0 && self.ring.backlog_is_empty();
        let arrived = waited_ms >= LAST_ARRIVALS_MS.min(drain.order.last_answers_ms);
        arrived && all_gone || waited_ms >= drain.order.last_answers_ms
    }
}
