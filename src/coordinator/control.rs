//! What an operator can want of a drain that is under way: hold it, let it go on, another pace, or
//! that the server stays. And what a supervisor wants who comes later: that it ends in time.
//!
//! All of it is possible until the drain is over. Whoever has been sent a Close by then leaves;
//! nobody else has lost anything. What comes after, the cut and the end of listeners, counts and
//! hooks, cannot be taken back.

use tracing::{info, warn};

use super::cause::{Cause, Profile};
use super::command::{ShutdownAnswer, Steering};
use super::drain::{Pace, Terms};
use super::phase::Phase;
use super::report::StageResult;
use super::resource_stage::ResourceStage;
use super::{Cancelled, Coordinator, Shutdown};
use crate::environment::Environment;
use crate::limits::DRAIN_WITHIN_MS;

impl<E: Environment> Coordinator<E> {
    /// Does what is wanted; true in the answer if that changed anything.
    ///
    /// # Errors
    /// Why it cannot be, and what can be done instead.
    pub(super) fn steer(&mut self, steering: Steering) -> Result<ShutdownAnswer, String> {
        self.can_turn_back()?;
        let started = match steering {
            Steering::Pause => self.pause(),
            Steering::Resume => self.resume(),
            Steering::Pace(pace) => self.set_pace(pace)?,
            Steering::Cancel if self.resources.has_begun() => {
                return Err(
                    "it is too late: resources that are closed before the drain have been closed, \
                     and nobody opens them again"
                        .to_owned(),
                );
            }
            Steering::Cancel => self.cancel(),
        };
        let report = self.report();
        self.state.show(report.clone());
        Ok(ShutdownAnswer { started, report })
    }

    fn can_turn_back(&self) -> Result<(), String> {
        let phase = self.state.phase();
        match &self.shutdown {
            None => Err("no shutdown is under way".to_owned()),
            Some(shutdown) if shutdown.cause == Cause::Panic => {
                Err(format!("the server is ending because of a failure: {}", shutdown.reason))
            }
            Some(_) if !phase.can_turn_back() => Err(format!(
                "it is too late: the drain is over and the server is {phase}; DELETE \
                 /api/v1/shutdown/shutdown ends it at once"
            )),
            Some(_) => Ok(()),
        }
    }

    fn pause(&mut self) -> bool {
        let now = self.environment.now();
        let Some(shutdown) = &mut self.shutdown else { return false };
        if shutdown.paused.is_some() {
            return false;
        }
        shutdown.paused = Some(now);
        info!(deadline_stands = shutdown.is_supervised, "drain paused");
        if shutdown.is_supervised {
            warn!(
                deadline_ms = shutdown.caps.deadline,
                "the drain is paused, but it was begun by a signal: its deadline stands, and \
                 whoever is left then is cut"
            );
        }
        self.change_order();
        true
    }

    fn resume(&mut self) -> bool {
        let now = self.environment.now();
        let spent_ms = self.spent_in_drain();
        let Some(shutdown) = &mut self.shutdown else { return false };
        let Some(since) = shutdown.paused.take() else { return false };
        let paused_ms = now.since(since).as_millis() as u64;
        if !shutdown.is_supervised {
            shutdown.caps = shutdown.caps.delayed(paused_ms, paused_ms.min(spent_ms.unwrap_or(0)));
        }
        info!(paused_ms, "drain resumed");
        self.change_order();
        true
    }

    fn set_pace(&mut self, pace: Pace) -> Result<bool, String> {
        let spent_ms = self.spent_in_drain();
        let Some(shutdown) = &mut self.shutdown else { return Ok(false) };
        if let Pace::Within(window_ms) = pace {
            give_time(shutdown, window_ms, spent_ms.unwrap_or(0))?;
        }
        shutdown.terms.pace = pace;
        self.change_pace();
        if let Some(plan) = self.shutdown.as_ref().and_then(|shutdown| shutdown.plan.as_ref()) {
            info!(
                connections_per_second = plan.connections_per_second,
                estimated_ms = plan.estimated_ms,
                "pace of the drain changed"
            );
            if let Some(warning) = &plan.warning {
                warn!("{warning}");
            }
        }
        Ok(true)
    }

    fn cancel(&mut self) -> bool {
        let left = self.left();
        self.finish_stage(StageResult::Cancelled);
        let Some(shutdown) = self.shutdown.take() else { return false };
        self.state.deadline.cancel();
        if shutdown.cause == Cause::Signal {
            warn!(
                "the shutdown is cancelled, but whoever sent the signal may still kill the process"
            );
        }
        info!(connections_left = left, "shutdown cancelled; the server stays");
        let stages = std::mem::take(&mut self.stages);
        self.resources = ResourceStage::default();
        self.cancelled = Some(Cancelled { shutdown, stages, at: self.environment.now() });
        self.shards.iter_mut().filter(|shard| shard.alive).for_each(|shard| shard.drained = false);
        self.enter(Phase::Running);
        true
    }

    /// A signal has come while a drain that somebody asked for is under way: it goes on, in the
    /// time that a drain by a signal has.
    pub(super) fn hasten(&mut self, signal: &str) {
        let (now, config) = (self.environment.now(), self.state.config());
        self.resume();
        let spent_ms = self.spent_in_drain();
        let Some(shutdown) = &mut self.shutdown else { return };
        shutdown.is_supervised = true;
        let elapsed_ms = now.since(shutdown.started).as_millis() as u64;
        let within_ms = config.shutdown.deadline_ms;
        let (_, resources_ms) = self.state.resources.wanted_ms();
        let caps = shutdown.caps.hastened(elapsed_ms, within_ms, resources_ms, spent_ms);
        if caps.deadline < shutdown.caps.deadline {
            let profile = Profile::of(Cause::Signal, &config);
            shutdown.terms.pace = Terms::of(&profile, &config, None, None).pace;
            shutdown.caps = caps;
        }
        warn!(
            signal,
            within_ms = shutdown.caps.deadline.saturating_sub(elapsed_ms),
            "signal during a drain: it ends in the time that signals have; a second one cuts it"
        );
        self.change_pace();
    }

    /// As [`Self::change_order`]; if clients have been told when to come back and that is another
    /// time now, they are told again.
    fn change_pace(&mut self) {
        let spacing = |shutdown: &Shutdown| {
            shutdown.order.as_ref().map(|order| (order.slot_spacing_ns, order.first_slot_ms))
        };
        let before = self.shutdown.as_ref().and_then(spacing);
        self.make_order();
        if let Some(shutdown) = &mut self.shutdown
            && before.is_some_and(|before| Some(before) != spacing(shutdown))
        {
            shutdown.notice_round += 1;
        }
        self.change_order();
    }

    /// Sends the shards the order that follows from what has changed.
    fn change_order(&mut self) {
        self.make_order();
        self.send_order();
    }
}

/// Makes room for a drain that tells its connections to go for `window_ms` from now on.
fn give_time(shutdown: &mut Shutdown, window_ms: u64, spent_ms: u64) -> Result<(), String> {
    let caps = shutdown.caps;
    if !shutdown.is_supervised {
        let close_timeout = caps.close_timeout;
        shutdown.caps = caps.with_window(window_ms.min(DRAIN_WITHIN_MS), close_timeout, spent_ms);
        return Ok(());
    }
    let most_ms = caps.pace_window().saturating_sub(spent_ms);
    if window_ms > most_ms {
        return Err(format!(
            "the drain was begun by a signal and its deadline stands: at most {most_ms} ms are \
             left for it, not {window_ms}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::admission::Seats;
    use crate::clock::Clock;
    use crate::config::{Config, Sources};
    use crate::coordinator::command::{Command, Wish};
    use crate::coordinator::limits::Limits;
    use crate::coordinator::state::ServerState;
    use crate::environment::KernelEnvironment;
    use crate::exit_code;
    use crate::mesh::inbox::{Inbox, inbox};
    use crate::mesh::message::ShardMessage;
    use crate::metrics::ShardMetrics;
    use crate::sys::event_fd::EventFd;

    /// One shard, which does not answer by itself.
    fn coordinator() -> (Coordinator<KernelEnvironment>, Inbox) {
        let config = Arc::new(Config::default());
        let seats = Seats { shards: 1, per_shard: 1000, by_memory: u64::MAX };
        let memory = crate::memory_plan::MemoryPlan::unbounded(&config, 1);
        let metrics = vec![Arc::new(ShardMetrics::default())];
        let state = Arc::new(ServerState::new(Arc::clone(&config), Clock::start(), metrics));
        let (sender, commands) = bounded(10);
        let (postbox, inbox) = inbox(100, EventFd::new().unwrap());
        let postboxes = vec![postbox];
        let limits = Limits::new(
            Some(Sources::default()),
            seats,
            memory,
            &config.admission,
            &postboxes,
            sender,
        );
        let coordinator = Coordinator::new(
            KernelEnvironment::new(state.clock),
            state,
            commands,
            postboxes,
            limits,
        );
        coordinator.open();
        (coordinator, inbox)
    }

    fn drain(coordinator: &mut Coordinator<KernelEnvironment>) {
        coordinator.begin("a test".to_owned(), Wish::default(), exit_code::DRAINED);
        coordinator.look_around();
        assert_eq!(coordinator.state.phase(), Phase::Refusing);
    }

    #[test]
    fn what_a_shard_said_of_a_cancelled_drain_says_nothing_of_the_next() {
        let (mut coordinator, _inbox) = coordinator();
        drain(&mut coordinator);
        let epoch = coordinator.state.epoch();
        coordinator.steer(Steering::Cancel).unwrap();
        assert_eq!(coordinator.state.phase(), Phase::Running);
        drain(&mut coordinator);
        coordinator.act(Command::ShardDrained { shard: 0, epoch });
        assert!(!coordinator.shards[0].drained, "that was of the first");
        let epoch = coordinator.state.epoch();
        coordinator.act(Command::ShardDrained { shard: 0, epoch });
        assert!(coordinator.shards[0].drained);
    }

    #[test]
    fn orders_of_two_drains_have_two_numbers() {
        let (mut coordinator, inbox) = coordinator();
        drain(&mut coordinator);
        coordinator.steer(Steering::Pause).unwrap();
        coordinator.steer(Steering::Cancel).unwrap();
        drain(&mut coordinator);
        let orders = std::iter::from_fn(|| inbox.take()).filter_map(|message| match message {
            ShardMessage::Enter(order) => {
                Some((order.phase, order.drain.map(|drain| drain.number)))
            }
            _ => None,
        });
        let mut orders: Vec<_> = orders.collect();
        orders.dedup();
        let (one, two) = (Some(1), Some(2));
        let expected = [
            (Phase::Notice, one),
            (Phase::Refusing, one),
            (Phase::Running, None),
            (Phase::Notice, two),
            (Phase::Refusing, two),
        ];
        assert_eq!(orders, expected);
    }

    #[test]
    fn what_cannot_be_taken_back_is_refused_with_the_reason() {
        let (mut coordinator, _inbox) = coordinator();
        let why = |coordinator: &mut Coordinator<KernelEnvironment>, steering| {
            coordinator.steer(steering).unwrap_err()
        };
        assert!(why(&mut coordinator, Steering::Pause).contains("no shutdown"));
        drain(&mut coordinator);
        coordinator.hasten("SIGTERM");
        assert!(coordinator.shutdown.as_ref().unwrap().is_supervised);
        let long = Steering::Pace(Pace::Within(3_600_000));
        assert!(why(&mut coordinator, long).contains("deadline stands"));
        coordinator.force();
        assert!(why(&mut coordinator, Steering::Cancel).contains("too late"));
    }
}
