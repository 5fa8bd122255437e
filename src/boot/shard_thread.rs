//! The threads of the shards: each makes its ring itself, because a ring belongs to the thread
//! that made it, and says whether that worked before the server promises anything.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::warn;

use super::NotStarted;
use super::capacity::Capacity;
use crate::admission::{Admission, AdmissionPlan, Owners};
use crate::config::Config;
use crate::coordinator::command::{Command, ShardFailure};
use crate::coordinator::state::ServerState;
use crate::environment::KernelEnvironment;
use crate::handler::Routes;
use crate::limits;
use crate::mesh::inbox::{Inbox, Postbox, inbox};
use crate::mesh::outbox::Outbox;
use crate::ring::{KernelRing, Neighbours, RingSettings, probe};
use crate::shard::settings::Settings;
use crate::shard::{Parts, Shard};
use crate::sys::affinity;
use crate::sys::event_fd::EventFd;

/// How long a shard may take to set its ring up: a second of it for ENOMEM after a restart.
const SETUP_PATIENCE: Duration = Duration::from_secs(5);
/// How long the end waits for threads that were told to stop.
const JOIN_PATIENCE: Duration = Duration::from_millis(500);

/// The running shards.
pub(super) struct Shards {
    pub(super) postboxes: Vec<Postbox>,
    threads: Vec<JoinHandle<()>>,
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
    ready: Sender<io::Result<()>>,
}

impl Shards {
    #[allow(clippy::too_many_arguments, reason = "each is something else")]
    pub(super) fn start(
        state: &Arc<ServerState>,
        capacity: &Capacity,
        plan: &Arc<AdmissionPlan>,
        mailboxes: Mailboxes,
        listeners: Vec<OwnedFd>,
        owners: Owners,
        commands: &Sender<Command>,
        routes: &Arc<Routes>,
    ) -> Result<Self, NotStarted> {
        let (ready, set_up) = bounded(capacity.shards);
        let Mailboxes { postboxes, ends } = mailboxes;
        let mut threads = Vec::new();
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
                ready: ready.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("tidegate-shard-{index}"))
                .spawn(move || seed.live())
                .map_err(|error| NotStarted::unavailable(format!("shard thread: {error}")))?;
            threads.push(thread);
        }
        drop(ready);
        wait_until_set_up(&set_up, capacity.shards)?;
        Ok(Self { postboxes, threads })
    }

    /// Waits a moment for the threads to end; false if one does not.
    pub(super) fn join(self) -> bool {
        let started = Instant::now();
        while started.elapsed() < JOIN_PATIENCE {
            if self.threads.iter().all(JoinHandle::is_finished) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }
}

fn wait_until_set_up(set_up: &Receiver<io::Result<()>>, shards: usize) -> Result<(), NotStarted> {
    for _ in 0..shards {
        match set_up.recv_timeout(SETUP_PATIENCE) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(probe::explain(&error).into()),
            Err(_) => return Err(NotStarted::unavailable("a shard did not set up its ring")),
        }
    }
    Ok(())
}

impl Seed {
    fn live(self) {
        let (index, commands) = (self.index, self.commands.clone());
        let metrics = Arc::clone(&self.state.shards[index]);
        let failure = match catch_unwind(AssertUnwindSafe(|| self.run())) {
            Ok(Ok(())) => {
                let _ = commands.send(Command::ShardStopped { shard: index });
                return;
            }
            Ok(Err(error)) => ShardFailure::Ring(error),
            Err(panic) => ShardFailure::Panic(message_of(panic.as_ref())),
        };
        // Unwinding has dropped the ring, and with it every connection of the shard.
        metrics.lose_everything();
        let thread = format!("shard {index}");
        let _ = commands.send(Command::ThreadDied { thread, shard: Some(index), cause: failure });
    }

    fn run(self) -> io::Result<()> {
        let config = self.state.config();
        if config.server.pin_shards && !affinity::pin_to_core(self.index) {
            warn!(shard = self.index, "cannot be pinned to a core; runs where the kernel puts it");
        }
        let ready = self.ready.clone();
        let ring = match self.ring(&config) {
            Ok((ring, parts)) => {
                let _ = ready.send(Ok(()));
                (ring, parts)
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                return Ok(());
            }
        };
        drop(ready);
        Shard::new(ring.0, ring.1).run()
    }

    fn ring(self, config: &Config) -> io::Result<(KernelRing, Parts<KernelEnvironment>)> {
        let settings = RingSettings {
            submissions: limits::SUBMISSIONS,
            completions: limits::COMPLETIONS,
            files: self.files,
            accepts: limits::ACCEPTS,
            buffers: config.server.receive_buffers,
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
            settings: Settings::new(config, self.state.shards.len())
                .map_err(|_| io::Error::other("server.allowed_origins"))?,
            admission: Admission::begin(&self.plan, hash.clone()),
            routes: self.routes.make(),
            server: Arc::clone(&self.state),
            hash,
        };
        Ok((ring, parts))
    }
}

/// The message of a panic.
pub(super) fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
