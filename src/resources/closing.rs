//! Closes resources in order, on a thread of its own, and says so in the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::board::Run;
use super::in_progress::{InProgress, Outcome};
use super::{Resource, Stage, timing};
use crate::coordinator::report::{StageReport, StageResult};

/// Begins to close `resources`, which are sorted by their stages.
pub(super) fn start(resources: Vec<Resource>, run: Arc<Run>) {
    let shared = Arc::clone(&run);
    let spawned = thread::Builder::new().name("tidegate-resources".to_owned()).spawn(move || {
        let finishing = Finishing(shared);
        close_all(resources, &finishing.0);
    });
    if let Err(error) = spawned {
        warn!(%error, "resources cannot be closed: no thread");
        run.finish();
    }
}

/// Says that nothing is being closed any more, also if the thread panics: nobody is to wait for it.
struct Finishing(Arc<Run>);

impl Drop for Finishing {
    fn drop(&mut self) {
        self.0.finish();
    }
}

fn close_all(resources: Vec<Resource>, run: &Run) {
    thread::sleep(run.take_stall());
    let mut waiting = VecDeque::from(resources);
    let cut = level(&waiting, run) < u64::MAX;
    if cut {
        warn!("the times of resources are cut: the deadline of the shutdown leaves less");
    }
    while !waiting.is_empty() {
        // What one has not used is there for the others.
        let level_ms = level(&waiting, run);
        let begin = |resource: Resource| {
            let limit_ms = resource.timeout_ms().min(level_ms);
            Closing::begin(resource, Duration::from_millis(limit_ms), run)
        };
        let is_task = |resource: &Resource| resource.stage == Stage::Background;
        if waiting.front().is_some_and(is_task) {
            let others = waiting.iter().position(|resource| !is_task(resource));
            let tasks = waiting.drain(..others.unwrap_or(waiting.len())).collect();
            close_background(tasks, begin, run);
        } else if let Some(resource) = waiting.pop_front() {
            begin(resource).wait(run);
        }
    }
}

/// The longest that one of those who wait may take, in milliseconds.
fn level(waiting: &VecDeque<Resource>, run: &Run) -> u64 {
    let left = run.end().saturating_duration_since(Instant::now());
    let wanted = waiting.iter().map(|resource| (resource.stage, resource.timeout_ms()));
    timing::level_ms(wanted, left.as_millis() as u64)
}

/// Background tasks are all told before the first is waited for (S1.7).
fn close_background(tasks: Vec<Resource>, begin: impl Fn(Resource) -> Closing, run: &Run) {
    info!(tasks = tasks.len(), "Shutting down background tasks");
    let closings: Vec<Closing> = tasks.into_iter().map(begin).collect();
    let unfinished =
        closings.into_iter().map(|closing| closing.wait(run)).filter(|done| !done).count();
    if unfinished == 0 {
        info!("All background tasks completed within timeout");
    } else {
        warn!(unfinished, "Background tasks did not complete");
    }
}

/// A resource that is being closed.
struct Closing {
    name: String,
    stage: Stage,
    started: Instant,
    started_at: String,
    timeout: Duration,
    in_progress: InProgress,
}

impl Closing {
    fn begin(resource: Resource, timeout: Duration, run: &Run) -> Self {
        let Resource { name, stage, close, .. } = resource;
        run.begun(format!("{stage}:{name}"));
        match stage {
            Stage::Background => {
                info!(resource = name, %stage, state = "closing", "{} shutting down", title(&name));
            }
            _ => info!(resource = name, %stage, state = "closing", "Closing {name}"),
        }
        let (started, started_at) = (Instant::now(), format!("{:.3}", jiff::Timestamp::now()));
        let in_progress = InProgress::begin(close);
        Self { name, stage, started, started_at, timeout, in_progress }
    }

    /// Waits until it is closed or its time is over; true if it was closed.
    fn wait(self, run: &Run) -> bool {
        let own_end = self.started + self.timeout;
        let outcome = self.in_progress.wait(|| own_end.min(run.end()));
        let duration_ms = self.started.elapsed().as_millis() as u64;
        let (name, stage, title) = (&self.name, self.stage, title(&self.name));
        let (result, detail) = match outcome {
            Outcome::Closed(statistics) => {
                let figures = statistics.to_string();
                if !statistics.is_empty() {
                    info!(resource = name, %stage, "{title} statistics - {figures}");
                }
                info!(resource = name, %stage, state = "closed", duration_ms, "{title} closed");
                (StageResult::Done, figures)
            }
            Outcome::Failed(error) => {
                warn!(resource = name, %stage, state = "failed", duration_ms, error, "{title}: closing failed");
                (StageResult::Failed, error)
            }
            Outcome::TimedOut(last_word) => {
                warn!(resource = name, %stage, state = "timed out", duration_ms, last_word, "{title}: closing timed out");
                (StageResult::TimedOut, last_word)
            }
        };
        run.report(StageReport {
            name: format!("{stage}:{name}").into(),
            started_at: self.started_at,
            duration_ms,
            result,
            detail: (!detail.is_empty()).then_some(detail),
        });
        result == StageResult::Done
    }
}

/// A name at the begin of a sentence.
fn title(name: &str) -> String {
    let mut rest = name.chars();
    rest.next()
        .map_or_else(String::new, |first| first.to_uppercase().collect::<String>() + rest.as_str())
}
