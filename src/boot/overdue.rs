//! The thread that keeps the deadline, and the one that writes the last line for it.
//!
//! The first sleeps until the deadline and then ends the process. It takes no lock, no memory and
//! writes nothing, so nothing that hangs (a coordinator, a disk, a log that nobody reads) can hang
//! it. The second is woken a moment before and says what had not ended; it may stand still in
//! that, because nobody waits for it.
//!
//! A program that has the server inside is not ended: whoever waits for the server is told that
//! it has not ended in time, and what that was.

use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use super::running::{End, Ending};
use crate::clock::{Clock, Now};
use crate::coordinator::deadline::{Awaited, Deadline, When};
use crate::coordinator::state::ServerState;
use crate::limits::{LAST_LINE_MS, OVERDUE_MS};
use crate::log;
use crate::sys::kernel;

/// A shard that has not come round for so long stands still.
const STANDS_STILL_MS: u64 = 1_000;

/// How long whoever waits for the last line sleeps between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Whose end it is.
#[derive(Debug)]
pub(super) enum Owner {
    /// The process is the server's own.
    Process,
    /// A program, which waits here for the end of its server.
    Program(Arc<Ending>),
}

/// The server, once there is one.
pub(super) type Known = Arc<OnceLock<Arc<ServerState>>>;

/// Starts the threads; the one that keeps the deadline ends at once when it is closed.
///
/// # Errors
/// A thread cannot be started.
pub(super) fn start(
    deadline: &Arc<Deadline>,
    clock: Clock,
    owner: Owner,
    known: &Known,
) -> io::Result<JoinHandle<()>> {
    let witness = match owner {
        Owner::Process => Some(Witness::start(deadline, clock, known)?),
        Owner::Program(_) => None,
    };
    let (kept, known) = (Arc::clone(deadline), Arc::clone(known));
    let keep = move || {
        if !wait(&kept, clock) {
            return;
        }
        match (owner, witness) {
            (Owner::Program(ending), _) => tell(&ending, &kept, &known, clock),
            (Owner::Process, witness) => {
                if let Some(witness) = witness {
                    witness.say();
                }
                kernel::exit_now(i32::from(kept.exit_code()));
            }
        }
    };
    let keeper = thread::Builder::new().name("tidegate-deadline".to_owned()).spawn(keep)?;
    deadline.kept_by(keeper.thread().clone());
    // It may have been set before there was anybody to wake.
    keeper.thread().unpark();
    Ok(keeper)
}

/// Sleeps until the deadline has passed; false if nobody needs it any more.
fn wait(deadline: &Deadline, clock: Clock) -> bool {
    let mut was_late = false;
    loop {
        let at = match deadline.when() {
            When::Over => return false,
            When::Never => {
                thread::park();
                continue;
            }
            When::At(at) => at,
        };
        let now = clock.now();
        if now < at {
            was_late = false;
            thread::park_timeout(at.since(now));
        } else if now > at.plus_ms(OVERDUE_MS) && !was_late {
            // The process was stopped meanwhile, and all its threads with it: those who are to
            // end it in order have not had their chance.
            was_late = true;
            thread::park_timeout(Duration::from_millis(OVERDUE_MS));
        } else {
            return true;
        }
    }
}

/// Tells a program that its server has not ended.
fn tell(ending: &Ending, deadline: &Deadline, known: &Known, clock: Clock) {
    let state = known.get().map(Arc::as_ref);
    let not_done = NotDone { awaited: deadline.awaited(), state, now: clock.now() };
    let mut report = state.map(ServerState::report).unwrap_or_default();
    report.exit_code = Some(deadline.exit_code());
    report.forced = true;
    report.not_done.push(not_done.to_string());
    tracing::error!(%not_done, exit_code = report.exit_code, "{OVERDUE}");
    ending.tell(End { report, log_stands_still: false });
}

const OVERDUE: &str = "the deadline of the shutdown has passed, and the server has not ended";

/// The thread that writes the last line.
#[derive(Debug)]
struct Witness {
    thread: Thread,
    turn: Arc<Turn>,
}

/// Whose turn it is.
#[derive(Debug, Default)]
struct Turn {
    is_called: AtomicBool,
    has_spoken: AtomicBool,
}

impl Witness {
    fn start(deadline: &Arc<Deadline>, clock: Clock, known: &Known) -> io::Result<Self> {
        let turn = Arc::new(Turn::default());
        let (called, deadline, known) =
            (Arc::clone(&turn), Arc::clone(deadline), Arc::clone(known));
        let speak = move || {
            while !called.is_called.load(Ordering::Acquire) {
                thread::park();
            }
            let state = known.get().map(Arc::as_ref);
            let not_done = NotDone { awaited: deadline.awaited(), state, now: clock.now() };
            log::write_last(OVERDUE, format_args!("{not_done}"), deadline.exit_code());
            called.has_spoken.store(true, Ordering::Release);
        };
        let thread = thread::Builder::new().name("tidegate-last".to_owned()).spawn(speak)?;
        Ok(Self { thread: thread.thread().clone(), turn })
    }

    /// Lets it write its line, and waits for that a moment at most.
    fn say(&self) {
        self.turn.is_called.store(true, Ordering::Release);
        self.thread.unpark();
        let started = Instant::now();
        while !self.turn.has_spoken.load(Ordering::Acquire)
            && started.elapsed() < Duration::from_millis(LAST_LINE_MS)
        {
            thread::sleep(LOOK);
        }
    }
}

/// What had not ended: what the end waited for, and shards with connections that stand still.
struct NotDone<'a> {
    awaited: Awaited,
    state: Option<&'a ServerState>,
    now: Now,
}

impl fmt::Display for NotDone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.awaited.label())?;
        let Some(state) = self.state.filter(|_| self.awaited == Awaited::Coordinator) else {
            return Ok(());
        };
        for (index, shard) in state.shards.iter().enumerate() {
            let away_ms = self.now.ms().saturating_sub(shard.last_turn_ms.get());
            if shard.connections.get() > 0 && away_ms > STANDS_STILL_MS {
                write!(f, ", shard {index}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::metrics::ShardMetrics;

    fn state(shards: usize) -> ServerState {
        let shards = (0..shards).map(|_| Arc::new(ShardMetrics::default())).collect();
        ServerState::new(Arc::new(Config::default()), Clock::start(), shards)
    }

    #[test]
    fn shards_with_connections_that_stand_still_are_named_too() {
        let state = state(3);
        let not_done = |awaited| {
            let now = Now::from_ms(9_000);
            NotDone { awaited, state: Some(&state), now }.to_string()
        };
        state.shards[0].last_turn_ms.set(8_999);
        state.shards[0].connections.set(1);
        assert_eq!(not_done(Awaited::Coordinator), "coordinator", "shard 1 and 2 have nobody");
        state.shards[1].connections.set(1);
        assert_eq!(not_done(Awaited::Coordinator), "coordinator, shard 1");
        assert_eq!(not_done(Awaited::ReportFile), "shutdown.report_file");
    }

    #[test]
    fn a_program_is_told_and_not_ended() {
        let deadline = Arc::new(Deadline::new(60_000));
        let (ending, clock) = (Arc::new(Ending::default()), Clock::start());
        let known = Known::default();
        let owner = Owner::Program(Arc::clone(&ending));
        assert!(start(&deadline, clock, owner, &known).is_ok());
        assert!(known.set(Arc::new(state(1))).is_ok());
        deadline.awaits(Awaited::Coordinator);
        deadline.expire(clock.now());
        let patience = Some(Instant::now() + Duration::from_secs(20));
        let report = ending.wait(patience).map(|end| end.report).unwrap_or_default();
        assert_eq!(
            (report.exit_code, &report.not_done[..]),
            (Some(70), &["coordinator".to_owned()][..])
        );
    }

    #[test]
    fn a_deadline_that_was_passed_while_the_process_was_stopped_leaves_a_moment() {
        let deadline = Deadline::new(60_000);
        deadline.plan(Some(Now::from_ms(0)));
        let clock = Clock::start();
        while clock.now() <= Now::from_ms(2 * OVERDUE_MS) {
            thread::sleep(LOOK);
        }
        let started = Instant::now();
        assert!(wait(&deadline, clock));
        assert!(started.elapsed() >= Duration::from_millis(OVERDUE_MS));
        deadline.close();
        assert!(!wait(&deadline, clock));
    }
}
