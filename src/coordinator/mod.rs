//! One thread that owns phase, epoch, signals and the report. Never on the path of a message:
//! with the coordinator stopped, established connections notice nothing.
//!
//! Every input is a [`Command`]; one match acts on it; time moves the stages on. What it decides
//! are pure plans ([`drain`], [`shutdown`]), carried out by the shards.

mod account;
pub mod budget;
pub mod command;
mod course;
pub mod drain;
pub mod limits;
pub mod phase;
pub mod redis_stage;
pub mod report;
mod resource_stage;
pub mod sessions_stage;
pub mod shutdown;
pub mod signals;
pub mod stage;
pub mod state;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use futures_channel::oneshot;
use tracing::{error, info, warn};

use crate::clock::Now;
use crate::exit_code;
use crate::mesh::inbox::Postbox;
use crate::mesh::message::{Fault, PhaseOrder};

use command::{Command, ShardFailure, ShutdownAnswer};
use limits::Limits;
use phase::Phase;
use redis_stage::RedisStage;
use report::{DrainPlanReport, ShutdownReport};
use resource_stage::ResourceStage;
use sessions_stage::SessionsStage;
use shutdown::StageCaps;
use stage::Stages;
use state::ServerState;

/// The coordinator looks around at least this often, so stages end on time.
const LOOK_AROUND: Duration = Duration::from_millis(20);
/// The same while nothing is going on.
const IDLE_LOOK_AROUND: Duration = Duration::from_millis(100);
/// One tick of `chronos.tick_count` (S0.23).
const TICK_MS: u64 = 5_000;

/// What the coordinator knows of a shard.
#[derive(Debug)]
struct ShardView {
    postbox: Postbox,
    acknowledged: u64,
    drained: bool,
    alive: bool,
}

/// A shutdown under way.
#[derive(Debug)]
struct Shutdown {
    reason: String,
    cause: &'static str,
    started: Now,
    started_at: String,
    caps: StageCaps,
    plan: Option<DrainPlanReport>,
    order: Option<Arc<crate::mesh::message::DrainOrder>>,
    exit_code: u8,
    forced: bool,
}

/// The coordinator.
#[derive(Debug)]
pub struct Coordinator {
    state: Arc<ServerState>,
    commands: Receiver<Command>,
    shards: Vec<ShardView>,
    limits: Limits,
    shutdown: Option<Shutdown>,
    stages: Stages,
    redis: RedisStage,
    resources: ResourceStage,
    sessions: SessionsStage,
    order: Option<PhaseOrder>,
    next_tick_ms: u64,
}

/// What clients are told: not who pressed which button.
fn told_reason(cause: &str) -> &'static str {
    match cause {
        "panic" => "failure",
        _ => "shutdown",
    }
}

impl Coordinator {
    /// For the shards behind these postboxes.
    pub fn new(
        state: Arc<ServerState>,
        commands: Receiver<Command>,
        postboxes: Vec<Postbox>,
        limits: Limits,
    ) -> Self {
        let view = |postbox| ShardView { postbox, acknowledged: 0, drained: false, alive: true };
        Self {
            state,
            commands,
            shards: postboxes.into_iter().map(view).collect(),
            limits,
            shutdown: None,
            stages: Stages::default(),
            redis: RedisStage::default(),
            resources: ResourceStage::default(),
            sessions: SessionsStage::default(),
            order: None,
            next_tick_ms: TICK_MS,
        }
    }

    /// The server serves from here on.
    pub fn open(&self) {
        self.state.enter(Phase::Running);
    }

    /// Takes over from a thread that died: the server is to be stopped.
    pub fn stop_after_death(mut self, thread: &str, cause: ShardFailure) -> Self {
        self.on_death(thread, None, &cause);
        self
    }

    /// Leads the server to its end; returns the final report, whose exit code is the process's.
    pub fn run(mut self) -> ShutdownReport {
        while self.state.phase() != Phase::Stopped {
            let wait = if self.shutdown.is_some() { LOOK_AROUND } else { IDLE_LOOK_AROUND };
            match self.commands.recv_timeout(wait) {
                Ok(command) => self.act(command),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
            }
            self.look_around();
        }
        self.report()
    }

    fn act(&mut self, command: Command) {
        match command {
            Command::Signal(signal) => self.on_signal(signals::name(signal)),
            Command::Shutdown { force, reason, answer } => self.on_request(force, reason, answer),
            Command::Stop { within, reason } => self.on_stop(within, reason),
            Command::Reload { cause, answer } => self.on_reload(&cause, answer),
            Command::ConfigRead(read) => self.on_config_read(read),
            Command::ShardAcknowledged { shard, epoch } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.acknowledged = shard.acknowledged.max(epoch);
                }
            }
            Command::ShardDrained { shard } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.drained = true;
                }
            }
            Command::ShardStopped { shard } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.alive = false;
                    shard.drained = true;
                }
            }
            Command::Budget { shard, say } => self.on_say(shard, &say),
            Command::Orphans { shard, dead, left } => self.on_orphans(shard, dead, left),
            Command::Fault(Fault::Panic) => panic!("injected through the admin API"),
            Command::Fault(Fault::Stall(ms)) => std::thread::sleep(Duration::from_millis(ms)),
            Command::ThreadDied { thread, shard, cause } => self.on_death(&thread, shard, &cause),
        }
    }

    fn on_signal(&mut self, name: &str) {
        if self.shutdown.is_none() {
            info!(signal = name, "Shutdown signal received, initiating graceful shutdown");
            self.begin(name.to_owned(), "signal", exit_code::DRAINED);
        } else {
            warn!(signal = name, "second signal: cutting what is left");
            self.force();
        }
    }

    fn on_request(&mut self, force: bool, reason: String, answer: oneshot::Sender<ShutdownAnswer>) {
        let mut started = false;
        if self.shutdown.is_none() {
            info!(reason, force, "shutdown requested, initiating graceful shutdown");
            self.begin(reason, "api", exit_code::DRAINED);
            started = true;
        }
        if force && self.shutdown.as_ref().is_some_and(|shutdown| !shutdown.forced) {
            self.force();
            started = true;
        }
        let report = self.report();
        self.state.show(report.clone());
        // The one who asked may have gone away meanwhile.
        let _ = answer.send(ShutdownAnswer { started, report });
    }

    fn on_death(&mut self, thread: &str, shard: Option<usize>, cause: &ShardFailure) {
        if let Some(index) = shard
            && let Some(shard) = self.shards.get_mut(index)
        {
            shard.alive = false;
            shard.drained = true;
            self.bury(index);
        }
        error!(thread, %cause, "a thread ended without being told to; stopping the server");
        if self.shutdown.is_none() {
            let hurry = self.state.config().shutdown.force_timeout_ms;
            self.begin(format!("{thread}: {cause}"), "panic", exit_code::PANICKED);
            if let Some(shutdown) = &mut self.shutdown {
                let (before, after) = self.state.resources.wanted_ms();
                let caps = StageCaps::hurried(&self.state.config(), hurry);
                shutdown.caps = caps.with_resources(before, after);
            }
        } else if let Some(shutdown) = &mut self.shutdown {
            shutdown.exit_code = exit_code::PANICKED;
        }
    }
}
