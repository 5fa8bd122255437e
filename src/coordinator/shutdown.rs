//! How long each stage of a shutdown may take: pure arithmetic under one deadline.

use super::cause::{Cause, Profile};
use crate::config::Config;

/// Time limits of the stages in milliseconds. Their sum never exceeds the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageCaps {
    /// Not ready, still accepting: the delay, and what is closed beside it.
    pub pre_drain: u64,
    /// Of that: the delay.
    pub pre_drain_delay: u64,
    /// From telling the clients to closing the first.
    pub notice: u64,
    /// Closing, the answers to the last Close included.
    pub drain: u64,
    /// Of the drain: how long the answer to a Close is awaited.
    pub close_timeout: u64,
    /// Cutting what is left.
    pub force: u64,
    /// Counts, hooks, the last answers to refused connections.
    pub flush: u64,
    /// All of it.
    pub deadline: u64,
}

/// What cutting needs at most: a moment for the last Close, and 8 microseconds a connection.
const FORCE_MS: u64 = 1_000;
/// Of that: the moment for the last Close.
const LAST_MOMENT_MS: u64 = 300;
/// How long refused connections may take to read their answer when the listeners close.
const LAST_ANSWERS_MS: u64 = 500;
/// What flushing needs at most.
const FLUSH_MS: u64 = 1_000;

impl StageCaps {
    /// The caps of a shutdown by a signal: those of the configuration, shrunk to fit its deadline
    /// (rule 2 of the requirements). A tenth of the deadline at most is kept for the end, and what
    /// the stages before it want beyond the rest is taken from them in proportion.
    pub fn new(config: &Config) -> Self {
        Self::of(&Profile::of(Cause::Signal, config), config)
    }

    /// The same under a deadline of at most `deadline` milliseconds.
    pub fn within(config: &Config, deadline: u64) -> Self {
        let mut profile = Profile::of(Cause::Program, config);
        profile.deadline_ms = deadline.min(profile.deadline_ms).max(1);
        Self::of(&profile, config)
    }

    /// The same with the times of a profile.
    pub fn of(profile: &Profile, config: &Config) -> Self {
        let wanted = &config.shutdown;
        Self::fit(
            profile.deadline_ms,
            wanted.pre_drain_delay_ms,
            wanted.notice_ms,
            profile.drain_ms,
            wanted.close_timeout_ms,
        )
    }

    /// For a stop that must be quick: the same under a deadline of `deadline` milliseconds,
    /// without waiting for load balancers.
    pub fn hurried(config: &Config, deadline: u64) -> Self {
        let wanted = &config.shutdown;
        let deadline = deadline.min(wanted.deadline_ms);
        Self::fit(deadline, 0, wanted.notice_ms, wanted.drain_ms, wanted.close_timeout_ms)
    }

    /// With time for resources too, in milliseconds: those that are closed beside the notice, and
    /// those at the end. They count with a quarter and a third of the deadline at most, so that
    /// one hook that may take for ever leaves the connections their time. What does not fit is
    /// taken from all in proportion.
    #[must_use]
    pub fn with_resources(self, before: u64, after: u64) -> Self {
        let available = self.deadline - self.force - self.flush;
        let pre_drain = self.pre_drain.max(before.min(available / 4));
        let after = after.min(available / 3);
        let wanted = pre_drain + self.notice + self.drain + after;
        let scaled = |ms: u64| {
            if wanted <= available { ms } else { ms * available / wanted }
        };
        let drain = scaled(self.drain);
        Self {
            pre_drain: scaled(pre_drain),
            pre_drain_delay: scaled(self.pre_drain_delay),
            notice: scaled(self.notice),
            drain,
            close_timeout: self.close_timeout.min(drain / 2),
            ..self
        }
    }

    fn fit(deadline: u64, pre_drain: u64, notice: u64, drain: u64, close_timeout: u64) -> Self {
        let force = FORCE_MS.min(deadline / 10);
        let flush = FLUSH_MS.min(deadline / 10);
        let available = deadline - force - flush;
        let wanted = pre_drain + notice + drain;
        let scaled = |ms: u64| {
            if wanted <= available { ms } else { ms * available / wanted }
        };
        let drain = scaled(drain);
        Self {
            pre_drain: scaled(pre_drain),
            pre_drain_delay: scaled(pre_drain),
            notice: scaled(notice),
            drain,
            close_timeout: close_timeout.min(drain / 2),
            force,
            flush,
            deadline,
        }
    }

    /// The same with a drain in which connections are told to go for `window` milliseconds, the
    /// first `spent` of which have passed. What that takes longer or shorter the deadline moves
    /// too, so that the stages behind it keep their time.
    pub fn with_window(self, window: u64, close_timeout: u64, spent: u64) -> Self {
        let drain = spent.saturating_add(window).saturating_add(close_timeout);
        let moved = self.deadline.saturating_add(drain).saturating_sub(self.drain);
        // A drain that is shorter ends earlier, and nothing else has to.
        Self { drain, close_timeout, deadline: moved.max(self.deadline), ..self }
    }

    /// Later by `ms` milliseconds: for so long nothing was to happen. `in_drain` of them were time
    /// of the drain.
    pub fn delayed(self, ms: u64, in_drain: u64) -> Self {
        Self { drain: self.drain + in_drain, deadline: self.deadline + ms, ..self }
    }

    /// The same when the process has to be gone `within` milliseconds from now, `elapsed` after
    /// the beginning of the shutdown. The stages that are left share what is left, `resources` at
    /// the end with a third at most; the drain, if it has begun, has taken `spent` of its time.
    #[must_use]
    pub fn hastened(self, elapsed: u64, within: u64, resources: u64, spent: Option<u64>) -> Self {
        let own = within - resources.min(within / 3);
        let fit = Self::fit(own, self.pre_drain, self.notice, self.drain, self.close_timeout);
        let until_forced = own - fit.force - fit.flush;
        let drain = match spent {
            Some(spent) => self.drain.min(spent + until_forced),
            None => fit.drain,
        };
        Self {
            drain,
            close_timeout: self.close_timeout.min(drain.saturating_sub(spent.unwrap_or(0)) / 2),
            deadline: self.deadline.min(elapsed + within),
            pre_drain_delay: self.pre_drain_delay.min(fit.pre_drain),
            ..fit
        }
    }

    /// The part of the drain in which connections are told to go; the rest is for their answers.
    pub fn pace_window(&self) -> u64 {
        self.drain - self.close_timeout
    }

    /// The part of forcing in which connections can read their Close; the rest is for the cut.
    pub fn last_moment(&self) -> u64 {
        LAST_MOMENT_MS.min(self.force / 3)
    }

    /// The part of flushing in which the last refused connections can read their answer; the rest
    /// is for the shards' threads to end.
    pub fn last_answers(&self) -> u64 {
        LAST_ANSWERS_MS.min(self.flush * 3 / 5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule 2, S0.5, S1.9, S1.11.
    #[test]
    fn the_defaults_fit_as_they_are() {
        let caps = StageCaps::new(&Config::default());
        assert_eq!((caps.pre_drain, caps.notice, caps.drain), (0, 500, 15_000));
        assert_eq!((caps.close_timeout, caps.deadline), (5_000, 30_000));
        assert_eq!((caps.pace_window(), caps.last_moment()), (10_000, 300));
        assert_eq!(caps.last_answers(), 500);
    }

    fn sum(caps: &StageCaps) -> u64 {
        caps.pre_drain + caps.notice + caps.drain + caps.force + caps.flush
    }

    /// Rule 2, S2.14.
    #[test]
    fn stages_shrink_to_the_deadline() {
        for deadline in [1_000, 4_999, 10_000, 20_000] {
            let caps = StageCaps::fit(deadline, 5_000, 500, 15_000, 5_000);
            assert!(sum(&caps) <= deadline, "{caps:?}");
            assert!(caps.drain > 0 && caps.pace_window() > 0, "{caps:?}");
        }
    }

    /// Rule 2, rule 8.
    #[test]
    fn resources_take_their_part_of_the_deadline() {
        let default = StageCaps::new(&Config::default());
        assert_eq!(default.with_resources(0, 0), default);
        let caps = default.with_resources(2_000, 10_000);
        assert_eq!((caps.pre_drain, caps.drain), (2_000, 15_000), "there is room");
        let caps = default.with_resources(u64::MAX, u64::MAX);
        assert!(caps.pre_drain > 6_000 && caps.drain > 13_000, "{caps:?}");
        let after = 28_000 / 3 * 28_000 / 31_833;
        assert!(caps.pre_drain + caps.notice + caps.drain + after <= 28_000, "{caps:?}");
        assert_eq!(caps.pre_drain_delay, 0);
    }

    #[test]
    fn a_longer_window_moves_the_deadline_and_leaves_the_other_stages_their_time() {
        let caps = StageCaps::new(&Config::default());
        let longer = caps.with_window(60_000, 5_000, 0);
        assert_eq!((longer.drain, longer.pace_window()), (65_000, 60_000));
        assert_eq!(longer.deadline, 30_000 + 50_000);
        let shorter = caps.with_window(2_000, 5_000, 0);
        assert_eq!((shorter.drain, shorter.deadline), (7_000, 30_000));
        // Half way through, ten more seconds.
        let later = caps.with_window(10_000, 5_000, 7_000);
        assert_eq!((later.drain, later.deadline), (22_000, 37_000));
        let held = caps.delayed(3_000, 2_500);
        assert_eq!((held.drain, held.deadline), (17_500, 33_000));
    }

    #[test]
    fn a_signal_during_a_long_drain_ends_it_in_the_time_that_signals_have() {
        let long = StageCaps::new(&Config::default()).with_window(600_000, 5_000, 0);
        // A minute into the shutdown, 59.5 s into its drain.
        let hastened = long.hastened(60_000, 30_000, 0, Some(59_500));
        assert_eq!(hastened.deadline, 90_000);
        assert_eq!(hastened.drain, 59_500 + 28_000);
        assert_eq!(hastened.close_timeout, 5_000);
        let resources = long.hastened(60_000, 30_000, 4_000, Some(59_500));
        assert_eq!((resources.drain, resources.deadline), (59_500 + 24_000, 90_000));
        // One that would be over sooner anyhow is left as it is.
        let short = StageCaps::new(&Config::default());
        let same = short.hastened(1_000, 30_000, 0, Some(500));
        assert_eq!((same.drain, same.deadline), (short.drain, short.deadline));
        // Before the drain has begun.
        let before = long.hastened(100, 10_000, 0, None);
        assert_eq!(before.deadline, 10_100);
        assert!(sum(&before) <= 10_000, "{before:?}");
    }
}
