//! One thread that owns phase, epoch, signals and the report. Never on the path of a message:
//! with the coordinator stopped, established connections notice nothing.
//!
//! Every input is a [`Command`]; one match acts on it; time moves the stages on. What it decides
//! are pure plans ([`drain`], [`shutdown`]), carried out by the shards.

mod account;
pub mod budget;
pub mod cause;
pub mod command;
mod control;
mod course;
pub(crate) mod deadline;
pub mod drain;
pub mod limits;
pub mod phase;
pub mod progress;
pub mod redis_stage;
mod refusal_log;
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
use crate::environment::Environment;
use crate::exit_code;
use crate::mesh::inbox::Postbox;
use crate::mesh::message::{DrainOrder, Fault, PhaseOrder};

use cause::Cause;
use command::{Command, ShardFailure, ShutdownAnswer, Wish};
use deadline::Awaited;
use drain::Terms;
use limits::Limits;
use phase::Phase;
use progress::Progress;
use redis_stage::RedisStage;
use refusal_log::RefusalLog;
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
    cause: Cause,
    started: Now,
    started_at: String,
    caps: StageCaps,
    /// What is wanted of the drain.
    terms: Terms,
    /// Whoever supervises the process has sent a signal: the deadline stands.
    is_supervised: bool,
    /// Since when nobody more is told to go.
    paused: Option<Now>,
    /// The first epoch in which nobody is let in; 0 before there is one.
    refusing_epoch: u64,
    /// How often clients have been told other slots to come back in.
    notice_round: u64,
    plan: Option<DrainPlanReport>,
    order: Option<Arc<DrainOrder>>,
    progress: Progress,
    said: Said,
    exit_code: u8,
    forced: bool,
    /// What had not ended when the deadline had passed.
    not_done: Vec<String>,
}

/// What the log has been told and is not told twice.
#[derive(Debug, Default)]
struct Said {
    stopped_accepting: bool,
    all_noticed: bool,
    all_closed: bool,
}

/// A shutdown that was cancelled: its connections that had been told to go are still counted.
#[derive(Debug)]
struct Cancelled {
    shutdown: Shutdown,
    stages: Stages,
    at: Now,
}

/// The coordinator.
#[derive(Debug)]
pub struct Coordinator<E: Environment> {
    environment: E,
    state: Arc<ServerState>,
    commands: Receiver<Command>,
    shards: Vec<ShardView>,
    limits: Limits,
    shutdown: Option<Shutdown>,
    cancelled: Option<Cancelled>,
    stages: Stages,
    redis: RedisStage,
    resources: ResourceStage,
    sessions: SessionsStage,
    order: Option<PhaseOrder>,
    refusals: RefusalLog,
    next_tick_ms: u64,
}

impl<E: Environment> Coordinator<E> {
    /// For the shards behind these postboxes.
    pub fn new(
        environment: E,
        state: Arc<ServerState>,
        commands: Receiver<Command>,
        postboxes: Vec<Postbox>,
        limits: Limits,
    ) -> Self {
        let view = |postbox| ShardView { postbox, acknowledged: 0, drained: false, alive: true };
        Self {
            environment,
            state,
            commands,
            shards: postboxes.into_iter().map(view).collect(),
            limits,
            shutdown: None,
            cancelled: None,
            stages: Stages::default(),
            redis: RedisStage::default(),
            resources: ResourceStage::default(),
            sessions: SessionsStage::default(),
            order: None,
            refusals: RefusalLog::default(),
            next_tick_ms: TICK_MS,
        }
    }

    /// The server serves from here on.
    pub fn open(&self) {
        self.state.open();
    }

    /// Only the first `started` shards have a thread: nothing is awaited of the others.
    pub fn of_started(mut self, started: usize) -> Self {
        for shard in self.shards.iter_mut().skip(started) {
            (shard.alive, shard.drained) = (false, true);
        }
        self
    }

    /// Takes over from a thread that died: the server is to be stopped.
    pub fn stop_after_death(mut self, thread: &str, cause: ShardFailure) -> Self {
        self.on_death(thread, None, &cause);
        self
    }

    /// Leads the server to its end; returns the final report, whose exit code is the process's.
    pub fn run(mut self) -> ShutdownReport {
        self.state.deadline.awaits(Awaited::Coordinator);
        while !self.is_stopped() {
            let wait = self.patience();
            match self.commands.recv_timeout(wait) {
                Ok(command) => self.step(Some(command)),
                Err(RecvTimeoutError::Timeout) => self.step(None),
                Err(RecvTimeoutError::Disconnected) => {
                    self.environment.stall(wait);
                    self.step(None);
                }
            }
        }
        self.log_refusals(true);
        info!("Graceful shutdown process completed");
        self.report()
    }

    /// One step of [`Self::run`], which never blocks: acts on a command if there is one, then
    /// does what is due.
    pub fn step(&mut self, command: Option<Command>) {
        if let Some(command) = command {
            self.act(command);
        }
        self.look_around();
    }

    /// How long the next step may wait for a command.
    pub fn patience(&self) -> Duration {
        if self.shutdown.is_some() { LOOK_AROUND } else { IDLE_LOOK_AROUND }
    }

    /// True once the server has ended; there is nothing left to step.
    pub fn is_stopped(&self) -> bool {
        self.state.phase() == Phase::Stopped
    }

    fn act(&mut self, command: Command) {
        match command {
            Command::Signal(signal) => self.on_signal(signal),
            Command::Shutdown { force, reason, wish, answer } => {
                self.on_request(force, reason, wish, answer);
            }
            Command::Steer { steering, answer } => {
                let result = self.steer(steering);
                // The one who asked may have gone away meanwhile.
                let _ = answer.send(result);
            }
            Command::Stop { within, reason } => self.on_stop(within, reason),
            Command::Reload { cause, answer } => self.on_reload(&cause, answer),
            Command::ConfigRead(read) => self.on_config_read(read),
            Command::ShardAcknowledged { shard, epoch } => {
                if let Some(shard) = self.shards.get_mut(shard) {
                    shard.acknowledged = shard.acknowledged.max(epoch);
                }
            }
            Command::ShardDrained { shard, epoch } => {
                let since = self.shutdown.as_ref().map_or(u64::MAX, |now| now.refusing_epoch);
                if let Some(shard) = self.shards.get_mut(shard).filter(|_| epoch >= since) {
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
            Command::Fault(Fault::Stall(ms)) => {
                self.environment.stall(Duration::from_millis(ms));
            }
            Command::ThreadDied { thread, shard, cause } => self.on_death(&thread, shard, &cause),
        }
    }

    fn on_signal(&mut self, number: i32) {
        let name = signals::name(number);
        match &self.shutdown {
            None => {
                info!(signal = name, "Received signal {number}, initiating graceful shutdown...");
                info!("Shutdown signal received, initiating graceful shutdown");
                let wish = Wish { cause: Cause::Signal, ..Wish::default() };
                self.begin(name.to_owned(), wish, exit_code::DRAINED);
            }
            // One that somebody asked for may take as long as was asked for; a supervisor waits
            // no longer than it always does.
            Some(shutdown) if !shutdown.is_supervised && self.state.phase().can_turn_back() => {
                self.hasten(name);
            }
            Some(_) => {
                warn!(signal = name, "second signal: cutting what is left");
                self.force();
            }
        }
    }

    fn on_request(
        &mut self,
        force: bool,
        reason: String,
        wish: Wish,
        answer: oneshot::Sender<ShutdownAnswer>,
    ) {
        let mut started = false;
        if self.shutdown.is_none() {
            info!(reason, force, "shutdown requested, initiating graceful shutdown");
            self.begin(reason, wish, exit_code::DRAINED);
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
            let wish = Wish { cause: Cause::Panic, ..Wish::default() };
            self.begin(format!("{thread}: {cause}"), wish, exit_code::PANICKED);
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
