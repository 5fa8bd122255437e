//! The highest rate of the last minute: what a share of "no limit" is a share of. Pure.
//!
//! Invariant: what is reported was admitted within one second of the last sixty, or is the least.

/// Seconds that are remembered.
const SECONDS: usize = 60;

/// A server that was quiet has shown no rate that it can bear; this one anybody can.
pub const LEAST_PER_SECOND: u64 = 100;

/// Counts by second.
#[derive(Debug, Clone)]
pub struct BusiestSecond {
    counts: [u64; SECONDS],
    second: u64,
    total: u64,
}

impl BusiestSecond {
    /// Nothing so far, of a counter that stands at `total` in this `second` of the clock.
    pub fn new(second: u64, total: u64) -> Self {
        Self { counts: [0; SECONDS], second, total }
    }

    /// The counter stands at `total` in this `second`. What it grew by since the last time is
    /// counted for this second; a counter that fell back counts nothing.
    pub fn note(&mut self, second: u64, total: u64) {
        let passed = second.saturating_sub(self.second).min(SECONDS as u64);
        for later in 1..=passed {
            self.counts[((self.second + later) % SECONDS as u64) as usize] = 0;
        }
        if passed == SECONDS as u64 {
            self.counts = [0; SECONDS];
        }
        self.second = self.second.max(second);
        let grown = total.saturating_sub(self.total);
        self.counts[(self.second % SECONDS as u64) as usize] += grown;
        self.total = total;
    }

    /// The most in one second, at least [`LEAST_PER_SECOND`].
    pub fn per_second(&self) -> u64 {
        self.counts.iter().copied().max().unwrap_or(0).max(LEAST_PER_SECOND)
    }

    /// What a share of the rate is of: the configured rate, and without one (0) the highest of
    /// the last minute.
    pub fn base(&self, configured_per_second: u64) -> u64 {
        if configured_per_second == 0 { self.per_second() } else { configured_per_second }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_is_remembered_for_a_minute() {
        let mut busiest = BusiestSecond::new(10, 5_000);
        assert_eq!(busiest.per_second(), LEAST_PER_SECOND);
        busiest.note(10, 5_300);
        busiest.note(10, 5_500);
        busiest.note(11, 5_600);
        assert_eq!(busiest.per_second(), 500);
        busiest.note(69, 5_600);
        assert_eq!(busiest.per_second(), 500);
        busiest.note(70, 5_600);
        assert_eq!(busiest.per_second(), LEAST_PER_SECOND);
        assert_eq!((busiest.base(0), busiest.base(30)), (LEAST_PER_SECOND, 30));
    }

    proptest! {
        /// Against a list of everything that ever happened.
        #[test]
        fn it_is_the_most_of_the_last_sixty(
            steps in prop::collection::vec((0_u64..90, 0_u64..1000), 1..100),
        ) {
            let mut busiest = BusiestSecond::new(0, 0);
            let (mut second, mut total) = (0, 0);
            let mut all = std::collections::BTreeMap::<u64, u64>::new();
            for (passed, more) in steps {
                second += passed;
                total += more;
                busiest.note(second, total);
                *all.entry(second).or_default() += more;
                let recent = all.iter().filter(|(at, _)| second - **at < 60);
                let most = recent.map(|(_, count)| *count).max().unwrap_or(0);
                prop_assert_eq!(busiest.per_second(), most.max(LEAST_PER_SECOND));
            }
        }
    }
}
