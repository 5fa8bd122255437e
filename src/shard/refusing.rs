//! What a shard keeps for refusing: who was refused most, how many may be answered and how, and
//! whether it accepts nobody for a moment.

use ahash::RandomState;

use super::settings::Settings;
use crate::admission::ladder::Share;
use crate::admission::{HeavyHitters, Ladder, RefusalShares, SourceKey};
use crate::connection::deadline::is_reached;

/// How long nobody is accepted when all ways to refuse are used up: 64 to 128 ms. The budgets
/// refill meanwhile, and who is in the backlog is accepted afterwards.
const SILENCE_TICKS: u32 = 2;

/// What a shard keeps for refusing.
#[derive(Debug)]
pub(super) struct Refusing {
    /// The sources that were refused most.
    pub(super) most_refused: HeavyHitters,
    pub(super) ladder: Ladder,
    shares: RefusalShares,
    /// Nobody enters because the memory is at its limit: nothing is waited for.
    pub(super) is_locked: bool,
    /// Nobody is accepted before this tick.
    silent_until: Option<u32>,
}

impl Refusing {
    pub(super) fn new(settings: &Settings, hash: RandomState) -> Self {
        Self {
            most_refused: HeavyHitters::default(),
            ladder: Ladder::new(settings.refusal_rates, settings.shards),
            shares: RefusalShares::new(hash),
            is_locked: false,
            silent_until: None,
        }
    }

    /// Counts an attempt of a source that is refused: whether it has had its share of the answers.
    pub(super) fn share_of(&mut self, source: SourceKey, now_ns: u64) -> Share {
        if self.shares.count(source, now_ns) { Share::Above } else { Share::Within }
    }

    /// Nobody is accepted for a moment from now on.
    pub(super) fn be_silent(&mut self, tick: u32) {
        self.silent_until = Some(tick.wrapping_add(SILENCE_TICKS));
    }

    /// True while nobody is accepted.
    pub(super) fn is_silent(&self, tick: u32) -> bool {
        self.silent_until.is_some_and(|until| !is_reached(until, tick))
    }
}
