//! Who has which session: decides what becomes of every connection that asks for one and of every
//! record that comes back. Pure: what is to be asked of Redis comes out as [`Ask`], what it said goes
//! in as [`Said`], and what shards are to be told comes out as [`Order`].
//!
//! The newest connection wins: the one before it is told to let go, and its record goes to the new
//! one. Invariants: every connection that asks is answered exactly once, after `patience_ms` at the
//! latest if time is passed in; a record is with one connection, or kept, or on its way.

use std::collections::{BTreeMap, VecDeque};

use ahash::RandomState;
use hashbrown::HashSet;

use super::directory::{Directory, Holder};
use super::figures::{Figures, Loss};
use super::id::SessionId;
use super::record::Record;
use crate::clock::Now;
use crate::limits::{SESSION_EXPIRIES, SESSION_LOOK_DOUBLINGS, SESSION_LOOK_MS};
use crate::redis::life::Life;
use crate::tables::{Map, Queue};

/// What a shard says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A connection asks for a session.
    Attach {
        /// Which.
        id: SessionId,
        /// The connection.
        holder: Holder,
    },
    /// A connection has let go of a session.
    Release {
        /// Which.
        id: SessionId,
        /// The connection.
        holder: Holder,
        /// What is to be kept.
        record: Record,
    },
    /// A connection to another node has asked for a session that this node holds.
    Claimed {
        /// Which.
        id: SessionId,
    },
}

/// What a shard is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// The connection has its session.
    Attached {
        /// Which session.
        id: SessionId,
        /// The connection.
        holder: Holder,
        /// What there was.
        found: Found,
    },
    /// Another connection has the session: let go and close.
    LetGo {
        /// The connection.
        holder: Holder,
    },
}

/// What there was of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What was kept; a session without is new.
    pub record: Option<Record>,
    /// Why it may not be all.
    pub shortfall: Option<Shortfall>,
}

/// Why a session may have lost something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// Redis is not available.
    Unavailable,
    /// Redis did not answer in time.
    TimedOut,
    /// The connection that has it did not let go in time.
    NotReleased,
    /// What Redis has is nothing that a node writes.
    Malformed,
    /// Too many ask at once.
    Busy,
    /// A newer connection asked for it before this one was answered.
    Superseded,
}

impl Shortfall {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Unavailable,
        Self::TimedOut,
        Self::NotReleased,
        Self::Malformed,
        Self::Busy,
        Self::Superseded,
    ];

    /// For clients and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::TimedOut => "timed_out",
            Self::NotReleased => "not_released",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
            Self::Superseded => "superseded",
        }
    }
}

/// What is to be asked of Redis, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// This node has the session from now on: who had it, and what is there?
    Claim(SessionId),
    /// Has whoever had it let go?
    Look(SessionId),
    /// Nobody is waited for any more: what is there?
    Settle(SessionId),
    /// Write what is kept, unless another node has the session.
    Save(SessionId),
    /// This node still has the session.
    Hold(SessionId),
}

/// What Redis said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// To a claim, a look or a settlement.
    Found {
        /// The life that has the session and has not let go.
        awaited: Option<Life>,
        /// What is there.
        record: Option<Record>,
        /// What is there is no record.
        is_malformed: bool,
    },
    /// To a save, or to holding on.
    Ours {
        /// False if another node has the session.
        is_ours: bool,
    },
    /// To any: an error that is about this session only.
    Refused,
}

/// A connection that has not been answered.
#[derive(Debug)]
struct Pending {
    holder: Holder,
    waits_for: WaitsFor,
    /// How often it has been looked.
    looks: u32,
    /// What was kept here.
    local: Option<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitsFor {
    /// A connection of this node.
    Connection(Holder),
    /// Redis.
    Redis,
    /// Another node.
    Node,
    /// Redis, to say what there is after all.
    Settlement,
}

/// The keeper.
#[derive(Debug)]
pub struct Keeper {
    directory: Directory,
    pending: Map<SessionId, Pending>,
    deadlines: Queue<(Now, SessionId, Holder)>,
    looks: BTreeMap<Now, Vec<SessionId>>,
    asks: VecDeque<Ask>,
    saves: VecDeque<SessionId>,
    /// Those in `saves`, which are there once.
    to_save: HashSet<SessionId, RandomState>,
    /// Where the round of those that are held is, and when the next part of it is due.
    round: (u32, Now),
    has_redis: bool,
    is_available: bool,
    patience_ms: u64,
    expiry_ms: u64,
    /// What shards are to be told.
    pub orders: Vec<Order>,
    /// Sessions that other nodes are to let go of.
    pub notices: Vec<(Life, SessionId)>,
    /// What is counted.
    pub figures: Figures,
}

impl Keeper {
    /// With these settings.
    pub fn new(
        hash: RandomState,
        has_redis: bool,
        patience_ms: u64,
        expiry_ms: u64,
        bytes_max: usize,
    ) -> Self {
        Self {
            directory: Directory::new(hash.clone(), bytes_max),
            pending: Map::new(hash.clone()),
            deadlines: Queue::default(),
            looks: BTreeMap::new(),
            asks: VecDeque::new(),
            saves: VecDeque::new(),
            to_save: HashSet::with_hasher(hash),
            round: (0, Now::default()),
            has_redis,
            // Until it has been asked: whoever comes first waits for the answer.
            is_available: has_redis,
            patience_ms,
            expiry_ms,
            orders: Vec::new(),
            notices: Vec::new(),
            figures: Figures::default(),
        }
    }

    /// Something has happened.
    pub fn on_event(&mut self, event: Event, now: Now) {
        match event {
            Event::Attach { id, holder } => self.attach(id, holder, now),
            Event::Release { id, holder, record } => self.release(&id, holder, record, now),
            Event::Claimed { id } => self.claimed(&id, now),
        }
    }

    fn attach(&mut self, id: SessionId, holder: Holder, now: Now) {
        self.deadlines.push_back((now.plus_ms(self.patience_ms), id.clone(), holder));
        let before = self.directory.holder(&id);
        let local = self.directory.hold(&id, holder);
        if let Some(pending) = self.pending.get_mut(&id) {
            let older = std::mem::replace(&mut pending.holder, holder);
            return self.answer(&id, older, None, Some(Shortfall::Superseded));
        }
        let waits_for = match before {
            Some(before) => {
                self.orders.push(Order::LetGo { holder: before });
                WaitsFor::Connection(before)
            }
            None if self.has_redis && self.is_available => {
                self.asks.push_back(Ask::Claim(id.clone()));
                WaitsFor::Redis
            }
            None => {
                let shortfall = self.has_redis.then_some(Shortfall::Unavailable);
                let shortfall = shortfall.filter(|_| local.is_none());
                return self.answer(&id, holder, local, shortfall);
            }
        };
        self.pending.insert(id, Pending { holder, waits_for, looks: 0, local });
    }

    fn release(&mut self, id: &SessionId, holder: Holder, record: Record, now: Now) {
        let awaited = WaitsFor::Connection(holder);
        if let Some(pending) = self.pending.get(id).filter(|of| of.waits_for == awaited) {
            let holder = pending.holder;
            self.pending.remove(id);
            self.answer(id, holder, Some(record), None);
        } else if self.directory.holder(id) == Some(holder) {
            self.keep(id, record, now);
        } else {
            self.figures.lose(Loss::Superseded, 1);
        }
    }

    fn keep(&mut self, id: &SessionId, record: Record, now: Now) {
        let until = now.plus_ms(self.expiry_ms);
        let lost = self.directory.keep(id, record, until);
        self.figures.lose(Loss::NoRoom, lost as u64);
        if !self.has_redis {
            self.figures.kept += 1;
            return;
        }
        if self.to_save.insert(id.clone()) {
            self.saves.push_back(id.clone());
        }
        // Of those that have a connection again while nothing can be saved, nothing is to be saved.
        if self.saves.len() > 2 * self.directory.kept() + 1_024 {
            let directory = &self.directory;
            self.saves.retain(|id| directory.kept_of(id).is_some());
            self.to_save.retain(|id| directory.kept_of(id).is_some());
        }
    }

    /// Another node has the session now, and waits for this one to let go.
    fn claimed(&mut self, id: &SessionId, now: Now) {
        let Some(holder) = self.directory.holder(id) else { return };
        let Some(Pending { holder, local, waits_for, .. }) = self.pending.remove(id) else {
            return self.orders.push(Order::LetGo { holder });
        };
        self.answer(id, holder, None, Some(Shortfall::Superseded));
        match (local, waits_for) {
            (Some(record), _) => self.keep(id, record, now),
            // It has been told to let go: what it had is what the other node waits for.
            (None, WaitsFor::Connection(before)) => drop(self.directory.hold(id, before)),
            (None, _) => self.directory.let_go(id),
        }
    }

    fn answer(
        &mut self,
        id: &SessionId,
        holder: Holder,
        record: Option<Record>,
        shortfall: Option<Shortfall>,
    ) {
        self.figures.note_attached(record.is_some(), shortfall);
        let (id, found) = (id.clone(), Found { record, shortfall });
        self.orders.push(Order::Attached { id, holder, found });
    }

    /// Answers whoever waits for this session.
    fn settle(&mut self, id: &SessionId, record: Option<Record>, shortfall: Option<Shortfall>) {
        if let Some(Pending { holder, local, .. }) = self.pending.remove(id) {
            let shortfall = shortfall.filter(|_| local.is_none());
            self.answer(id, holder, local.or(record), shortfall);
        }
    }

    /// What Redis said to a question.
    pub fn heard(&mut self, ask: &Ask, said: Said, now: Now) {
        match (ask, said) {
            (Ask::Claim(id) | Ask::Look(id), Said::Found { awaited, record, is_malformed }) => {
                let shortfall = is_malformed.then_some(Shortfall::Malformed);
                let Some(pending) = self.pending.get_mut(id) else { return };
                match (awaited, pending.waits_for) {
                    (None, _) => self.settle(id, record, shortfall),
                    (Some(life), WaitsFor::Redis) => {
                        self.notices.push((life, id.clone()));
                        if pending.local.is_some() {
                            return self.settle(id, record, shortfall);
                        }
                        pending.waits_for = WaitsFor::Node;
                        self.look_later(id, now);
                    }
                    (Some(_), WaitsFor::Node) => {
                        pending.looks += 1;
                        self.look_later(id, now);
                    }
                    (Some(_), _) => {}
                }
            }
            (Ask::Settle(id), Said::Found { record, .. }) => {
                self.settle(id, record, Some(Shortfall::NotReleased));
            }
            // It was taken while this node stood still and nobody could tell it.
            (Ask::Hold(id), Said::Ours { is_ours: false }) if !self.pending.contains_key(id) => {
                let holder = self.directory.holder(id);
                self.orders.extend(holder.map(|holder| Order::LetGo { holder }));
            }
            (Ask::Save(id), Said::Ours { is_ours }) => {
                self.directory.take(id);
                match is_ours {
                    true => self.figures.saved += 1,
                    false => self.figures.lose(Loss::Superseded, 1),
                }
            }
            (Ask::Claim(id) | Ask::Look(id) | Ask::Settle(id), Said::Refused) => {
                self.settle(id, None, Some(Shortfall::Malformed));
            }
            (Ask::Save(id), Said::Refused) => {
                self.directory.take(id);
                self.figures.lose(Loss::Refused, 1);
            }
            _ => {}
        }
    }

    /// After a pause that grows with each look, so that many who wait leave Redis to who saves.
    fn look_later(&mut self, id: &SessionId, now: Now) {
        let looks = self.pending.get(id).map_or(0, |pending| pending.looks);
        let due = now.plus_ms(SESSION_LOOK_MS << looks.min(SESSION_LOOK_DOUBLINGS));
        self.looks.entry(due).or_default().push(id.clone());
    }

    /// Whether Redis can be asked. If not, whoever waits for it is answered.
    pub fn set_available(&mut self, is_available: bool) {
        self.is_available = is_available;
        if is_available || self.asks.is_empty() && self.looks.is_empty() {
            return;
        }
        let asked = self.asks.drain(..).filter_map(|ask| match ask {
            Ask::Claim(id) | Ask::Look(id) | Ask::Settle(id) => Some(id),
            Ask::Save(_) | Ask::Hold(_) => None,
        });
        let looks = std::mem::take(&mut self.looks).into_values().flatten();
        let waiting: Vec<_> = asked.chain(looks).collect();
        for id in waiting {
            self.settle(&id, None, Some(Shortfall::Unavailable));
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Now) {
        while let Some((_, id, holder)) = self.deadlines.pop_front_if(|(until, ..)| now >= *until) {
            self.on_deadline(&id, holder);
        }
        for _ in 0..SESSION_EXPIRIES {
            if self.directory.take_expired(now).is_none() {
                break;
            }
            match self.has_redis {
                true => self.figures.lose(Loss::Expired, 1),
                false => self.figures.expired += 1,
            }
        }
        self.go_round(now);
    }

    fn on_deadline(&mut self, id: &SessionId, holder: Holder) {
        let Some(pending) = self.pending.get_mut(id).filter(|of| of.holder == holder) else {
            return;
        };
        match pending.waits_for {
            WaitsFor::Node => {
                pending.waits_for = WaitsFor::Settlement;
                self.asks.push_front(Ask::Settle(id.clone()));
            }
            WaitsFor::Connection(_) => self.settle(id, None, Some(Shortfall::NotReleased)),
            WaitsFor::Redis => self.settle(id, None, Some(Shortfall::TimedOut)),
            WaitsFor::Settlement => {}
        }
    }

    /// Tells Redis of sessions that are held for long that they are, three times before it would
    /// forget them; a part of them at a time.
    fn go_round(&mut self, now: Now) {
        const PART: u32 = 256;
        if !self.is_available || now < self.round.1 {
            return;
        }
        let (from, _) = self.round;
        let places = (self.directory.held() + self.directory.kept()).max(1) as u64;
        let parts = places.div_ceil(PART.into());
        let pause_ms = (self.expiry_ms / 3 / parts).max(1);
        let (asks, pending) = (&mut self.asks, &self.pending);
        let more = self.directory.held_from(from, PART).map(|held| {
            let granted = held.filter(|id| !pending.contains_key(*id));
            asks.extend(granted.map(|id| Ask::Hold(id.clone())));
        });
        let next = more.map_or(0, |()| from + PART);
        self.round = (next, now.plus_ms(pause_ms));
    }

    /// What is to be asked next, at most so many; each must be [`heard`](Self::heard) or
    /// [given back](Self::give_back). Of each kind in turn: whoever waits here waits for claims and
    /// looks, and whoever waits elsewhere for what is saved here.
    pub fn next_asks(&mut self, most: usize, now: Now) -> Vec<Ask> {
        let mut next = Vec::new();
        while next.len() < most {
            let before = next.len();
            next.extend(self.asks.pop_front());
            next.extend(self.next_look(now));
            next.extend(self.next_save());
            if next.len() == before {
                break;
            }
        }
        next
    }

    fn next_look(&mut self, now: Now) -> Option<Ask> {
        loop {
            let mut due = self.looks.first_entry().filter(|due| now >= *due.key())?;
            let Some(id) = due.get_mut().pop() else {
                due.remove();
                continue;
            };
            if self.pending.get(&id).is_some_and(|of| of.waits_for == WaitsFor::Node) {
                return Some(Ask::Look(id));
            }
        }
    }

    fn next_save(&mut self) -> Option<Ask> {
        loop {
            let id = self.saves.pop_front()?;
            self.to_save.remove(&id);
            if self.directory.kept_of(&id).is_some() {
                return Some(Ask::Save(id));
            }
        }
    }

    /// These were not answered.
    pub fn give_back(&mut self, asks: Vec<Ask>) {
        for ask in asks.into_iter().rev() {
            match ask {
                Ask::Save(id) => {
                    if self.to_save.insert(id.clone()) {
                        self.saves.push_front(id);
                    }
                }
                Ask::Look(id) => self.looks.entry(Now::default()).or_default().push(id),
                ask => self.asks.push_front(ask),
            }
        }
    }

    /// What is kept of a session, to be written.
    pub fn kept_of(&self, id: &SessionId) -> Option<&Record> {
        self.directory.kept_of(id)
    }

    /// True if there is something to ask.
    pub fn has_asks(&self) -> bool {
        !self.asks.is_empty() || !self.saves.is_empty()
    }

    /// Records that are still to be saved.
    pub fn unsaved(&self) -> usize {
        if self.has_redis { self.directory.kept() } else { 0 }
    }

    /// True if somebody waits for an answer.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Sessions.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }
}

#[cfg(test)]
mod tests;
