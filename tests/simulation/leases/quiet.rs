//! What must hold when everything that was said has been heard: nobody waits, and nobody is
//! refused what is free anywhere.

use tidegate::admission::leases::Room;

use super::books::{Kind, Violation};
use super::shard::{Outcome, State};
use super::world::World;

/// Turns of everybody in which everything must have been said.
const ROUNDS: usize = 400;

/// A shard that was told that there is no token believes it for so long at least.
const PATIENCE_NS: u64 = 1_000_000;

impl World {
    /// Lets everybody go on until there is nothing left to say. Time stands still.
    pub(crate) fn come_to_rest(&mut self) -> Result<(), Violation> {
        for _ in 0..ROUNDS {
            for index in self.living() {
                self.shards[index].now_ns = self.now_ns;
                while !self.shards[index].inbox.is_empty() {
                    self.take(index);
                }
                self.judge_again(index);
                self.talk(index, true);
                self.go_on_sending(index);
            }
            loop {
                let granted = self.budget.granted();
                self.coordinate();
                self.check(granted);
                self.verdict()?;
                if self.commands.is_empty() {
                    break;
                }
            }
            if self.is_quiet() {
                self.nobody_waits();
                self.nobody_waits_too_long();
                return self.verdict();
            }
        }
        let waits = self.shards.iter().any(|shard| !shard.deferred.is_empty());
        let kind = if waits { Kind::Undecided } else { Kind::Restless };
        self.violated(kind, format!("after {ROUNDS} rounds"));
        self.verdict()
    }

    fn is_quiet(&self) -> bool {
        self.living()
            .iter()
            .all(|shard| self.shards[*shard].is_quiet() && self.outbox[*shard].is_empty())
    }

    fn nobody_waits(&mut self) {
        let waiting = |c: &&super::shard::Connection| c.state != State::Open;
        if let Some(left) = self.connections.iter().find(waiting).copied() {
            self.violated(Kind::Undecided, format!("{left:?} at rest"));
        }
    }

    /// That there is no token for longer than its patience a shard believes only if it is so.
    fn nobody_waits_too_long(&mut self) {
        if !self.books.knows_tokens || self.tokens() == 0 {
            return;
        }
        for index in self.living() {
            let shard = &self.shards[index];
            if let Room::NoTokens { wait_ns } = shard.leases.room(shard.now_ns)
                && wait_ns > PATIENCE_NS
            {
                let detail = format!("{} tokens free, {index} waits {wait_ns} ns", self.tokens());
                return self.violated(Kind::RefusedToken, detail);
            }
        }
    }

    /// One after the other comes to each shard until all refuse: exactly as many are admitted as
    /// there are free slots and tokens.
    pub(crate) fn check_quiet(&mut self) -> Result<(), Violation> {
        self.come_to_rest()?;
        self.books.settled();
        if !self.books.knows_tokens || self.random.one_in(2) {
            self.pass_time();
        } else {
            self.now_ns += PATIENCE_NS;
        }
        self.come_to_rest()?;
        self.fill_up()?;
        if self.random.one_in(3) {
            for _ in 0..self.random.below(self.connections.len() + 1) {
                let index = self.random.below(self.connections.len());
                self.end(index);
            }
        }
        Ok(())
    }

    /// Everybody leaves, and as many come again as the limit allows.
    pub(crate) fn check_emptied(&mut self) -> Result<(), Violation> {
        while !self.connections.is_empty() {
            self.end(0);
        }
        self.come_to_rest()?;
        self.pass_time();
        self.come_to_rest()?;
        self.fill_up()?;
        if self.open() != self.limit {
            self.violated(Kind::RefusedSlot, format!("{} of {}", self.open(), self.limit));
        }
        self.verdict()
    }

    /// So long that every token is there again, at any rate that there has been.
    fn pass_time(&mut self) {
        let refill = self.pace.map_or(0, super::books::Pace::refill_ns);
        self.now_ns += PATIENCE_NS + 2 * refill;
    }

    /// Tokens that nobody has spent.
    fn tokens(&self) -> u64 {
        let Some(pace) = self.pace else { return u64::MAX };
        let unsaid: u64 = self.living().iter().map(|shard| self.shards[*shard].spent).sum();
        self.books.tokens(self.now_ns, pace).saturating_sub(unsaid)
    }

    fn fill_up(&mut self) -> Result<(), Violation> {
        loop {
            let free = self.limit.saturating_sub(self.open());
            // Of a changed rate the books know nothing but that the whole burst is there.
            let tokens = match self.pace {
                Some(pace) if !self.books.knows_tokens => pace.burst.into(),
                _ => self.tokens(),
            };
            let (admitted, last) = self.admit_all()?;
            let (expected, kind) = match last {
                Outcome::Full => (free, Kind::RefusedSlot),
                _ => (tokens.min(free), Kind::RefusedToken),
            };
            if admitted != expected {
                let detail =
                    format!("{admitted} admitted, {free} slots and {tokens} tokens free, {last:?}");
                self.violated(kind, detail);
            }
            self.verdict()?;
            if last == Outcome::Full {
                return Ok(());
            }
            self.pass_time();
            self.come_to_rest()?;
        }
    }

    /// Until each shard has refused one. The last refusal, for want of slots if there was one.
    fn admit_all(&mut self) -> Result<(u64, Outcome), Violation> {
        let living = self.living();
        let (mut admitted, mut refused, mut last) = (0, 0, Outcome::Full);
        let mut shard = self.random.below(living.len());
        while refused < living.len() {
            self.decided.clear();
            let id = self.attempt(living[shard], living[shard]);
            self.come_to_rest()?;
            let outcome = self.decided.iter().find(|decided| decided.0 == id);
            match outcome.map_or(Outcome::OwnerDead, |decided| decided.1) {
                Outcome::Admitted => {
                    (admitted, refused) = (admitted + 1, 0);
                    if !self.random.one_in(4) {
                        continue;
                    }
                }
                outcome => (refused, last) = (refused + 1, outcome),
            }
            shard = (shard + 1) % living.len();
        }
        Ok((admitted, last))
    }
}
