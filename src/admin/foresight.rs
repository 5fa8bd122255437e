//! What a drain would be like if it began now: its plan, how long it takes, and what its clients
//! ask of the nodes that they go to. Pure; says what it does not know.

use serde_json::{Value, json};

use super::moment::Moment;
use crate::coordinator::cause::Profile;
use crate::coordinator::command::Wish;
use crate::coordinator::drain::{self, Pace, Position, Terms};
use crate::coordinator::shutdown::StageCaps;
use crate::redis::board::Status;

/// The answer to a dry run.
pub(super) fn foresee(moment: &Moment, wish: Wish) -> Value {
    let config = moment.state.config();
    let profile = Profile::of(wish.cause, &config);
    let (before, after) = moment.state.resources.wanted_ms();
    let mut caps = StageCaps::of(&profile, &config).with_resources(before, after);
    if let Some(Pace::Within(window_ms)) = wish.pace {
        caps = caps.with_window(window_ms, config.shutdown.close_timeout_ms, 0);
    }
    let connections = moment.state.connections() + moment.sum(|shard| &shard.handshaking);
    let cause = wish.cause.label();
    let terms = Terms::of(&profile, &config, wish.pace, wish.reconnect_to);
    let at = Position {
        connections,
        left: connections,
        window_ms: caps.pace_window(),
        until_forced_ms: caps.drain,
        is_paused: false,
        now_ms: moment.now.ms(),
        number: 0,
        notice_round: 0,
    };
    let (order, plan) = drain::plan(&terms, &caps, at);
    let spread_ms = plan.estimated_ms + plan.reconnect.last_after_ms;
    json!({
        "dry_run": true,
        "timestamp": moment.timestamp,
        "phase": moment.phase().name(),
        "cause": cause,
        "connections": connections,
        "close_code": order.close_code,
        "reason": order.reason,
        "deadline_ms": caps.deadline,
        "stages_ms": {
            "notice": caps.pre_drain,
            "refusing": caps.notice,
            "draining": caps.drain,
            "forcing": caps.force,
            "flushing": caps.flush,
        },
        "plan": plan,
        "last_client_back_ms": caps.pre_drain + caps.notice + spread_ms,
        "peers": peers(moment, plan.reconnect.per_second),
    })
}

/// What clients that come back at this rate ask of the other nodes: how many live is known from
/// the counts in Redis; how they are configured is not, so they are taken to be like this one.
fn peers(moment: &Moment, returns_per_second: u64) -> Value {
    let unknown =
        |why: &str| json!({ "known": false, "why": why, "returns_per_second": returns_per_second });
    let Some(cluster) = moment.redis.cluster_at(moment.now) else {
        return unknown(match moment.redis.status_at(moment.now) {
            Status::Disabled => "redis.url is not set, so this node knows of no others",
            _ => "Redis does not answer, so it is not known which nodes live",
        });
    };
    let nodes = cluster.nodes.saturating_sub(1);
    if nodes == 0 {
        return unknown("no other node of this cluster has a lease in Redis");
    }
    let each = moment.state.config().admission.global_connections_per_second;
    let all = each.saturating_mul(nodes);
    let share = returns_per_second as f64 / all as f64;
    let mut value = json!({
        "known": true,
        "nodes": nodes,
        "returns_per_second": returns_per_second,
        "admission_per_second": all,
        "share": (share * 1_000.0).round() / 1_000.0,
        "assumed": "each of them admits as many per second as this node is configured to",
    });
    if share > 1.0 {
        value["warning"] = format!(
            "{returns_per_second} clients per second come back, but the {nodes} other nodes admit \
             {all}: set shutdown.reconnect_per_second to {all} or less"
        )
        .into();
    }
    value
}

#[cfg(test)]
mod tests {
    use super::super::tests::moment;
    use super::*;
    use crate::clock::Now;
    use crate::coordinator::phase::Phase;
    use crate::redis::board::View;
    use crate::redis::counts::Cluster;

    #[test]
    fn what_is_not_known_of_the_peers_is_said() {
        let mut moment = moment(Phase::Running);
        moment.state.shards[0].connections.set(50_000);
        let wish = Wish { pace: Some(Pace::Within(20_000)), ..Wish::default() };
        let value = foresee(&moment, wish.clone());
        assert_eq!(value["peers"]["known"], false);
        assert!(value["peers"]["why"].as_str().is_some_and(|why| why.contains("redis.url")));
        assert_eq!(value["connections"], 50_000);
        assert_eq!(value["plan"]["window_ms"], 20_000);
        assert!(value["plan"].get("warning").is_none(), "{value}");

        let cluster = Some(Cluster { nodes: 3, ..Cluster::default() });
        let flushed = Some(Now::from_ms(7_199_000));
        let view =
            View { status: Status::Ok, cluster, flushed, lease_ms: 3_000, ..View::default() };
        moment.redis = view;
        let value = foresee(&moment, wish);
        let peers = &value["peers"];
        assert_eq!((&peers["nodes"], &peers["admission_per_second"]), (&2.into(), &2_000.into()));
        assert_eq!((&peers["share"], &peers["returns_per_second"]), (&0.5.into(), &1_000.into()));
    }
}
