//! One thread that owns phase, epoch, signals and the report. Never on the path of a message:
//! with the coordinator stopped, established connections notice nothing.
//!
//! Every input is a [`Command`]; one match acts on it; time moves the stages on. What it decides
//! are pure plans ([`drain`], [`shutdown`]), carried out by the shards.

pub mod budget;
pub mod command;
pub mod drain;
pub mod limits;
pub mod phase;
pub mod redis_stage;
pub mod report;
pub mod shutdown;
pub mod signals;
pub mod stage;
pub mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use futures_channel::oneshot;
use tracing::{error, info, warn};

use crate::clock::Now;
use crate::close_reason::DrainOutcome;
use crate::exit_code;
use crate::mesh::inbox::Postbox;
use crate::mesh::message::{Fault, PhaseOrder, ShardMessage};
use crate::metrics::ShardMetrics;

use command::{Command, ShardFailure, ShutdownAnswer};
use limits::Limits;
use phase::Phase;
use redis_stage::RedisStage;
use report::{DrainPlanReport, ShutdownReport, StageResult};
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
                shutdown.caps = StageCaps::hurried(&self.state.config(), hurry);
            }
        } else if let Some(shutdown) = &mut self.shutdown {
            shutdown.exit_code = exit_code::PANICKED;
        }
    }

    fn begin(&mut self, reason: String, cause: &'static str, exit_code: u8) {
        let caps = StageCaps::new(&self.state.config());
        info!(
            reason,
            cause,
            active_connections = self.state.connections(),
            deadline_ms = caps.deadline,
            "shutdown initiated"
        );
        self.shutdown = Some(Shutdown {
            reason,
            cause,
            started: self.state.clock.now(),
            started_at: stage::timestamp(),
            caps,
            plan: None,
            order: None,
            exit_code,
            forced: false,
        });
        match self.state.phase() {
            // Readiness is off before anybody is refused, also when there is no delay between.
            Phase::Starting | Phase::Running => self.enter(Phase::Notice),
            // A coordinator that died in the middle of a drain has left it to this one.
            phase if phase < Phase::Forcing => {
                self.make_order();
                self.enter(Phase::Forcing);
            }
            _ => {}
        }
    }

    fn force(&mut self) {
        let Some(shutdown) = &mut self.shutdown else { return };
        // A panic stays the cause.
        if shutdown.exit_code == exit_code::DRAINED {
            shutdown.exit_code = exit_code::FORCED;
        }
        if std::mem::replace(&mut shutdown.forced, true) {
            return;
        }
        if self.state.phase() < Phase::Forcing {
            self.make_order();
            self.finish_stage(StageResult::TimedOut);
            self.enter(Phase::Forcing);
        }
    }

    /// Moves the shutdown on when a stage is done or its time is over.
    fn look_around(&mut self) {
        let now = self.state.clock.now();
        self.state.note_peak();
        self.hand_out_limits();
        if now.ms() >= self.next_tick_ms {
            self.next_tick_ms += TICK_MS;
            self.state.tick();
        }
        let Some(shutdown) = &self.shutdown else { return };
        let (caps, started, forced) = (shutdown.caps, shutdown.started, shutdown.forced);
        if now >= started.plus_ms(caps.deadline) {
            return self.give_up();
        }
        self.remind_shards();
        if self.state.phase() == Phase::Flushing
            && let Some(stage) = self.redis.look(&self.state.redis, now, started, &caps, forced)
        {
            let (name, result) = (stage.name, stage.result);
            info!(stage = name, duration_ms = stage.duration_ms, ?result, "stage ended");
            self.stages.note(stage);
        }
        let spent = self.stages.spent(now);
        let timed_out = |cap: u64| spent >= Duration::from_millis(cap);
        let drained = self.shards.iter().all(|shard| shard.drained);
        match self.state.phase() {
            Phase::Notice if timed_out(caps.pre_drain) => self.begin_refusing(),
            Phase::Refusing if self.all_acknowledged() && (drained || timed_out(caps.notice)) => {
                self.begin_draining();
            }
            Phase::Refusing if timed_out(caps.notice + caps.force) => {
                self.finish_stage(StageResult::TimedOut);
                self.enter(Phase::Draining);
            }
            Phase::Draining if drained => self.step(StageResult::Done, Phase::Flushing),
            Phase::Draining if timed_out(caps.drain) => {
                warn!(
                    connections_left = self.left(),
                    "the drain's time is over; forcing what is left"
                );
                self.step(StageResult::TimedOut, Phase::Forcing);
            }
            Phase::Forcing if drained => self.step(StageResult::Done, Phase::Flushing),
            Phase::Forcing if timed_out(caps.force) => {
                self.step(StageResult::TimedOut, Phase::Flushing);
            }
            Phase::Flushing if !self.redis.is_over() => {}
            Phase::Flushing if self.shards.iter().all(|shard| !shard.alive) => {
                self.step(StageResult::Done, Phase::Stopped);
            }
            Phase::Flushing if timed_out(caps.flush) => {
                if self.left() > 0 {
                    self.miss_deadline();
                }
                self.step(StageResult::TimedOut, Phase::Stopped);
            }
            _ => {}
        }
        let report = self.report();
        self.state.show(report);
    }

    fn begin_refusing(&mut self) {
        self.make_order();
        info!("Server received shutdown signal, stopping to accept new connections");
        self.step(StageResult::Done, Phase::Refusing);
    }

    fn begin_draining(&mut self) {
        self.make_order();
        let plan = self.shutdown.as_ref().and_then(|shutdown| shutdown.plan.clone());
        if let Some(plan) = plan {
            if let Some(warning) = &plan.warning {
                warn!("{warning}");
            }
            info!(
                connections = self.left(),
                connections_per_second = plan.connections_per_second,
                estimated_ms = plan.estimated_ms,
                "Closing {} WebSocket connections",
                self.left()
            );
        }
        self.step(StageResult::Done, Phase::Draining);
    }

    /// Plans the drain for the connections that there are.
    fn make_order(&mut self) {
        let started_with: u64 =
            self.state.shards.iter().map(|shard| shard.drain_started_with.get()).sum();
        let present: u64 = self
            .state
            .shards
            .iter()
            .map(|shard| shard.connections.get() + shard.handshaking.get())
            .sum();
        let Some(shutdown) = &mut self.shutdown else { return };
        let connections = if started_with > 0 { started_with } else { present };
        let (order, plan) = drain::plan(
            &self.state.config(),
            &shutdown.caps,
            told_reason(shutdown.cause),
            connections,
            self.state.clock.now().ms(),
        );
        shutdown.plan = Some(plan);
        shutdown.order = Some(Arc::new(order));
    }

    fn step(&mut self, result: StageResult, next: Phase) {
        self.finish_stage(result);
        self.enter(next);
    }

    fn finish_stage(&mut self, result: StageResult) {
        if result == StageResult::TimedOut
            && let Some(shutdown) = &mut self.shutdown
        {
            shutdown.forced |= self.state.phase() >= Phase::Draining;
        }
        let now = self.state.clock.now();
        if let Some(stage) = self.stages.finish(now, result) {
            info!(stage = stage.name, duration_ms = stage.duration_ms, ?result, "stage ended");
        }
    }

    fn enter(&mut self, phase: Phase) {
        debug_assert!(self.state.phase().may_step_to(phase), "{} -> {phase}", self.state.phase());
        let epoch = self.state.enter(phase);
        self.stages.begin(phase, self.state.clock.now());
        let drain = self.shutdown.as_ref().and_then(|shutdown| shutdown.order.clone());
        let order = PhaseOrder { epoch, phase, drain };
        info!(phase = %phase, epoch, "phase entered");
        self.order = Some(order);
        self.remind_shards();
    }

    /// Sends the order to the shards that have not acknowledged it; one whose inbox is full gets
    /// it at the next look.
    fn remind_shards(&mut self) {
        let Some(order) = &self.order else { return };
        for shard in &mut self.shards {
            if shard.alive && shard.acknowledged < order.epoch {
                // A shard takes an order twice without harm; full or gone is tried again.
                let _ = shard.postbox.post(ShardMessage::Enter(order.clone()));
            }
        }
    }

    fn all_acknowledged(&self) -> bool {
        let epoch = self.state.epoch();
        self.shards.iter().all(|shard| !shard.alive || shard.acknowledged >= epoch)
    }

    fn left(&self) -> u64 {
        let report = self.report();
        report.connections_left
    }

    /// The overall deadline has passed: the process says what it could not do and ends.
    fn give_up(&mut self) {
        if let Some(shutdown) = &mut self.shutdown {
            error!(
                deadline_ms = shutdown.caps.deadline,
                phase = %self.state.phase(),
                "Shutdown timeout reached, forcing exit"
            );
        }
        self.miss_deadline();
        self.stages.finish(self.state.clock.now(), StageResult::TimedOut);
        self.state.enter(Phase::Stopped);
    }

    /// The process ends with connections that it could not let go.
    fn miss_deadline(&mut self) {
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.forced = true;
        if shutdown.exit_code == exit_code::DRAINED {
            shutdown.exit_code = exit_code::DEADLINE;
        }
    }

    /// Connections that were there when the drain began. Those of a shard that has not taken the
    /// order yet, or never will because it stands still, are there still.
    fn connections_at_start(&self) -> u64 {
        if self.state.phase() < Phase::Refusing {
            return 0;
        }
        let of =
            |shard: &Arc<ShardMetrics>| shard.drain_started_with.get().max(shard.connections.get());
        self.state.shards.iter().map(of).sum()
    }

    /// The shutdown as it stands; a report of nothing while the server runs.
    fn report(&self) -> ShutdownReport {
        let phase = self.state.phase();
        let Some(shutdown) = &self.shutdown else {
            return ShutdownReport { phase: phase.to_string(), ..ShutdownReport::default() };
        };
        let now = self.state.clock.now();
        let mut outcomes = BTreeMap::new();
        for outcome in DrainOutcome::ALL {
            let counts = self.state.shards.iter().map(|s| s.drain_outcomes[outcome.index()].get());
            outcomes.insert(outcome.label(), counts.sum::<u64>());
        }
        let started_with = self.connections_at_start();
        let accounted: u64 = outcomes.values().sum();
        let cut = outcomes.get(DrainOutcome::Forced.label()).copied().unwrap_or_default();
        let stopped = phase == Phase::Stopped;
        let discrepancy = (stopped && accounted != started_with)
            .then(|| format!("{started_with} connections at the start, but {accounted} outcomes"));
        ShutdownReport {
            phase: phase.to_string(),
            reason: shutdown.reason.clone(),
            cause: shutdown.cause.to_owned(),
            epoch: self.state.epoch(),
            started_at: Some(shutdown.started_at.clone()),
            duration_ms: now.since(shutdown.started).as_millis() as u64,
            connections_at_start: started_with,
            connections_left: started_with.saturating_sub(accounted),
            outcomes,
            discrepancy,
            plan: shutdown.plan.clone(),
            stages: self.stages.shown(now),
            forced: shutdown.forced || cut > 0,
            exit_code: stopped.then_some(shutdown.exit_code),
        }
    }
}
