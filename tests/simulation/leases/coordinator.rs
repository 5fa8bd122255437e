//! The coordinator, and what a shard says to it.

use tidegate::admission::leases::{Reply, Say};

use super::books::Kind;
use super::mutant::Mutant;
use super::shard::{Message, State};
use super::world::{World, limits, rate};

#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    Say { shard: usize, say: Say },
    Orphans { shard: usize, dead: usize, left: u32 },
    Died { shard: usize },
}

impl World {
    /// A shard tells what it needs and can spare, if there is room to.
    pub(crate) fn talk(&mut self, index: usize, tick: bool) {
        let (mutant, room) = (self.mutant, 10 * self.room);
        let shard = &mut self.shards[index];
        let deferred = shard.deferred.len() as u32;
        if let Some(say) = shard.leases.to_say(deferred, tick, shard.now_ns) {
            if self.commands.len() >= room {
                return;
            }
            let say = mutant.say(say);
            self.commands.push_back(Command::Say { shard: index, say });
            shard.leases.said(&say);
            shard.spent -= u64::from(say.spent);
        }
        let spare = shard.leases.granted() - shard.leases.used();
        if shard.lean && (spare > deferred || shard.leases.tokens() > deferred) {
            let detail = format!("{spare} slots, {} tokens: {deferred}", shard.leases.tokens());
            self.books.violated(Kind::Reserve, detail);
        }
        let shard = &mut self.shards[index];
        if let Some((dead, left)) = shard.abroad.to_say()
            && self.commands.len() < room
        {
            shard.abroad.said(dead);
            let left = if mutant == Mutant::OrphansDenied { 0 } else { left };
            if mutant != Mutant::OrphansUnsaid {
                self.commands.push_back(Command::Orphans { shard: index, dead, left });
            }
        }
    }

    /// The coordinator takes a command, if there is one, and looks around.
    pub(crate) fn coordinate(&mut self) {
        match self.commands.pop_front() {
            Some(Command::Say { shard, say }) => self.hear(shard, say),
            Some(Command::Orphans { shard, dead, left }) => {
                self.budget.orphans(shard, dead, left.into(), self.now_ns);
            }
            Some(Command::Died { shard }) => {
                for other in (0..self.shards.len()).filter(|other| *other != shard) {
                    self.outbox[other].push_back(Message::Died { shard });
                }
                self.budget.on_death(shard, self.now_ns);
                self.books.died(shard, self.now_ns, self.pace);
            }
            None => {}
        }
        self.reply();
        self.budget.look_around(self.now_ns);
        self.reply();
    }

    fn hear(&mut self, shard: usize, say: Say) {
        let chance = self.mutant != Mutant::None && self.random.one_in(8);
        let before = self.budget.clone();
        let say = self.mutant.heard(say, chance);
        if self.mutant == Mutant::LimitIgnored && chance {
            self.budget.set(self.limit + 1, rate(self.pace), self.now_ns);
        }
        self.budget.hear(shard, &say, self.now_ns);
        self.books.heard(shard, &say, self.now_ns, self.pace);
        let account = self.books.accounts[shard];
        // As long as the account allows it, or the budget would see for itself.
        let could = say.slots_back > 0 && account.slots >= say.slots_back.into();
        if self.mutant == Mutant::ReturnedTwice && could {
            let again = Say { slots_back: say.slots_back, ..Say::default() };
            self.budget.hear(shard, &again, self.now_ns);
            self.books.heard(shard, &again, self.now_ns, self.pace);
        }
        let sent = self.books.slots();
        self.reply();
        let granted = self.books.slots() > sent;
        let all_live = self.living().len() == self.shards.len();
        if self.mutant == Mutant::GrantForgotten && chance && granted && all_live {
            self.budget = before;
        }
    }

    /// Limits are others from now on.
    pub(crate) fn change_limits(&mut self) {
        let (limit, pace) = limits(&mut self.random);
        self.limit = limit;
        if pace != self.pace {
            self.pace = pace;
            self.books.pace_changed();
        }
        self.budget.set(limit, rate(pace), self.now_ns);
        let chunk = self.budget.chunk();
        for waiting in &mut self.outbox {
            waiting.push_back(Message::Limits { chunk, rate_limited: pace.is_some() });
        }
        self.reply();
    }

    fn reply(&mut self) {
        let replies: Vec<_> = self.budget.replies().collect();
        for (shard, reply) in replies {
            let chance = self.mutant != Mutant::None && self.random.one_in(8);
            if let Reply::Answer { slots, tokens, .. } = reply {
                self.books.accounts[shard].slots += u64::from(slots);
                self.books.accounts[shard].tokens += u64::from(tokens);
            }
            if !self.mutant.loses(&reply, chance) {
                self.outbox[shard].push_back(Message::Budget(reply));
            }
        }
        for (waiting, shard) in self.outbox.iter_mut().zip(&mut self.shards) {
            while shard.inbox.len() < self.room || !shard.alive {
                let Some(message) = waiting.pop_front() else { break };
                if shard.alive {
                    shard.inbox.push_back(message);
                }
            }
        }
    }

    /// What must hold after every step; `granted` were granted before it.
    pub(crate) fn check(&mut self, granted: u64) {
        let now = self.budget.granted();
        if now > self.limit && now > granted {
            let detail = format!("{now} after {granted}, of {}", self.limit);
            self.violated(Kind::OverLimit, detail);
        }
        let open = self.open();
        if open > now {
            self.violated(Kind::Unbacked, format!("{open} open, {now} granted"));
        }
        for index in self.living() {
            let leases = &self.shards[index].leases;
            let booked =
                |c: &&super::shard::Connection| c.owner == index && c.state != State::Waiting;
            let open = self.connections.iter().filter(booked).count();
            let (used, granted) = (leases.used(), leases.granted());
            if open > used as usize || used > granted {
                let detail = format!("shard {index}: {open} open, {used} used, {granted} granted");
                return self.violated(Kind::Unbacked, detail);
            }
        }
        let sent = self.books.slots();
        if sent != now && self.living().len() == self.shards.len() {
            self.violated(Kind::Books, format!("{now} granted, {sent} sent"));
        }
    }

    /// Connections that are open anywhere.
    pub(crate) fn open(&self) -> u64 {
        self.connections.iter().filter(|c| c.state != State::Waiting).count() as u64
    }
}
