//! The stages of a shutdown in which resources are closed (rule 8): those before the drain beside
//! the notice, all others once the connections have left and Redis is done. It asks and looks;
//! the thread in `resources/closing.rs` does it.

use std::time::Duration;

use tracing::info;

use super::Coordinator;
use super::cause::Cause;
use super::command::Wish;
use super::phase::Phase;
use super::report::{StageReport, StageResult};
use super::shutdown::StageCaps;
use crate::clock::Now;
use crate::environment::Environment;
use crate::exit_code;
use crate::resources::Stage;
use crate::resources::board::Board;

/// The part of the deadline that is kept for ending, at most, in milliseconds: closing is given
/// up, and what was given up has had its last word, before the deadline itself.
const KEPT_MS: u64 = 400;

impl<E: Environment> Coordinator<E> {
    /// The program that the server is part of ends it. Once: who asks again waits for the same.
    pub(super) fn on_stop(&mut self, within: Duration, reason: String) {
        if self.shutdown.is_some() {
            return;
        }
        info!(reason, "shutdown requested, initiating graceful shutdown");
        let wish = Wish { cause: Cause::Program, ..Wish::default() };
        self.begin(reason, wish, exit_code::DRAINED);
        let (before, after) = self.state.resources.wanted_ms();
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        let caps = StageCaps::within(&self.state.config(), within_ms);
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.caps = caps.with_resources(before, after);
        }
    }

    /// Resources are closed beside the phases of the shards, with log lines of their own.
    pub(super) fn look_at_resources(
        &mut self,
        now: Now,
        started: Now,
        caps: StageCaps,
        hurries: bool,
    ) {
        let (phase, redis_is_over) = (self.state.phase(), self.redis.is_over());
        let look = Look { phase, now, started, caps, hurries, redis_is_over };
        for closed in self.resources.look(&self.state.resources, look) {
            self.stages.note(closed);
        }
    }
}

/// How far resources are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    #[default]
    NotBegun,
    Before,
    All,
}

/// The stage.
#[derive(Debug, Default)]
pub(super) struct ResourceStage {
    progress: Progress,
    is_before: bool,
    is_over: bool,
    is_hurried: bool,
    has_begun: bool,
    has_failed: bool,
}

/// The shutdown at the moment of a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Where it is.
    pub phase: Phase,
    /// The moment.
    pub now: Now,
    /// When it began.
    pub started: Now,
    /// Its times.
    pub caps: StageCaps,
    /// It was forced.
    pub hurries: bool,
    /// Redis is not waited for any more.
    pub redis_is_over: bool,
}

impl ResourceStage {
    /// Begins what is due, and returns what has been closed since the last look.
    pub(super) fn look(&mut self, board: &Board, look: Look) -> Vec<StageReport> {
        if self.is_over {
            return Vec::new();
        }
        if look.hurries && !std::mem::replace(&mut self.is_hurried, true) {
            board.hurry(Duration::from_millis(look.caps.flush));
        }
        // In this order: what is reported afterwards is there already.
        let is_idle = board.is_idle();
        let reports = board.take_reports();
        self.has_failed |= reports.iter().any(|report| report.result != StageResult::Done);
        let due = match look.phase {
            Phase::Notice => Progress::Before,
            Phase::Flushing if look.redis_is_over => Progress::All,
            _ => return reports,
        };
        let mut has_begun = false;
        if is_idle && self.progress < due {
            let last = if due == Progress::All { Stage::Last } else { Stage::Before };
            has_begun = board.begin(last, Duration::from_millis(left_ms(&look, due)));
            self.progress = due;
            self.has_begun |= has_begun;
        }
        // What has ended meanwhile is reported at the next look.
        let is_done = is_idle && !has_begun && reports.is_empty();
        self.is_before = due == Progress::Before && !is_done;
        self.is_over = due == Progress::All && is_done;
        reports
    }

    /// Whether the connections must not be refused yet.
    pub(super) const fn is_before(&self) -> bool {
        self.is_before
    }

    /// Whether anything has been told to close, which cannot be taken back.
    pub(super) const fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether nothing more is waited for.
    pub(super) const fn is_over(&self) -> bool {
        self.is_over
    }

    /// The code with which a process ends that would end with this one: another one, if
    /// something could not be closed, or not in time, and nothing worse has happened.
    pub(super) const fn exit_code(&self, otherwise: u8) -> u8 {
        if self.has_failed && otherwise == exit_code::DRAINED {
            return exit_code::RESOURCE;
        }
        otherwise
    }
}

/// What is left for the resources that are due, in milliseconds.
fn left_ms(look: &Look, due: Progress) -> u64 {
    let spent = look.now.since(look.started).as_millis() as u64;
    let deadline = look.caps.deadline;
    let left = deadline.saturating_sub(KEPT_MS.min(deadline / 5)).saturating_sub(spent);
    match due {
        Progress::All if look.hurries => left.min(look.caps.flush),
        Progress::All => left,
        _ => left.min(look.caps.pre_drain),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::config::Config;
    use crate::resources::{Resource, Statistics};

    fn look(phase: Phase, redis_is_over: bool) -> Look {
        let caps = StageCaps::new(&Config::default()).with_resources(1_000, 1_000);
        let now = Now::from_ms(1_000);
        Look { phase, now, started: now, caps, hurries: false, redis_is_over }
    }

    fn names(reports: &[StageReport]) -> Vec<&str> {
        reports.iter().map(|report| report.name.as_ref()).collect()
    }

    fn until(mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(10), "never");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Rule 1, rule 8.
    #[test]
    fn what_is_before_the_drain_ends_before_it_and_the_rest_after_redis() {
        let board = Board::default();
        for (name, stage) in [("last", Stage::Last), ("first", Stage::Before)] {
            let close = || Ok(Statistics::none());
            board.register(Resource::blocking(name, stage, close)).unwrap();
        }
        let mut stage = ResourceStage::default();
        let mut reports = stage.look(&board, look(Phase::Notice, false));
        assert!(stage.is_before(), "it has just begun");
        until(|| {
            reports.extend(stage.look(&board, look(Phase::Notice, false)));
            !stage.is_before()
        });
        assert_eq!(names(&reports), ["before:first"]);
        for (phase, redis) in [(Phase::Draining, false), (Phase::Flushing, false)] {
            assert!(stage.look(&board, look(phase, redis)).is_empty() && !stage.is_over());
        }
        until(|| {
            reports.extend(stage.look(&board, look(Phase::Flushing, true)));
            stage.is_over()
        });
        assert_eq!(names(&reports), ["before:first", "last:last"]);
        assert_eq!(stage.exit_code(exit_code::DRAINED), exit_code::DRAINED);
    }

    #[test]
    fn without_resources_nothing_is_waited_for() {
        let board = Board::default();
        let mut stage = ResourceStage::default();
        stage.look(&board, look(Phase::Notice, false));
        assert!(!stage.is_before());
        stage.look(&board, look(Phase::Flushing, true));
        assert!(stage.is_over());
    }

    #[test]
    fn a_forced_shutdown_leaves_them_the_time_of_flushing() {
        let deadline = look(Phase::Flushing, true);
        assert_eq!(left_ms(&deadline, Progress::All), 29_600);
        let hurried = Look { hurries: true, ..deadline };
        assert_eq!(left_ms(&hurried, Progress::All), 1_000);
        assert_eq!(left_ms(&deadline, Progress::Before), 1_000);
    }
}
