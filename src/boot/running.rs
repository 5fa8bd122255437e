//! The thread of the coordinator, from the first moment of serving to the last words, and those
//! who wait for its end.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use tracing::{error, info};

use super::report_file;
use super::rollback::CoordinatorParts;
use super::shard_thread::{self, Shards};
use crate::admin::AdminHandle;
use crate::coordinator::Coordinator;
use crate::coordinator::command::ShardFailure;
use crate::coordinator::deadline::{Awaited, LOG_WRITER, When};
use crate::coordinator::report::ShutdownReport;
use crate::coordinator::state::ServerState;
use crate::environment::KernelEnvironment;
use crate::exit_code;
use crate::limits::{END_ADMIN_MS, END_ANSWERS_MS, END_SHARDS_MS, LAST_LINE_MS, LOG_FLUSH_MS};
use crate::log::{self, Flushed};
use crate::threads::Threads;

/// How a server ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) report: ShutdownReport,
    /// The log cannot be written, although standard error would take it.
    pub(super) log_stands_still: bool,
}

/// The end of a server, which may lie ahead. Any number of threads can wait for it.
#[derive(Debug, Default)]
pub(super) struct Ending {
    end: Mutex<Option<End>>,
    told: Condvar,
}

impl Ending {
    /// Waits for the end, until `give_up` if there is one.
    pub(super) fn wait(&self, give_up: Option<Instant>) -> Option<End> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        while end.is_none() {
            let left = give_up.map(|at| at.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            // A bound that means nothing: it is asked again.
            let left = left.unwrap_or(Duration::from_secs(3_600));
            let waited = self.told.wait_timeout(end, left);
            end = waited.map_or_else(|poisoned| poisoned.into_inner().0, |(end, _)| end);
        }
        end.clone()
    }

    /// Ends the wait of everybody. The first end holds.
    pub(super) fn tell(&self, end: End) {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(end);
        self.told.notify_all();
    }
}

/// What the thread of the coordinator ends when everything else has ended.
struct EndedLast {
    shards: Shards,
    admin: Option<AdminHandle>,
}

/// The coordinator's thread before its first moment. Dropped, it ends the thread.
pub(super) struct PreparedCoordinator {
    ended_last: Sender<EndedLast>,
    ending: Arc<Ending>,
}

/// Starts the thread that will lead the server to its end. It waits for the shards.
pub(super) fn prepare(
    coordinator: Coordinator<KernelEnvironment>,
    parts: CoordinatorParts,
    ending: Arc<Ending>,
    threads: &mut Threads,
) -> io::Result<PreparedCoordinator> {
    let told = Arc::clone(&ending);
    let (ended_last, given) = bounded::<EndedLast>(1);
    let run = move || {
        let Ok(EndedLast { shards, admin }) = given.recv() else { return };
        let report = lead(coordinator, &parts, &shards);
        let mut end = end_threads(&parts.state, report, shards, admin);
        parts.state.deadline.awaits(Awaited::ReportFile);
        let config = parts.state.config();
        save(config.shutdown.report_file.as_deref(), &mut end.report);
        last_words(&end.report);
        parts.state.deadline.awaits(Awaited::Exit);
        told.tell(end);
    };
    threads.add(std::thread::Builder::new().name("tidegate-coordinator".to_owned()).spawn(run)?);
    Ok(PreparedCoordinator { ended_last, ending })
}

impl PreparedCoordinator {
    /// Gives the shards to the coordinator, and the admin listener.
    pub(super) fn begin(self, shards: Shards, admin: Option<AdminHandle>) -> Arc<Ending> {
        // Its thread does nothing else than wait for them.
        let _ = self.ended_last.send(EndedLast { shards, admin });
        self.ending
    }
}

/// Runs the coordinator. If it panics a second one stops the server in order: the shards serve
/// on meanwhile and know nothing of it.
fn lead(
    coordinator: Coordinator<KernelEnvironment>,
    parts: &CoordinatorParts,
    shards: &Shards,
) -> ShutdownReport {
    let run = catch_unwind(AssertUnwindSafe(|| coordinator.run()));
    let second = |panic: Box<dyn std::any::Any + Send>| {
        let cause = ShardFailure::Panic(shard_thread::message_of(panic.as_ref()));
        let successor = parts.coordinator(parts.inherited(shards), shards);
        catch_unwind(AssertUnwindSafe(|| successor.stop_after_death("coordinator", cause).run()))
    };
    let panicked =
        || ShutdownReport { exit_code: Some(exit_code::PANICKED), ..parts.state.report() };
    run.or_else(second).unwrap_or_else(|_| panicked())
}

/// Waits for the threads around the coordinator, each for a bounded time that ends before the
/// deadline does, and puts into the report what had not ended.
fn end_threads(
    state: &ServerState,
    mut report: ShutdownReport,
    shards: Shards,
    admin: Option<AdminHandle>,
) -> End {
    state.deadline.awaits(Awaited::Threads);
    let patience = |ms| Duration::from_millis(ms).min(left(state));
    for shard in shards.end(patience(END_SHARDS_MS)) {
        if !report.not_done.contains(&shard) {
            report.not_done.push(shard);
        }
    }
    let (heard, answered) = (patience(END_ADMIN_MS), patience(END_ANSWERS_MS));
    if admin.is_some_and(|admin| !admin.stop_within(heard, answered)) {
        report.not_done.push("admin listener".to_owned());
    }
    state.deadline.awaits(Awaited::Log);
    let log_stands_still = log::flush(left(state)) == Flushed::StandsStill;
    if log_stands_still {
        report.not_done.push(LOG_WRITER.to_owned());
    }
    // What is wrong with a resource is the lesser trouble.
    let is_lesser = matches!(report.exit_code, Some(exit_code::DRAINED | exit_code::RESOURCE));
    if is_lesser && !report.not_done.is_empty() {
        report.exit_code = Some(exit_code::DEADLINE);
    }
    report.log_lines_lost = log::unwritten();
    state.deadline.decide(report.exit_code.unwrap_or(exit_code::PANICKED));
    state.show(report.clone());
    End { report, log_stands_still }
}

/// How long the end may take before the deadline ends the process: a part of that is kept for
/// what comes after the wait for threads.
fn left(state: &ServerState) -> Duration {
    match state.deadline.when() {
        When::At(at) => at.since(state.clock.now().plus_ms(LOG_FLUSH_MS + LAST_LINE_MS)),
        When::Never | When::Over => Duration::MAX,
    }
}

/// The last lines of the log: how the server ended, and, if it did not do so in order, the cause.
fn last_words(report: &ShutdownReport) {
    let seconds = report.duration_ms as f64 / 1_000.0;
    let outcomes = serde_json::to_string(&report.outcomes).unwrap_or_default();
    info!(
        target: log::LAST,
        reason = report.reason,
        connections_at_start = report.connections_at_start,
        outcomes,
        forced = report.forced,
        exit_code = report.exit_code,
        "Graceful shutdown completed in {seconds:.2}s"
    );
    if let Some(discrepancy) = &report.discrepancy {
        error!(target: log::LAST, "the outcomes do not add up: {discrepancy}");
    }
    let resources = report.unclosed_resources();
    if !resources.is_empty() {
        let resources = resources.join(", ");
        let exit_code = report.exit_code;
        error!(target: log::LAST, resources, exit_code, "resources have failed or ran out of their time: {resources}");
    }
    if !report.not_done.is_empty() {
        let not_done = report.not_done.join(", ");
        let exit_code = report.exit_code;
        error!(target: log::LAST, not_done, exit_code, "the server ends without having ended everything: {not_done}");
    }
}

/// Writes the report. One that is lost is an error of the shutdown, if it had no other.
fn save(path: Option<&Path>, report: &mut ShutdownReport) {
    let Some(path) = path else { return };
    let Err(error) = report_file::write(path, report) else { return };
    if report.exit_code == Some(exit_code::DRAINED) {
        report.exit_code = Some(exit_code::REPORT_LOST);
    }
    error!(
        target: log::LAST,
        path = %path.display(),
        %error,
        exit_code = report.exit_code,
        "the report of the shutdown is lost: shutdown.report_file could not be written"
    );
}
