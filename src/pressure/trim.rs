//! When pages that are free within the heap go back to the kernel: after clients have gone for which
//! much was held, when the process has grown and does not go on growing, and, while memory is short,
//! from time to time. Pure.
//!
//! Not at every look: it holds up whoever allocates meanwhile.

use crate::clock::Now;

/// How often what is free of the heap goes back to the kernel at most, in milliseconds: that holds up
/// whoever allocates meanwhile, for some milliseconds if it is a gigabyte.
const TRIM_MS: u64 = 1_000;

/// How much less must be held for clients than there was for that to be worth it, in bytes.
const TRIM_BYTES: u64 = 1 << 20;

/// How long after that it is done again because the process has grown, in milliseconds, and how often
/// it is tried before what it has grown to counts as in use: some connections end late.
const TRIM_GROWN_MS: u64 = 3_000;
/// See [`TRIM_GROWN_MS`].
const TRIM_GROWN_TRIES: u32 = 8;

/// What has been seen.
#[derive(Debug)]
pub(super) struct Trim {
    done: Now,
    /// The most that has been held since then, in bytes.
    peak: u64,
    /// The least that the process has had in RAM, of what is not in use for long; `None` until it has
    /// been looked at.
    least: Option<u64>,
    /// What it had at the last look.
    last: u64,
    /// How often it was done because the process has grown, and it has not helped.
    tries: u32,
}

/// One look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Bytes that are held for clients, as far as they are counted.
    pub(super) held: u64,
    /// Bytes of its own that the process has in RAM.
    pub(super) resident: u64,
    /// Memory is short.
    pub(super) is_short: bool,
}

impl Trim {
    pub(super) fn new(now: Now) -> Self {
        Self { done: now, peak: 0, least: None, last: u64::MAX, tries: 0 }
    }

    /// Whether it is to be done now.
    pub(super) fn is_due(&mut self, look: Look, now: Now) -> bool {
        self.peak = self.peak.max(look.held);
        let is_freed = self.peak - look.held >= TRIM_BYTES.max(self.peak / 2);
        let is_grown = self.is_grown(look.resident, now);
        if !(is_freed || is_grown || look.is_short) || now < self.done.plus_ms(TRIM_MS) {
            return false;
        }
        (self.done, self.peak) = (now, look.held);
        self.tries += u32::from(is_grown);
        if self.tries == TRIM_GROWN_TRIES {
            (self.least, self.tries) = (None, 0);
        }
        true
    }

    /// Whether the process has more in RAM than it had, and not more than at the last look.
    fn is_grown(&mut self, resident: u64, now: Now) -> bool {
        let least = self.least.map_or(resident, |least| least.min(resident));
        self.least = Some(least);
        let rises = resident > std::mem::replace(&mut self.last, resident);
        if resident - least < TRIM_BYTES.max(least / 8) {
            self.tries = 0;
            return false;
        }
        !rises && now >= self.done.plus_ms(TRIM_GROWN_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn seconds(seconds: u64) -> Now {
        Now::from_ms(seconds * 1_000)
    }

    #[test]
    fn it_is_done_once_after_half_of_what_was_held_has_gone() {
        let mut trim = Trim::new(seconds(0));
        let mut look =
            |at, held| trim.is_due(Look { held, resident: 9 * MIB, is_short: false }, seconds(at));
        assert!(!look(1, 100 * MIB) && !look(2, 51 * MIB));
        assert!(look(3, 50 * MIB) && !look(4, 50 * MIB) && !look(5, 26 * MIB));
        assert!(look(6, 0) && !look(7, 0));
        assert!(!look(8, TRIM_BYTES - 1) && !look(9, 0), "not worth it");
    }

    #[test]
    fn it_is_tried_some_times_after_the_process_has_grown() {
        let mut trim = Trim::new(seconds(0));
        let mut look =
            |at, resident| trim.is_due(Look { held: 0, resident, is_short: false }, seconds(at));
        assert!(!look(10, 80 * MIB) && !look(11, 89 * MIB) && !look(12, 90 * MIB), "it rises");
        assert!(!look(13, 89 * MIB), "by less than an eighth");
        assert!(!look(14, 95 * MIB) && look(15, 95 * MIB), "it does not go on rising");
        let tries: Vec<_> = (16..200).filter(|at| look(*at, 95 * MIB)).collect();
        assert_eq!(tries, [18, 21, 24, 27, 30, 33, 36], "then all of it is in use");
        assert!(!look(300, 100 * MIB) && !look(301, 100 * MIB), "by less than an eighth");
        assert!(!look(302, 120 * MIB) && look(303, 120 * MIB) && !look(304, 96 * MIB), "it helped");
        assert!(!look(305, 120 * MIB) && !look(306, 70 * MIB) && !look(309, 80 * MIB));
        assert!(look(310, 80 * MIB), "from the least on");
    }

    #[test]
    fn while_memory_is_short_it_is_done_once_in_its_interval() {
        let mut trim = Trim::new(seconds(0));
        let look = Look { held: MIB, resident: MIB, is_short: true };
        let looks = (0..=10 * TRIM_MS / 100).filter(|at| trim.is_due(look, Now::from_ms(at * 100)));
        assert_eq!(looks.count(), 10);
    }
}
