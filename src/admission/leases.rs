//! A shard's part of what the whole server may admit: slots for connections, and tokens for the
//! rate at which they come.
//!
//! Both are leased from the coordinator's [`Budget`](crate::coordinator::budget). A shard takes
//! from its lease without asking anybody, asks for more before it runs out, and gives back what
//! it does not need. While the server is *lean*, because slots or tokens have run out somewhere,
//! a shard keeps nothing in reserve: what it does not use at once goes back.
//!
//! Pure: what comes in is a [`Reply`], what goes out a [`Say`]. Invariants: `used` exceeds
//! `granted` never; a token is spent once; an empty lease is no reason to refuse before the
//! coordinator has said that there is nothing anywhere.

/// Sizes in which a shard asks ahead of need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunk {
    /// Slots; 0 asks for none ahead.
    pub slots: u32,
    /// Tokens of the global rate; 0 asks for none ahead.
    pub tokens: u32,
}

/// What a shard tells the coordinator, all at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Say {
    /// Slots it gives back.
    pub slots_back: u32,
    /// Tokens it gives back.
    pub tokens_back: u32,
    /// Tokens it has spent and not told of before.
    pub spent: u32,
    /// What it needs; answered by exactly one [`Reply::Answer`].
    pub ask: Option<Ask>,
    /// The recall that this answers: everything that could be given back is in here.
    pub round: Option<u32>,
}

/// A shard needs more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Slots.
    pub slots: u32,
    /// Tokens.
    pub tokens: u32,
    /// Attempts that wait for the answer. What is more than these is for a reserve.
    pub waiting: u32,
}

/// What the coordinator tells a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// To an [`Ask`]: so much is leased to the shard from now on.
    Answer {
        /// Slots.
        slots: u32,
        /// Tokens.
        tokens: u32,
        /// No slot is free anywhere. Holds until [`Reply::Refill`].
        full: bool,
        /// No token is to be had anywhere before then, in nanoseconds of the server's clock; 0
        /// if nothing is known of that. Holds until [`Reply::Refill`].
        no_tokens_before_ns: u64,
    },
    /// Something has run out: give back everything that is not in use, say so even if it is
    /// nothing, and keep no reserve until [`Reply::Relax`].
    Recall {
        /// To be named in the answer.
        round: u32,
    },
    /// There is plenty again.
    Relax,
    /// A slot or a token has come back: what was said of there being none holds no more.
    Refill,
}

/// Whether one more connection can be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It can.
    Yes,
    /// The lease is empty; the coordinator knows whether there is more.
    Unknown,
    /// Over the rate of the server, as a whole.
    NoTokens {
        /// Until then, in nanoseconds from now.
        wait_ns: u64,
    },
    /// No slot is free on any shard.
    Full,
}

/// What one shard holds.
#[derive(Debug, Clone, Default)]
pub struct Leases {
    granted: u32,
    used: u32,
    tokens: u32,
    spent: u32,
    chunk: Chunk,
    /// The global rate has a limit.
    rate_limited: bool,
    lean: bool,
    /// An ask is not answered yet.
    asked: bool,
    full: bool,
    no_tokens_before_ns: u64,
    round: Option<u32>,
    reclaimed: u64,
}

impl Leases {
    /// Changes how much is asked for ahead, and whether the rate has a limit. Nothing that is
    /// held is lost.
    pub fn set(&mut self, chunk: Chunk, rate_limited: bool) {
        self.chunk = chunk;
        self.rate_limited = rate_limited;
        // What was said of the old limits may not hold any more.
        self.no_tokens_before_ns = 0;
        self.full = false;
    }

    /// Whether one more connection can be admitted at this moment.
    pub fn room(&self, now_ns: u64) -> Room {
        let no_token = self.rate_limited && self.tokens == 0;
        if no_token && now_ns < self.no_tokens_before_ns {
            return Room::NoTokens { wait_ns: self.no_tokens_before_ns - now_ns };
        }
        match self.used < self.granted {
            true if no_token => Room::Unknown,
            true => Room::Yes,
            false if self.full => Room::Full,
            false => Room::Unknown,
        }
    }

    /// Takes a slot and a token, after [`room`](Self::room) said [`Room::Yes`].
    ///
    /// # Panics
    /// When there is none: then the limit of the server would not hold.
    pub fn take(&mut self) {
        assert!(self.used < self.granted, "a slot was taken that was not granted");
        self.used += 1;
        if self.rate_limited {
            assert!(self.tokens > 0, "a token was spent that was not granted");
            self.tokens -= 1;
            self.spent += 1;
        }
    }

    /// Slots are free again.
    ///
    /// # Panics
    /// When fewer are taken: then a connection was released twice, and every count is wrong.
    pub fn release(&mut self, slots: u32) {
        assert!(self.used >= slots, "a slot was given back that nobody had taken");
        self.used -= slots;
    }

    /// The coordinator has said something. That there is no token holds at least for this moment,
    /// however late it is heard, so that every answer decides about those who wait for it.
    pub fn hear(&mut self, reply: Reply, now_ns: u64) {
        match reply {
            Reply::Answer { slots, tokens, full, no_tokens_before_ns } => {
                self.asked = false;
                self.granted += slots;
                self.tokens += tokens;
                self.full = full;
                let at_least = if no_tokens_before_ns > 0 { now_ns.saturating_add(1) } else { 0 };
                self.no_tokens_before_ns = no_tokens_before_ns.max(at_least);
            }
            Reply::Recall { round } => {
                self.lean = true;
                self.round = Some(round);
            }
            Reply::Relax => self.lean = false,
            Reply::Refill => (self.full, self.no_tokens_before_ns) = (false, 0),
        }
    }

    /// What is to be said now, if anything, while `deferred` attempts wait for an answer. What
    /// was spent is told with the next thing that is worth saying, and at a `tick` by itself. It
    /// all counts as said only after [`said`](Self::said), so what could not be sent is not lost.
    pub fn to_say(&self, deferred: u32, tick: bool, now_ns: u64) -> Option<Say> {
        let spare = self.granted - self.used;
        let slots_back = self.too_many(spare, self.chunk.slots, deferred);
        let tokens_back = self.too_many(self.tokens, self.chunk.tokens, deferred);
        let wanted = Ask {
            slots: self.missing_slots(spare - slots_back, deferred),
            tokens: self.missing_tokens(self.tokens - tokens_back, deferred, now_ns),
            waiting: deferred,
        };
        let ask = (!self.asked && (wanted.slots > 0 || wanted.tokens > 0)).then_some(wanted);
        let gives_back = slots_back > 0 || tokens_back > 0 || self.round.is_some();
        let tells = self.spent > 0 && (tick || self.lean);
        let say = Say { slots_back, tokens_back, spent: self.spent, ask, round: self.round };
        (gives_back || tells || ask.is_some()).then_some(say)
    }

    /// Notes that this reached the coordinator.
    pub fn said(&mut self, say: &Say) {
        self.granted -= say.slots_back;
        self.tokens -= say.tokens_back;
        self.spent -= say.spent;
        self.asked |= say.ask.is_some();
        if say.round.is_some() {
            self.round = None;
        }
        if self.lean {
            self.reclaimed += u64::from(say.slots_back);
        }
    }

    /// What of so many is to be given back.
    fn too_many(&self, held: u32, chunk: u32, deferred: u32) -> u32 {
        let keep = 2 * chunk.max(1) + deferred;
        match self.round {
            Some(_) => held,
            None if self.lean => held.saturating_sub(deferred),
            None if held > 2 * keep => held - keep,
            None => 0,
        }
    }

    fn missing_slots(&self, held: u32, deferred: u32) -> u32 {
        if self.full { 0 } else { self.missing(held, self.chunk.slots, deferred) }
    }

    fn missing_tokens(&self, held: u32, deferred: u32, now_ns: u64) -> u32 {
        let none = !self.rate_limited || now_ns < self.no_tokens_before_ns;
        if none { 0 } else { self.missing(held, self.chunk.tokens, deferred) }
    }

    fn missing(&self, held: u32, chunk: u32, deferred: u32) -> u32 {
        let ahead = if self.lean || held > chunk / 2 { 0 } else { chunk };
        (deferred + ahead).saturating_sub(held)
    }

    /// Connections that this shard may have booked.
    pub fn granted(&self) -> u32 {
        self.granted
    }

    /// Connections that this shard has booked.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Tokens that this shard can spend.
    pub fn tokens(&self) -> u32 {
        self.tokens
    }

    /// Slots that went back because they had run out elsewhere, since the start.
    pub fn reclaimed(&self) -> u64 {
        self.reclaimed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leases() -> Leases {
        let mut leases = Leases::default();
        leases.set(Chunk { slots: 8, tokens: 8 }, true);
        leases
    }

    fn answer(slots: u32, tokens: u32, no_tokens_before_ns: u64) -> Reply {
        Reply::Answer { slots, tokens, full: false, no_tokens_before_ns }
    }

    #[test]
    fn while_lean_only_who_waits_is_a_reason_to_keep_anything() {
        let mut leases = leases();
        leases.hear(Reply::Recall { round: 1 }, 0);
        leases.said(&leases.to_say(0, false, 0).unwrap());
        leases.hear(answer(9, 3, 0), 0);
        let say = leases.to_say(2, false, 0).unwrap();
        assert_eq!((say.slots_back, say.tokens_back), (7, 1));
    }

    #[test]
    fn an_answer_that_comes_late_decides_about_those_who_wait() {
        let mut leases = leases();
        leases.hear(answer(0, 0, 5), 10);
        assert_eq!(leases.room(10), Room::NoTokens { wait_ns: 1 });
        assert_eq!(leases.room(11), Room::Unknown);
        leases.hear(answer(0, 0, 50), 20);
        assert_eq!(leases.room(30), Room::NoTokens { wait_ns: 20 });
    }
}
