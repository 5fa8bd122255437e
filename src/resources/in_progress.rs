//! A resource while it is being closed: something happens on a thread of its own, and who waits
//! for it gives up when the time is over.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::{Close, Closed, ClosingFuture, Statistics, hook};

/// How often who waits looks whether the time has been cut.
const LOOK: Duration = Duration::from_millis(10);

/// How long one that was given up may take to say its last word: a process that is killed.
const LAST_WORD: Duration = Duration::from_millis(100);

/// How closing ended.
#[derive(Debug)]
pub(super) enum Outcome {
    Closed(Statistics),
    /// With the reason.
    Failed(String),
    /// With the last that was heard of it.
    TimedOut(String),
}

/// Closing, under way.
pub(super) struct InProgress {
    outcome: Receiver<Outcome>,
    given_up: Arc<AtomicBool>,
}

impl InProgress {
    /// Begins on a thread of its own.
    pub(super) fn begin(close: Close) -> Self {
        let (sender, outcome) = bounded(1);
        let given_up = Arc::new(AtomicBool::new(false));
        let cancelled = Arc::clone(&given_up);
        let failed = sender.clone();
        let run = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| close.run(&cancelled)));
            // Nobody may be waiting any more.
            let _ = sender.send(outcome.unwrap_or_else(|_| Outcome::Failed("it panicked".into())));
        };
        if let Err(error) = thread::Builder::new().name("tidegate-close".to_owned()).spawn(run) {
            let _ = failed.send(Outcome::Failed(format!("no thread: {error}")));
        }
        Self { outcome, given_up }
    }

    /// Waits until `end`, which may come nearer meanwhile.
    pub(super) fn wait(self, end: impl Fn() -> Instant) -> Outcome {
        loop {
            let left = end().saturating_duration_since(Instant::now());
            match self.outcome.recv_timeout(left.min(LOOK)) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Timeout) if !left.is_zero() => {}
                Err(_) => break,
            }
        }
        self.given_up.store(true, Ordering::Release);
        match self.outcome.recv_timeout(LAST_WORD) {
            Ok(Outcome::TimedOut(last_word)) => Outcome::TimedOut(last_word),
            _ => Outcome::TimedOut(String::new()),
        }
    }
}

impl Close {
    fn run(self, given_up: &AtomicBool) -> Outcome {
        match self {
            Self::Blocking(close) => close().into(),
            Self::Async(close) => complete(close, given_up),
            Self::Command { argv, environment } => hook::run(&argv, &environment, given_up),
        }
    }
}

impl From<Closed> for Outcome {
    fn from(closed: Closed) -> Self {
        match closed {
            Ok(statistics) => Self::Closed(statistics),
            Err(error) => Self::Failed(error.to_string()),
        }
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls a future on this thread until it is done or given up, and drops it then.
fn complete(mut future: ClosingFuture, given_up: &AtomicBool) -> Outcome {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(closed) = future.as_mut().poll(&mut context) {
            return closed.into();
        }
        if given_up.load(Ordering::Acquire) {
            return Outcome::TimedOut(String::new());
        }
        thread::park_timeout(LOOK);
    }
}
