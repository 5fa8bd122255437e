//! Phase, drain and shutdown: of this process and, because a process that has ended cannot be
//! scraped, of the one before it.

use std::collections::BTreeMap;
use std::fmt::Error;

use prometheus_client::metrics::MetricType;

use super::super::moment::Moment;
use super::page::{Page, SECONDS};
use crate::close_reason::DrainOutcome;
use crate::coordinator::phase::Phase;

pub(super) fn shutdown(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    let phase = moment.phase();
    let report = moment.report();
    page.gauge_by(
        "tidegate_phase",
        None,
        "1 for the phase that the server is in",
        "phase",
        Phase::ALL.map(|of| (of.name().to_owned(), u64::from(of == phase))),
    )?;
    page.gauge(
        "tidegate_ready",
        None,
        "1 while new clients should be sent here",
        u64::from(phase.is_ready()),
    )?;
    page.gauge(
        "tidegate_accepting",
        None,
        "1 while connections are admitted",
        u64::from(phase.accepts()),
    )?;
    page.gauge("tidegate_shutdown_epoch", None, "Changes of phase so far", moment.state.epoch())?;
    page.counter_by(
        "tidegate_drain_outcomes",
        None,
        "What became of the connections that were open when the drain began",
        "outcome",
        DrainOutcome::ALL.map(|outcome| {
            (outcome.label().to_owned(), moment.sum(|shard| &shard.drain_outcomes[outcome.index()]))
        }),
    )?;
    page.gauge(
        "tidegate_drain_connections",
        None,
        "Connections that were open when the drain began",
        moment.sum(|shard| &shard.drain_started_with),
    )?;
    page.gauge(
        "tidegate_shutdown_elapsed",
        SECONDS,
        "Time since the shutdown that is under way began, 0 while there is none",
        report.duration_ms as f64 / 1000.0,
    )?;
    let stages = report
        .stages
        .iter()
        .map(|stage| (stage.name.to_string(), stage.result.label().to_owned(), stage.duration_ms));
    let help =
        "Duration of each stage and resource of the shutdown that is under way, by its result";
    stage_durations(page, "tidegate_shutdown_stage_duration", help, stages.collect())?;
    page.durations(
        "tidegate_shutdown_duration",
        SECONDS,
        "Duration of shutdowns: that of the previous process, and of this one at its end",
        &Shutdowns::of(moment).seconds,
    )
}

/// The shutdowns that can be counted: the previous process's, and this one's once the code with
/// which it ends is decided.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Shutdowns {
    pub(super) seconds: Vec<f64>,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
}

impl Shutdowns {
    pub(super) fn of(moment: &Moment) -> Self {
        let mut shutdowns = Self::default();
        if let Some(last) = &moment.last_shutdown {
            shutdowns.seconds.extend(last.duration_seconds());
            if let Some(exit_code) = last.exit_code() {
                shutdowns.count(exit_code == 0);
            }
        }
        let report = moment.report();
        if let Some(exit_code) = report.exit_code {
            shutdowns.seconds.push(report.duration_ms as f64 / 1000.0);
            shutdowns.count(exit_code == 0);
        }
        shutdowns
    }

    fn count(&mut self, succeeded: bool) {
        self.succeeded += u64::from(succeeded);
        self.failed += u64::from(!succeeded);
    }
}

/// One sample for each stage; a name that is there twice keeps its last.
fn stage_durations(
    page: &mut Page<'_, '_>,
    name: &str,
    help: &str,
    stages: Vec<(String, String, u64)>,
) -> Result<(), Error> {
    let by_name: BTreeMap<_, _> =
        stages.into_iter().map(|(stage, result, ms)| (stage, (result, ms))).collect();
    if by_name.is_empty() {
        return Ok(());
    }
    let mut family =
        page.encoder.encode_descriptor(name, help, SECONDS.as_ref(), MetricType::Gauge)?;
    for (stage, (result, ms)) in by_name {
        family
            .encode_family(&[("stage", stage), ("result", result)])?
            .encode_gauge(&(ms as f64 / 1000.0))?;
    }
    Ok(())
}

/// Rule 11: what can no longer be scraped from the process that ended.
pub(super) fn last_shutdown(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let Some(last) = &page.moment.last_shutdown else { return Ok(()) };
    if let Some(duration) = last.duration_seconds() {
        let help = "Duration of the previous process's shutdown";
        page.gauge("tidegate_last_shutdown_duration", SECONDS, help, duration)?;
    }
    if let Some(started_at) = last.started_at() {
        let help = "When the previous process's shutdown began, since 1970";
        page.gauge("tidegate_last_shutdown_start_time", SECONDS, help, started_at)?;
    }
    if let Some(connections) = last.connections_at_start() {
        let help = "Connections that were open when the previous process's drain began";
        page.gauge("tidegate_last_shutdown_connections", None, help, connections)?;
    }
    if let Some(forced) = last.forced() {
        let help = "1 if the previous process's shutdown was cut short";
        page.gauge("tidegate_last_shutdown_forced", None, help, u64::from(forced))?;
    }
    if let Some(exit_code) = last.exit_code() {
        let help = "The code with which the previous process ended, 0 if it drained";
        page.gauge("tidegate_last_shutdown_exit_code", None, help, exit_code)?;
    }
    let help =
        "Duration of each stage and resource of the previous process's shutdown, by its result";
    let stages = last.stages().map(|(name, result, ms)| (name.to_owned(), result.to_owned(), ms));
    stage_durations(page, "tidegate_last_shutdown_stage_duration", help, stages.collect())?;
    let outcomes: Vec<_> = last.outcomes().map(|(name, count)| (name.to_owned(), count)).collect();
    if outcomes.is_empty() {
        return Ok(());
    }
    let help = "What became of the connections of the previous process";
    page.gauge_by("tidegate_last_shutdown_outcomes", None, help, "outcome", outcomes)
}
