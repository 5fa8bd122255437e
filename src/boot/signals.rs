//! SIGTERM, SIGINT and SIGUSR2 become the command to stop, SIGHUP the one to read the
//! configuration again.
//!
//! The thread that catches them waits for nobody: a signal to stop sets the deadline before it is
//! handed on, and what the coordinator has no room for is offered again, so a coordinator that
//! stands still does not keep the process from ending.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use signal_hook::iterator::{Handle, Signals};

use crate::clock::Clock;
use crate::coordinator::command::Command;
use crate::coordinator::deadline::Deadline;
use crate::coordinator::signals::{CAUGHT, RELOAD, name};
use crate::limits::WAITING_SIGNALS;
use crate::sys::signal_mask;

/// How soon a signal is offered again that the coordinator had no room for.
const AGAIN: Duration = Duration::from_millis(20);

/// How often the end of the thread is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// Signals on their way to the coordinator. Dropped, it ends that: the signals then do nothing.
#[derive(Debug)]
pub(super) struct Caught {
    handle: Handle,
    commands: Arc<OnceLock<Sender<Command>>>,
    thread: JoinHandle<()>,
}

/// How long the end of the thread is waited for: it sleeps [`AGAIN`] at most, and waits for nobody.
const END: Duration = Duration::from_secs(1);

/// Begins to catch the signals: before the first listener is open, so that no signal finds the
/// process with connections and without a handler. Those that a parent has left blocked are
/// unblocked in the thread that catches them, which is enough: the kernel gives a signal of the
/// process to a thread that takes it.
///
/// # Errors
/// What sigaction answers; the thread cannot be started.
pub(super) fn catch(deadline: Arc<Deadline>, clock: Clock) -> io::Result<Caught> {
    // Held back meanwhile: one that came between the handler's installation and its readiness
    // would be swallowed.
    let signals = signal_mask::with_blocked(&CAUGHT, || Signals::new(CAUGHT))??;
    let (handle, commands) = (signals.handle(), Arc::default());
    let forwarder = Forwarder {
        signals,
        handle: handle.clone(),
        commands: Arc::clone(&commands),
        deadline,
        clock,
        waiting: VecDeque::new(),
    };
    let thread = thread::Builder::new().name("tidegate-signals".to_owned());
    let thread = thread.spawn(move || forwarder.run())?;
    Ok(Caught { handle, commands, thread })
}

impl Caught {
    /// Turns each signal into a command from now on, those that have come already too.
    pub(super) fn forward(&self, commands: Sender<Command>) {
        // There is one coordinator.
        let _ = self.commands.set(commands);
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        self.handle.close();
        let closed = Instant::now();
        while !self.thread.is_finished() && closed.elapsed() < END {
            thread::sleep(LOOK);
        }
    }
}

/// The state of the thread.
#[derive(Debug)]
struct Forwarder {
    signals: Signals,
    handle: Handle,
    commands: Arc<OnceLock<Sender<Command>>>,
    deadline: Arc<Deadline>,
    clock: Clock,
    /// Signals that are not handed on yet: there is no coordinator, or it has no room.
    waiting: VecDeque<i32>,
}

impl Forwarder {
    fn run(mut self) {
        if let Err(error) = signal_mask::unblock(&CAUGHT) {
            tracing::warn!(%error, "signals that were blocked by the parent stay blocked");
        }
        while !self.handle.is_closed() {
            if self.waiting.is_empty() {
                let arrived: Vec<i32> = self.signals.wait().collect();
                arrived.into_iter().for_each(|signal| self.take(signal));
            } else {
                thread::sleep(AGAIN);
                let arrived: Vec<i32> = self.signals.pending().collect();
                arrived.into_iter().for_each(|signal| self.take(signal));
            }
            if self.hand_on().is_err() {
                return;
            }
        }
    }

    fn take(&mut self, signal: i32) {
        if signal != RELOAD {
            self.deadline.signal(self.clock.now());
        }
        // So many have said what there is to say.
        if self.waiting.len() < WAITING_SIGNALS {
            self.waiting.push_back(signal);
        }
    }

    /// Hands on what can be; an error if there is nobody any more.
    fn hand_on(&mut self) -> Result<(), ()> {
        let Some(commands) = self.commands.get() else { return Ok(()) };
        while let Some(&signal) = self.waiting.front() {
            let command = match signal {
                RELOAD => Command::Reload { cause: name(signal).to_owned(), answer: None },
                signal => Command::Signal(signal),
            };
            match commands.try_send(command) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(TrySendError::Full(_)) => break,
                Err(TrySendError::Disconnected(_)) => return Err(()),
            }
        }
        Ok(())
    }
}
