//! What was promised, kept apart from the code under test: how many slots and tokens each shard
//! was given, when tokens were spent, and which promise was broken first.

use std::collections::VecDeque;

use tidegate::admission::leases::Say;

/// Which promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// More slots are granted than the limit allows, and the limit is no excuse.
    OverLimit,
    /// More connections are open than slots are granted, on one shard or on all.
    Unbacked,
    /// What the coordinator has granted is not what was sent, or what comes back not what was
    /// granted.
    Books,
    /// More tokens were spent in some window than rate x time + burst.
    OverRate,
    /// Somebody was refused for capacity while a slot was free.
    RefusedSlot,
    /// Somebody was refused for the rate while a token was free.
    RefusedToken,
    /// Somebody waits for a verdict that does not come.
    Undecided,
    /// A shard keeps a reserve while somebody lacks what it has.
    Reserve,
    /// Something is still said when everything has been.
    Restless,
    /// The code under test gave up.
    Panic,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) kind: Kind,
    pub(crate) detail: String,
}

/// Connections in a second, and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) per_second: u32,
    pub(crate) burst: u32,
}

impl Pace {
    /// After such a time the whole burst is there again.
    pub(crate) fn refill_ns(self) -> u64 {
        u64::from(self.burst) * 1_000_000_000_u64.div_ceil(self.per_second.into())
    }
}

/// The account of one shard as its messages have it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Account {
    pub(crate) slots: u64,
    pub(crate) tokens: u64,
}

#[derive(Default)]
pub(crate) struct Books {
    pub(crate) accounts: Vec<Account>,
    pub(crate) violation: Option<Violation>,
    /// When tokens were spent, as far back as matters.
    spends: VecDeque<u64>,
    /// When the bucket is full again, by what the coordinator has heard. Known as long as the
    /// rate has not changed.
    full_ps: u128,
    pub(crate) knows_tokens: bool,
    /// The rate has changed, and what was held then may not be used up.
    pub(crate) unsettled: bool,
}

impl Books {
    pub(crate) fn new(shards: usize) -> Self {
        Self { accounts: vec![Account::default(); shards], knows_tokens: true, ..Self::default() }
    }

    /// Only the first is of interest.
    pub(crate) fn violated(&mut self, kind: Kind, detail: String) {
        self.violation.get_or_insert(Violation { kind, detail });
    }

    /// Compares every window that ends now with the rate, counting spends one by one.
    pub(crate) fn spend(&mut self, now_ns: u64, pace: Pace) {
        self.spends.push_back(now_ns);
        if self.spends.len() > 2 * pace.burst as usize + 64 {
            self.spends.pop_front();
        }
        if self.unsettled {
            return;
        }
        for (spent, from_ns) in (1..).zip(self.spends.iter().rev()) {
            let came = u128::from(now_ns - from_ns) * u128::from(pace.per_second) / 1_000_000_000;
            if spent > u128::from(pace.burst) + came {
                let within = now_ns - from_ns;
                let detail = format!("{spent} tokens in {within} ns at {pace:?}");
                return self.violated(Kind::OverRate, detail);
            }
        }
    }

    /// The rate has changed.
    pub(crate) fn pace_changed(&mut self) {
        self.unsettled = true;
        self.knows_tokens = false;
    }

    /// Nothing of an old rate is held or on its way any more.
    pub(crate) fn settled(&mut self) {
        if std::mem::take(&mut self.unsettled) {
            self.spends.clear();
        }
    }

    /// Slots of all shards, on their way or not.
    pub(crate) fn slots(&self) -> u64 {
        self.accounts.iter().map(|account| account.slots).sum()
    }

    /// The coordinator has heard this.
    pub(crate) fn heard(&mut self, shard: usize, say: &Say, now_ns: u64, pace: Option<Pace>) {
        let account = &mut self.accounts[shard];
        account.slots = account.slots.saturating_sub(say.slots_back.into());
        let tokens = u64::from(say.tokens_back + say.spent);
        account.tokens = account.tokens.saturating_sub(tokens);
        self.record(say.spent.into(), now_ns, pace);
    }

    /// The coordinator has heard that this shard has died.
    pub(crate) fn died(&mut self, shard: usize, now_ns: u64, pace: Option<Pace>) {
        let lost = std::mem::take(&mut self.accounts[shard]);
        self.record(lost.tokens, now_ns, pace);
    }

    fn record(&mut self, spent: u64, now_ns: u64, pace: Option<Pace>) {
        let Some(pace) = pace.filter(|_| spent > 0) else { return };
        let interval_ps = 1_000_000_000_000_u128.div_ceil(pace.per_second.into());
        let now_ps = u128::from(now_ns) * 1000;
        self.full_ps = self.full_ps.max(now_ps) + u128::from(spent) * interval_ps;
    }

    /// Tokens in the bucket, spent ones that the coordinator has not heard of among them.
    pub(crate) fn tokens(&self, now_ns: u64, pace: Pace) -> u64 {
        let interval_ps = 1_000_000_000_000_u128.div_ceil(pace.per_second.into());
        let missing = self.full_ps.saturating_sub(u128::from(now_ns) * 1000).div_ceil(interval_ps);
        u64::from(pace.burst).saturating_sub(missing as u64)
    }
}
