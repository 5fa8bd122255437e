//! A running server in the hands of the program around it.

use std::fmt;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::running::{End, Ending};
use super::signals::Caught;
use crate::channels::publish::text_frame;
use crate::clock::Now;
use crate::coordinator::command::Command;
use crate::coordinator::deadline::Awaited;
use crate::coordinator::report::ShutdownReport;
use crate::coordinator::state::ServerState;
use crate::exit_code;
use crate::limits::{
    COORDINATOR_PATIENCE_MS, LAST_LINE_MS, MAX_CHANNEL_BYTES, OVERDUE_MS, PUBLISH_PATIENCE_MS,
};
use crate::log;
use crate::mesh::message::ShardMessage;
use crate::mesh::publisher::Publisher;
use crate::resources::{NotRegistered, Resource};
use crate::sys::kernel;

/// What a shutdown may take beyond its deadline: the end of threads, and a machine that is busy.
const GRACE: Duration = Duration::from_secs(1);

/// How long a full inbox is left alone.
const PAUSE: Duration = Duration::from_millis(2);

/// A running server. Every method can be called from any thread.
///
/// Dropped without [`shutdown`](Self::shutdown), it is stopped within
/// `shutdown.force_timeout_ms`, and dropping waits for that.
pub struct Handle {
    state: Arc<ServerState>,
    commands: Sender<Command>,
    publisher: Mutex<Publisher>,
    clients: SocketAddr,
    admin: SocketAddr,
    signals: Mutex<Option<Caught>>,
    ending: Arc<Ending>,
}

pub(super) struct Parts {
    pub(super) state: Arc<ServerState>,
    pub(super) commands: Sender<Command>,
    pub(super) publisher: Publisher,
    pub(super) clients: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) signals: Option<Caught>,
    pub(super) ending: Arc<Ending>,
}

/// A shutdown that did not do everything, or not in time; the report says what.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The shutdown as far as it came. Without an exit code it is still under way.
    pub report: Box<ShutdownReport>,
}

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShutdownReport { phase, connections_left, exit_code, .. } = self.report.as_ref();
        match exit_code {
            Some(code) => write!(f, "the server ended, but not in order: exit code {code}"),
            None => write!(f, "the server is {phase} still, with {connections_left} connections"),
        }
    }
}

impl std::error::Error for Unfinished {}

/// A publication that not every shard took: its inbox stayed full, or it is gone. The other
/// shards have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotPublished {
    /// How many shards miss it.
    pub shards: usize,
}

impl fmt::Display for NotPublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} shards did not take the publication", self.shards)
    }
}

impl std::error::Error for NotPublished {}

impl Handle {
    pub(super) fn new(parts: Parts) -> Self {
        Self {
            state: parts.state,
            commands: parts.commands,
            publisher: Mutex::new(parts.publisher),
            clients: parts.clients,
            admin: parts.admin,
            signals: Mutex::new(parts.signals),
            ending: parts.ending,
        }
    }

    /// Where clients connect, with the port that the kernel chose if it was 0.
    pub fn clients(&self) -> SocketAddr {
        self.clients
    }

    /// Where the admin API is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Open connections now.
    pub fn connections(&self) -> u64 {
        self.state.connections()
    }

    /// True while new clients should be sent here (`/readyz`).
    pub fn is_ready(&self) -> bool {
        self.state.phase().is_ready()
    }

    /// The shutdown as it stands; while there is none, the phase and the connections.
    pub fn status(&self) -> ShutdownReport {
        let mut report = self.state.report();
        if report.phase.is_empty() || !self.state.phase().is_shutting_down() {
            report.phase = self.state.phase().name().to_owned();
            report.epoch = self.state.epoch();
            report.connections_left = self.state.connections();
        }
        report
    }

    /// Sends a text message to everybody who is subscribed to `channel`, with Redis on the other
    /// nodes too, which is not waited for. Publications of one
    /// handle reach every shard in one order; between them and those that come over HTTP there
    /// is none.
    ///
    /// # Errors
    /// A shard did not take it within a second, or `channel` is empty or longer than 255 bytes, which
    /// nobody can be subscribed to.
    pub fn publish(&self, channel: &str, text: &str) -> Result<(), NotPublished> {
        if channel.is_empty() || channel.len() > MAX_CHANNEL_BYTES {
            return Err(NotPublished { shards: self.state.shards.len() });
        }
        let message = ShardMessage::Publish { channel: channel.into(), frame: text_frame(text) };
        self.hand_out(message, || {
            let channels = [channel.to_owned()];
            drop(self.state.relay.to_channels(&channels, text, self.relay_until()));
        })
    }

    /// Sends a text message to every connection, with Redis on the other nodes too.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn broadcast(&self, text: &str) -> Result<(), NotPublished> {
        self.hand_out(ShardMessage::Broadcast { frame: text_frame(text) }, || {
            drop(self.state.relay.to_everybody(text, self.relay_until()));
        })
    }

    /// Until when a publication is sent to other nodes.
    fn relay_until(&self) -> Now {
        self.state.clock.now().plus_ms(PUBLISH_PATIENCE_MS)
    }

    fn hand_out(&self, message: ShardMessage, relay: impl FnOnce()) -> Result<(), NotPublished> {
        let publisher = self.publisher.lock().unwrap_or_else(PoisonError::into_inner);
        let give_up = Instant::now() + Duration::from_millis(PUBLISH_PATIENCE_MS);
        let mut delivery = publisher.begin(message);
        relay();
        while !delivery.is_done() && Instant::now() < give_up {
            thread::sleep(PAUSE);
            publisher.go_on(&mut delivery);
        }
        let shards = delivery.waiting().len() + delivery.gone();
        if shards == 0 { Ok(()) } else { Err(NotPublished { shards }) }
    }

    /// Closes `resource` at the shutdown.
    ///
    /// # Errors
    /// The name is taken in its stage, there are too many, or the shutdown has come that far.
    pub fn register(&self, resource: Resource) -> Result<(), NotRegistered> {
        self.state.resources.register(resource)
    }

    /// Drains the server within `deadline` (`shutdown.deadline_ms` if that is shorter) and waits
    /// for the end: clients are told and leave at the pace, resources are closed, threads end.
    /// The logger of the program is not touched.
    ///
    /// Called again, or while a signal or the admin has begun it already, it waits for the same
    /// shutdown and answers with the same report.
    ///
    /// # Errors
    /// The shutdown is not over a second after `deadline`, or it could not do everything: the
    /// report has what, and an exit code that is not 0.
    pub fn shutdown(&self, deadline: Duration) -> Result<ShutdownReport, Unfinished> {
        let begun = Instant::now();
        if !self.state.phase().is_shutting_down() {
            let within_ms = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            self.state.deadline.stop(self.state.clock.now(), within_ms);
        }
        let stop = Command::Stop { within: deadline, reason: "the program".to_owned() };
        let patience = deadline.min(Duration::from_millis(COORDINATOR_PATIENCE_MS));
        match self.commands.send_timeout(stop, patience) {
            // Nobody is there to hear it any more: it has ended.
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => {}
            Err(SendTimeoutError::Timeout(_)) => {
                return Err(Unfinished { report: Box::new(self.status()) });
            }
        }
        let Some(end) = self.ending.wait(Some(begun + deadline + GRACE)) else {
            return Err(Unfinished { report: Box::new(self.status()) });
        };
        self.dismiss();
        end.into_result()
    }

    /// Waits until the server has ended, whoever asked it to.
    ///
    /// # Errors
    /// It could not do everything, or ended after a panic.
    pub fn wait(&self) -> Result<ShutdownReport, Unfinished> {
        let end = self.end();
        self.dismiss();
        end.into_result()
    }

    /// The end.
    pub(super) fn end(&self) -> End {
        loop {
            if let Some(end) = self.ending.wait(None) {
                return end;
            }
        }
    }

    /// The server has ended: signals do nothing any more, and there is no deadline to keep.
    fn dismiss(&self) {
        self.state.deadline.close();
        self.signals.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends the process, for which the deadline is kept until it is gone.
    pub(super) fn exit(self, end: &End) -> ExitCode {
        let this = ManuallyDrop::new(self);
        let code = end.report.exit_code.unwrap_or(exit_code::PANICKED);
        let deadline = &this.state.deadline;
        if end.log_stands_still {
            // The last line is written past the thread that stands still.
            deadline.awaits(Awaited::Log);
            deadline.expire(this.state.clock.now());
            thread::sleep(Duration::from_millis(LAST_LINE_MS + OVERDUE_MS));
        }
        log::flush(Duration::MAX);
        if !end.report.not_done.is_empty() {
            // What stands still is not waited for.
            kernel::exit_now(i32::from(code));
        }
        ExitCode::from(code)
    }
}

impl End {
    fn into_result(self) -> Result<ShutdownReport, Unfinished> {
        let Self { report, .. } = self;
        if report.exit_code == Some(exit_code::DRAINED) {
            Ok(report)
        } else {
            Err(Unfinished { report: Box::new(report) })
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (clients, admin) = (self.clients, self.admin);
        f.debug_struct("Handle")
            .field("clients", &clients)
            .field("admin", &admin)
            .finish_non_exhaustive()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let hurry = self.state.config().shutdown.force_timeout_ms;
        // Whatever comes of it, there is nobody to be told.
        let _ = self.shutdown(Duration::from_millis(hurry));
        self.state.deadline.close();
    }
}
