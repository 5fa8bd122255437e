//! A shutdown on its way from stage to stage: each begins when the one before is done or its time
//! is over, and all of them end with the one deadline.
//!
//! What a stage waits for is looked at, never waited for: the coordinator goes on taking commands.
//! A line of the log stands where what it says has become true, in the words of the requirements
//! (S1.33, S2.29, S3.29).

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info, warn};

use super::cause::{Cause, Profile};
use super::command::Wish;
use super::drain::{self, Pace, Position, Terms};
use super::phase::Phase;
use super::progress::Progress;
use super::report::{StageReport, StageResult};
use super::shutdown::StageCaps;
use super::{Coordinator, Said, ShardView, Shutdown, TICK_MS};
use crate::admission::RefusalReason;
use crate::clock::{Now, Reading};
use crate::environment::Environment;
use crate::exit_code;
use crate::mesh::message::{PhaseOrder, ShardMessage};
use crate::metrics::REFUSAL_LABELS;

impl<E: Environment> Coordinator<E> {
    pub(super) fn begin(&mut self, reason: String, wish: Wish, exit_code: u8) {
        let config = self.state.config();
        let profile = Profile::of(wish.cause, &config);
        let (before, after) = self.state.resources.wanted_ms();
        let mut caps = StageCaps::of(&profile, &config).with_resources(before, after);
        if let Some(Pace::Within(window_ms)) = wish.pace {
            caps = caps.with_window(window_ms, config.shutdown.close_timeout_ms, 0);
        }
        info!(
            reason,
            cause = wish.cause.label(),
            active_connections = self.state.connections(),
            deadline_ms = caps.deadline,
            "Starting graceful shutdown process..."
        );
        self.cancelled = None;
        if self.state.phase() < Phase::Notice {
            self.state.count_drain();
        }
        self.shutdown = Some(Shutdown {
            reason,
            cause: wish.cause,
            started: self.environment.now(),
            started_at: self.environment.read_clocks().timestamp(),
            caps,
            terms: Terms::of(&profile, &config, wish.pace, wish.reconnect_to),
            is_supervised: matches!(wish.cause, Cause::Signal | Cause::Panic | Cause::Program),
            paused: None,
            refusing_epoch: 0,
            notice_round: 0,
            plan: None,
            order: None,
            progress: Progress::default(),
            said: Said::default(),
            exit_code,
            forced: false,
            not_done: Vec::new(),
        });
        self.plan_end();
        // What is to be expected is known before the first connection is counted.
        self.make_order();
        match self.state.phase() {
            // Readiness is off before anybody is refused, also when there is no delay between.
            Phase::Starting | Phase::Running => {
                self.enter(Phase::Notice);
            }
            // A coordinator that died in the middle of a drain has left it to this one.
            Phase::Notice | Phase::Refusing | Phase::Draining => self.enter(Phase::Forcing),
            Phase::Forcing | Phase::Flushing | Phase::Stopped => {}
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
        let now = self.environment.now();
        self.state.note_peak(now);
        self.plan_end();
        self.log_refusals(false);
        self.hand_out_limits();
        if now.ms() >= self.next_tick_ms {
            self.next_tick_ms += TICK_MS;
            self.state.tick();
        }
        self.remind_shards();
        if let Some(shutdown) = &self.shutdown {
            let is_over = now >= shutdown.started.plus_ms(shutdown.caps.deadline);
            if is_over && !self.is_held() {
                return self.give_up();
            }
            self.look_beside();
            self.move_on();
            self.say_what_has_become_true();
        } else if self.cancelled.is_none() {
            return;
        }
        let report = self.report();
        self.state.show(report);
    }

    /// Sets the moment at which the process ends if this thread does not end it: it moves with the
    /// deadline, and there is none while a drain is held.
    fn plan_end(&self) {
        let end = self.shutdown.as_ref().filter(|_| !self.is_held());
        let end = end.map(|shutdown| shutdown.started.plus_ms(shutdown.caps.deadline));
        self.state.deadline.plan(end);
    }

    /// Counts refused connections in the log: as a warning, unless it is the shutdown itself that
    /// refuses them.
    pub(super) fn log_refusals(&mut self, is_last: bool) {
        let refused = self.state.refused();
        let now = self.environment.now();
        let line = match is_last {
            true => self.refusals.rest(refused, now),
            false => self.refusals.look(refused, now),
        };
        let Some(line) = line else { return };
        let (refused, within_ms) = (line.total(), line.within_ms);
        let by_reason = REFUSAL_LABELS.iter().zip(line.counts).filter(|(_, count)| *count > 0);
        let by_reason: Vec<_> = by_reason.map(|(name, count)| format!("{name} {count}")).collect();
        let reasons = by_reason.join(", ");
        let draining = RefusalReason::Draining.index();
        if line.counts[draining] == refused {
            info!(refused, within_ms, "new connections were refused because the server drains");
        } else {
            warn!(
                refused,
                within_ms,
                reasons,
                "connections were refused; GET /api/v1/admission/refused names the sources"
            );
        }
    }

    /// Looks at what goes on beside the flushing of the shards.
    fn look_beside(&mut self) {
        let Some(shutdown) = &self.shutdown else { return };
        let (caps, started, forced) = (shutdown.caps, shutdown.started, shutdown.forced);
        let told_to_hurry = shutdown.exit_code == exit_code::FORCED;
        let now = self.environment.now();
        if self.state.phase() == Phase::Flushing {
            self.flush_beside(
                self.environment.read_clocks(),
                started,
                &caps,
                (told_to_hurry, forced),
            );
        }
        self.look_at_resources(now, started, caps, forced);
    }

    fn move_on(&mut self) {
        let Some(shutdown) = &self.shutdown else { return };
        let caps = shutdown.caps;
        let spent = self.stages.spent(self.environment.now());
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
            Phase::Draining if drained => self.advance(StageResult::Done, Phase::Flushing),
            Phase::Draining if timed_out(caps.drain) && !self.is_held() => {
                warn!(
                    connections_left = self.left(),
                    "the drain's time is over; forcing what is left"
                );
                self.advance(StageResult::TimedOut, Phase::Forcing);
            }
            Phase::Forcing if drained => self.advance(StageResult::Done, Phase::Flushing),
            Phase::Forcing if timed_out(caps.force) => {
                self.advance(StageResult::TimedOut, Phase::Flushing);
            }
            Phase::Flushing if !self.redis.is_over() || !self.resources.is_over() => {}
            Phase::Flushing if self.shards.iter().all(|shard| !shard.alive) => {
                info!("Channel layer closed");
                self.advance(StageResult::Done, Phase::Stopped);
            }
            Phase::Flushing if timed_out(caps.flush) => {
                if self.left() > 0 {
                    self.miss_deadline();
                }
                self.advance(StageResult::TimedOut, Phase::Stopped);
            }
            Phase::Starting
            | Phase::Running
            | Phase::Notice
            | Phase::Refusing
            | Phase::Draining
            | Phase::Forcing
            | Phase::Flushing
            | Phase::Stopped => {}
        }
    }

    /// A drain that somebody holds waits for as long as it is held, unless a supervisor waits too.
    fn is_held(&self) -> bool {
        self.shutdown
            .as_ref()
            .is_some_and(|shutdown| shutdown.paused.is_some() && !shutdown.is_supervised)
    }

    /// Of the drain's time so far, in milliseconds; absent before it has begun.
    pub(super) fn spent_in_drain(&self) -> Option<u64> {
        let spent = self.stages.spent(self.environment.now());
        (self.state.phase() == Phase::Draining).then_some(spent.as_millis() as u64)
    }

    /// Lines that belong to no step: each once, when it is so.
    fn say_what_has_become_true(&mut self) {
        let now = self.environment.now();
        if let Some(progress) = self.note_progress(now) {
            info!(
                done = progress.done,
                left = progress.left,
                per_second = progress.per_second,
                eta_ms = progress.eta_ms,
                paused = progress.paused,
                "drain progress"
            );
        }
        let phase = self.state.phase();
        let acknowledged = self.all_acknowledged();
        let drained = self.shards.iter().all(|shard| shard.drained);
        let shards = &self.state.shards;
        let all_noticed = shards.iter().all(|shard| shard.drain_all_noticed.get() > 0);
        let noticed: u64 = shards.iter().map(|shard| shard.drain_noticed.get()).sum();
        let Some(shutdown) = &mut self.shutdown else { return };
        let refuses = shutdown.refusing_epoch > 0 && acknowledged;
        let said = &mut shutdown.said;
        if refuses && !std::mem::replace(&mut said.stopped_accepting, true) {
            info!("Server stopped accepting new connections, starting cleanup");
        }
        if said.stopped_accepting
            && all_noticed
            && phase < Phase::Forcing
            && !std::mem::replace(&mut said.all_noticed, true)
        {
            info!(clients = noticed, "Shutdown notification sent to all consumers");
        }
        if drained && phase >= Phase::Flushing && !std::mem::replace(&mut said.all_closed, true) {
            info!("All WebSocket connections closed");
        }
    }

    /// What is saved and taken out while the shards flush: first sessions, then the node, whom others
    /// would not wait for without its lease.
    fn flush_beside(
        &mut self,
        at: Reading,
        started: Now,
        caps: &StageCaps,
        (told_to_hurry, hurries): (bool, bool),
    ) {
        // A drain that took its whole time is no reason to lose what it let go of.
        let sessions = self.sessions.look(&self.state.sessions, at, started, caps, told_to_hurry);
        let redis = match self.sessions.is_over() {
            true => self.redis.look(&self.state.redis, at, started, caps, hurries),
            false => None,
        };
        if redis.as_ref().is_some_and(|stage| stage.result == StageResult::Done) {
            info!("counts flushed; Redis connection closed");
        }
        for stage in sessions.into_iter().chain(redis) {
            say_ended(&stage);
            self.stages.note(stage);
        }
    }

    fn begin_refusing(&mut self) {
        self.make_order();
        info!("Server received shutdown signal, stopping to accept new connections");
        self.advance(StageResult::Done, Phase::Refusing);
    }

    fn begin_draining(&mut self) {
        self.make_order();
        let plan = self.shutdown.as_ref().and_then(|shutdown| shutdown.plan.clone());
        if let Some(plan) = plan {
            if let Some(warning) = &plan.warning {
                warn!("{warning}");
            }
            info!("Shutting down WebSocket handler, closing all connections");
            info!(
                connections = self.left(),
                connections_per_second = plan.connections_per_second,
                estimated_ms = plan.estimated_ms,
                "Closing {} WebSocket connections",
                self.left()
            );
        }
        self.advance(StageResult::Done, Phase::Draining);
    }

    /// Plans the drain for the connections that there are.
    pub(super) fn make_order(&mut self) {
        let connections = self.to_drain();
        let spent_ms = self.spent_in_drain().unwrap_or(0);
        let begun = self.shutdown.as_ref().is_some_and(|shutdown| shutdown.refusing_epoch > 0);
        let left = if begun { self.left() } else { connections };
        let now_ms = self.environment.now().ms();
        let Some(shutdown) = &mut self.shutdown else { return };
        let position = Position {
            connections,
            left,
            window_ms: shutdown.caps.pace_window().saturating_sub(spent_ms),
            until_forced_ms: shutdown.caps.drain.saturating_sub(spent_ms),
            is_paused: shutdown.paused.is_some(),
            now_ms,
            number: self.state.drains(),
            notice_round: shutdown.notice_round,
        };
        let (order, plan) = drain::plan(&shutdown.terms, &shutdown.caps, position);
        shutdown.plan = Some(plan);
        shutdown.order = Some(Arc::new(order));
    }

    fn advance(&mut self, result: StageResult, next: Phase) {
        self.finish_stage(result);
        self.enter(next);
    }

    pub(super) fn finish_stage(&mut self, result: StageResult) {
        if result == StageResult::TimedOut
            && let Some(shutdown) = &mut self.shutdown
        {
            shutdown.forced |= self.state.phase() >= Phase::Draining;
        }
        let now = self.environment.now();
        if let Some(stage) = self.stages.finish(now, result) {
            say_ended(stage);
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        debug_assert!(self.state.phase().may_step_to(phase), "{} -> {phase}", self.state.phase());
        let epoch = self.state.enter(phase);
        if let Some(shutdown) = &mut self.shutdown
            && shutdown.refusing_epoch == 0
            && phase >= Phase::Refusing
        {
            shutdown.refusing_epoch = epoch;
        }
        if phase != Phase::Running {
            self.stages.begin(phase, self.environment.read_clocks());
        }
        info!(phase = %phase, epoch, "phase entered");
        self.send(epoch, phase);
    }

    /// Gives the shards the order as it is now, in the phase that they are in.
    pub(super) fn send_order(&mut self) {
        let phase = self.state.phase();
        let epoch = self.state.enter(phase);
        self.send(epoch, phase);
    }

    fn send(&mut self, epoch: u64, phase: Phase) {
        let drain = self.shutdown.as_ref().and_then(|shutdown| shutdown.order.clone());
        self.order = Some(PhaseOrder { epoch, phase, drain });
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
        if let Some(shutdown) = &self.shutdown {
            let seconds = shutdown.caps.deadline as f64 / 1_000.0;
            error!(
                deadline_ms = shutdown.caps.deadline,
                phase = %self.state.phase(),
                connections_left = self.left(),
                "Shutdown timeout ({seconds}s) reached, forcing exit"
            );
        }
        self.miss_deadline();
        self.finish_stage(StageResult::TimedOut);
        self.state.enter(Phase::Stopped);
    }

    /// The process ends with connections that it could not let go.
    fn miss_deadline(&mut self) {
        let not_done = self.not_done();
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.not_done = not_done;
        shutdown.forced = true;
        if shutdown.exit_code == exit_code::DRAINED {
            shutdown.exit_code = exit_code::DEADLINE;
        }
    }

    /// What the shutdown waits for now, by name.
    fn not_done(&self) -> Vec<String> {
        let is_flushing = self.state.phase() == Phase::Flushing;
        let waited_for = |shard: &ShardView| shard.alive && (is_flushing || !shard.drained);
        let shards = self.shards.iter().enumerate().filter(|(_, shard)| waited_for(shard));
        let mut names: Vec<String> = shards.map(|(index, _)| format!("shard {index}")).collect();
        names.extend(self.state.resources.closing());
        let stages = [("sessions", self.sessions.is_over()), ("redis", self.redis.is_over())];
        let stages = stages.iter().filter(|(_, is_over)| is_flushing && !is_over);
        names.extend(stages.map(|(name, _)| (*name).to_owned()));
        names
    }
}

/// One line for each stage; a warning if its time ran out (S1.50).
fn say_ended(stage: &StageReport) {
    let (name, duration_ms, result) = (stage.name.as_ref(), stage.duration_ms, stage.result);
    match result {
        StageResult::TimedOut | StageResult::Failed => {
            warn!(stage = name, duration_ms, ?result, "stage ended");
        }
        _ => info!(stage = name, duration_ms, ?result, "stage ended"),
    }
}
