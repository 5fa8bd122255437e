//! The text that a scrape gets.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::last_shutdown::LastShutdown;
use super::super::tests::moment;
use super::*;
use crate::clock::Now;
use crate::close_reason::DrainOutcome;
use crate::coordinator::phase::Phase;
use crate::pressure::{Cause, Level, Pressure, TcpMemory, Usage};
use crate::redis::board::{Status, View};
use crate::redis::counts::Cluster;
use crate::redis::reason::Reason;

fn page(change: impl FnOnce(&mut Moment)) -> String {
    let mut moment = moment(Phase::Running);
    change(&mut moment);
    text(moment).unwrap()
}

fn last(report: &str) -> Option<Arc<LastShutdown>> {
    Some(Arc::new(LastShutdown::new(serde_json::from_str(report).unwrap())))
}

fn pressed() -> Pressure {
    Pressure {
        level: Level::LAST,
        share: Level::LAST.share(),
        cause: Some(Cause::Memory),
        memory: Some(Usage::new(95, 100)),
        tcp: Some(TcpMemory { used: 7, pressure: 8, limit: 9 }),
        ..Pressure::default()
    }
}

fn connected() -> View {
    let mut view = View {
        status: Status::Ok,
        cluster: Some(Cluster { connections: 9, peak: 12, connection_ms: 61_900, nodes: 2 }),
        flushed: Some(Now::from_ms(7_199_000)),
        lease_ms: 3_000,
        flushes: [5, 0, 2],
        opened: 1,
        closed: 2,
        duration_ns: 1_500_000,
        ..View::default()
    };
    (view.durations[0], view.failures[Reason::TimedOut as usize]) = (7, 2);
    view
}

fn has(page: &str, line: &str) {
    assert!(page.lines().any(|found| found == line), "no line `{line}` in\n{page}");
}

/// The names that tools rely on.
#[test]
fn fixed_names_are_there() {
    let page = page(|moment| {
        moment.state.shards[0].connections.set(3);
        moment.state.shards[1].connections.set(1);
        moment.state.shards[1].opened.set(9);
        moment.state.shards[0].closed[CloseReason::PeerGone.index()].set(5);
        moment.state.shards[0].admission_refused[0].set(2);
        moment.state.shards[1].admission_refused[0].set(2);
        moment.state.shards[1].stall_max_ns.set(1_500_000);
        moment.state.shards[1].drain_outcomes[DrainOutcome::Forced.index()].set(8);
        moment.state.set_pressure(pressed());
    });
    for line in [
        "tidegate_connections{shard=\"0\"} 3",
        "tidegate_connections{shard=\"1\"} 1",
        "tidegate_connections_opened_total 9",
        "tidegate_connections_limit 10000000",
        "tidegate_connections_capacity 10000000",
        "tidegate_connections_closed_total{reason=\"peer_gone\"} 5",
        "tidegate_admission_refused_total{reason=\"per_ip_rate\"} 4",
        "tidegate_messages_received_total 0",
        "tidegate_messages_sent_total 0",
        "tidegate_drain_outcomes_total{outcome=\"forced\"} 8",
        "tidegate_shutdown_duration_seconds_count 0",
        "tidegate_shard_stall_seconds{shard=\"1\"} 0.0015",
        "tidegate_shard_imbalance_ratio 1.5",
        "tidegate_admission_share_ratio 0.0",
        "tidegate_admission_pressure{cause=\"memory\"} 1",
        "tidegate_admission_pressure{cause=\"stall\"} 0",
        "tidegate_memory_used_bytes 95",
        "tidegate_memory_limit_bytes 100",
        "tidegate_capacity_bytes 90",
        "tidegate_tcp_memory_bytes 7",
        "tidegate_phase{phase=\"running\"} 1",
        "tidegate_phase{phase=\"draining\"} 0",
        "# TYPE tidegate_build info",
        "# UNIT tidegate_shard_stall_seconds seconds",
    ] {
        has(&page, line);
    }
    assert!(page.ends_with("\n# EOF\n"));
}

/// S0.76.
#[test]
fn redis_and_the_cluster_are_shown_when_there_is_one() {
    let with = page(|moment| moment.redis = connected());
    for line in [
        "tidegate_redis_state{state=\"ok\"} 1",
        "tidegate_redis_state{state=\"disabled\"} 0",
        "tidegate_redis_flushes_total{result=\"ok\"} 5",
        "tidegate_redis_flushes_total{result=\"failed\"} 2",
        "tidegate_redis_flush_failures_total{reason=\"timed_out\"} 2",
        "tidegate_redis_flush_duration_seconds_count 7",
        "tidegate_redis_breaker_changes_total{to=\"open\"} 1",
        "tidegate_redis_breaker_changes_total{to=\"closed\"} 2",
        "tidegate_redis_last_success_age_seconds 1.0",
        "tidegate_cluster_connections 9",
        "tidegate_cluster_connections_peak 12",
        "tidegate_cluster_nodes 2",
        "tidegate_cluster_connection_seconds 61.9",
    ] {
        has(&with, line);
    }
    let without = page(|_| {});
    has(&without, "tidegate_redis_state{state=\"disabled\"} 1");
    assert!(!without.contains("tidegate_cluster") && !without.contains("tidegate_redis_flush"));
}

/// OpenMetrics 1.0: one descriptor before its samples, families not interleaved, no sample
/// twice, units at the end of names, counters ending in `_total`.
#[test]
fn the_page_is_well_formed() {
    let page = page(|moment| {
        moment.state.set_pressure(pressed());
        moment.admin.answers = [(200, 3), (404, 1)].into();
        moment.redis = connected();
        moment.last_shutdown = last(
            r#"{"duration_ms":1500,"connections_at_start":7,"forced":true,"exit_code":70,
                 "started_at":"2026-01-01T00:00:00Z","outcomes":{"forced":7}}"#,
        );
    });
    let (mut families, mut samples) = (BTreeSet::new(), BTreeSet::new());
    let (mut family, mut kind) = (String::new(), String::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            assert!(families.insert(family.clone()), "{family} twice");
            assert!(rest.len() > family.len() + 5, "{family} is not explained");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            kind = rest.strip_prefix(&format!("{family} ")).unwrap().to_owned();
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let unit = rest.strip_prefix(&format!("{family} ")).unwrap();
            assert!(family.ends_with(&format!("_{unit}")), "{line}");
        } else if line != "# EOF" {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(series.to_owned()), "{series} twice");
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family.as_str()).unwrap_or("?");
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["_total"],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            assert!(allowed.contains(&suffix), "{line} in {family} of type {kind}");
        }
    }
    assert!(families.len() > 60, "{}", families.len());
}

/// Rule 10, S0.49 to S0.55, S2.30, S4.67 to S4.70: there, and absent when switched off.
#[test]
fn compatibility_names_can_be_switched_off() {
    let names = [
        "# TYPE concurrent_connections gauge",
        "# TYPE peak_connections gauge",
        "total_connection_seconds 0",
        "connections_rejected 0",
        "rate_limited_ips 0",
        "global_rate_limited 0",
        "accepting_connections 1",
        "# TYPE app_shutdown_duration_seconds histogram",
        "# TYPE graceful_shutdown_duration_seconds histogram",
        "graceful_shutdown_duration_seconds_bucket{le=\"120.0\"} 0",
        "graceful_shutdown_active_connections 0",
        "graceful_shutdown_success_total 0",
        "graceful_shutdown_failure_total 0",
    ];
    let with = page(|_| {});
    let without = page(|moment| {
        let mut config = crate::config::Config::default();
        config.metrics.compatibility_names = false;
        moment.state = super::super::tests::state_with(config, Phase::Running);
    });
    for name in names {
        has(&with, name);
        assert!(!without.lines().any(|line| line == name), "{name}");
    }
}

/// Rule 11, S1.42, S1.59, S1.60, S3.32, S4.69, S4.70, S4.96.
#[test]
fn the_previous_shutdown_is_shown_and_counted() {
    let page = page(|moment| {
        let text = r#"{"duration_ms":7500,"connections_at_start":5,"forced":false,
            "exit_code":0,"outcomes":{"close_acknowledged":5}}"#;
        moment.last_shutdown = last(text);
    });
    for line in [
        "tidegate_last_shutdown_duration_seconds 7.5",
        "tidegate_last_shutdown_connections 5",
        "tidegate_last_shutdown_forced 0",
        "tidegate_last_shutdown_exit_code 0",
        "tidegate_last_shutdown_outcomes{outcome=\"close_acknowledged\"} 5",
        "tidegate_shutdown_duration_seconds_bucket{le=\"5.0\"} 0",
        "tidegate_shutdown_duration_seconds_bucket{le=\"10.0\"} 1",
        "tidegate_shutdown_duration_seconds_bucket{le=\"+Inf\"} 1",
        "graceful_shutdown_duration_seconds_sum 7.5",
        "graceful_shutdown_success_total 1",
    ] {
        has(&page, line);
    }
}
