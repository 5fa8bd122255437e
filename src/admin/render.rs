//! From the server at one moment to JSON. Pure. Fields and their units: `docs/admin-api.md`.

use serde_json::{Map, Value, json};

use super::error::ApiError;
use super::moment::Moment;
use super::route::speaks_centrifugo;
use crate::admission::{HeavyHitters, heavy_hitters};
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::coordinator::command::{ReloadAnswer, ShutdownAnswer};
use crate::coordinator::phase::Phase;
use crate::metrics::REFUSAL_LABELS;
use crate::pressure::Cause;
use crate::redis::board::Status;
use crate::redis::reason::Reason;
use crate::redis::relay::{LinkStatus, Reach};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn alive(timestamp: &str) -> Value {
    json!({ "status": "alive", "timestamp": timestamp })
}

/// S4.94, S3.17.
pub(super) fn ready(phase: Phase, timestamp: &str) -> (bool, Value) {
    let is_ready = phase.is_ready();
    let status = if is_ready { "ready" } else { "not_ready" };
    (is_ready, probe(phase, status, timestamp))
}

/// S1.46.
pub(super) fn healthy(phase: Phase, timestamp: &str) -> (bool, Value) {
    let is_healthy = phase.is_ready();
    let status = if is_healthy { "healthy" } else { "unhealthy" };
    (is_healthy, probe(phase, status, timestamp))
}

fn probe(phase: Phase, status: &str, timestamp: &str) -> Value {
    json!({ "status": status, "phase": phase.name(), "timestamp": timestamp })
}

/// S0.20 to S0.25, and S0.54.
pub(super) fn health_status(moment: &Moment) -> Value {
    let connections = moment.state.connections();
    let config = moment.state.config();
    let admission = &config.admission;
    json!({
        "timestamp": moment.timestamp,
        "scope": if moment.redis.cluster_at(moment.now).is_some() { "cluster" } else { "node" },
        "redis": redis(moment),
        "chronos": {
            "tick_count": moment.state.ticks(),
            "active_connections": connections,
            "uptime_ms": moment.now.ms(),
        },
        "backpressure": {
            "connections_rejected": moment.refused_in_all(),
            "rate_limited_ips": moment.sum(|shard| &shard.limited_sources),
            "global_rate_limited": moment.refused("global_rate"),
            "global_connections": connections,
            "pressure": pressure(moment),
            "config": {
                "connections_per_ip_per_minute": admission.connections_per_ip_per_minute,
                "global_connections_per_second": admission.global_connections_per_second,
                "max_global_connections": admission.max_global_connections,
            },
        },
        "graceful_shutdown": { "accepting_connections": moment.phase().accepts() },
    })
}

/// S0.22. The sums of the cluster as of the last flush, or the node's own figures (rule 13).
fn redis(moment: &Moment) -> Value {
    let (view, now) = (&moment.redis, moment.now);
    let status = view.status_at(now);
    let (connections, peak, connection_ms) = match view.cluster_at(now) {
        Some(cluster) => (cluster.connections, cluster.peak, cluster.connection_ms),
        None => {
            let state = &moment.state;
            (state.connections(), state.connections_peak(), state.connection_ms())
        }
    };
    let mut value = json!({
        "status": status.label(),
        "concurrent_connections": connections,
        "total_connection_seconds": connection_ms / 1000,
        "peak_connections": peak,
    });
    if status != Status::Disabled {
        value["reason"] = view.reason_at(now).map(Reason::label).into();
        value["nodes"] = view.cluster_at(now).map(|cluster| cluster.nodes).into();
        value["epoch"] = view.epoch.into();
        value["age_ms"] = view.age_ms(now).into();
        let relay = &moment.state.relay;
        value["links"] = json!({ "out": link(&relay.outgoing), "in": link(&relay.incoming) });
    }
    value
}

/// One way of publications to or from the other nodes.
fn link(status: &LinkStatus) -> Value {
    json!({ "up": status.is_up(), "reason": status.reason().map(Reason::label) })
}

/// S0.72. Null is what could not be read.
fn pressure(moment: &Moment) -> Value {
    let pressure = moment.state.pressure();
    json!({
        "level": pressure.level.number(),
        "cause": pressure.cause.map(Cause::label),
        "admission_share_ratio": pressure.share.ratio(),
        "capacity_bytes": pressure.memory.map(|memory| memory.budget),
        "memory_used_bytes": pressure.memory.map(|memory| memory.used),
        "memory_limit_bytes": pressure.memory.map(|memory| memory.limit),
        "tcp_memory_bytes": pressure.tcp.map(|tcp| tcp.used),
    })
}

pub(super) fn shards(moment: &Moment) -> Value {
    let shards: Vec<_> = (0..moment.shards().len()).map(|index| shard(moment, index)).collect();
    json!({
        "timestamp": moment.timestamp,
        "connections": moment.state.connections(),
        "imbalance_ratio": moment.imbalance(),
        "shards": shards,
    })
}

fn shard(moment: &Moment, index: usize) -> Value {
    let shard = &moment.shards()[index];
    let closed =
        CloseReason::ALL.map(|reason| (reason.label(), shard.closed[reason.index()].get()));
    let refused =
        REFUSAL_LABELS.iter().zip(&shard.admission_refused).map(|(label, n)| (*label, n.get()));
    json!({
        "shard": index,
        "connections": shard.connections.get(),
        "connections_peak": shard.connections_peak.get(),
        "handshaking": shard.handshaking.get(),
        "capacity": shard.capacity.get(),
        "lease": {
            "granted": shard.slots_granted.get(),
            "used": shard.admitted.get(),
            "borrowed": shard.slots_granted.get().saturating_sub(moment.equal_part()),
            "reclaimed": shard.slots_reclaimed.get(),
            "tokens": shard.tokens_held.get(),
            "deferred": shard.admission_deferred.get(),
        },
        "owner_questions": shard.owner_asked.get(),
        "placements": shard.placed.get(),
        "accepted": shard.accepted.get(),
        "opened": shard.opened.get(),
        "closed": counts(closed),
        "refused": counts(refused),
        "messages_received": shard.messages_received.get(),
        "messages_sent": shard.messages_sent.get(),
        "subscriptions": shard.subscriptions.get(),
        "publications": shard.publications.get(),
        "queued_bytes": shard.queued_bytes.get(),
        "inbox_messages": moment.inboxes.get(index),
        "tracked_sources": shard.tracked_sources.get(),
        "limited_sources": shard.limited_sources.get(),
        "busy_ratio": moment.busy_ratio(shard),
        "stall_max_ms": shard.stall_max_ns.get() as f64 / 1e6,
        "stall_own_max_ms": shard.stall_own_max_ns.get() as f64 / 1e6,
        "last_turn_age_ms": moment.turn_age_ms(shard),
        "receive_buffers_starved": shard.buffers_starved.get(),
        "accept_paused": shard.accept_paused.get(),
        "epoch": shard.epoch.get(),
    })
}

/// The sources that the shards which answered refused most.
pub(super) fn refused(moment: &Moment, answers: &[HeavyHitters], limit: usize) -> Value {
    let sources = heavy_hitters::merge(answers, limit).into_iter().map(|entry| {
        let age_ns = moment.now.ns().saturating_sub(entry.last_ns);
        json!({
            "source": entry.source.to_string(),
            "refused": entry.refused,
            "at_most_over": entry.at_most_over,
            "reason": entry.last_reason.label(),
            "last_refused_ms_ago": age_ns / 1_000_000,
        })
    });
    json!({
        "timestamp": moment.timestamp,
        "sources": sources.collect::<Vec<_>>(),
        "shards_answered": answers.len(),
        "shards": moment.shards().len(),
    })
}

/// S4.22.
pub(super) fn shutdown_status(moment: &Moment) -> Value {
    let mut status = Map::new();
    status.insert("timestamp".to_owned(), moment.timestamp.clone().into());
    status.insert("shutting_down".to_owned(), moment.phase().is_shutting_down().into());
    status.insert("accepting_connections".to_owned(), moment.phase().accepts().into());
    if let Ok(Value::Object(report)) = serde_json::to_value(moment.report()) {
        status.extend(report);
    }
    Value::Object(status)
}

/// S4.79 to S4.82.
pub(super) fn process(moment: &Moment) -> Value {
    let process = &moment.process;
    json!({
        "timestamp": moment.timestamp,
        "process": {
            "pid": process.pid,
            "platform": std::env::consts::OS,
            "version": VERSION,
            "uptime": moment.now.ms() as f64 / 1000.0,
        },
        "memory": { "usage": process.resident_bytes, "percentage": process.memory_percent() },
        "cpu": { "usage": process.cpu_ms as f64 / 1000.0, "percentage": process.cpu_percent },
        "connections": { "active": moment.state.connections() },
    })
}

/// S4.27: what /metrics has, as far as it is about connections, for people without Prometheus.
pub(super) fn figures(moment: &Moment) -> Value {
    let closed = CloseReason::ALL
        .map(|reason| (reason.label(), moment.sum(|shard| &shard.closed[reason.index()])));
    let outcomes = DrainOutcome::ALL.map(|outcome| {
        (outcome.label(), moment.sum(|shard| &shard.drain_outcomes[outcome.index()]))
    });
    let refused = REFUSAL_LABELS.map(|reason| (reason, moment.refused(reason)));
    let report = moment.report();
    let mut value = process(moment);
    value["connections"] = json!({
        "active": moment.state.connections(),
        "handshaking": moment.sum(|shard| &shard.handshaking),
        "peak": moment.state.connections_peak(),
        "opened": moment.sum(|shard| &shard.opened),
        "closed": counts(closed),
        "refused": counts(refused),
    });
    value["messages"] = json!({
        "received": moment.sum(|shard| &shard.messages_received),
        "sent": moment.sum(|shard| &shard.messages_sent),
    });
    value["shutdown"] = json!({
        "phase": report.phase,
        "duration_ms": report.duration_ms,
        "connections_at_start": report.connections_at_start,
        "connections_left": report.connections_left,
        "outcomes": counts(outcomes),
        "forced": report.forced,
    });
    value
}

/// S4.28. A secret has been masked by the configuration.
pub(super) fn config(moment: &Moment) -> Value {
    let settings: Map<_, _> = moment
        .state
        .config()
        .shown()
        .into_iter()
        .map(|shown| {
            (shown.key.to_owned(), json!({ "value": shown.value, "source": shown.source }))
        })
        .collect();
    json!({ "timestamp": moment.timestamp, "settings": settings })
}

/// S4.29.
pub(super) fn overview(moment: &Moment) -> Value {
    let mut value = figures(moment);
    value["shutdown"] = shutdown_status(moment);
    value["health"] = healthy(moment.phase(), &moment.timestamp).1;
    value["ready"] = ready(moment.phase(), &moment.timestamp).0.into();
    value["shards"] = moment.shards().len().into();
    value["settings"] = config(moment)["settings"].take();
    value["last_shutdown"] =
        moment.last_shutdown.as_ref().map_or(Value::Null, |last| last.report().clone());
    value
}

/// The answer of the coordinator to a shutdown.
pub(super) fn shutdown_answer(answer: &ShutdownAnswer) -> Value {
    let mut value = serde_json::to_value(&answer.report).unwrap_or_default();
    value["started"] = answer.started.into();
    value
}

/// The answer of the coordinator to a reload, and its status.
pub(super) fn reload_answer(answer: &ReloadAnswer) -> (u16, Value) {
    match answer {
        Ok(report) => {
            let status = if report.changed.is_empty() { 200 } else { 202 };
            (status, serde_json::to_value(report).unwrap_or_default())
        }
        Err(errors) => {
            let (count, plural) = (errors.len(), if errors.len() == 1 { "" } else { "s" });
            let message = format!(
                "the configuration is refused ({count} error{plural}); the limits stay as they were"
            );
            let code = "configuration_refused";
            (422, json!({ "error": { "code": code, "message": message, "errors": errors } }))
        }
    }
}

/// The answer to `/api/v1/broadcast`.
pub(super) fn broadcast(moment: &Moment, reach: Option<Reach>) -> Value {
    let mut value = json!({ "accepted": true, "connections": moment.state.connections() });
    add_scope(&mut value, reach);
    value
}

/// How far a publication went, where that is a question: with Redis.
fn add_scope(value: &mut Value, reach: Option<Reach>) {
    match reach {
        None => {}
        Some(Reach::Cluster) => value["scope"] = "cluster".into(),
        Some(reach) => {
            value["scope"] = "node".into();
            value["reason"] = reach.label().into();
        }
    }
}

/// The answer to `/api/publish`, or to `/api/broadcast` with one entry for each channel.
pub(super) fn published(entries: Option<usize>, reach: Option<Reach>) -> Value {
    let mut result = json!({});
    if let Some(entries) = entries {
        result["responses"] = vec![json!({ "result": {} }); entries].into();
    }
    add_scope(&mut result, reach);
    json!({ "result": result })
}

/// The answer to `/api/info`.
pub(super) fn info(moment: &Moment, host: &str) -> Value {
    let port = moment.state.config().server.listen.port();
    json!({ "result": { "nodes": [{
        "uid": format!("{host}-{}", moment.process.pid),
        "name": format!("{host}_{port}"),
        "version": VERSION,
        "num_clients": moment.state.connections(),
        "num_subs": moment.sum(|shard| &shard.subscriptions),
        "uptime": moment.now.seconds(),
    }] } })
}

/// An error, with the numbers of Centrifugo where its clients look for them.
pub(super) fn error(error: &ApiError, path: &str) -> Value {
    let code: Value =
        if speaks_centrifugo(path) { error.kind.number().into() } else { error.kind.word().into() };
    json!({ "error": { "code": code, "message": error.message } })
}

fn counts<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Value {
    counts
        .into_iter()
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect::<Map<_, _>>()
        .into()
}

#[cfg(test)]
mod tests {
    use super::super::tests::moment;
    use super::*;
    use crate::clock::Now;
    use crate::coordinator::phase::Phase;
    use crate::redis::board::View;
    use crate::redis::counts::Cluster;

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
    }

    /// S0.20 to S0.25, S0.54.
    #[test]
    fn health_status_has_exactly_its_groups() {
        let moment = moment(Phase::Running);
        moment.state.shards[0].connections.set(3);
        moment.state.shards[1].connections.set(4);
        moment.state.shards[0].connection_ms.set(1_900);
        moment.state.shards[1].connection_ms.set(1_200);
        // Seven are open, each for ten seconds.
        for shard in &moment.state.shards {
            shard.tick_ms.set(7_200_000);
        }
        moment.state.shards[0].open_since_ms.set(3 * 7_190_000);
        moment.state.shards[1].open_since_ms.set(4 * 7_190_000);
        moment.state.shards[1].admission_refused[0].set(5);
        moment.state.shards[0].admission_refused[2].set(2);
        moment.state.shards[0].limited_sources.set(1);
        let memory = Some(crate::pressure::Usage::new(10, 1000));
        moment.state.set_pressure(crate::pressure::Pressure { memory, ..Default::default() });
        let status = health_status(&moment);
        assert_eq!(
            keys(&status),
            ["backpressure", "chronos", "graceful_shutdown", "redis", "scope", "timestamp"]
        );
        assert_eq!(
            status["redis"],
            json!({
                "status": "disabled", "concurrent_connections": 7,
                "total_connection_seconds": 73, "peak_connections": 7,
            })
        );
        assert_eq!(
            status["chronos"],
            json!({ "tick_count": 0, "active_connections": 7, "uptime_ms": 7_200_000 })
        );
        assert_eq!(
            status["backpressure"],
            json!({
                "connections_rejected": 7, "rate_limited_ips": 1, "global_rate_limited": 2,
                "global_connections": 7,
                "pressure": {
                    "level": 0, "cause": null, "admission_share_ratio": 1.0,
                    "capacity_bytes": 900, "memory_used_bytes": 10, "memory_limit_bytes": 1000,
                    "tcp_memory_bytes": null,
                },
                "config": {
                    "connections_per_ip_per_minute": 60, "global_connections_per_second": 1000,
                    "max_global_connections": 10_000_000,
                },
            })
        );
        assert_eq!(status["graceful_shutdown"], json!({ "accepting_connections": true }));
    }

    /// S0.22, rule 13.
    #[test]
    fn counts_are_those_of_the_cluster_while_redis_is_there_and_say_so() {
        let mut moment = moment(Phase::Running);
        moment.state.shards[0].connections.set(3);
        let cluster = Cluster { connections: 9, peak: 12, connection_ms: 61_900, nodes: 2 };
        moment.redis = View {
            status: Status::Ok,
            cluster: Some(cluster),
            flushed: Some(Now::from_ms(7_199_000)),
            lease_ms: 3_000,
            epoch: 4,
            ..View::default()
        };
        let status = health_status(&moment);
        assert_eq!(status["scope"], "cluster");
        assert_eq!(
            status["redis"],
            json!({
                "status": "ok", "reason": null, "nodes": 2, "epoch": 4, "age_ms": 1000,
                "concurrent_connections": 9, "total_connection_seconds": 61,
                "peak_connections": 12,
                "links": {
                    "out": { "up": false, "reason": null }, "in": { "up": false, "reason": null },
                },
            })
        );
        moment.redis.status = Status::Unavailable;
        moment.redis.reason = Some(Reason::ReadOnly);
        let status = health_status(&moment);
        assert_eq!(status["scope"], "node");
        assert_eq!(status["redis"]["status"], "unavailable");
        assert_eq!(status["redis"]["reason"], "read_only");
        assert_eq!(status["redis"]["concurrent_connections"], 3);
        assert_eq!(status["redis"]["age_ms"], 1000);
    }

    /// S4.94, S2.32, S1.46: only a running server is ready; until refusing begins it accepts.
    #[test]
    fn every_phase_is_ready_or_not() {
        for phase in Phase::ALL {
            let moment = moment(phase);
            let running = phase == Phase::Running;
            assert_eq!(ready(moment.phase(), &moment.timestamp).0, running);
            assert_eq!(
                ready(moment.phase(), &moment.timestamp).1["status"],
                if running { "ready" } else { "not_ready" }
            );
            assert_eq!(ready(moment.phase(), &moment.timestamp).1["phase"], phase.name());
            assert_eq!(healthy(moment.phase(), &moment.timestamp).0, running);
            assert_eq!(
                health_status(&moment)["graceful_shutdown"]["accepting_connections"],
                phase.accepts()
            );
            assert_eq!(shutdown_status(&moment)["phase"], phase.name());
        }
    }

    /// S4.79 to S4.82.
    #[test]
    fn the_process_has_its_four_groups() {
        let value = process(&moment(Phase::Running));
        assert_eq!(keys(&value["process"]), ["pid", "platform", "uptime", "version"]);
        assert_eq!(value["process"]["uptime"], 7200.0);
        assert_eq!(value["process"]["platform"], "linux");
        assert_eq!(keys(&value["memory"]), ["percentage", "usage"]);
        assert_eq!(keys(&value["cpu"]), ["percentage", "usage"]);
        assert_eq!(value["connections"], json!({ "active": 0 }));
    }

    #[test]
    fn the_token_is_never_shown() {
        let moment = moment(Phase::Running);
        for value in [config(&moment), overview(&moment)] {
            let text = value.to_string();
            assert!(text.contains("\"admin.token\"") && text.contains("(set)"), "{text}");
            assert!(!text.contains(super::super::tests::TOKEN), "{text}");
            assert_eq!(value["settings"]["shutdown.drain_ms"]["value"], 15_000);
            assert_eq!(value["settings"]["shutdown.drain_ms"]["source"], "default");
        }
    }

    #[test]
    fn imbalance_is_one_when_even_and_the_number_of_shards_when_one_has_all() {
        let moment = moment(Phase::Running);
        assert_eq!(shards(&moment)["imbalance_ratio"], 1.0);
        moment.state.shards[0].connections.set(10);
        assert_eq!(shards(&moment)["imbalance_ratio"], 2.0);
        moment.state.shards[1].connections.set(10);
        assert_eq!(shards(&moment)["imbalance_ratio"], 1.0);
        assert_eq!(shards(&moment)["shards"][1]["shard"], 1);
    }

    #[test]
    fn the_server_api_has_numbers_for_errors_and_the_rest_has_words() {
        let wrong = ApiError::bad_request("no");
        assert_eq!(error(&wrong, "/api/publish")["error"]["code"], 107);
        assert_eq!(error(&wrong, "/api/v1/broadcast")["error"]["code"], "bad_request");
        assert_eq!(error(&wrong, "/readyz")["error"]["message"], "no");
    }

    #[test]
    fn several_channels_have_an_entry_each() {
        assert_eq!(published(None, None), json!({ "result": {} }));
        let many = json!({ "result": { "responses": [{ "result": {} }, { "result": {} }] } });
        assert_eq!(published(Some(2), None), many);
    }
}
