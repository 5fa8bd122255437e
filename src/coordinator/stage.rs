//! The stages of a shutdown as they are timed and reported.

use std::time::Duration;

use super::phase::Phase;
use super::report::{StageReport, StageResult};
use crate::clock::{Now, Reading};

/// The stages so far; the last may be under way.
#[derive(Debug, Default)]
pub struct Stages {
    done: Vec<StageReport>,
    current: Option<(Phase, Now, String)>,
}

impl Stages {
    /// A stage begins. Stopped is the end and not a stage.
    pub fn begin(&mut self, phase: Phase, at: Reading) {
        self.current = (phase != Phase::Stopped).then(|| (phase, at.now, at.timestamp()));
    }

    /// The stage under way ends.
    pub fn finish(&mut self, now: Now, result: StageResult) -> Option<&StageReport> {
        let (phase, since, started_at) = self.current.take()?;
        let duration_ms = now.since(since).as_millis() as u64;
        let name = phase.name().into();
        self.done.push(StageReport { name, started_at, duration_ms, result, detail: None });
        self.done.last()
    }

    /// The name of the stage under way.
    pub fn current(&self) -> Option<&'static str> {
        self.current.as_ref().map(|(phase, ..)| phase.name())
    }

    /// A stage beside that under way has ended.
    pub fn note(&mut self, stage: StageReport) {
        self.done.push(stage);
    }

    /// How long the stage under way has taken.
    pub fn spent(&self, now: Now) -> Duration {
        self.current.as_ref().map_or(Duration::ZERO, |(_, since, _)| now.since(*since))
    }

    /// All stages for the report.
    pub fn shown(&self, now: Now) -> Vec<StageReport> {
        let mut all = self.done.clone();
        if let Some((phase, since, started_at)) = &self.current {
            all.push(StageReport {
                name: phase.name().into(),
                started_at: started_at.clone(),
                duration_ms: now.since(*since).as_millis() as u64,
                result: StageResult::Running,
                detail: None,
            });
        }
        all
    }
}
