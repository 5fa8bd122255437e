//! One shard's share of the rate at which the whole server admits connections.
//!
//! The generic cell rate algorithm (ITU-T I.371): one theoretical arrival time, moved on by one
//! interval for each connection, and never further ahead of now than the burst allows. A refused
//! attempt moves nothing.

/// A rate: `connections` in `seconds`, so that a third of 1,000 a second is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateShare {
    connections: u32,
    seconds: u32,
}

impl RateShare {
    /// One of `shards` equal shares of a rate; `None`, which is no limit, for a total of 0.
    pub fn of(total_per_second: u32, shards: u32) -> Option<Self> {
        Self::new(total_per_second, shards.max(1))
    }

    /// `connections` in every `seconds`; `None` when either is 0.
    pub fn new(connections: u32, seconds: u32) -> Option<Self> {
        (connections > 0 && seconds > 0).then_some(Self { connections, seconds })
    }

    /// How many connections come in one second, rounded up: the burst that lets a second's worth
    /// arrive at once.
    pub fn per_second(self) -> u32 {
        self.connections.div_ceil(self.seconds)
    }

    /// Time between two connections, rounded up, so that the rate is never exceeded.
    fn interval_ps(self) -> u128 {
        (u128::from(self.seconds) * PS_PER_SECOND).div_ceil(u128::from(self.connections))
    }
}

/// Refused: over the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryAfter {
    /// When this shard can admit one again, in milliseconds from now, rounded up; at least 1.
    /// Others may be waiting for the same moment.
    pub ms: u64,
}

const PS_PER_SECOND: u128 = 1_000_000_000_000;
const PS_PER_NS: u128 = 1_000;
const PS_PER_MS: u128 = 1_000_000_000;

/// The state of the share. Times inside are picoseconds: at high rates whole nanoseconds would
/// be an error that adds up.
#[derive(Debug, Clone)]
pub struct GlobalRate {
    /// Between two connections; 0 is no limit.
    interval_ps: u128,
    /// How far the theoretical arrival time may be ahead.
    tolerance_ps: u128,
    /// When the next connection would come if they kept exactly to the rate.
    arrival_ps: u128,
}

impl GlobalRate {
    /// A share with its whole burst available; without a limit when `share` is `None`. `burst`
    /// is how many connections may come at once after a quiet time; 0 counts as 1.
    pub fn new(share: Option<RateShare>, burst: u32) -> Self {
        let mut rate = Self { interval_ps: 0, tolerance_ps: 0, arrival_ps: 0 };
        rate.set_rate(share, burst, 0);
        rate
    }

    /// Changes the share. What is used of the burst stays used, counted in connections, so that
    /// a new rate alone admits nothing extra; of a smaller burst no more than all is used, so
    /// that nobody waits longer than the new rate asks.
    pub fn set_rate(&mut self, share: Option<RateShare>, burst: u32, now_ns: u64) {
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        let ahead_ps = self.arrival_ps.saturating_sub(now_ps);
        let interval_ps = share.map_or(0, RateShare::interval_ps);
        // Without a limit before, nothing is used.
        let rescaled_ps = (ahead_ps * interval_ps).checked_div(self.interval_ps).unwrap_or(0);
        let burst = u128::from(burst.max(1));
        self.interval_ps = interval_ps;
        self.tolerance_ps = interval_ps * (burst - 1);
        self.arrival_ps = now_ps + rescaled_ps.min(interval_ps * burst);
    }

    /// Takes one connection's worth.
    ///
    /// # Errors
    /// Over the rate; nothing was taken.
    pub fn try_take(&mut self, now_ns: u64) -> Result<(), RetryAfter> {
        self.check(now_ns)?;
        self.commit(now_ns);
        Ok(())
    }

    /// Whether [`try_take`](Self::try_take) would succeed.
    ///
    /// # Errors
    /// Over the rate.
    pub fn check(&self, now_ns: u64) -> Result<(), RetryAfter> {
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        let earliest_ps = self.arrival_ps.saturating_sub(self.tolerance_ps);
        match earliest_ps.saturating_sub(now_ps) {
            0 => Ok(()),
            wait_ps => Err(RetryAfter { ms: wait_ps.div_ceil(PS_PER_MS) as u64 }),
        }
    }

    /// Takes one connection's worth, after [`check`](Self::check) at the same time succeeded.
    pub fn commit(&mut self, now_ns: u64) {
        let now_ps = u128::from(now_ns) * PS_PER_NS;
        self.arrival_ps = self.arrival_ps.max(now_ps) + self.interval_ps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn admitted(rate: &mut GlobalRate, attempts: u32, now_ns: u64) -> u32 {
        (0..attempts).map(|_| u32::from(rate.try_take(now_ns).is_ok())).sum()
    }

    #[test]
    fn the_burst_at_once_and_then_the_rate() {
        let mut rate = GlobalRate::new(RateShare::of(1000, 1), 100);
        assert_eq!(admitted(&mut rate, 5000, 0), 100);
        assert_eq!(rate.try_take(0), Err(RetryAfter { ms: 1 }));
        assert_eq!(admitted(&mut rate, 10, 999_999), 0);
        assert_eq!(admitted(&mut rate, 10, 1_000_000), 1);
        assert_eq!(admitted(&mut rate, 5000, 60 * SECOND), 100, "quiet gives one burst, not more");
    }

    #[test]
    fn thirds_of_a_rate_add_up() {
        let share = RateShare::of(1000, 3);
        let mut shards = [0; 3].map(|_| GlobalRate::new(share, 1));
        let mut total = 0;
        // One attempt on each shard every 0.1 ms for one minute.
        for step in 0..600_000u64 {
            total += shards.iter_mut().map(|rate| admitted(rate, 1, step * 100_000)).sum::<u32>();
        }
        assert!((59_990..=60_003).contains(&total), "{total}");
        assert_eq!(share.map(RateShare::per_second), Some(334));
    }

    #[test]
    fn no_limit_and_slow_limits() {
        let mut unlimited = GlobalRate::new(RateShare::of(0, 4), 0);
        assert_eq!(admitted(&mut unlimited, 1_000_000, 0), 1_000_000);
        let mut slow = GlobalRate::new(RateShare::of(1, 64), 0);
        assert_eq!(admitted(&mut slow, 10, 0), 1, "a burst of 0 is one of 1");
        assert_eq!(slow.try_take(0), Err(RetryAfter { ms: 64_000 }));
        assert_eq!(admitted(&mut slow, 10, 64 * SECOND), 1);
    }

    #[test]
    fn changing_the_rate_admits_nothing_extra() {
        let mut rate = GlobalRate::new(RateShare::of(100, 1), 100);
        assert_eq!(admitted(&mut rate, 1000, 0), 100);
        rate.set_rate(RateShare::of(1000, 1), 100, 0);
        assert_eq!(admitted(&mut rate, 1000, 0), 0);
        assert_eq!(admitted(&mut rate, 1000, SECOND / 10), 100, "the new rate from now on");
        for _ in 0..1000 {
            rate.set_rate(RateShare::of(10, 1), 100, SECOND / 10);
            rate.set_rate(RateShare::of(1000, 1), 100, SECOND / 10);
        }
        assert_eq!(admitted(&mut rate, 1000, SECOND / 10), 0);
        rate.set_rate(RateShare::of(10, 1), 10, SECOND / 10);
        assert_eq!(rate.try_take(SECOND / 10), Err(RetryAfter { ms: 100 }));
    }

    #[test]
    fn lifting_and_setting_a_limit() {
        let mut rate = GlobalRate::new(RateShare::of(10, 1), 10);
        assert_eq!(admitted(&mut rate, 100, 0), 10);
        rate.set_rate(None, 0, 0);
        assert_eq!(admitted(&mut rate, 100, 0), 100);
        rate.set_rate(RateShare::of(10, 1), 10, SECOND);
        assert_eq!(admitted(&mut rate, 100, SECOND), 10);
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_burst_and_rate(
            per_second in 1u32..5000,
            shards in 1u32..9,
            burst in 0u32..50,
            gaps in prop::collection::vec(0u64..20_000_000, 1..300),
        ) {
            let mut rate = GlobalRate::new(RateShare::of(per_second, shards), burst);
            let (mut now, mut times) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if rate.try_take(now).is_ok() {
                    times.push(now);
                }
            }
            for (i, start) in times.iter().enumerate() {
                for (j, end) in times.iter().enumerate().skip(i) {
                    let window = u128::from(end - start) * u128::from(per_second);
                    let allowed =
                        u128::from(burst.max(1)) + window / (u128::from(shards) * 1_000_000_000);
                    prop_assert!((j - i + 1) as u128 <= allowed);
                }
            }
        }

        #[test]
        fn the_time_to_retry_is_right(
            per_second in 1u32..2000, taken in 1u32..50, at in 0u64..1_000_000_000,
        ) {
            let mut rate = GlobalRate::new(RateShare::of(per_second, 1), 10);
            admitted(&mut rate, taken, 0);
            if let Err(RetryAfter { ms }) = rate.check(at) {
                prop_assert!(ms >= 1);
                prop_assert!(rate.check(at + ms * 1_000_000).is_ok());
                prop_assert!(rate.check(at + (ms - 1) * 1_000_000).is_err());
            }
        }
    }
}
