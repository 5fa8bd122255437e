//! Everything that the coordinator can be told, in one enum; one match acts on it.

use std::fmt;
use std::io;
use std::time::Duration;

use futures_channel::oneshot;

use super::cause::Cause;
use super::drain::Pace;
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
        /// How it is to be done.
        wish: Wish,
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
    /// An operator wants something else of the drain that is under way.
    Steer {
        /// What.
        steering: Steering,
        /// Where the answer goes; nobody may be waiting any more.
        answer: oneshot::Sender<SteeringAnswer>,
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
        /// The epoch that it was in: one before a drain was cancelled says nothing of the next.
        epoch: u64,
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

/// How an operator wants a shutdown to be done; what is left out is as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// What it is for.
    pub cause: Cause,
    /// How fast connections are closed.
    pub pace: Option<Pace>,
    /// Where clients are told to come back.
    pub reconnect_to: Option<String>,
}

impl Default for Wish {
    fn default() -> Self {
        Self { cause: Cause::Operator, pace: None, reconnect_to: None }
    }
}

/// What can be wanted of a drain that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Nobody more is told to go.
    Pause,
    /// It goes on.
    Resume,
    /// Another pace from now on.
    Pace(Pace),
    /// The server stays.
    Cancel,
}

/// The answer to [`Command::Steer`]: the state after it, or why it cannot be.
pub type SteeringAnswer = Result<ShutdownAnswer, String>;

/// The answer to [`Command::Shutdown`].
#[derive(Debug)]
pub struct ShutdownAnswer {
    /// True if this command changed anything: began the shutdown, made it a forced one, or made
    /// another drain of it.
    pub started: bool,
    /// The state after the command.
    pub report: ShutdownReport,
}

/// The answer to [`Command::Reload`]: what changed, or everything that is wrong with the
/// configuration, which then changed nothing.
pub type ReloadAnswer = Result<ReloadReport, Vec<String>>;
