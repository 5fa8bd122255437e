//! How long a node waits that has lost its place to another with the same id. Pure.
//!
//! Both live, and both want the place; so that they do not push each other out at full speed,
//! each waits for longer and longer, and the longer the more often it happened.

use crate::clock::Now;
use crate::limits::REDIS_CONFLICT_PAUSE_MAX_MS;

/// Conflicts in a row.
#[derive(Clone, Debug, Default)]
pub struct Conflicts {
    in_a_row: u32,
    /// Until when the last pause is.
    until: Option<Now>,
}

impl Conflicts {
    /// One more: how long to wait before the place is taken back, in milliseconds. The time of a
    /// lease at first, doubled each time, up to [`REDIS_CONFLICT_PAUSE_MAX_MS`].
    pub fn one_more(&mut self, lease_ms: u64, now: Now) -> u64 {
        let pause_ms = (lease_ms << self.in_a_row.min(16)).min(REDIS_CONFLICT_PAUSE_MAX_MS);
        self.in_a_row += 1;
        self.until = Some(now.plus_ms(pause_ms));
        pause_ms
    }

    /// The place is held. When it has been for twice the longest pause, the other one is gone.
    pub fn forget_after_peace(&mut self, now: Now) {
        let peace = |until: Now| now >= until.plus_ms(2 * REDIS_CONFLICT_PAUSE_MAX_MS);
        if self.until.is_some_and(peace) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_are_bounded_until_there_is_peace() {
        let mut conflicts = Conflicts::default();
        let mut now = Now::from_ms(1);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let pause_ms = conflicts.one_more(3_000, now);
            now = now.plus_ms(pause_ms);
            conflicts.forget_after_peace(now);
            pauses.push(pause_ms);
        }
        assert_eq!(pauses[..6], [3_000, 6_000, 12_000, 24_000, 48_000, 60_000]);
        assert_eq!(pauses[39], 60_000);
        conflicts.forget_after_peace(now.plus_ms(119_999));
        assert_eq!(conflicts.one_more(3_000, now), 60_000);
        conflicts.forget_after_peace(now.plus_ms(60_000 + 120_000));
        assert_eq!(conflicts.one_more(3_000, now), 3_000);
    }
}
