//! Everything that the coordinator can be told, in one enum; one match acts on it.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_channel::oneshot;

use super::report::ShutdownReport;
use crate::admission::leases::Say;
use crate::config::{Config, ReloadReport};
use crate::mesh::message::Fault;

/// An input of the coordinator.
#[derive(Debug)]
pub enum Command {
    /// A signal to stop arrived (SIGTERM, SIGINT, SIGUSR2).
    Signal(i32),
    /// An operator asks for a shutdown. `force` cuts everything at once.
    Shutdown {
        /// Cut instead of drain.
        force: bool,
        /// Who asked, in words for the report.
        reason: String,
        /// Where the answer goes; nobody may be waiting any more.
        answer: oneshot::Sender<ShutdownAnswer>,
    },
    /// The program around the server stops it.
    Stop {
        /// The deadline, if it is shorter than that of the configuration.
        within: Duration,
        /// Who it is, in words for the report.
        reason: String,
    },
    /// Somebody asks for the configuration to be read again (SIGHUP, the admin).
    Reload {
        /// Who asked, in words for the log.
        cause: String,
        /// Where the answer goes, if anybody waits for one.
        answer: Option<oneshot::Sender<ReloadAnswer>>,
    },
    /// The configuration has been read again, or everything that is wrong with it.
    ConfigRead(Result<Box<Config>, Vec<String>>),
    /// A shard has entered the phase of this epoch.
    ShardAcknowledged {
        /// Which shard.
        shard: usize,
        /// The epoch.
        epoch: u64,
    },
    /// A shard has no connection left that was open when the drain began.
    ShardDrained {
        /// Which shard.
        shard: usize,
    },
    /// A shard has closed its listener and left its loop.
    ShardStopped {
        /// Which shard.
        shard: usize,
    },
    /// A shard needs more of the global budgets, or gives some back.
    Budget {
        /// Which shard.
        shard: usize,
        /// What it says.
        say: Say,
    },
    /// A shard holds connections that are booked with one that has died.
    Orphans {
        /// Which shard.
        shard: usize,
        /// The dead one.
        dead: usize,
        /// How many are left.
        left: u32,
    },
    /// Misbehave; only with `debug.fault_injection`.
    Fault(Fault),
    /// A thread ended without being told to.
    ThreadDied {
        /// Its name.
        thread: String,
        /// Its number, if it was a shard; its connections are closed.
        shard: Option<usize>,
        /// The panic's message, or the ring's error.
        cause: ShardFailure,
    },
}

/// Why a thread died.
#[derive(Debug)]
pub enum ShardFailure {
    /// A panic; message, place and backtrace are in the log.
    Panic(String),
    /// The ring could not go on.
    Ring(io::Error),
}

impl fmt::Display for ShardFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panic(message) => write!(f, "panicked: {message}"),
            Self::Ring(error) => write!(f, "its ring failed: {error}"),
        }
    }
}

/// The answer to [`Command::Shutdown`].
#[derive(Debug)]
pub struct ShutdownAnswer {
    /// True if this command began the shutdown (or made it a forced one).
    pub started: bool,
    /// The state after the command.
    pub report: ShutdownReport,
}

/// The answer to [`Command::Reload`]: what changed, or everything that is wrong with the
/// configuration, which then changed nothing.
pub type ReloadAnswer = Result<ReloadReport, Vec<String>>;
