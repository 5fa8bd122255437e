//! All shards with their connections, and what happens on them.

use std::collections::VecDeque;

use tidegate::admission::leases::{Reply, Room};
use tidegate::coordinator::budget::{Budget, Rate};

use super::books::{Books, Kind, Pace, Violation};
use super::coordinator::Command;
use super::mutant::Mutant;
use super::shard::{Connection, Deferred, Message, Outcome, Shard, State};
use crate::random::Random;

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) mutant: Mutant,
    pub(crate) now_ns: u64,
    pub(crate) limit: u64,
    pub(crate) pace: Option<Pace>,
    /// How often limits change and shards die, in so many steps.
    pub(crate) changes: usize,
    pub(crate) budget: Budget,
    pub(crate) shards: Vec<Shard>,
    pub(crate) commands: VecDeque<Command>,
    /// The coordinator's way to each shard.
    pub(crate) outbox: Vec<VecDeque<Message>>,
    /// Messages that an inbox has room for, the coordinator's among them.
    pub(crate) room: usize,
    pub(crate) connections: Vec<Connection>,
    pub(crate) books: Books,
    pub(crate) decided: Vec<(u64, Outcome)>,
    next_id: u64,
}

/// The rate as the server has it.
pub(crate) fn rate(pace: Option<Pace>) -> Option<Rate> {
    pace.and_then(|pace| Rate::new(pace.per_second, pace.burst))
}

impl World {
    pub(crate) fn new(seed: u64, mutant: Mutant) -> Self {
        let mut random = Random::new(seed);
        let count = 1 + random.below(4);
        let (limit, pace) = limits(&mut random);
        let budget = Budget::new(count, limit, rate(pace));
        let shard = |_| Shard::new(count, budget.chunk(), pace.is_some());
        Self {
            mutant,
            now_ns: random.of(&[0, 1, 1_000_000_007]),
            limit,
            pace,
            changes: random.of(&[usize::MAX, 300, 2_000]),
            shards: (0..count).map(shard).collect(),
            budget,
            commands: VecDeque::new(),
            outbox: vec![VecDeque::new(); count],
            room: random.of(&[1, 3, 100]),
            connections: Vec::new(),
            books: Books::new(count),
            decided: Vec::new(),
            next_id: 0,
            random,
        }
    }

    pub(crate) fn violated(&mut self, kind: Kind, detail: String) {
        self.books.violated(kind, detail);
    }

    pub(crate) fn verdict(&self) -> Result<(), Violation> {
        self.books.violation.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn living(&self) -> Vec<usize> {
        (0..self.shards.len()).filter(|shard| self.shards[*shard].alive).collect()
    }

    /// Sends to a shard, now or as soon as there is room.
    pub(crate) fn post(&mut self, from: usize, to: usize, message: Message) {
        self.shards[from].links[to].waiting.push_back(message);
        self.flush(from, to);
    }

    fn flush(&mut self, from: usize, to: usize) {
        while self.shards[to].inbox.len() < self.room {
            let Some(message) = self.shards[from].links[to].waiting.pop_front() else { return };
            if self.shards[to].alive {
                self.shards[to].inbox.push_back(message);
            }
        }
    }

    /// Sends what has gathered and waits.
    pub(crate) fn go_on_sending(&mut self, from: usize) {
        for to in 0..self.shards.len() {
            let connections = std::mem::take(&mut self.shards[from].links[to].ended);
            if connections > 0 {
                let ended = Message::Ended { from, connections };
                self.shards[from].links[to].waiting.push_back(ended);
            }
            self.flush(from, to);
        }
    }

    /// Somebody comes to `holder` whose source belongs to `owner`.
    pub(crate) fn attempt(&mut self, holder: usize, owner: usize) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.connections.push(Connection { id, owner, holder, state: State::Waiting });
        if owner == holder {
            if let Some(outcome) = self.judge(owner, holder, id) {
                self.on_verdict(id, outcome);
            }
        } else if self.shards[holder].abroad.is_dead(owner) {
            self.on_verdict(id, Outcome::OwnerDead);
        } else {
            self.post(holder, owner, Message::Ask { from: holder, id });
        }
        id
    }

    fn judge(&mut self, owner: usize, from: usize, id: u64) -> Option<Outcome> {
        let shard = &mut self.shards[owner];
        match shard.leases.room(shard.now_ns) {
            Room::Yes => {
                shard.leases.take();
                if shard.rate_limited {
                    shard.spent += 1;
                    if let Some(pace) = self.pace {
                        self.books.spend(self.now_ns, pace);
                    }
                }
                Some(Outcome::Admitted)
            }
            Room::Full => Some(Outcome::Full),
            Room::NoTokens { wait_ns } => Some(Outcome::NoTokens { wait_ns }),
            Room::Unknown => {
                // An answer may be to what was asked before, or about slots where tokens lack;
                // but a few decide about the first in the queue: with both, or with no.
                let patience = shard.answers + 3 * shard.deferred.len() as u64 + 6;
                shard.deferred.push_back(Deferred { from, id, patience });
                None
            }
        }
    }

    fn on_ask(&mut self, owner: usize, from: usize, id: u64) {
        let Some(outcome) = self.judge(owner, from, id) else { return };
        if outcome == Outcome::Admitted && !self.shards[owner].abroad.lend(from) {
            return self.shards[owner].leases.release(1);
        }
        self.post(owner, from, Message::Verdict { owner, id, outcome });
    }

    fn on_verdict(&mut self, id: u64, outcome: Outcome) {
        self.decided.push((id, outcome));
        if outcome != Outcome::Admitted {
            self.connections.retain(|connection| connection.id != id);
        } else if let Some(connection) = self.find(id) {
            connection.state = State::Open;
        }
    }

    fn find(&mut self, id: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|connection| connection.id == id)
    }

    fn waits(&mut self, id: u64) -> bool {
        self.find(id).is_some_and(|connection| connection.state == State::Waiting)
    }

    fn release(&mut self, holder: usize, owner: usize) {
        let shard = &mut self.shards[holder];
        if owner == holder {
            shard.leases.release(1);
        } else if shard.abroad.farewell(owner) {
            shard.links[owner].ended += match self.mutant {
                Mutant::EndedTwice => 2,
                Mutant::EndedUnsaid => 0,
                _ => 1,
            };
        }
    }

    /// A connection ends, or whoever waits goes away.
    pub(crate) fn end(&mut self, index: usize) {
        if self.connections[index].state == State::Moving {
            return;
        }
        let connection = self.connections.swap_remove(index);
        if connection.state == State::Open {
            self.release(connection.holder, connection.owner);
        }
    }

    /// A connection goes to another shard, if that is allowed.
    pub(crate) fn place(&mut self, index: usize, to: usize) {
        let Connection { id, owner, holder, state } = self.connections[index];
        let booked_here = owner == holder && state == State::Open;
        if !booked_here || to == holder || self.shards[holder].abroad.is_dead(to) {
            return;
        }
        if self.shards[to].alive {
            let connection = &mut self.connections[index];
            (connection.holder, connection.state) = (to, State::Moving);
        } else {
            self.connections.swap_remove(index);
        }
        if self.shards[owner].abroad.lend(to) {
            self.post(owner, to, Message::Handed { from: owner, id });
        } else {
            self.shards[owner].leases.release(1);
        }
    }

    /// A shard dies, with what waits in it and for it.
    pub(crate) fn die(&mut self, dead: usize) {
        let shard = &mut self.shards[dead];
        shard.alive = false;
        shard.inbox.clear();
        shard.deferred.clear();
        shard.links.iter_mut().for_each(|link| link.waiting.clear());
        self.connections.retain(|connection| connection.holder != dead);
        self.commands.push_back(Command::Died { shard: dead });
    }

    /// A shard takes a message.
    pub(crate) fn take(&mut self, index: usize) {
        let Some(message) = self.shards[index].inbox.pop_front() else { return };
        let shard = &mut self.shards[index];
        match message {
            Message::Limits { chunk, rate_limited } => {
                (shard.rate_limited, shard.told_no) = (rate_limited, false);
                shard.be_patient();
                shard.leases.set(chunk, rate_limited);
            }
            Message::Budget(reply) => {
                match reply {
                    Reply::Recall { .. } => {
                        shard.lean = true;
                        shard.be_patient();
                    }
                    Reply::Relax => shard.lean = false,
                    Reply::Answer { .. } => shard.answers += 1,
                    Reply::Refill => shard.be_patient(),
                }
                let no = |ns: u64| ns > 0 && shard.rate_limited && shard.leases.tokens() == 0;
                shard.told_no = matches!(reply, Reply::Answer { tokens: 0, no_tokens_before_ns: ns, .. } if no(ns));
                shard.leases.hear(reply, shard.now_ns);
            }
            Message::Died { shard: dead } => self.on_death(index, dead),
            Message::Ask { from, id } => self.on_ask(index, from, id),
            Message::Verdict { owner, id, outcome } => {
                if outcome == Outcome::Admitted {
                    shard.abroad.welcome(owner);
                }
                if self.waits(id) {
                    self.on_verdict(id, outcome);
                } else if outcome == Outcome::Admitted {
                    self.release(index, owner);
                }
            }
            Message::Ended { from, connections } => {
                for _ in 0..connections {
                    if shard.abroad.ended(from) {
                        shard.leases.release(1);
                    }
                }
            }
            Message::Handed { from, id } => {
                shard.abroad.welcome(from);
                if let Some(connection) = self.find(id) {
                    connection.state = State::Open;
                }
            }
        }
    }

    fn on_death(&mut self, index: usize, dead: usize) {
        let lost = self.shards[index].abroad.on_death(dead);
        if self.mutant != Mutant::LossForgotten {
            self.shards[index].leases.release(lost);
        }
        let here = |connection: &Connection| connection.holder == index && connection.owner == dead;
        self.connections
            .retain(|connection| !here(connection) || connection.state != State::Moving);
        let waiting =
            |connection: &&Connection| here(connection) && connection.state == State::Waiting;
        let ids: Vec<_> = self.connections.iter().filter(waiting).map(|c| c.id).collect();
        for id in ids {
            self.on_verdict(id, Outcome::OwnerDead);
        }
    }

    /// As `go_on_admitting` without what is said at its end.
    pub(crate) fn judge_again(&mut self, index: usize) {
        for _ in 0..self.shards[index].deferred.len() {
            let shard = &mut self.shards[index];
            if shard.leases.room(shard.now_ns) == Room::Unknown {
                break;
            }
            let Some(Deferred { from, id, .. }) = shard.deferred.pop_front() else { break };
            if from != index {
                self.on_ask(index, from, id);
            } else if self.waits(id)
                && let Some(outcome) = self.judge(index, from, id)
            {
                self.on_verdict(id, outcome);
            }
        }
        let shard = &mut self.shards[index];
        let told_no = std::mem::take(&mut shard.told_no);
        let late = |deferred: &&Deferred| told_no || deferred.patience < shard.answers;
        if let Some(late) = shard.deferred.iter().find(late) {
            let detail = format!("{late:?} after {} answers, no: {told_no}", shard.answers);
            self.violated(Kind::Undecided, detail);
        }
    }
}

pub(crate) fn limits(random: &mut Random) -> (u64, Option<Pace>) {
    let limit = random.of(&[0, 1, 2, 3, 7, 20, 40, 150, 400]);
    let pace = Pace {
        per_second: random.of(&[1, 10, 100, 1_000, 100_000, 1_000_000]),
        burst: random.of(&[1, 2, 5, 20, 100]),
    };
    (limit, (!random.one_in(4)).then_some(pace))
}
