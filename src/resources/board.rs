//! The resources that are registered and what has become of those that were closed: written by
//! whoever registers and by the thread that closes, looked at by the coordinator, which never
//! waits here.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Resource, Stage, closing, timing};
use crate::coordinator::report::StageReport;
use crate::limits::{BACKGROUND_CLOSE_MS, RESOURCE_CLOSE_MS, RESOURCES};

/// Why a resource was not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRegistered {
    /// Another resource of the stage has this name.
    NameTaken(String),
    /// There are as many as there may be.
    TooMany,
    /// The shutdown has come to the resources; this one would never be closed.
    TooLate,
}

impl fmt::Display for NotRegistered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NameTaken(name) => write!(f, "another resource of the stage is called {name}"),
            Self::TooMany => write!(f, "there are {RESOURCES} resources already"),
            Self::TooLate => f.write_str("the shutdown is closing its resources already"),
        }
    }
}

impl std::error::Error for NotRegistered {}

/// Resources, waiting or being closed.
#[derive(Debug, Default)]
pub(crate) struct Board {
    waiting: Mutex<Waiting>,
    run: Arc<Run>,
}

#[derive(Debug)]
struct Waiting {
    /// How long a resource may take unless it says so itself, and a background task at most.
    times: (Duration, Duration),
    resources: Vec<Resource>,
    /// Those of this stage and all before it have been taken.
    taken: Option<Stage>,
}

impl Default for Waiting {
    fn default() -> Self {
        let times = (RESOURCE_CLOSE_MS, BACKGROUND_CLOSE_MS);
        let times = (Duration::from_millis(times.0), Duration::from_millis(times.1));
        Self { times, resources: Vec::new(), taken: None }
    }
}

/// A thread that closes resources, as seen from outside.
#[derive(Debug, Default)]
pub(super) struct Run {
    end: Mutex<Option<Instant>>,
    reports: Mutex<Vec<StageReport>>,
    /// What is being closed now, as `stage:name`.
    closing: Mutex<Vec<String>>,
    /// For how long the thread is to stand still when it begins, in milliseconds; for tests.
    stall_ms: AtomicU64,
    is_running: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// How long resources may take that are registered from now on, unless they say so themselves,
    /// and background tasks at most.
    pub(crate) fn set_times(&self, resource_ms: u64, background_ms: u64) {
        lock(&self.waiting).times =
            (Duration::from_millis(resource_ms), Duration::from_millis(background_ms));
    }

    /// Adds a resource to those that will be closed.
    pub(crate) fn register(&self, mut resource: Resource) -> Result<(), NotRegistered> {
        let mut waiting = lock(&self.waiting);
        if waiting.taken.is_some_and(|taken| resource.stage <= taken) {
            return Err(NotRegistered::TooLate);
        }
        if waiting.resources.len() >= RESOURCES {
            return Err(NotRegistered::TooMany);
        }
        let same = |other: &&Resource| other.stage == resource.stage && other.name == resource.name;
        if let Some(other) = waiting.resources.iter().find(same) {
            return Err(NotRegistered::NameTaken(other.name.clone()));
        }
        let (own, background) = waiting.times;
        let own = match resource.stage {
            Stage::Background => resource.timeout.unwrap_or(background).min(background),
            _ => resource.timeout.unwrap_or(own),
        };
        resource.timeout = Some(own);
        waiting.resources.push(resource);
        Ok(())
    }

    /// What the resources that wait want of the shutdown's time: before the connections are
    /// refused, and after they have left.
    pub(crate) fn wanted_ms(&self) -> (u64, u64) {
        let waiting = lock(&self.waiting);
        let wanted = |is_before: bool| {
            let some = waiting.resources.iter().filter(|r| (r.stage == Stage::Before) == is_before);
            timing::wanted_ms(some.map(|resource| (resource.stage, resource.timeout_ms())))
        };
        (wanted(true), wanted(false))
    }

    /// Begins to close everything up to `last`, within `left`; false if there is nothing. More than
    /// one run at a time there never is.
    pub(crate) fn begin(&self, last: Stage, left: Duration) -> bool {
        let mut resources = {
            let mut waiting = lock(&self.waiting);
            waiting.taken = waiting.taken.max(Some(last));
            let (now, later) = std::mem::take(&mut waiting.resources)
                .into_iter()
                .partition(|resource| resource.stage <= last);
            waiting.resources = later;
            now
        };
        if resources.is_empty() {
            return false;
        }
        // Those of a stage stay in the order in which they were registered.
        resources.sort_by_key(|resource: &Resource| resource.stage);
        *lock(&self.run.end) = Some(Instant::now() + left);
        self.run.is_running.store(true, Ordering::Release);
        closing::start(resources, Arc::clone(&self.run));
        true
    }

    /// Leaves what is being closed no more than this.
    pub(crate) fn hurry(&self, left: Duration) {
        let end = Instant::now() + left;
        let mut current = lock(&self.run.end);
        *current = current.map(|current| current.min(end));
    }

    /// Whether nothing is being closed.
    pub(crate) fn is_idle(&self) -> bool {
        !self.run.is_running.load(Ordering::Acquire)
    }

    /// Makes the thread that closes stand still when it begins, for tests of the server.
    pub(crate) fn stall(&self, ms: u64) {
        self.run.stall_ms.store(ms, Ordering::Release);
    }

    /// What is being closed now, as `stage:name`, or all if that has not got so far.
    pub(crate) fn closing(&self) -> Vec<String> {
        let closing = lock(&self.run.closing).clone();
        match closing.is_empty() && !self.is_idle() {
            true => vec!["resources".to_owned()],
            false => closing,
        }
    }

    /// What has been closed since the last call.
    pub(crate) fn take_reports(&self) -> Vec<StageReport> {
        std::mem::take(&mut *lock(&self.run.reports))
    }
}

impl Run {
    /// When everything must be over.
    pub(super) fn end(&self) -> Instant {
        lock(&self.end).unwrap_or_else(Instant::now)
    }

    /// For how long the thread is to stand still.
    pub(super) fn take_stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms.swap(0, Ordering::AcqRel))
    }

    /// Closing of this one has begun.
    pub(super) fn begun(&self, name: String) {
        lock(&self.closing).push(name);
    }

    pub(super) fn report(&self, report: StageReport) {
        lock(&self.closing).retain(|name| *name != report.name);
        lock(&self.reports).push(report);
    }

    pub(super) fn finish(&self) {
        self.is_running.store(false, Ordering::Release);
    }
}
