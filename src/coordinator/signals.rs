//! SIGTERM, SIGINT and SIGUSR2 become the command to stop, SIGHUP the one to read the
//! configuration again.

use std::io;

use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::{Handle, Signals};

use super::command::Command;
use crate::sys::signal_mask;

/// The signals that are caught: three that stop the server, and the one that does not.
const CAUGHT: [i32; 4] = [SIGTERM, SIGINT, SIGUSR2, SIGHUP];

/// Signals that have been caught since [`catch`]; none is lost before [`Caught::forward`].
#[derive(Debug)]
pub struct Caught(Signals);

/// Begins to catch the signals: before the first listener is open, so that
/// no signal finds the process with connections and without a handler.
///
/// # Errors
/// What sigaction answers.
pub fn catch() -> io::Result<Caught> {
    // Held back meanwhile: one that came between the handler's installation and its readiness
    // would be swallowed.
    let signals = signal_mask::with_blocked(&CAUGHT, || Signals::new(CAUGHT))??;
    Ok(Caught(signals))
}

/// Signals on their way to the coordinator. Dropped, it ends that: the signals then do nothing.
#[derive(Debug)]
pub struct Forwarding(Handle);

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Caught {
    /// Turns each signal into a command, on a thread of its own.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn forward(mut self, commands: Sender<Command>) -> io::Result<Forwarding> {
        let handle = self.0.handle();
        let forward = move || {
            for signal in self.0.forever() {
                let command = match signal {
                    SIGHUP => Command::Reload { cause: name(signal).to_owned(), answer: None },
                    signal => Command::Signal(signal),
                };
                if commands.send(command).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("tidegate-signals".to_owned()).spawn(forward)?;
        Ok(Forwarding(handle))
    }
}

/// The name of a signal that is caught.
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGUSR2 => "SIGUSR2",
        SIGHUP => "SIGHUP",
        _ => "signal",
    }
}
