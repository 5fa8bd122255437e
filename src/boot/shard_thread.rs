//! The threads of the shards: each makes its ring itself, because a ring belongs to the thread
//! that made it, and says whether that worked before the server promises anything.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::warn;

use super::NotStarted;
use super::capacity::Capacity;
use crate::admission::{Admission, AdmissionPlan, Owners};
use crate::coordinator::command::{Command, ShardFailure};
use crate::coordinator::state::ServerState;
use crate::environment::KernelEnvironment;
use crate::handler::Routes;
use crate::limits;
use crate::memory_plan::Use;
use crate::mesh::inbox::{Inbox, Postbox, inbox};
use crate::mesh::outbox::Outbox;
use crate::ring::{KernelRing, Neighbours, RingSettings, probe};
use crate::shard::settings::Settings;
use crate::shard::{Parts, Shard};
use crate::sys::affinity;
use crate::sys::event_fd::EventFd;
use crate::sys::thread_time;
use crate::threads::Threads;

/// How long a shard may take to set its ring up: a second of it for ENOMEM after a restart.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);
/// What the name of a shard's thread begins with.
const THREAD: &str = "tidegate-shard-";

/// The shards whose threads have been started, in the order of their numbers.
pub(super) struct Shards {
    pub(super) postboxes: Vec<Postbox>,
    threads: Threads,
}

/// An inbox for each shard, before there are shards: each is given the way to all others.
pub(super) struct Mailboxes {
    pub(super) postboxes: Vec<Postbox>,
    ends: Vec<(EventFd, Inbox)>,
}

impl Mailboxes {
    pub(super) fn new(shards: usize) -> Result<Self, NotStarted> {
        let mut mailboxes = Self { postboxes: Vec::new(), ends: Vec::new() };
        for _ in 0..shards {
            let bell = EventFd::new().map_err(|error| NotStarted::from(probe::explain(&error)))?;
            let (postbox, inbox) = inbox(limits::INBOX, bell.clone());
            mailboxes.postboxes.push(postbox);
            mailboxes.ends.push((bell, inbox));
        }
        Ok(mailboxes)
    }
}

/// Everything that moves into a shard's thread.
struct Seed {
    index: usize,
    listener: OwnedFd,
    bell: EventFd,
    inbox: Inbox,
    outbox: Outbox,
    owners: Owners,
    neighbours: Neighbours,
    state: Arc<ServerState>,
    files: u32,
    plan: Arc<AdmissionPlan>,
    commands: Sender<Command>,
    routes: Arc<Routes>,
    settings: Settings,
    ready: Sender<Result<(), ShardFailure>>,
}

impl Shards {
    /// None yet of those that these mailboxes are for.
    pub(super) fn of(mailboxes: &Mailboxes) -> Self {
        Self { postboxes: mailboxes.postboxes.clone(), threads: Threads::default() }
    }

    /// Starts a thread for each shard and waits until its ring is there. After an error some of
    /// them run: [`started`](Self::started).
    #[allow(clippy::too_many_arguments, reason = "each is something else")]
    pub(super) fn start(
        &mut self,
        state: &Arc<ServerState>,
        capacity: &Capacity,
        plan: &Arc<AdmissionPlan>,
        settings: &Settings,
        mailboxes: Mailboxes,
        listeners: Vec<OwnedFd>,
        owners: Owners,
        commands: &Sender<Command>,
        routes: &Arc<Routes>,
    ) -> Result<(), NotStarted> {
        let (ready, set_up) = bounded(capacity.shards);
        let Mailboxes { postboxes, ends } = mailboxes;
        let parts = listeners.into_iter().zip(ends).zip(Neighbours::new(capacity.shards));
        for (index, ((listener, (bell, inbox)), neighbours)) in parts.enumerate() {
            let seed = Seed {
                index,
                listener,
                bell,
                inbox,
                outbox: Outbox::new(index, &postboxes),
                owners,
                neighbours,
                state: Arc::clone(state),
                files: capacity.files,
                plan: Arc::clone(plan),
                commands: commands.clone(),
                routes: Arc::clone(routes),
                settings: settings.clone(),
                ready: ready.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("{THREAD}{index}"))
                .spawn(move || seed.live())
                .map_err(|error| NotStarted::lacking("shard thread", &error))?;
            self.threads.add(thread);
        }
        drop(ready);
        wait_until_set_up(&set_up, capacity.shards)
    }

    /// How many have a thread.
    pub(super) fn started(&self) -> usize {
        self.threads.len()
    }

    /// Waits for the threads to end, for `patience` at most; the names of those that have not.
    pub(super) fn end(self, patience: Duration) -> Vec<String> {
        let left = self.threads.join_within(patience);
        left.iter().map(|thread| thread.replace(THREAD, "shard ")).collect()
    }
}

fn wait_until_set_up(
    set_up: &Receiver<Result<(), ShardFailure>>,
    shards: usize,
) -> Result<(), NotStarted> {
    for _ in 0..shards {
        match set_up.recv_timeout(SETUP_PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(ShardFailure::Ring(error))) => return Err(probe::explain(&error).into()),
            Ok(Err(panic @ ShardFailure::Panic(_))) => {
                let message = format!("a shard could not be set up: {panic}");
                return Err(NotStarted::unavailable(message));
            }
            Err(_) => {
                return Err(NotStarted::unavailable("a shard did not set up its ring in 5 s"));
            }
        }
    }
    Ok(())
}

impl Seed {
    fn live(self) {
        let (index, commands, ready) = (self.index, self.commands.clone(), self.ready.clone());
        let metrics = Arc::clone(&self.state.shards[index]);
        metrics.thread.set(thread_time::thread_id());
        // Whoever waits for a word of this shard may have given up the start.
        let run = match caught(|| self.set_up()) {
            Ok((ring, parts)) => {
                let _ = ready.send(Ok(()));
                drop(ready);
                caught(|| Shard::new(ring, parts).run())
            }
            Err(failure) => {
                let _ = ready.send(Err(failure));
                Ok(())
            }
        };
        let Err(failure) = run else {
            let _ = commands.send(Command::ShardStopped { shard: index });
            return;
        };
        // Unwinding has dropped the ring, and with it every connection of the shard.
        metrics.lose_everything();
        let thread = format!("shard {index}");
        let _ = commands.send(Command::ThreadDied { thread, shard: Some(index), cause: failure });
    }

    fn set_up(self) -> io::Result<(KernelRing, Parts<KernelEnvironment>)> {
        let config = self.state.config();
        if config.server.pin_shards && !affinity::pin_to_core(self.index) {
            warn!(shard = self.index, "cannot be pinned to a core; runs where the kernel puts it");
        }
        let settings = RingSettings {
            submissions: limits::SUBMISSIONS,
            completions: limits::COMPLETIONS,
            files: self.files,
            accepts: limits::ACCEPTS,
            buffers: receive_buffers(&self.state),
            buffer_bytes: config.server.receive_buffer_bytes,
        };
        let mut ring = KernelRing::new(settings, self.bell, Some(self.listener))?;
        ring.join(self.neighbours);
        let hash = RandomState::new();
        let metrics = Arc::clone(&self.state.shards[self.index]);
        let parts = Parts {
            index: self.index,
            environment: KernelEnvironment::new(self.state.clock),
            inbox: self.inbox,
            outbox: self.outbox,
            owners: self.owners,
            shards: self.state.shards.clone(),
            commands: self.commands,
            metrics,
            settings: self.settings,
            admission: Admission::begin(&self.plan, hash.clone()),
            routes: self.routes.make(),
            server: Arc::clone(&self.state),
            hash,
        };
        Ok((ring, parts))
    }
}

/// Runs `step`; a panic in it is a failure like an error of the ring.
fn caught<T>(step: impl FnOnce() -> io::Result<T>) -> Result<T, ShardFailure> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(result) => result.map_err(ShardFailure::Ring),
        Err(panic) => Err(ShardFailure::Panic(message_of(panic.as_ref()))),
    }
}

/// Receive buffers of a shard, as far as the memory goes.
fn receive_buffers(state: &ServerState) -> u16 {
    let buffers = state.memory_plan().allowed(Use::ReceiveBuffers);
    buffers.try_into().unwrap_or(u16::MAX)
}

/// The message of a panic.
pub(super) fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
