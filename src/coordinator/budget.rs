//! What the whole server may admit, leased to the shards: slots for connections, and tokens for
//! the rate at which they come. The other end of [`leases`](crate::admission::leases).
//!
//! While there is plenty every shard holds a reserve of both and admits without asking. The first
//! ask that cannot be met makes the server *lean*: every reserve is recalled, and from then on a
//! shard gives back at once what it does not use. So when the last recalled shard has answered,
//! the coordinator knows of every free slot and token, and only then says that there is none.
//!
//! Slots: what is granted to all shards together never exceeds the limit, except for as long as
//! it takes to come down to a limit that was lowered, while nothing is granted.
//!
//! Tokens: one bucket for the whole server by the generic cell rate algorithm (ITU-T I.371). It
//! records what shards have *spent*; what they hold unspent is set aside from what is left. So in
//! every window of time no more are spent than rate x time + burst, wherever they are held.
//!
//! Pure: time comes in as `now_ns`, replies are collected by whoever calls
//! ([`Budget::replies`]).

use crate::admission::leases::{Ask, Chunk, Reply, Say};

const PS_PER_SECOND: u128 = 1_000_000_000_000;
const PS_PER_NS: u128 = 1_000;

/// How long a shard that found no token waits at least before it asks again. At high rates tokens
/// are microseconds apart, and asking for each of them would be all that anybody does.
const TOKEN_PATIENCE_PS: u128 = PS_PER_SECOND / 1_000;

/// How long an ask waits for shards that do not answer a recall. A shard that stands still would
/// otherwise keep everybody waiting who finds nothing; now they are refused, although it may
/// hold something that is free.
const RECALL_PATIENCE_PS: u128 = PS_PER_SECOND / 4;

/// Largest reserve of slots of one shard.
const MOST_SLOTS_AHEAD: u64 = 1_024;

/// The answer of those who do not know.
const NOTHING: Reply =
    Reply::Answer { slots: 0, tokens: 0, full: true, no_tokens_before_ns: u64::MAX };

/// A rate with its burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Between two connections, rounded up so that the rate is never exceeded.
    interval_ps: u128,
    burst: u32,
}

impl Rate {
    /// `connections` in a second, and `burst` at once after a quiet time (0 counts as 1);
    /// `None`, which is no limit, for 0 connections.
    pub fn new(connections: u32, burst: u32) -> Option<Self> {
        let interval_ps = PS_PER_SECOND.div_ceil(u128::from(connections.max(1)));
        (connections > 0).then_some(Self { interval_ps, burst: burst.max(1) })
    }
}

/// What is leased to one shard.
#[derive(Debug, Clone, Default)]
struct Account {
    dead: bool,
    slots: u64,
    tokens: u64,
    /// Its ask that is not answered yet.
    waiting: Option<Ask>,
    /// It has not answered the recall.
    recalled: bool,
    /// It was told that there is no slot.
    told_full: bool,
    /// It was told that there is no token for a while.
    told_no_tokens: bool,
    /// Slots of shards that have died, which connections on this one still hold, by the dead
    /// shard; absent until this one has said how many.
    orphans: Vec<(usize, u64)>,
}

/// What the whole server may admit, and who has it.
#[derive(Debug, Clone)]
pub struct Budget {
    limit: u64,
    rate: Option<Rate>,
    /// When the next connection would come if all that were admitted had kept to the rate.
    arrival_ps: u128,
    accounts: Vec<Account>,
    /// What the shards hold is not known, so nothing is granted.
    frozen: bool,
    lean: bool,
    round: u32,
    /// When the last recall began.
    recalled_ps: u128,
    /// Whom to serve first next time.
    first: usize,
    replies: Vec<(usize, Reply)>,
}

impl Budget {
    /// For `shards` that hold nothing yet.
    pub fn new(shards: usize, limit: u64, rate: Option<Rate>) -> Self {
        Self {
            limit,
            rate,
            arrival_ps: 0,
            accounts: vec![Account::default(); shards],
            frozen: false,
            lean: false,
            round: 0,
            recalled_ps: 0,
            first: 0,
            replies: Vec::new(),
        }
    }

    /// For `shards` of which it is not known what they hold: every ask is answered with no.
    pub fn frozen(shards: usize) -> Self {
        Self { frozen: true, ..Self::new(shards, 0, None) }
    }

    /// What a shard should hold in reserve while there is plenty: small enough that a burst can
    /// be had by any of them without a recall, large enough to cover the time of an answer.
    pub fn chunk(&self) -> Chunk {
        let shards = self.accounts.len().max(1) as u64;
        let slots = (self.limit / (16 * shards)).min(MOST_SLOTS_AHEAD) as u32;
        let tokens = self.rate.map_or(0, |rate| {
            let hundredth_s = PS_PER_SECOND / 100 / rate.interval_ps;
            hundredth_s.min(u128::from(rate.burst) / (8 * u128::from(shards))) as u32
        });
        Chunk { slots, tokens }
    }

    /// Changes the limits. Whatever was spent and is held stays so; a smaller burst counts as
    /// used up at most, so that nobody waits longer than the new rate asks.
    pub fn set(&mut self, limit: u64, rate: Option<Rate>, now_ns: u64) {
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        if let Some(new) = rate {
            let old = self.rate.unwrap_or(new);
            let ahead = self.arrival_ps.saturating_sub(now_ps) * new.interval_ps / old.interval_ps;
            self.arrival_ps = now_ps + ahead.min(new.interval_ps * u128::from(new.burst));
        }
        (self.limit, self.rate) = (limit, rate);
        // What shards were told of the old limits may not hold any more, and they forget it.
        for account in &mut self.accounts {
            (account.told_full, account.told_no_tokens) = (false, false);
        }
        let short_of_tokens = rate.is_some() && self.tokens_left(now_ps) < 0;
        if self.slots_left() < 0 || short_of_tokens {
            self.recall(now_ps);
        }
        self.serve(now_ns);
    }

    /// A shard has said something.
    pub fn hear(&mut self, shard: usize, say: &Say, now_ns: u64) {
        let Some(account) = self.accounts.get_mut(shard).filter(|account| !account.dead) else {
            return;
        };
        if self.frozen {
            if say.ask.is_some() {
                self.replies.push((shard, NOTHING));
            }
            return;
        }
        let (slots, tokens) = (u64::from(say.slots_back), u64::from(say.tokens_back + say.spent));
        assert!(account.slots >= slots, "a shard gave back slots that it did not have");
        assert!(account.tokens >= tokens, "a shard used tokens that it did not have");
        account.slots -= slots;
        account.tokens -= tokens;
        if say.ask.is_some() {
            account.waiting = say.ask;
        }
        if say.round == Some(self.round) {
            account.recalled = false;
        }
        self.record(u64::from(say.spent), now_ns);
        self.serve(now_ns);
        if say.tokens_back > 0 {
            self.refill(|account| std::mem::take(&mut account.told_no_tokens));
        }
    }

    /// Time has passed: tokens have come.
    pub fn look_around(&mut self, now_ns: u64) {
        self.serve(now_ns);
    }

    /// A shard has died. Its connections are closed, so its slots are free, but for those of
    /// connections that it has admitted for other shards ([`orphans`](Self::orphans)). The tokens
    /// that it held count as spent.
    pub fn on_death(&mut self, shard: usize, now_ns: u64) {
        let Some(account) = self.accounts.get_mut(shard).filter(|account| !account.dead) else {
            return;
        };
        let spent = account.tokens;
        *account = Account { dead: true, slots: account.slots, ..Account::default() };
        self.record(spent, now_ns);
        self.settle_all();
        self.serve(now_ns);
    }

    /// A living shard says how many of its connections hold slots of a dead one.
    pub fn orphans(&mut self, shard: usize, dead: usize, left: u64, now_ns: u64) {
        let Some(account) = self.accounts.get_mut(shard).filter(|account| !account.dead) else {
            return;
        };
        account.orphans.retain(|(of, _)| *of != dead);
        account.orphans.push((dead, left));
        self.settle_all();
        self.serve(now_ns);
    }

    /// Frees what dead shards held, once all living ones have said what of it is still in use.
    fn settle_all(&mut self) {
        let living = || self.accounts.iter().filter(|account| !account.dead);
        let in_use = |dead| {
            let of_dead = |account: &Account| {
                account.orphans.iter().find(|(of, _)| *of == dead).map(|(_, left)| *left)
            };
            living().map(of_dead).sum::<Option<u64>>()
        };
        let settled: Vec<_> = (0..self.accounts.len())
            .filter(|shard| self.accounts[*shard].dead)
            .filter_map(|dead| Some((dead, in_use(dead)?)))
            .collect();
        for (dead, in_use) in settled {
            self.accounts[dead].slots = in_use;
        }
    }

    /// The replies since the last call, in order, each with the shard that it is for.
    pub fn replies(&mut self) -> impl Iterator<Item = (usize, Reply)> + '_ {
        self.replies.drain(..)
    }

    /// Slots that are leased to shards.
    pub fn granted(&self) -> u64 {
        self.accounts.iter().map(|account| account.slots).sum()
    }

    /// Reserves are recalled or being recalled.
    pub fn is_lean(&self) -> bool {
        self.lean
    }

    fn slots_left(&self) -> i128 {
        i128::from(self.limit) - i128::from(self.granted())
    }

    /// Tokens that nobody holds; without a limit there are always enough.
    fn tokens_left(&self, now_ps: u128) -> i128 {
        let Some(rate) = self.rate else { return i128::from(u32::MAX) };
        let held: u64 = self.accounts.iter().map(|account| account.tokens).sum();
        let full_ps = now_ps + rate.interval_ps * u128::from(rate.burst);
        let level = full_ps.saturating_sub(self.arrival_ps.max(now_ps)) / rate.interval_ps;
        level as i128 - i128::from(held)
    }

    /// When there will be a token that nobody holds.
    fn next_token_ns(&self, now_ps: u128) -> u64 {
        let Some(rate) = self.rate else { return 0 };
        let held: u64 = self.accounts.iter().map(|account| account.tokens).sum();
        let needed = rate.interval_ps * (u128::from(held) + 1);
        let at_ps = (self.arrival_ps + needed)
            .saturating_sub(rate.interval_ps * u128::from(rate.burst))
            .max(now_ps + TOKEN_PATIENCE_PS.min(rate.interval_ps * u128::from(rate.burst)));
        u64::try_from(at_ps.div_ceil(PS_PER_NS)).unwrap_or(u64::MAX)
    }

    fn record(&mut self, spent: u64, now_ns: u64) {
        let Some(rate) = self.rate.filter(|_| spent > 0) else { return };
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        let arrival_ps = self.arrival_ps.max(now_ps) + rate.interval_ps * u128::from(spent);
        // What was granted under a larger burst is no debt.
        self.arrival_ps = arrival_ps.min(now_ps + rate.interval_ps * u128::from(rate.burst));
    }

    fn recall(&mut self, now_ps: u128) {
        if self.lean {
            return;
        }
        self.lean = true;
        self.recalled_ps = now_ps;
        self.round = self.round.wrapping_add(1);
        let round = self.round;
        for (shard, account) in self.accounts.iter_mut().enumerate() {
            if !account.dead {
                account.recalled = true;
                self.replies.push((shard, Reply::Recall { round }));
            }
        }
    }

    fn serve(&mut self, now_ns: u64) {
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        let (shards, first) = (self.accounts.len(), self.first);
        for turn in 0..shards {
            self.serve_one((first + turn) % shards, now_ps);
        }
        self.first = (first + 1) % shards.max(1);
        if self.slots_left() > 0 {
            self.refill(|account| std::mem::take(&mut account.told_full));
        }
        self.relax_if_plenty(now_ps);
    }

    /// Tells those to ask again who were told that there is nothing.
    fn refill(&mut self, was_told: impl Fn(&mut Account) -> bool) {
        let accounts = self.accounts.iter_mut().enumerate();
        let told = accounts.filter_map(|(shard, account)| was_told(account).then_some(shard));
        self.replies.extend(told.map(|shard| (shard, Reply::Refill)));
    }

    fn serve_one(&mut self, shard: usize, now_ps: u128) {
        let Some(ask) = self.accounts[shard].waiting else { return };
        let of = |wanted: u32, left: i128| i128::from(wanted).min(left).max(0) as u32;
        // What was asked for ahead while there was plenty would be missing elsewhere now.
        let most = if self.lean { ask.waiting } else { u32::MAX };
        let ask = Ask { slots: ask.slots.min(most), tokens: ask.tokens.min(most), ..ask };
        let (slots, tokens) =
            (of(ask.slots, self.slots_left()), of(ask.tokens, self.tokens_left(now_ps)));
        let full = ask.slots > 0 && slots == 0;
        let no_tokens = ask.tokens > 0 && tokens == 0;
        if full || no_tokens {
            self.recall(now_ps);
            // Somebody may still give something back.
            let patient = now_ps < self.recalled_ps + RECALL_PATIENCE_PS;
            if patient && self.accounts.iter().any(|account| account.recalled) {
                return;
            }
        }
        // A slot without a token, or a token without a slot, is of use to nobody.
        let (slots, tokens) = if full || no_tokens { (0, 0) } else { (slots, tokens) };
        let no_tokens_before_ns = if no_tokens { self.next_token_ns(now_ps) } else { 0 };
        let account = &mut self.accounts[shard];
        account.waiting = None;
        account.slots += u64::from(slots);
        account.tokens += u64::from(tokens);
        (account.told_full, account.told_no_tokens) = (full, no_tokens);
        let answer = Reply::Answer { slots, tokens, full, no_tokens_before_ns };
        self.replies.push((shard, answer));
    }

    /// Ends being lean when every shard could have its reserve twice over.
    fn relax_if_plenty(&mut self, now_ps: u128) {
        let busy = |account: &Account| account.recalled || account.waiting.is_some();
        if !self.lean || self.accounts.iter().any(busy) {
            return;
        }
        let shards = self.accounts.len() as i128;
        let chunk = self.chunk();
        let plenty = |left: i128, chunk: u32| left > 2 * shards * i128::from(chunk.max(1));
        let enough_tokens = self.rate.is_none_or(|rate| {
            let left = self.tokens_left(now_ps);
            plenty(left, chunk.tokens) && 2 * left >= i128::from(rate.burst)
        });
        if enough_tokens && plenty(self.slots_left(), chunk.slots) {
            self.lean = false;
            let living = self.accounts.iter().enumerate().filter(|(_, account)| !account.dead);
            self.replies.extend(living.map(|(shard, _)| (shard, Reply::Relax)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ask(tokens: u32) -> Say {
        Say { ask: Some(Ask { slots: 1, tokens, waiting: tokens }), ..Say::default() }
    }

    /// Tokens in the answers since the last call.
    fn granted(budget: &mut Budget) -> u32 {
        let tokens = |(_, reply)| match reply {
            Reply::Answer { tokens, .. } => tokens,
            _ => 0,
        };
        budget.replies().map(tokens).sum()
    }

    #[test]
    fn who_was_told_that_there_is_no_token_hears_of_one_that_comes_back() {
        let mut budget = Budget::new(2, 100, Rate::new(1, 4));
        budget.hear(0, &ask(4), 0);
        budget.hear(1, &ask(1), 0);
        let answer = Say { round: Some(1), ..Say::default() };
        (0..2).for_each(|shard| budget.hear(shard, &answer, 0));
        let told = budget.replies().last();
        let no = Reply::Answer { slots: 0, tokens: 0, full: false, no_tokens_before_ns: SECOND };
        assert_eq!(told, Some((1, no)), "a second later there would be one");
        budget.hear(0, &Say { tokens_back: 1, ..Say::default() }, 0);
        assert_eq!(budget.replies().last(), Some((1, Reply::Refill)));
    }

    #[test]
    fn a_shard_that_does_not_answer_keeps_nobody_waiting_for_long() {
        let mut budget = Budget::new(2, 2, None);
        let ask = Some(Ask { slots: 1, tokens: 0, waiting: 1 });
        budget.hear(
            0,
            &Say { ask: Some(Ask { slots: 2, tokens: 0, waiting: 2 }), ..Say::default() },
            0,
        );
        budget.hear(1, &Say { ask, ..Say::default() }, 0);
        budget.hear(1, &Say { round: Some(1), ..Say::default() }, 0);
        budget.look_around(SECOND / 5);
        let full = |(shard, reply)| match reply {
            Reply::Answer { full: true, .. } => Some(shard),
            _ => None,
        };
        assert_eq!(budget.replies().find_map(full), None);
        budget.look_around(SECOND / 4);
        assert_eq!(budget.replies().find_map(full), Some(1));
        // What it gives back late is not lost.
        budget.hear(0, &Say { slots_back: 1, round: Some(1), ..Say::default() }, SECOND);
        assert!(budget.replies().any(|reply| reply == (1, Reply::Refill)));
    }

    #[test]
    fn a_rate_that_is_limited_again_owes_no_more_than_its_burst() {
        let mut budget = Budget::new(1, 100, Rate::new(1, 10));
        budget.hear(0, &ask(10), 0);
        budget.hear(0, &Say { spent: 10, ..Say::default() }, 0);
        budget.set(100, None, 0);
        budget.set(100, Rate::new(1_000, 1), 0);
        assert_eq!(granted(&mut budget), 10);
        budget.hear(0, &ask(1), SECOND / 1_000);
        assert_eq!(granted(&mut budget), 1);
    }

    #[test]
    fn what_was_granted_at_a_higher_rate_is_no_debt_at_a_lower_one() {
        let mut budget = Budget::new(1, 100, Rate::new(1_000, 1_000));
        budget.hear(0, &ask(500), 0);
        budget.set(100, Rate::new(1, 1), 0);
        budget.hear(0, &Say { spent: 500, round: Some(1), ..Say::default() }, 0);
        assert_eq!(granted(&mut budget), 500);
        budget.hear(0, &ask(1), SECOND);
        assert_eq!(granted(&mut budget), 1);
    }

    #[test]
    fn a_reserve_that_was_asked_for_is_no_reason_to_refuse_who_waits() {
        let mut budget = Budget::new(2, 8, None);
        let ask = |slots, waiting| Some(Ask { slots, tokens: 0, waiting });
        budget.hear(0, &Say { ask: ask(8, 0), ..Say::default() }, 0);
        budget.hear(1, &Say { ask: ask(2, 1), ..Say::default() }, 0);
        budget.hear(0, &Say { ask: ask(8, 0), ..Say::default() }, 0);
        let answer = |slots_back| Say { slots_back, round: Some(1), ..Say::default() };
        budget.hear(1, &answer(0), 0);
        budget.hear(0, &answer(1), 0);
        let slots = |(shard, reply)| match reply {
            Reply::Answer { slots, full, .. } => Some((shard, slots, full)),
            _ => None,
        };
        let mut answers: Vec<_> = budget.replies().filter_map(slots).collect();
        answers.sort_unstable();
        assert_eq!(answers, [(0, 0, false), (0, 8, false), (1, 1, false)]);
    }
}
