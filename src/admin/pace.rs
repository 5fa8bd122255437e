//! How long something is held back that comes too often: GCRA, with a longest delay. Pure.

use std::time::{Duration, Instant};

/// How often something may come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// So many at once are not delayed.
    pub(super) burst: u32,
    /// Of further ones.
    pub(super) interval: Duration,
    /// The longest delay.
    pub(super) most: Duration,
}

/// The theoretical arrival time of the next.
#[derive(Debug, Default)]
pub(super) struct Pace(Option<Instant>);

impl Pace {
    /// The delay of one that comes now.
    pub(super) fn delay(&mut self, rate: Rate, now: Instant) -> Duration {
        let allowance = rate.interval * rate.burst;
        let next = self.0.map_or(now, |next| next.max(now)) + rate.interval;
        let delay = next.saturating_duration_since(now + allowance).min(rate.most);
        // A debt beyond the longest delay would outlast who made it.
        self.0 = Some(next.min(now + allowance + rate.most));
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_is_spaced() {
        let ms = Duration::from_millis;
        let rate = Rate { burst: 3, interval: ms(100), most: ms(250) };
        let (mut pace, now) = (Pace::default(), Instant::now());
        let delays: Vec<_> = (0..8).map(|_| pace.delay(rate, now).as_millis()).collect();
        assert_eq!(delays, [0, 0, 0, 100, 200, 250, 250, 250]);
        assert_eq!(pace.delay(rate, now + ms(200)), ms(150));
        assert_eq!(pace.delay(rate, now + ms(10_000)), ms(0));
    }
}
