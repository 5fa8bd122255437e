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
use super::threads::Threads;
use crate::coordinator::Coordinator;
use crate::coordinator::command::ShardFailure;
use crate::coordinator::report::ShutdownReport;
use crate::environment::KernelEnvironment;
use crate::exit_code;

/// How a server ended.
#[derive(Clone, Debug)]
pub(super) struct End {
    pub(super) report: ShutdownReport,
    /// The shards are gone; otherwise one stands still and cannot be waited for.
    pub(super) threads_ended: bool,
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

    fn tell(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.told.notify_all();
    }
}

/// The coordinator's thread before its first moment. Dropped, it ends the thread.
pub(super) struct PreparedCoordinator {
    shards: Sender<Shards>,
    ending: Arc<Ending>,
}

/// Starts the thread that will lead the server to its end. It waits for the shards.
pub(super) fn prepare(
    coordinator: Coordinator<KernelEnvironment>,
    parts: CoordinatorParts,
    threads: &mut Threads,
) -> io::Result<PreparedCoordinator> {
    let ending = Arc::new(Ending::default());
    let told = Arc::clone(&ending);
    let (given, shards) = bounded::<Shards>(1);
    let run = move || {
        let Ok(shards) = shards.recv() else { return };
        let mut report = lead(coordinator, &parts, &shards);
        last_words(&report);
        let config = parts.state.config();
        save(config.shutdown.report_file.as_deref(), &mut report);
        told.tell(End { report, threads_ended: shards.join() });
    };
    threads.add(std::thread::Builder::new().name("tidegate-coordinator".to_owned()).spawn(run)?);
    Ok(PreparedCoordinator { shards: given, ending })
}

impl PreparedCoordinator {
    /// Gives the shards to the coordinator.
    pub(super) fn begin(self, shards: Shards) -> Arc<Ending> {
        // Its thread does nothing else than wait for them.
        let _ = self.shards.send(shards);
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

fn last_words(report: &ShutdownReport) {
    let seconds = report.duration_ms as f64 / 1_000.0;
    let outcomes = serde_json::to_string(&report.outcomes).unwrap_or_default();
    info!(
        reason = report.reason,
        connections_at_start = report.connections_at_start,
        outcomes,
        forced = report.forced,
        exit_code = report.exit_code,
        "Graceful shutdown completed in {seconds:.2}s"
    );
    if let Some(discrepancy) = &report.discrepancy {
        error!("the outcomes do not add up: {discrepancy}");
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
        path = %path.display(),
        %error,
        exit_code = report.exit_code,
        "the report of the shutdown is lost: shutdown.report_file could not be written"
    );
}
