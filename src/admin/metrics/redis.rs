//! How Redis is, and what the cluster counts. Without Redis only that there is none.

use std::fmt::Error;

use super::page::{BYTES, Page, SECONDS, seconds};
use crate::redis::board::{DURATION_BUCKETS_MS, FlushResult, Status};
use crate::redis::reason::Reason;
use crate::redis::relay::{Arrival, LinkStatus, Reach};

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
    publications(page)?;
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

/// Publications that go to the other nodes, and that come from them.
fn publications(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let relay = &page.moment.state.relay;
    let links = [("out", &relay.outgoing), ("in", &relay.incoming)];
    let by_link =
        |figure: fn(&LinkStatus) -> u64| links.map(|(name, link)| (name.to_owned(), figure(link)));
    page.gauge_by(
        "tidegate_cluster_link",
        None,
        "1 if publications go out to the other nodes, and if theirs come in",
        "direction",
        by_link(|link| link.is_up().into()),
    )?;
    page.counter_by(
        "tidegate_cluster_link_losses",
        None,
        "Times that they stopped to",
        "direction",
        by_link(|link| link.changes().1),
    )?;
    page.counter_by(
        "tidegate_cluster_publications_sent",
        None,
        "Publications of this node, by what became of them on their way to the others",
        "result",
        Reach::ALL.map(|reach| (reach.label().to_owned(), relay.sent(reach))),
    )?;
    page.counter_by(
        "tidegate_cluster_publications_received",
        None,
        "Publications that came from Redis, by what became of them",
        "result",
        Arrival::ALL.map(|arrival| (arrival.label().to_owned(), relay.arrived(arrival))),
    )?;
    page.counter(
        "tidegate_cluster_publications_missed",
        None,
        "Publications of other nodes that did not arrive",
        relay.missed(),
    )?;
    let help = "Bytes of publications that wait for Redis";
    page.gauge("tidegate_cluster_publications_queued", BYTES, help, relay.queued_bytes() as u64)?;
    let help = "Other lives of nodes that have been heard, ended ones among them";
    page.gauge("tidegate_cluster_publishers", None, help, relay.publishers() as u64)
}
