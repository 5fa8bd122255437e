//! A shutdown on its way from stage to stage: each begins when the one before is done or its time
//! is over, and all of them end with the one deadline.
//!
//! What a stage waits for is looked at, never waited for: the coordinator goes on taking commands.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::phase::Phase;
use super::report::StageResult;
use super::shutdown::StageCaps;
use super::{Coordinator, Shutdown, TICK_MS, drain, stage, told_reason};
use crate::clock::Now;
use crate::exit_code;
use crate::mesh::message::{PhaseOrder, ShardMessage};

impl Coordinator {
    pub(super) fn begin(&mut self, reason: String, cause: &'static str, exit_code: u8) {
        let (before, after) = self.state.resources.wanted_ms();
        let caps = StageCaps::new(&self.state.config()).with_resources(before, after);
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

    pub(super) fn force(&mut self) {
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
    pub(super) fn look_around(&mut self) {
        let now = self.state.clock.now();
        self.state.note_peak();
        self.hand_out_limits();
        if now.ms() >= self.next_tick_ms {
            self.next_tick_ms += TICK_MS;
            self.state.tick();
        }
        let Some(shutdown) = &self.shutdown else { return };
        let (caps, started, forced) = (shutdown.caps, shutdown.started, shutdown.forced);
        let told_to_hurry = shutdown.exit_code == exit_code::FORCED;
        if now >= started.plus_ms(caps.deadline) {
            return self.give_up();
        }
        self.remind_shards();
        if self.state.phase() == Phase::Flushing {
            self.flush_beside(now, started, &caps, (told_to_hurry, forced));
        }
        self.look_at_resources(now, started, caps, forced);
        let spent = self.stages.spent(now);
        let timed_out = |cap: u64| spent >= Duration::from_millis(cap);
        let drained = self.shards.iter().all(|shard| shard.drained);
        match self.state.phase() {
            Phase::Notice if self.resources.is_before() => {}
            Phase::Notice if timed_out(caps.pre_drain_delay) => self.begin_refusing(),
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
            Phase::Flushing if !self.redis.is_over() || !self.resources.is_over() => {}
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

    /// What is saved and taken out while the shards flush: first sessions, then the node, whom others
    /// would not wait for without its lease.
    fn flush_beside(
        &mut self,
        now: Now,
        started: Now,
        caps: &StageCaps,
        (told_to_hurry, hurries): (bool, bool),
    ) {
        // A drain that took its whole time is no reason to lose what it let go of.
        let sessions = self.sessions.look(&self.state.sessions, now, started, caps, told_to_hurry);
        let redis = match self.sessions.is_over() {
            true => self.redis.look(&self.state.redis, now, started, caps, hurries),
            false => None,
        };
        for stage in sessions.into_iter().chain(redis) {
            let (name, result) = (stage.name.as_ref(), stage.result);
            info!(stage = name, duration_ms = stage.duration_ms, ?result, "stage ended");
            self.stages.note(stage);
        }
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
            let (name, duration_ms) = (stage.name.as_ref(), stage.duration_ms);
            info!(stage = name, duration_ms, ?result, "stage ended");
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
}
