//! The way back of a start that fails half-way: whatever runs already is ended as a server is
//! ended, by a coordinator that leads a shutdown within [`ROLLBACK`], and then joined.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use tracing::warn;

use super::server::Attendants;
use super::shard_thread::Shards;
use crate::admission::Seats;
use crate::config::Sources;
use crate::coordinator::Coordinator;
use crate::coordinator::command::Command;
use crate::coordinator::limits::Limits;
use crate::coordinator::state::ServerState;
use crate::environment::KernelEnvironment;
use crate::limits::{END_SHARDS_MS, REDIS_CONNECT_MS, REDIS_REPLY_MS};
use crate::threads::Threads;

/// How long the shutdown of a server that could not start whole may take.
const ROLLBACK: Duration = Duration::from_secs(1);

/// How long threads may take to end after it. A thread that waits for Redis ends last: it may be
/// connecting, and then waits for one answer.
const JOIN: Duration = Duration::from_millis(REDIS_CONNECT_MS + 3 * REDIS_REPLY_MS);

/// What has been started so far.
pub(super) struct Started {
    pub(super) shards: Shards,
    pub(super) threads: Threads,
    pub(super) attendants: Attendants,
}

impl Started {
    /// Nothing yet.
    pub(super) fn nothing(shards: Shards) -> Self {
        Self { shards, threads: Threads::default(), attendants: Attendants::default() }
    }
}

/// What a coordinator is made of. One can be made again after the first is lost.
#[derive(Clone)]
pub(super) struct CoordinatorParts {
    pub(super) state: Arc<ServerState>,
    pub(super) sources: Option<Sources>,
    pub(super) seats: Seats,
    pub(super) commands: Sender<Command>,
    pub(super) inbox: Receiver<Command>,
}

impl CoordinatorParts {
    /// A coordinator of these shards.
    pub(super) fn coordinator(
        &self,
        limits: Limits,
        shards: &Shards,
    ) -> Coordinator<KernelEnvironment> {
        let environment = KernelEnvironment::new(self.state.clock);
        let (state, inbox) = (Arc::clone(&self.state), self.inbox.clone());
        Coordinator::new(environment, state, inbox, shards.postboxes.clone(), limits)
    }

    /// The limits of a coordinator that takes over from another.
    pub(super) fn inherited(&self, shards: &Shards) -> Limits {
        let (sources, commands) = (self.sources.clone(), self.commands.clone());
        let config = self.state.config();
        let memory = self.state.memory_plan();
        let settings = &config.admission;
        Limits::inherited(sources, self.seats, memory, settings, &shards.postboxes, commands)
    }

    /// Ends what has `started`: shards close their sockets, threads end and are joined.
    pub(super) fn roll_back(&self, started: Started) {
        let Started { shards, threads, attendants } = started;
        let limits = self.inherited(&shards);
        let coordinator = self.coordinator(limits, &shards).of_started(shards.started());
        self.state.open();
        // A full inbox has a signal or a death in it, which end the server too.
        let _ = self
            .commands
            .try_send(Command::Stop { within: ROLLBACK, reason: "not started".into() });
        coordinator.run();
        let mut left = shards.end(Duration::from_millis(END_SHARDS_MS));
        if !attendants.dismiss() {
            left.push("admin listener".to_owned());
        }
        left.extend(threads.join_within(JOIN));
        if !left.is_empty() {
            warn!(?left, "threads of a server that did not start still run");
        }
    }
}
