//! The books of a shutdown: how many there were, what became of them, what is left.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::phase::Phase;
use super::report::{ProgressReport, SessionsReport, ShutdownReport};
use super::stage::Stages;
use super::{Cancelled, Coordinator, Shutdown};
use crate::clock::Now;
use crate::close_reason::DrainOutcome;
use crate::environment::Environment;
use crate::metrics::ShardMetrics;
use crate::sessions::desk::Flush;
use crate::sessions::figures::{Figures, Loss};

/// The connections of a drain.
#[derive(Clone, Debug, Default)]
struct Books {
    started_with: u64,
    outcomes: BTreeMap<&'static str, u64>,
}

impl Books {
    fn done(&self) -> u64 {
        self.outcomes.values().sum()
    }

    fn left(&self) -> u64 {
        self.started_with.saturating_sub(self.done())
    }
}

impl<E: Environment> Coordinator<E> {
    /// Connections of the drain that are still there.
    pub(super) fn left(&self) -> u64 {
        self.shutdown.as_ref().map_or(0, |shutdown| self.books(shutdown).left())
    }

    /// Connections that were there when the drain began; before it, those that are there now.
    pub(super) fn to_drain(&self) -> u64 {
        let begun = self.shutdown.as_ref().filter(|shutdown| shutdown.refusing_epoch > 0);
        match begun {
            Some(shutdown) => self.books(shutdown).started_with,
            None => self.state.shards.iter().map(present).sum(),
        }
    }

    /// A shard that has not taken the order yet, or never will because it stands still, has those
    /// that are connected to it.
    fn books(&self, shutdown: &Shutdown) -> Books {
        let mut books = Books::default();
        if shutdown.refusing_epoch == 0 {
            return books;
        }
        let (begun, others): (Vec<_>, Vec<_>) = self
            .state
            .shards
            .iter()
            .partition(|shard| shard.epoch.get() >= shutdown.refusing_epoch);
        for outcome in DrainOutcome::ALL {
            let count = begun.iter().map(|shard| shard.drained_by(outcome)).sum();
            books.outcomes.insert(outcome.label(), count);
        }
        books.started_with = begun.iter().map(|shard| shard.drain_started_with.get()).sum::<u64>()
            + others.into_iter().map(|shard| shard.connections.get()).sum::<u64>();
        books
    }

    /// Notes how many have ended; once in a second that is a line.
    pub(super) fn note_progress(&mut self, now: Now) -> Option<ProgressReport> {
        let done = self.shutdown.as_ref().map(|shutdown| self.books(shutdown).done())?;
        let shutdown = self.shutdown.as_mut()?;
        shutdown.progress.note(done, now);
        let due = self.state.phase() == Phase::Draining && shutdown.progress.is_worth_a_line(now);
        if due { self.report().progress } else { None }
    }

    fn sessions_report(&self) -> Option<SessionsReport> {
        let is_told = self.sessions.is_over() && self.state.sessions.flush() != Flush::Skipped;
        let Figures { saved, lost, .. } = self.state.sessions.figures();
        is_told.then(|| SessionsReport { saved, not_saved: lost[Loss::NotInTime as usize] })
    }

    /// The shutdown as it stands; a report of nothing while the server runs.
    pub(super) fn report(&self) -> ShutdownReport {
        let (now, phase) = (self.environment.now(), self.state.phase());
        match (&self.shutdown, &self.cancelled) {
            (Some(shutdown), _) => self.report_on(shutdown, &self.stages, phase, now),
            (None, cancelled) => ShutdownReport {
                phase: phase.to_string(),
                cancelled: cancelled.as_ref().map(|cancelled| {
                    let Cancelled { shutdown, stages, at } = cancelled;
                    Box::new(self.report_on(shutdown, stages, phase, *at))
                }),
                ..ShutdownReport::default()
            },
        }
    }

    fn report_on(
        &self,
        shutdown: &Shutdown,
        stages: &Stages,
        phase: Phase,
        now: Now,
    ) -> ShutdownReport {
        let books = self.books(shutdown);
        let (started_with, done, left) = (books.started_with, books.done(), books.left());
        let cut = books.outcomes.get(DrainOutcome::Forced.label()).copied().unwrap_or_default();
        let stopped = phase == Phase::Stopped;
        let discrepancy = (stopped && done != started_with)
            .then(|| format!("{started_with} connections at the start, but {done} outcomes"));
        let is_running = phase.is_shutting_down() && !stopped;
        let progress = shutdown.plan.as_ref().filter(|_| is_running).map(|plan| ProgressReport {
            done,
            left,
            per_second: shutdown.progress.per_second(done, now),
            eta_ms: shutdown
                .paused
                .is_none()
                .then(|| (left * 1_000).div_ceil(plan.connections_per_second.max(1))),
            paused: shutdown.paused.is_some(),
        });
        ShutdownReport {
            phase: phase.to_string(),
            reason: shutdown.reason.clone(),
            cause: shutdown.cause.label().to_owned(),
            epoch: self.state.epoch(),
            started_at: Some(shutdown.started_at.clone()),
            duration_ms: now.since(shutdown.started).as_millis() as u64,
            deadline_ms: shutdown.caps.deadline,
            connections_at_start: started_with,
            connections_left: left,
            outcomes: books.outcomes,
            discrepancy,
            plan: shutdown.plan.clone(),
            progress,
            stages: stages.shown(now),
            sessions: self.sessions_report(),
            forced: shutdown.forced || cut > 0,
            not_done: shutdown.not_done.clone(),
            log_lines_lost: 0,
            exit_code: stopped.then(|| self.resources.exit_code(shutdown.exit_code)),
            cancelled: None,
        }
    }
}

fn present(shard: &Arc<ShardMetrics>) -> u64 {
    shard.connections.get() + shard.handshaking.get()
}
