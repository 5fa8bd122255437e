//! The pace of a drain, and when its clients come back: pure arithmetic.

use super::cause::Profile;
use super::report::{DrainPlanReport, ReconnectReport};
use super::shutdown::StageCaps;
use crate::config::Config;
use crate::limits::{DRAIN_RAMP_MS, FIRST_SLOT_MS};
use crate::mesh::message::DrainOrder;

/// The automatic pace never goes below this: small servers are empty at once.
const AUTOMATIC_MIN_PER_SECOND: u64 = 10_000;

/// How fast connections are to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it takes to be done in time, with something to spare.
    Automatic,
    /// So many a second.
    PerSecond(u64),
    /// Evenly over so many milliseconds.
    Within(u64),
}

/// What is wanted of a drain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How fast.
    pub pace: Pace,
    /// The code of every Close.
    pub close_code: u16,
    /// The `reason` that clients are told.
    pub reason: String,
    /// Where clients are told to come back; where they came from if there is none.
    pub reconnect_to: Option<String>,
    /// How many of them may come back in a second.
    pub reconnect_per_second: u64,
}

impl Terms {
    /// The terms of a profile, unless somebody wants another pace.
    pub fn of(
        profile: &Profile,
        config: &Config,
        wanted: Option<Pace>,
        reconnect_to: Option<String>,
    ) -> Self {
        let configured = match profile.connections_per_second {
            0 => Pace::Automatic,
            rate => Pace::PerSecond(rate),
        };
        Self {
            pace: wanted.unwrap_or(configured),
            close_code: profile.close_code,
            reason: profile.reason.clone(),
            reconnect_to,
            reconnect_per_second: config.shutdown.reconnect_per_second.max(1),
        }
    }
}

/// Where a drain stands when it is planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Connections that there were at its start.
    pub connections: u64,
    /// Those of them that are left.
    pub left: u64,
    /// How long they may be told to go from now on, in milliseconds.
    pub window_ms: u64,
    /// How long it is from now on until what is left is forced, in milliseconds.
    pub until_forced_ms: u64,
    /// Nobody is to be told to go for now.
    pub is_paused: bool,
    /// On the server's clock, in milliseconds.
    pub now_ms: u64,
    /// Which drain of this process it is.
    pub number: u64,
    /// How often its clients have been told other slots.
    pub notice_round: u64,
}

/// The order for the shards and what to say about it.
pub fn plan(terms: &Terms, caps: &StageCaps, at: Position) -> (DrainOrder, DrainPlanReport) {
    let window = at.window_ms.max(1);
    let needed = rate_for(at.left, window);
    let rate = match terms.pace {
        // A little faster than needed, so that a late shard does not spoil it.
        Pace::Automatic => (needed + needed / 4).max(AUTOMATIC_MIN_PER_SECOND),
        Pace::PerSecond(rate) => rate.max(1),
        Pace::Within(ms) => rate_for(at.left, ms.clamp(1, window)),
    };
    let ramp_ms = ramp_ms(at.left * 1_000 / rate);
    let estimated_ms = (at.left * 1_000).div_ceil(rate) + ramp_ms / 2;
    let warning = (estimated_ms > window).then(|| {
        format!(
            "{} connections at {rate} per second need {estimated_ms} ms, but the drain has \
             {window} ms for telling them: {needed} per second would do",
            at.left
        )
    });
    let order = DrainOrder {
        number: at.number,
        notice_round: at.notice_round,
        connections_per_second: if at.is_paused { 0 } else { rate },
        ramp_ms,
        connections: at.connections,
        reason: terms.reason.clone(),
        reconnect_to: terms.reconnect_to.clone(),
        slot_spacing_ns: slot_spacing_ns(terms.reconnect_per_second, rate),
        first_slot_ms: FIRST_SLOT_MS,
        close_code: terms.close_code,
        close_timeout_ms: caps.close_timeout,
        last_moment_ms: caps.last_moment(),
        last_answers_ms: caps.last_answers(),
        patience_until_ms: if at.is_paused { u64::MAX } else { at.now_ms + window },
        forcing_at_ms: if at.is_paused { u64::MAX } else { at.now_ms + at.until_forced_ms },
    };
    let reconnect = ReconnectReport {
        per_second: terms.reconnect_per_second.min(rate),
        last_after_ms: FIRST_SLOT_MS + at.left * order.slot_spacing_ns / 1_000_000,
        to: terms.reconnect_to.clone(),
    };
    let report = DrainPlanReport {
        connections_per_second: rate,
        needed_per_second: needed,
        estimated_ms,
        window_ms: window,
        warning,
        reconnect,
    };
    (order, report)
}

/// The pace at which `connections` are gone in `ms`, its rise included.
fn rate_for(connections: u64, ms: u64) -> u64 {
    (connections * 1_000).div_ceil((ms - ramp_ms(ms) / 2).max(1)).max(1)
}

/// How long a pace rises in a drain that takes `ms`.
fn ramp_ms(ms: u64) -> u64 {
    DRAIN_RAMP_MS.min(ms / 10)
}

/// How much longer than the client before it each one waits, so that they come back as a flat
/// line. They leave one after the other anyhow; only what that is too fast for those who take
/// them in is added.
fn slot_spacing_ns(reconnect_per_second: u64, close_per_second: u64) -> u64 {
    const SECOND_NS: u64 = 1_000_000_000;
    let (back, out) = (SECOND_NS / reconnect_per_second, SECOND_NS / close_per_second);
    back.saturating_sub(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::cause::Cause;

    fn at(left: u64, window_ms: u64) -> Position {
        Position {
            connections: left,
            left,
            window_ms,
            until_forced_ms: window_ms + 5_000,
            is_paused: false,
            now_ms: 0,
            number: 1,
            notice_round: 0,
        }
    }

    fn terms(pace: Pace) -> Terms {
        let config = Config::default();
        Terms::of(&Profile::of(Cause::Operator, &config), &config, Some(pace), None)
    }

    fn plan_for(pace: Pace, at: Position) -> (DrainOrder, DrainPlanReport) {
        plan(&terms(pace), &StageCaps::new(&Config::default()), at)
    }

    #[test]
    fn the_automatic_pace_is_in_time() {
        for connections in [0, 1, 100_000, 10_000_000] {
            let (_, report) = plan_for(Pace::Automatic, at(connections, 10_000));
            assert_eq!(report.warning, None, "{connections}");
            assert!(report.estimated_ms <= 10_000);
        }
    }

    /// rule 4: the number that would do does.
    #[test]
    fn a_pace_that_is_too_slow_is_said_with_the_one_that_would_do() {
        let (order, report) = plan_for(Pace::PerSecond(100), at(50_000, 10_000));
        assert_eq!(order.connections_per_second, 100);
        let warning = report.warning.unwrap_or_default();
        assert!(warning.contains(&format!("{} per second would do", report.needed_per_second)));
        for (connections, window) in [(50_000, 10_000), (1, 1), (7, 60_000), (1_000_000, 999)] {
            let (_, report) = plan_for(Pace::PerSecond(1), at(connections, window));
            let enough = Pace::PerSecond(report.needed_per_second);
            assert_eq!(plan_for(enough, at(connections, window)).1.warning, None);
        }
    }

    #[test]
    fn within_a_time_everybody_has_gone() {
        let (order, report) = plan_for(Pace::Within(20_000), at(50_000, 20_000));
        assert_eq!(order.ramp_ms, 1_000);
        assert!((19_900..=20_000).contains(&report.estimated_ms), "{report:?}");
        let (slow, _) = plan_for(Pace::Within(20_000), at(3, 20_000));
        assert_eq!(slow.connections_per_second, 1);
        let (late, _) = plan_for(Pace::Within(20_000), at(50_000, 5_000));
        assert!(late.connections_per_second > 10_000, "no longer than there is time");
    }

    /// D22: clients come back at the pace at which they are let in, or at which they leave.
    #[test]
    fn slots_make_a_flat_line() {
        for (close, back) in [(2_500, 1_000), (500, 1_000), (1_000, 1_000), (1_000_000, 50)] {
            let spacing = slot_spacing_ns(back, close);
            let return_spacing_ns = 1_000_000_000 / close + spacing;
            let per_second = 1_000_000_000 / return_spacing_ns;
            assert_eq!(per_second, close.min(back), "{close} {back}");
        }
        let (_, report) = plan_for(Pace::PerSecond(2_500), at(50_000, 60_000));
        assert_eq!(report.reconnect.per_second, 1_000);
        // 20 s to close all of them, 50 s to let all of them in again.
        assert_eq!(report.reconnect.last_after_ms, FIRST_SLOT_MS + 30_000);
    }

    #[test]
    fn a_drain_that_is_held_keeps_its_plan_and_waits_for_messages() {
        let held = Position { is_paused: true, ..at(100, 5_000) };
        let (order, report) = plan_for(Pace::PerSecond(50), held);
        assert_eq!((order.connections_per_second, report.connections_per_second), (0, 50));
        assert_eq!((order.patience_until_ms, order.forcing_at_ms), (u64::MAX, u64::MAX));
    }
}
