//! The books of a shutdown: how many there were, what became of them, what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Coordinator;
use super::phase::Phase;
use super::report::{SessionsReport, ShutdownReport};
use crate::close_reason::DrainOutcome;
use crate::metrics::ShardMetrics;
use crate::sessions::desk::Flush;
use crate::sessions::figures::{Figures, Loss};

impl Coordinator {
    pub(super) fn left(&self) -> u64 {
        let report = self.report();
        report.connections_left
    }

    /// Connections that were there when the drain began. Those of a shard that has not taken the
    /// order yet, or never will because it stands still, are there still.
    fn connections_at_start(&self) -> u64 {
        if self.state.phase() < Phase::Refusing {
            return 0;
        }
        let of =
            |shard: &Arc<ShardMetrics>| shard.drain_started_with.get().max(shard.connections.get());
        self.state.shards.iter().map(of).sum()
    }

    fn sessions_report(&self) -> Option<SessionsReport> {
        let is_told = self.sessions.is_over() && self.state.sessions.flush() != Flush::Skipped;
        let Figures { saved, lost, .. } = self.state.sessions.figures();
        is_told.then(|| SessionsReport { saved, not_saved: lost[Loss::NotInTime as usize] })
    }

    /// The shutdown as it stands; a report of nothing while the server runs.
    pub(super) fn report(&self) -> ShutdownReport {
        let phase = self.state.phase();
        let Some(shutdown) = &self.shutdown else {
            return ShutdownReport { phase: phase.to_string(), ..ShutdownReport::default() };
        };
        let now = self.state.clock.now();
        let mut outcomes = BTreeMap::new();
        for outcome in DrainOutcome::ALL {
            let counts = self.state.shards.iter().map(|s| s.drain_outcomes[outcome.index()].get());
            outcomes.insert(outcome.label(), counts.sum::<u64>());
        }
        let started_with = self.connections_at_start();
        let accounted: u64 = outcomes.values().sum();
        let cut = outcomes.get(DrainOutcome::Forced.label()).copied().unwrap_or_default();
        let stopped = phase == Phase::Stopped;
        let discrepancy = (stopped && accounted != started_with)
            .then(|| format!("{started_with} connections at the start, but {accounted} outcomes"));
        ShutdownReport {
            phase: phase.to_string(),
            reason: shutdown.reason.clone(),
            cause: shutdown.cause.to_owned(),
            epoch: self.state.epoch(),
            started_at: Some(shutdown.started_at.clone()),
            duration_ms: now.since(shutdown.started).as_millis() as u64,
            connections_at_start: started_with,
            connections_left: started_with.saturating_sub(accounted),
            outcomes,
            discrepancy,
            plan: shutdown.plan.clone(),
            stages: self.stages.shown(now),
            sessions: self.sessions_report(),
            forced: shutdown.forced || cut > 0,
            exit_code: stopped.then(|| self.resources.exit_code(shutdown.exit_code)),
        }
    }
}
