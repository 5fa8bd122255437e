//! When to try a Redis that fails: a circuit breaker. Pure; time and chance are arguments.
//!
//! Closed it lets every flush through. Two failures in a row open it; then one try is let
//! through at a time, each after a longer pause, and the first that succeeds closes it. It starts
//! as if it were open and its pause were over, so that the first result is a change that is told.

use crate::clock::Now;
use crate::limits::{REDIS_FAILURES_TO_OPEN, REDIS_PAUSE_MAX_MS};

/// Whether flushes are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All.
    Closed,
    /// None until this moment.
    Open(Now),
    /// One, whose result decides.
    HalfOpen,
}

/// What became different for those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Flushes succeed again.
    Closed,
    /// Flushes fail.
    Opened,
}

/// The breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    state: State,
    interval_ms: u64,
    failures: u32,
    /// What was last told; nothing yet at the start.
    told: Option<Change>,
}

impl Breaker {
    /// For a flush each `interval_ms`.
    pub const fn new(interval_ms: u64) -> Self {
        Self { state: State::HalfOpen, interval_ms, failures: 0, told: None }
    }

    /// The state now.
    pub const fn state(&self) -> State {
        self.state
    }

    /// Whether a flush may be tried; if it may, its result must be told.
    pub fn allows(&mut self, now: Now) -> bool {
        if let State::Open(until) = self.state
            && now >= until
        {
            self.state = State::HalfOpen;
        }
        !matches!(self.state, State::Open(_))
    }

    /// A flush reached Redis and was answered.
    pub fn succeeded(&mut self) -> Option<Change> {
        self.failures = 0;
        self.state = State::Closed;
        self.tell(Change::Closed)
    }

    /// A flush failed. `chance` from 0 to 1 spreads the tries of many nodes.
    pub fn failed(&mut self, now: Now, chance: f64) -> Option<Change> {
        self.failures = self.failures.saturating_add(1);
        if self.state == State::Closed && self.failures < REDIS_FAILURES_TO_OPEN {
            return None;
        }
        self.state = State::Open(now.plus_ms(self.pause_ms(chance)));
        self.tell(Change::Opened)
    }

    /// Doubles with each failure up to three intervals, so that the counts are right soon after a
    /// recovery, and to [`REDIS_PAUSE_MAX_MS`]; between half of that and all of it by chance.
    fn pause_ms(&self, chance: f64) -> u64 {
        let doublings = self.failures.saturating_sub(1).min(8);
        let most = (self.interval_ms * 3).min(REDIS_PAUSE_MAX_MS);
        let pause = (self.interval_ms << doublings).min(most);
        let half = pause / 2;
        half + (half as f64 * chance.clamp(0.0, 1.0)) as u64
    }

    fn tell(&mut self, change: Change) -> Option<Change> {
        (self.told != Some(change)).then(|| {
            self.told = Some(change);
            change
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Now = Now::from_ms(1_000);

    fn closed() -> Breaker {
        let mut breaker = Breaker::new(1_000);
        assert_eq!(breaker.succeeded(), Some(Change::Closed));
        breaker
    }

    #[test]
    fn the_first_result_is_told() {
        assert_eq!(Breaker::new(1_000).succeeded(), Some(Change::Closed));
        assert_eq!(Breaker::new(1_000).failed(START, 0.0), Some(Change::Opened));
    }

    #[test]
    fn one_failure_is_no_change_and_two_are() {
        let mut breaker = closed();
        assert_eq!(breaker.failed(START, 0.0), None);
        assert!(breaker.allows(START));
        assert_eq!(breaker.succeeded(), None);
        assert_eq!(breaker.failed(START, 0.0), None);
        assert_eq!(breaker.failed(START, 0.0), Some(Change::Opened));
        assert!(!breaker.allows(START));
    }

    #[test]
    fn one_change_is_told_however_often_it_is_tried() {
        let mut breaker = closed();
        let mut now = START;
        let mut told = Vec::new();
        for _ in 0..100 {
            while !breaker.allows(now) {
                now = now.plus_ms(10);
            }
            told.extend(breaker.failed(now, 1.0));
        }
        assert!(breaker.failures >= 100);
        now = now.plus_ms(REDIS_PAUSE_MAX_MS);
        assert!(breaker.allows(now));
        assert_eq!(breaker.state(), State::HalfOpen);
        told.extend(breaker.succeeded());
        assert_eq!(told, [Change::Opened, Change::Closed]);
        assert_eq!(breaker.state(), State::Closed);
    }

    #[test]
    fn a_pause_grows_and_is_bounded_and_never_nothing() {
        for (interval_ms, most) in [(100, 300), (1_000, 3_000), (60_000, REDIS_PAUSE_MAX_MS)] {
            for chance in [-1.0, 0.0, 0.5, 1.0, 9.0, f64::NAN] {
                let mut breaker = Breaker::new(interval_ms);
                let mut last = 0;
                for _ in 0..50 {
                    breaker.failed(START, chance);
                    let State::Open(until) = breaker.state() else { panic!("not open") };
                    let pause = until.since(START).as_millis() as u64;
                    assert!((most / 6..=most).contains(&pause), "{pause} of {most}");
                    assert!(pause >= last);
                    last = pause;
                }
            }
        }
    }
}
