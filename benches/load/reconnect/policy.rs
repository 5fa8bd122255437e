//! How long a client waits before it connects again: pure.

use crate::arguments::Manners;

/// What a client that does not listen waits between failures.
const NAIVE_RETRY_MS: u64 = 1_000;

/// How clients wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) manners: Manners,
    /// First and longest time of backoff, in milliseconds.
    pub(super) base_ms: u64,
    pub(super) max_ms: u64,
}

/// What a client knows when it has to decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// `reconnect_after_ms` of the notice.
    pub(super) slot_ms: Option<u32>,
    /// Attempts that have failed since it lost the connection.
    pub(super) tries: u16,
    /// Retry-After of the last refusal.
    pub(super) retry_after_s: Option<u32>,
}

impl Policy {
    /// Milliseconds from now until the next attempt. `random` is any number that differs between
    /// clients.
    pub(super) fn wait_ms(&self, known: Known, random: u64) -> u64 {
        match (self.manners, known.tries, known.slot_ms) {
            (Manners::Slots, 0, Some(slot_ms)) => slot_ms.into(),
            (Manners::Immediate, 0, _) => 0,
            // Browsers cannot see Retry-After, and those who do not wait would not look.
            (Manners::Immediate, _, _) => NAIVE_RETRY_MS,
            _ => self.backoff_ms(known, random),
        }
    }

    /// Full jitter: anything from nothing to twice the time before, and what the server asked for
    /// in front of it.
    fn backoff_ms(&self, known: Known, random: u64) -> u64 {
        let doubled = self.base_ms.saturating_mul(1 << known.tries.min(30));
        let most = doubled.min(self.max_ms).max(1);
        u64::from(known.retry_after_s.unwrap_or_default()) * 1_000 + random % (most + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(manners: Manners) -> Policy {
        Policy { manners, base_ms: 1_000, max_ms: 30_000 }
    }

    const TOLD: Known = Known { slot_ms: Some(700), tries: 0, retry_after_s: None };

    #[test]
    fn those_with_a_slot_come_in_it_and_the_others_do_not() {
        assert_eq!(policy(Manners::Slots).wait_ms(TOLD, 99), 700);
        assert_eq!(policy(Manners::Immediate).wait_ms(TOLD, 99), 0);
        assert_eq!(policy(Manners::Backoff).wait_ms(TOLD, 99), 99);
        let untold = Known { slot_ms: None, ..TOLD };
        assert_eq!(policy(Manners::Slots).wait_ms(untold, 99), 99);
    }

    #[test]
    fn backoff_doubles_to_its_end_and_adds_what_the_server_asks_for() {
        let most = |tries, retry_after_s| {
            let known = Known { tries, retry_after_s, ..TOLD };
            (0..200_000).map(|random| policy(Manners::Backoff).wait_ms(known, random)).max()
        };
        assert_eq!(most(0, None), Some(1_000));
        assert_eq!(most(3, None), Some(8_000));
        assert_eq!(most(60, None), Some(30_000));
        assert_eq!(most(3, Some(5)), Some(13_000));
    }

    #[test]
    fn a_slot_is_used_once() {
        let failed = Known { tries: 1, ..TOLD };
        assert_eq!(policy(Manners::Slots).wait_ms(failed, 5), 5);
        assert_eq!(policy(Manners::Immediate).wait_ms(failed, 5), NAIVE_RETRY_MS);
    }
}
