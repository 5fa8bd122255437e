//! When a shard lets completions gather before it looks at them.
//!
//! A turn has a cost of its own: a system call, being put to sleep and woken, a look at everything
//! that may be due. One that comes for a single completion costs as much as the completion. When
//! turns follow each other closely, each waits a little for more. Counted from the beginning of
//! the wait: after a longer silence a completion is seen at once.
//!
//! Not responsible for: the wait itself (`ring`).

use std::time::Duration;

use crate::ring::Wait;

/// So much weight has the latest of the gaps between turns in their mean.
const WEIGHT: u64 = 8;

/// A gap counts as so many times the time to gather at most, so that a silence is forgotten after
/// some turns.
const LONGEST_GAP: u64 = 16;

/// Turns gather while the mean gap between them is below so many times the time to gather.
const BUSY_GAP: u64 = 2;

/// The gaps between turns.
#[derive(Debug)]
pub(super) struct Gathering {
    /// Zero: never.
    time: Duration,
    mean_gap_ns: u64,
}

impl Gathering {
    /// With so much time to gather; none, and it never does.
    pub(super) fn new(time: Duration) -> Self {
        let longest = LONGEST_GAP * time.as_nanos() as u64;
        Self { time, mean_gap_ns: longest }
    }

    /// A turn began so long after the last one.
    pub(super) fn note(&mut self, gap: Duration) {
        let longest = LONGEST_GAP * self.time.as_nanos() as u64;
        let gap = (gap.as_nanos() as u64).min(longest);
        self.mean_gap_ns = (self.mean_gap_ns * (WEIGHT - 1) + gap) / WEIGHT;
    }

    /// How to wait for the next completions.
    pub(super) fn wait(&self) -> Wait {
        let busy = self.mean_gap_ns < BUSY_GAP * self.time.as_nanos() as u64;
        if busy { Wait::ForMany(self.time) } else { Wait::ForOne }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_micros(50);

    fn after(gaps: impl IntoIterator<Item = u64>) -> Wait {
        let mut gathering = Gathering::new(TIME);
        gaps.into_iter().for_each(|us| gathering.note(Duration::from_micros(us)));
        gathering.wait()
    }

    #[test]
    fn a_quiet_shard_looks_at_once() {
        assert_eq!(after([]), Wait::ForOne);
        assert_eq!(after([62_500; 100]), Wait::ForOne);
        assert_eq!(after([110; 1_000]), Wait::ForOne);
    }

    #[test]
    fn a_few_turns_together_are_not_busy() {
        assert_eq!(after([5; 10]), Wait::ForOne);
    }

    #[test]
    fn turns_that_follow_each_other_closely_gather_until_it_is_quiet() {
        assert_eq!(after([10; 30]), Wait::ForMany(TIME));
        let with_waits = [10; 30].into_iter().chain([60; 1_000]);
        assert_eq!(after(with_waits), Wait::ForMany(TIME));
        assert_eq!(after([10; 30].into_iter().chain([62_500])), Wait::ForOne);
    }

    #[test]
    fn without_time_nothing_gathers() {
        let mut gathering = Gathering::new(Duration::ZERO);
        (0..100).for_each(|_| gathering.note(Duration::from_micros(1)));
        assert_eq!(gathering.wait(), Wait::ForOne);
    }
}
