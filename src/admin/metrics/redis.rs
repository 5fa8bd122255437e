//! How Redis is, and what the cluster counts. Without Redis only that there is none.

use std::fmt::Error;

use super::page::{Page, SECONDS, seconds};
use crate::redis::board::{DURATION_BUCKETS_MS, FlushResult, Status};
use crate::redis::reason::Reason;

pub(super) fn redis(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let (view, now) = (&page.moment.redis, page.moment.now);
    let status = view.status_at(now);
    page.gauge_by(
        "tidegate_redis_state",
        None,
        "1 for how Redis is",
        "state",
        Status::ALL.map(|of| (of.label().to_owned(), u64::from(of == status))),
    )?;
    if status == Status::Disabled {
        return Ok(());
    }
    page.counter_by(
        "tidegate_redis_flushes",
        None,
        "Flushes of this node's counts, by what became of them",
        "result",
        FlushResult::ALL.map(|of| (of.label().to_owned(), view.flushes[of as usize])),
    )?;
    page.counter_by(
        "tidegate_redis_flush_failures",
        None,
        "Flushes that failed, by why",
        "reason",
        Reason::ALL.map(|of| (of.label().to_owned(), view.failures[of as usize])),
    )?;
    let bounds = DURATION_BUCKETS_MS.map(|ms| ms as f64 / 1000.0).into_iter();
    let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(view.durations).collect();
    page.histogram(
        "tidegate_redis_flush_duration",
        SECONDS,
        "How long flushes took, those that failed included",
        seconds(view.duration_ns),
        &buckets,
    )?;
    page.counter_by(
        "tidegate_redis_breaker_changes",
        None,
        "Times that the circuit breaker opened, and that it closed",
        "to",
        [("open".to_owned(), view.opened), ("closed".to_owned(), view.closed)],
    )?;
    if let Some(age_ms) = view.age_ms(now) {
        let help = "Time since the last flush that succeeded";
        page.gauge("tidegate_redis_last_success_age", SECONDS, help, age_ms as f64 / 1000.0)?;
    }
    let Some(cluster) = view.cluster_at(now) else { return Ok(()) };
    let help = "Open connections of all nodes, as of the last flush";
    page.gauge("tidegate_cluster_connections", None, help, cluster.connections)?;
    let help = "Most connections of all nodes that were open at once";
    page.gauge("tidegate_cluster_connections_peak", None, help, cluster.peak)?;
    page.gauge("tidegate_cluster_nodes", None, "Nodes whose lease holds", cluster.nodes)?;
    page.gauge(
        "tidegate_cluster_connection",
        SECONDS,
        "Time that all connections of all nodes have been open, ended nodes included",
        cluster.connection_ms as f64 / 1000.0,
    )
}
