//! How many connections may have been told to go by now: the integral of a pace that rises at the
//! start, can change on the way and can be 0. Pure.
//!
//! Invariant: it never falls, and a change of the pace takes back nothing.

use crate::clock::Now;

/// Parts of a connection that are counted: at one a second, one each nanosecond.
const PARTS: u128 = 1_000_000_000;

/// The outflow of the whole server, of which each shard takes its share.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outflow {
    /// Let go before the present pace, in parts.
    before: u128,
    /// Since when it holds; nobody goes before.
    since: Option<Now>,
    per_second: u64,
    /// How long it rises, evenly, from nothing.
    ramp_ns: u64,
}

impl Outflow {
    /// From now on so many per second; 0 holds everybody. After a standstill it rises for
    /// `ramp_ms`, so that whoever takes the clients in is not met by all of it at once.
    pub(super) fn set(&mut self, per_second: u64, ramp_ms: u64, now: Now) {
        if self.since.is_some() && self.per_second == per_second {
            return;
        }
        self.before = self.parts(now);
        self.ramp_ns = if self.per_second == 0 { ramp_ms.saturating_mul(1_000_000) } else { 0 };
        self.per_second = per_second;
        self.since = Some(now);
    }

    fn parts(&self, now: Now) -> u128 {
        let Some(since) = self.since else { return self.before };
        let (elapsed, ramp) = (now.since(since).as_nanos(), u128::from(self.ramp_ns));
        let rate = u128::from(self.per_second);
        let flown = if elapsed < ramp {
            // Half of an even rise.
            rate * elapsed / 1_000 * elapsed / (2 * ramp / 1_000).max(1)
        } else {
            rate * (elapsed - ramp / 2)
        };
        self.before.saturating_add(flown)
    }

    /// How many of a shard's `own` connections, of `all`, may have been told by now. The first
    /// goes at once.
    pub(super) fn due(&self, now: Now, own: u64, all: u64) -> u64 {
        let parts = self.parts(now);
        if self.per_second == 0 && parts == 0 {
            return 0;
        }
        let share = parts.saturating_mul(own.into()) / (u128::from(all.max(own).max(1)) * PARTS);
        u64::try_from(share).unwrap_or(u64::MAX).saturating_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now::from_ms(1_000 + ms)
    }

    fn flow(per_second: u64, ramp_ms: u64) -> Outflow {
        let mut flow = Outflow::default();
        assert_eq!(flow.due(at(0), 1_000, 1_000), 0, "before it has begun");
        flow.set(per_second, ramp_ms, at(0));
        flow
    }

    #[test]
    fn it_rises_and_then_is_even() {
        let flow = flow(1_000, 1_000);
        let due = |ms| flow.due(at(ms), 10_000, 10_000);
        assert_eq!((due(0), due(500), due(1_000)), (1, 126, 501));
        for second in 1..9 {
            assert_eq!(due(second * 1_000 + 1_000) - due(second * 1_000), 1_000);
        }
    }

    #[test]
    fn shards_together_let_go_what_the_server_may() {
        let flow = flow(700, 0);
        let shards = [300, 0, 1, 5_000];
        let all: u64 = shards.iter().sum();
        for ms in [0, 1, 10, 999, 5_000] {
            let sum: u64 = shards.iter().map(|own| flow.due(at(ms), *own, all)).sum();
            let wanted = 700 * ms / 1_000;
            assert!((wanted..=wanted + 8).contains(&sum), "{ms}: {sum} of {wanted}");
        }
        assert!(flow.due(at(10_000), 5_000, 0) >= 5_000, "not counted yet");
    }

    #[test]
    fn it_can_stand_still_and_go_on_without_a_burst() {
        let mut flow = flow(1_000, 0);
        flow.set(0, 500, at(1_000));
        let due = |flow: &Outflow, ms| flow.due(at(ms), 100_000, 100_000);
        assert_eq!(due(&flow, 1_000), 1_001);
        assert_eq!(due(&flow, 60_000), 1_001);
        flow.set(1_000, 500, at(60_000));
        assert_eq!(due(&flow, 60_000), 1_001);
        assert_eq!(due(&flow, 60_500), 1_001 + 250, "it rises again");
        assert_eq!(due(&flow, 61_500), 1_001 + 1_250);
        flow.set(10, 500, at(61_500));
        assert_eq!(due(&flow, 71_500), 1_001 + 1_350, "slower, without a new rise");
        flow.set(10, 0, at(80_000));
        assert_eq!(due(&flow, 81_500), 1_001 + 1_450, "the same again changes nothing");
    }

    #[test]
    fn one_that_is_held_from_the_start_lets_nobody_go() {
        let mut flow = flow(0, 1_000);
        assert_eq!(flow.due(at(100_000), 10, 10), 0);
        flow.set(5, 0, at(100_000));
        assert_eq!(flow.due(at(100_000), 10, 10), 1);
    }

    #[test]
    fn no_pace_and_no_time_overflows() {
        let flow = flow(100_000_000, 86_400_000);
        let year = 365 * 86_400_000;
        assert!(flow.due(Now::from_ms(year), u32::MAX.into(), u32::MAX.into()) > 1_000_000_000);
    }
}
