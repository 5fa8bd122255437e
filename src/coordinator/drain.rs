//! The pace of a drain: pure arithmetic.

use super::report::DrainPlanReport;
use super::shutdown::StageCaps;
use crate::config::Config;
use crate::mesh::message::DrainOrder;

/// The automatic pace never goes below this: small servers are empty at once.
const AUTOMATIC_MIN_PER_SECOND: u64 = 10_000;

/// No client is told to come back sooner than this after its connection was closed.
const FIRST_SLOT_MS: u64 = 100;

/// The order for the shards and what to say about it, for `connections` that are to leave and
/// may be told to from `start_ms` (server clock) on.
pub fn plan(
    config: &Config,
    caps: &StageCaps,
    reason: &str,
    connections: u64,
    start_ms: u64,
) -> (DrainOrder, DrainPlanReport) {
    let window = caps.pace_window().max(1);
    let needed = (connections * 1_000).div_ceil(window).max(1);
    let rate = match config.shutdown.drain_connections_per_second {
        // A little faster than needed, so that a late shard does not spoil it.
        0 => (needed + needed / 4).max(AUTOMATIC_MIN_PER_SECOND),
        rate => rate,
    };
    let estimated_ms = (connections * 1_000).div_ceil(rate);
    let warning = (estimated_ms > window).then(|| {
        format!(
            "{connections} connections at {rate} per second need {estimated_ms} ms, but \
             shutdown.drain_ms leaves {window} ms for telling them: set \
             shutdown.drain_connections_per_second to {needed} or more"
        )
    });
    let order = DrainOrder {
        connections_per_second: rate,
        connections,
        reason: reason.to_owned(),
        slot_spacing_us: 1_000_000 / config.shutdown.reconnect_per_second.max(1),
        first_slot_ms: FIRST_SLOT_MS,
        close_code: config.shutdown.close_code,
        close_timeout_ms: caps.close_timeout,
        last_moment_ms: caps.last_moment(),
        patience_until_ms: start_ms + window,
    };
    (order, DrainPlanReport { connections_per_second: rate, estimated_ms, warning })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_for(rate: u64, connections: u64) -> (DrainOrder, DrainPlanReport) {
        let mut config = Config::default();
        config.shutdown.drain_connections_per_second = rate;
        plan(&config, &StageCaps::new(&config), "test", connections, 0)
    }

    #[test]
    fn the_automatic_pace_is_in_time() {
        for connections in [0, 1, 100_000, 10_000_000] {
            let (_, report) = plan_for(0, connections);
            assert_eq!(report.warning, None, "{connections}");
            assert!(report.estimated_ms <= 10_000);
        }
    }

    /// Rule 4.
    #[test]
    fn a_pace_that_is_too_slow_is_said_with_the_one_that_would_do() {
        let (order, report) = plan_for(100, 50_000);
        assert_eq!(order.connections_per_second, 100);
        assert!(report.warning.is_some_and(|text| text.contains("to 5000 or more")));
    }
}
