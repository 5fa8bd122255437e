//! What answers are rendered from: the server at one moment, and sums over its shards.

use std::sync::Arc;

use super::figures::Counted;
use super::last_shutdown::LastShutdown;
use super::process::ProcessFigures;
use crate::clock::Now;
use crate::coordinator::phase::Phase;
use crate::coordinator::report::ShutdownReport;
use crate::coordinator::state::ServerState;
use crate::metrics::{Count, REFUSAL_LABELS, ShardMetrics};
use crate::redis::board::View;

/// The server at one moment. Counters are read one by one while shards write them, so two of
/// them may be a few events apart.
#[derive(Clone, Debug)]
pub(super) struct Moment {
    pub(super) state: Arc<ServerState>,
    pub(super) now: Now,
    /// The wall clock, RFC 3339 in UTC with milliseconds.
    pub(super) timestamp: String,
    pub(super) process: ProcessFigures,
    /// How Redis is, and what the cluster counts.
    pub(super) redis: View,
    /// Messages waiting in each shard's inbox.
    pub(super) inboxes: Vec<usize>,
    pub(super) last_shutdown: Option<Arc<LastShutdown>>,
    /// What this listener counts of itself.
    pub(super) admin: Counted,
}

impl Moment {
    pub(super) fn phase(&self) -> Phase {
        self.state.phase()
    }

    pub(super) fn shards(&self) -> &[Arc<ShardMetrics>] {
        &self.state.shards
    }

    /// The sum of a counter over the shards.
    pub(super) fn sum(&self, count: impl Fn(&ShardMetrics) -> &Count) -> u64 {
        self.shards().iter().map(|shard| count(shard).get()).sum()
    }

    /// Refusals by the reason of this name, over the shards.
    pub(super) fn refused(&self, reason: &str) -> u64 {
        let at = REFUSAL_LABELS.iter().position(|label| *label == reason);
        at.map_or(0, |at| self.sum(|shard| &shard.admission_refused[at]))
    }

    /// Refusals by whatever reason, over the shards.
    pub(super) fn refused_in_all(&self) -> u64 {
        REFUSAL_LABELS.iter().map(|reason| self.refused(reason)).sum()
    }

    /// What each shard would have if the capacity were split evenly, rounded up.
    pub(super) fn equal_part(&self) -> u64 {
        let tables = self.sum(|shard| &shard.capacity);
        let capacity = tables.min(self.state.config().admission.max_global_connections);
        capacity.div_ceil(self.shards().len().max(1) as u64)
    }

    /// Connections of the fullest shard per connections of the average one: 1 if all have the
    /// same, the number of shards if one has all.
    pub(super) fn imbalance(&self) -> f64 {
        let most = self.shards().iter().map(|shard| shard.connections.get()).max().unwrap_or(0);
        let all = self.sum(|shard| &shard.connections);
        if all == 0 {
            return 1.0;
        }
        most as f64 * self.shards().len() as f64 / all as f64
    }

    /// Share of the time since the start that a shard has been at work, from 0 to 1.
    pub(super) fn busy_ratio(&self, shard: &ShardMetrics) -> f64 {
        if self.now.ns() == 0 {
            return 0.0;
        }
        (shard.busy_ns.get() as f64 / self.now.ns() as f64).min(1.0)
    }

    /// Milliseconds since a shard last came round.
    pub(super) fn turn_age_ms(&self, shard: &ShardMetrics) -> u64 {
        self.now.ms().saturating_sub(shard.last_turn_ms.get())
    }

    /// The shutdown as it stands. While none is under way the coordinator does not keep the
    /// report up to date, so what it would say is filled in.
    pub(super) fn report(&self) -> ShutdownReport {
        let mut report = self.state.report();
        if report.phase.is_empty() || !self.phase().is_shutting_down() {
            report.phase = self.phase().name().to_owned();
            report.epoch = self.state.epoch();
            report.connections_left = self.state.connections();
        }
        report
    }

    /// Milliseconds that all connections, ended and open, have been open in total.
    pub(super) fn connection_ms(&self) -> u64 {
        self.state.connection_ms()
    }

    /// The same in whole seconds.
    pub(super) fn connection_seconds(&self) -> u64 {
        self.connection_ms() / 1000
    }
}
