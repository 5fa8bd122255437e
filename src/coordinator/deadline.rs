//! The moment at which a shutdown is over, whatever hangs: shared by those who set it and the
//! thread that keeps it (`boot/overdue.rs`).
//!
//! Nothing but atomics, so neither side can be kept from it: no lock, no memory, no message. The
//! coordinator sets it from what it plans; the thread that catches signals sets it too, because
//! a coordinator that stands still hears no signal.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::thread::Thread;

use crate::clock::Now;
use crate::exit_code;
use crate::limits::{OVERDUE_MS, SECOND_SIGNAL_MS};

/// No moment is set.
const NEVER: u64 = u64::MAX;

/// What the end of the server waits for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaited {
    /// It has not started yet.
    Start,
    /// The coordinator leads the shutdown.
    Coordinator,
    /// Shards and admin listener end, each in a time of its own.
    Threads,
    /// The report is being written.
    ReportFile,
    /// The log is being written.
    Log,
    /// Nothing but the end of the process.
    Exit,
}

impl Awaited {
    const ALL: [Self; 6] =
        [Self::Start, Self::Coordinator, Self::Threads, Self::ReportFile, Self::Log, Self::Exit];

    /// Its name in the last line of the log and in the report.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Coordinator => "coordinator",
            Self::Threads => "threads",
            Self::ReportFile => "shutdown.report_file",
            Self::Log => LOG_WRITER,
            Self::Exit => "exit",
        }
    }
}

/// The name of the thread that writes the log, where it is missed.
pub(crate) const LOG_WRITER: &str = "log writer";

/// The deadline of a server.
#[derive(Debug)]
pub(crate) struct Deadline {
    /// `shutdown.deadline_ms`.
    by_signal_ms: u64,
    /// By the plan of the coordinator.
    planned_ms: AtomicU64,
    /// By a signal or by the program, if the coordinator does nothing.
    asked_ms: AtomicU64,
    /// Signals to stop, since the start or since a shutdown was cancelled.
    signals: AtomicU32,
    awaited: AtomicU8,
    /// The exit code that was decided; 0 while none was.
    exit_code: AtomicU8,
    /// Nobody keeps it any more.
    is_closed: AtomicBool,
    keeper: OnceLock<Thread>,
}

/// When the deadline is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// No shutdown is under way, or one that may take as long as it is held.
    Never,
    /// At this moment.
    At(Now),
    /// The server has ended.
    Over,
}

impl Deadline {
    /// None yet; a signal sets one `by_signal_ms` after it.
    pub(crate) fn new(by_signal_ms: u64) -> Self {
        Self {
            by_signal_ms,
            planned_ms: AtomicU64::new(NEVER),
            asked_ms: AtomicU64::new(NEVER),
            signals: AtomicU32::new(0),
            awaited: AtomicU8::new(Awaited::Start as u8),
            exit_code: AtomicU8::new(exit_code::DRAINED),
            is_closed: AtomicBool::new(false),
            keeper: OnceLock::new(),
        }
    }

    /// The thread that keeps it, which is woken by every change.
    pub(crate) fn kept_by(&self, keeper: Thread) {
        // There is one.
        let _ = self.keeper.set(keeper);
    }

    fn wake(&self) {
        if let Some(keeper) = self.keeper.get() {
            keeper.unpark();
        }
    }

    /// The coordinator's plan: the shutdown is over at `end`, if at any time.
    pub(crate) fn plan(&self, end: Option<Now>) {
        let at = end.map_or(NEVER, |end| end.plus_ms(OVERDUE_MS).ms());
        if self.planned_ms.swap(at, Ordering::AcqRel) != at {
            self.wake();
        }
    }

    /// A signal to stop has come. The first leaves the time that shutdowns by a signal have; a
    /// second one what cutting takes.
    pub(crate) fn signal(&self, now: Now) {
        let is_first = self.signals.fetch_add(1, Ordering::AcqRel) == 0;
        let most = if is_first { u64::MAX } else { SECOND_SIGNAL_MS };
        let at = now.plus_ms(self.by_signal_ms.min(most)).plus_ms(OVERDUE_MS);
        self.asked_ms.fetch_min(at.ms(), Ordering::AcqRel);
        self.wake();
    }

    /// The program that the server is part of stops it, within `within_ms`.
    pub(crate) fn stop(&self, now: Now, within_ms: u64) {
        let at = now.plus_ms(self.by_signal_ms.min(within_ms)).plus_ms(OVERDUE_MS);
        self.asked_ms.fetch_min(at.ms(), Ordering::AcqRel);
        self.wake();
    }

    /// The shutdown was cancelled: there is no deadline any more.
    pub(crate) fn cancel(&self) {
        self.signals.store(0, Ordering::Release);
        self.asked_ms.store(NEVER, Ordering::Release);
        self.plan(None);
    }

    /// It is now, for what is awaited: nothing else helps.
    pub(crate) fn expire(&self, now: Now) {
        self.planned_ms.store(now.ms(), Ordering::Release);
        self.wake();
    }

    /// Nobody needs to keep it any more.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.wake();
    }

    /// When it is.
    pub(crate) fn when(&self) -> When {
        if self.is_closed.load(Ordering::Acquire) {
            return When::Over;
        }
        let asked = self.asked_ms.load(Ordering::Acquire);
        match self.planned_ms.load(Ordering::Acquire).min(asked) {
            NEVER => When::Never,
            at => When::At(Now::from_ms(at)),
        }
    }

    /// What the end waits for from now on.
    pub(crate) fn awaits(&self, awaited: Awaited) {
        self.awaited.store(awaited as u8, Ordering::Release);
    }

    /// What the end waits for.
    pub(crate) fn awaited(&self) -> Awaited {
        let number = usize::from(self.awaited.load(Ordering::Acquire));
        Awaited::ALL.get(number).copied().unwrap_or(Awaited::Exit)
    }

    /// The process is to end with this code.
    pub(crate) fn decide(&self, exit_code: u8) {
        self.exit_code.store(exit_code, Ordering::Release);
    }

    /// The exit code of a process that ends because the deadline has passed.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.exit_code.load(Ordering::Acquire) {
            exit_code::DRAINED if self.signals.load(Ordering::Acquire) > 1 => exit_code::FORCED,
            exit_code::DRAINED => exit_code::DEADLINE,
            decided => decided,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> When {
        When::At(Now::from_ms(ms + OVERDUE_MS))
    }

    #[test]
    fn the_plan_of_the_coordinator_moves_it() {
        let deadline = Deadline::new(30_000);
        assert_eq!(deadline.when(), When::Never);
        deadline.plan(Some(Now::from_ms(40_000)));
        assert_eq!(deadline.when(), at(40_000));
        deadline.plan(None);
        assert_eq!(deadline.when(), When::Never, "held");
    }

    #[test]
    fn signals_set_it_without_the_coordinator() {
        let deadline = Deadline::new(30_000);
        deadline.signal(Now::from_ms(1_000));
        assert_eq!((deadline.when(), deadline.exit_code()), (at(31_000), exit_code::DEADLINE));
        deadline.plan(Some(Now::from_ms(600_000)));
        assert_eq!(deadline.when(), at(31_000), "the earlier of the two");
        deadline.signal(Now::from_ms(2_000));
        let second = at(2_000 + SECOND_SIGNAL_MS);
        assert_eq!((deadline.when(), deadline.exit_code()), (second, exit_code::FORCED));
        deadline.signal(Now::from_ms(3_000));
        assert_eq!(deadline.when(), second, "a third one leaves no more");
        deadline.cancel();
        assert_eq!((deadline.when(), deadline.exit_code()), (When::Never, exit_code::DEADLINE));
    }

    #[test]
    fn a_program_sets_it_too() {
        let deadline = Deadline::new(30_000);
        deadline.stop(Now::from_ms(1_000), u64::MAX);
        assert_eq!(deadline.when(), at(31_000));
        deadline.stop(Now::from_ms(1_000), 2_000);
        assert_eq!((deadline.when(), deadline.exit_code()), (at(3_000), exit_code::DEADLINE));
    }

    #[test]
    fn a_second_signal_leaves_no_more_than_the_first() {
        let deadline = Deadline::new(600);
        deadline.signal(Now::from_ms(0));
        deadline.signal(Now::from_ms(500));
        assert_eq!(deadline.when(), at(600));
    }

    #[test]
    fn a_code_that_was_decided_stays() {
        let deadline = Deadline::new(600);
        deadline.decide(exit_code::PANICKED);
        assert_eq!(deadline.exit_code(), exit_code::PANICKED);
        deadline.decide(exit_code::DRAINED);
        assert_eq!(deadline.exit_code(), exit_code::DEADLINE, "what is overdue is not drained");
        for awaited in Awaited::ALL {
            deadline.awaits(awaited);
            assert_eq!(deadline.awaited(), awaited);
        }
        deadline.close();
        assert_eq!(deadline.when(), When::Over);
    }
}
