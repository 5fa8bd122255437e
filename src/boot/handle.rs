//! A running server in the hands of the program around it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};

use super::running::{End, Ending};
use super::server::Attendants;
use crate::channels::publish::text_frame;
use crate::clock::Now;
use crate::coordinator::command::Command;
use crate::coordinator::report::ShutdownReport;
use crate::coordinator::state::ServerState;
use crate::limits::{COORDINATOR_PATIENCE_MS, MAX_CHANNEL_BYTES, PUBLISH_PATIENCE_MS};
use crate::mesh::message::ShardMessage;
use crate::mesh::publisher::Publisher;
use crate::resources::{NotRegistered, Resource};

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
    attendants: Mutex<Option<Attendants>>,
    ending: Arc<Ending>,
}

pub(super) struct Parts {
    pub(super) state: Arc<ServerState>,
    pub(super) commands: Sender<Command>,
    pub(super) publisher: Publisher,
    pub(super) clients: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) attendants: Attendants,
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
            attendants: Mutex::new(Some(parts.attendants)),
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

    /// The end, without waiting for the threads around it.
    pub(super) fn end(&self) -> End {
        loop {
            if let Some(end) = self.ending.wait(None) {
                return end;
            }
        }
    }

    /// Ends what stands around the server. The first who comes does it, and others wait for him.
    fn dismiss(&self) {
        let mut attendants = self.attendants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(attendants) = attendants.take() {
            attendants.dismiss();
        }
    }

    /// Leaves them to the end of the process, which is near.
    pub(super) fn leave_attendants(&self) {
        self.attendants.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl End {
    fn into_result(self) -> Result<ShutdownReport, Unfinished> {
        let Self { report, threads_ended } = self;
        if report.exit_code == Some(0) && threads_ended {
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
    }
}
