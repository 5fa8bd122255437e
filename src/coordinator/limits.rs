//! Limits that change while the server runs: the configuration is read again, and what it says
//! about admission reaches every shard.
//!
//! Reading is done by a thread of its own, because a file can be a pipe or on a disk that hangs,
//! and the coordinator must hear signals meanwhile. Requests that come during a reading wait for
//! the next one, since the file may have changed behind the reader's back.
//!
//! The budgets that all shards share are kept here too, and go to them on the same way as the
//! plans: what is sent to one shard arrives in order and is never lost.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use tracing::{error, info, warn};

use super::Coordinator;
use super::budget::{Budget, Rate};
use super::command::{Command, ReloadAnswer};
use super::phase::Phase;
use crate::admission::leases::Say;
use crate::admission::plan::Load;
use crate::admission::{AdmissionPlan, Seats};
use crate::config::{self, Config, Sources};
use crate::environment::Environment;
use crate::limits::ADMIN_CONNECTIONS;
use crate::memory_plan::{MemoryPlan, Use};
use crate::mesh::inbox::Postbox;
use crate::mesh::message::ShardMessage;
use crate::mesh::outbox::Outbox;

/// Whoever waits for a reading to end.
type Asker = oneshot::Sender<ReloadAnswer>;

/// The limits in force, and readings of new ones.
#[derive(Debug)]
pub struct Limits {
    /// Absent if the configuration was made by a program.
    sources: Option<Sources>,
    seats: Seats,
    /// What everything may take of the memory.
    memory: MemoryPlan,
    commands: Sender<Command>,
    budget: Budget,
    /// Connections a second that the load leaves of the rate; absent if it leaves all.
    left_by_load: Option<u64>,
    /// Plans and replies, in one order for each shard.
    outbox: Outbox,
    /// A reading is going on; who waits for it.
    reading: Option<Vec<Asker>>,
    /// Another is wanted after it; who waits for that.
    wanted: Option<Vec<Asker>>,
}

impl Limits {
    /// For the shards behind these postboxes, which hold nothing yet. What is read from `sources`
    /// comes back through `commands`.
    pub fn new(
        sources: Option<Sources>,
        seats: Seats,
        memory: MemoryPlan,
        settings: &config::Admission,
        postboxes: &[Postbox],
        commands: Sender<Command>,
    ) -> Self {
        Self {
            sources,
            seats,
            memory,
            commands,
            budget: Budget::new(
                seats.shards,
                seats.capacity(settings.max_global_connections),
                rate(settings.global_connections_per_second),
            ),
            left_by_load: None,
            outbox: Outbox::new(seats.shards, postboxes),
            reading: None,
            wanted: None,
        }
    }

    /// For a coordinator that takes over from one that died. What the shards hold is not known,
    /// so they get nothing more; the server is about to stop.
    pub fn inherited(
        sources: Option<Sources>,
        seats: Seats,
        memory: MemoryPlan,
        settings: &config::Admission,
        postboxes: &[Postbox],
        commands: Sender<Command>,
    ) -> Self {
        let budget = Budget::frozen(seats.shards);
        Self { budget, ..Self::new(sources, seats, memory, settings, postboxes, commands) }
    }

    /// The plan for a shard that begins.
    pub fn plan(&self, settings: &config::Admission) -> AdmissionPlan {
        let sources = settings.max_tracked_sources.min(self.memory.allowed(Use::Sources));
        let shards = self.seats.shards;
        let plan = AdmissionPlan::new(settings, shards, sources, self.budget.chunk());
        let load = match self.left_by_load {
            None => Load::Light,
            Some(0) => Load::TooMuch,
            Some(_) => Load::Heavy,
        };
        AdmissionPlan { load, rate_limited: plan.rate_limited || load == Load::Heavy, ..plan }
    }

    /// As a configuration with this section says, in the memory that there is.
    fn divide_memory(&mut self, config: &Config, available: Option<u64>) {
        self.memory = self.memory.with_available(config, available);
        self.seats.by_memory = self.memory.connections();
    }

    fn change(&mut self, settings: &config::Admission, now_ns: u64) {
        let capacity = self.seats.capacity(settings.max_global_connections);
        let per_second = match self.left_by_load {
            // Nobody is asked for a token then.
            None | Some(0) => settings.global_connections_per_second,
            Some(left) => left,
        };
        self.budget.set(capacity, rate(per_second), now_ns);
        let plan = Arc::new(self.plan(settings));
        for shard in 0..self.seats.shards {
            self.outbox.post(shard, ShardMessage::Limits(Arc::clone(&plan)));
        }
        self.send_replies();
    }

    fn send_replies(&mut self) {
        for (shard, reply) in self.budget.replies() {
            self.outbox.post(shard, ShardMessage::Budget(reply));
        }
    }

    fn begin_reading(&mut self, askers: Vec<Asker>) {
        self.reading = Some(askers);
        let Some(sources) = self.sources.clone() else {
            return self.refuse(vec!["it was made by the program and not read".to_owned()]);
        };
        let commands = self.commands.clone();
        let read = move || {
            let loaded = catch_unwind(|| Config::load_again(&sources));
            let result = match loaded {
                Ok(Ok(config)) => Ok(Box::new(config)),
                Ok(Err(errors)) => Err(errors.iter().map(ToString::to_string).collect()),
                Err(_) => Err(vec!["reading it panicked; the log says where".to_owned()]),
            };
            // Without a coordinator nobody wants to know.
            let _ = commands.send(Command::ConfigRead(result));
        };
        if let Err(error) = thread::Builder::new().name("tidegate-config".to_owned()).spawn(read) {
            self.refuse(vec![format!("no thread to read it: {error}")]);
        }
    }

    fn refuse(&mut self, errors: Vec<String>) {
        for line in &errors {
            error!("configuration refused: {line}");
        }
        error!(errors = errors.len(), "the limits stay as they were");
        self.answer(&Err(errors));
    }

    /// Ends a reading.
    fn answer(&mut self, answer: &ReloadAnswer) {
        for asker in self.reading.take().into_iter().flatten() {
            // Whoever asked may have gone away meanwhile.
            let _ = asker.send(answer.clone());
        }
    }
}

/// A rate of which a second's worth may come at once.
fn rate(per_second: u64) -> Option<Rate> {
    let per_second = u32::try_from(per_second).unwrap_or(u32::MAX);
    Rate::new(per_second, per_second)
}

impl<E: Environment> Coordinator<E> {
    pub(super) fn on_reload(&mut self, cause: &str, answer: Option<Asker>) {
        info!(cause, "reading the configuration again");
        let limits = &mut self.limits;
        if limits.reading.is_none() {
            limits.begin_reading(answer.into_iter().collect());
            if limits.reading.is_some() && self.state.phase() == Phase::Running {
                self.state.supervisor.reloading();
            }
            return;
        }
        let wanted = limits.wanted.get_or_insert_default();
        wanted.retain(|asker| !asker.is_canceled());
        // More cannot be waiting; a reading that hangs must not gather those who gave up.
        if wanted.len() < ADMIN_CONNECTIONS {
            wanted.extend(answer);
        }
    }

    pub(super) fn on_config_read(&mut self, read: Result<Box<Config>, Vec<String>>) {
        match read {
            Ok(read) => self.adopt(&read),
            Err(errors) => self.limits.refuse(errors),
        }
        if let Some(askers) = self.limits.wanted.take() {
            self.limits.begin_reading(askers);
        }
        if self.limits.reading.is_none() && self.state.phase() == Phase::Running {
            let deadline_ms = self.state.config().shutdown.deadline_ms;
            self.state.supervisor.entered(Phase::Running, deadline_ms);
        }
    }

    fn adopt(&mut self, read: &Config) {
        let (config, report) = self.state.config().reloaded(read);
        for warning in &report.warnings {
            warn!("{warning}");
        }
        for change in &report.changed {
            info!("limit changed: {change}");
        }
        if !report.needs_restart.is_empty() {
            warn!("changed, but needs a restart: {}", report.needs_restart.join(", "));
        }
        info!(changed = report.changed.len(), "configuration read again");
        if !report.changed.is_empty() {
            self.limits.divide_memory(&config, self.limits.memory.available());
            self.state.set_memory_plan(self.limits.memory);
            self.limits.change(&config.admission, self.environment.now().ns());
            self.warn_of_tables(&config);
        }
        self.state.set_config(config);
        self.hand_out_limits();
        self.limits.answer(&Ok(report));
    }

    fn warn_of_tables(&self, config: &Config) {
        let configured = config.admission.max_global_connections;
        let capacity = self.limits.seats.capacity(configured);
        if capacity < configured {
            info!(capacity, configured, "the shards' tables hold less than is configured");
        }
    }

    /// A shard needs something of the global budgets, or gives some back.
    pub(super) fn on_say(&mut self, shard: usize, say: &Say) {
        self.limits.budget.hear(shard, say, self.environment.now().ns());
        self.limits.send_replies();
    }

    pub(super) fn on_orphans(&mut self, shard: usize, dead: usize, left: u32) {
        let now_ns = self.environment.now().ns();
        self.limits.budget.orphans(shard, dead, left.into(), now_ns);
        self.limits.send_replies();
    }

    /// A shard has died: the others count what they have lost by it.
    pub(super) fn bury(&mut self, dead: usize) {
        for shard in (0..self.shards.len()).filter(|shard| *shard != dead) {
            self.limits.outbox.post(shard, ShardMessage::Died { shard: dead });
        }
        self.limits.budget.on_death(dead, self.environment.now().ns());
        self.limits.send_replies();
    }

    /// Makes another plan of the memory if its limit has changed. False if it has not.
    fn divide_memory_again(&mut self) -> bool {
        let available = self.state.pressure().available;
        if available.is_none() || available == self.limits.memory.available() {
            return false;
        }
        let before = self.limits.memory;
        self.limits.divide_memory(&self.state.config(), available);
        let after = self.limits.memory;
        if before == after {
            return false;
        }
        info!(
            available,
            connections = after.connections(),
            "the memory that may be used has changed, and with it what each use may have"
        );
        self.state.set_memory_plan(after);
        true
    }

    /// Sends what shards had no room for, and what has come with time or with the load.
    pub(super) fn hand_out_limits(&mut self) {
        let now_ns = self.environment.now().ns();
        let left_by_load = self.state.pressure().admitted_per_second();
        let is_other_load = left_by_load != self.limits.left_by_load;
        self.limits.left_by_load = left_by_load;
        if self.divide_memory_again() || is_other_load {
            self.limits.change(&self.state.config().admission, now_ns);
        }
        self.limits.budget.look_around(now_ns);
        self.limits.send_replies();
        self.limits.outbox.go_on();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admission::leases::{Ask, Reply};
    use crate::clock::Clock;
    use crate::config::FlagValue;
    use crate::coordinator::state::ServerState;
    use crate::environment::KernelEnvironment;
    use crate::mesh::inbox::{Inbox, inbox};
    use crate::mesh::message::Fault;
    use crate::metrics::ShardMetrics;
    use crate::sys::event_fd::EventFd;
    use crossbeam_channel::bounded;

    fn config(most: &str) -> Config {
        let flags = vec![FlagValue::new("--set", "admission.max_global_connections", most)];
        Config::load(Sources { flags, ..Sources::default() }).unwrap()
    }

    /// Two shards with room for so many messages each.
    fn coordinator(most: &str, room: usize) -> (Coordinator<KernelEnvironment>, Vec<Inbox>) {
        let config = Arc::new(config(most));
        let seats = Seats { shards: 2, per_shard: 1000, by_memory: u64::MAX };
        let memory = MemoryPlan::unbounded(&config, 2);
        let metrics = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
        let state = Arc::new(ServerState::new(Arc::clone(&config), Clock::start(), metrics));
        let (sender, commands) = bounded(10);
        let (postboxes, inboxes): (Vec<_>, _) =
            (0..2).map(|_| inbox(room, EventFd::new().unwrap())).unzip();
        let limits = Limits::new(
            Some(Sources::default()),
            seats,
            memory,
            &config.admission,
            &postboxes,
            sender,
        );
        (
            Coordinator::new(
                KernelEnvironment::new(state.clock),
                state,
                commands,
                postboxes,
                limits,
            ),
            inboxes,
        )
    }

    fn ask(coordinator: &mut Coordinator<KernelEnvironment>, shard: usize, slots: u32) {
        let say = Say { ask: Some(Ask { slots, tokens: slots, waiting: slots }), ..Say::default() };
        coordinator.act(Command::Budget { shard, say });
    }

    fn taken(inbox: &Inbox) -> Vec<String> {
        let shown = |message| match message {
            ShardMessage::Limits(_) => "limits".to_owned(),
            ShardMessage::Budget(Reply::Answer { slots, full, .. }) => {
                format!("{slots}{}", if full { ", full" } else { "" })
            }
            ShardMessage::Budget(Reply::Recall { .. }) => "recall".to_owned(),
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| inbox.take()).map(shown).collect()
    }

    #[test]
    fn plans_and_replies_wait_for_room_and_arrive_in_order() {
        let (mut coordinator, inboxes) = coordinator("100", 1);
        coordinator.hand_out_limits();
        assert!(inboxes.iter().all(|inbox| inbox.take().is_none()), "nothing to say");
        let stuck = ShardMessage::Fault(Fault::Stall(1));
        coordinator.shards[0].postbox.post(stuck).unwrap();
        coordinator.on_config_read(Ok(Box::new(config("50"))));
        ask(&mut coordinator, 0, 7);
        assert_eq!(taken(&inboxes[1]), ["limits"]);
        for expected in ["Fault(Stall(1))", "limits", "7"] {
            assert_eq!(taken(&inboxes[0]), [expected], "one at a time");
            coordinator.hand_out_limits();
        }
        assert!(inboxes.iter().all(|inbox| inbox.take().is_none()));
    }

    #[test]
    fn a_coordinator_that_takes_over_grants_nothing() {
        let (mut coordinator, inboxes) = coordinator("100", 9);
        ask(&mut coordinator, 0, 7);
        let (seats, commands) = (coordinator.limits.seats, coordinator.limits.commands.clone());
        let settings = coordinator.state.config();
        let memory = coordinator.state.memory_plan();
        let postboxes: Vec<_> =
            coordinator.shards.iter().map(|shard| shard.postbox.clone()).collect();
        coordinator.limits =
            Limits::inherited(None, seats, memory, &settings.admission, &postboxes, commands);
        let back = Say { slots_back: 3, ..Say::default() };
        coordinator.act(Command::Budget { shard: 0, say: back });
        ask(&mut coordinator, 1, 1);
        assert_eq!(taken(&inboxes[0]), ["7"]);
        assert_eq!(taken(&inboxes[1]), ["0, full"]);
    }

    #[test]
    fn above_a_lowered_capacity_nobody_enters() {
        let (mut coordinator, inboxes) = coordinator("100", 9);
        ask(&mut coordinator, 0, 30);
        ask(&mut coordinator, 1, 12);
        coordinator.on_config_read(Ok(Box::new(config("40"))));
        let round = 1;
        for shard in 0..2 {
            let say = Say { spent: 12, round: Some(round), ..Say::default() };
            coordinator.act(Command::Budget { shard, say });
        }
        ask(&mut coordinator, 1, 1);
        let back = Say { slots_back: 2, ..Say::default() };
        coordinator.act(Command::Budget { shard: 0, say: back });
        ask(&mut coordinator, 1, 1);
        coordinator.act(Command::Budget { shard: 0, say: Say { slots_back: 1, ..back } });
        ask(&mut coordinator, 1, 5);
        assert_eq!(
            taken(&inboxes[1]),
            ["12", "limits", "recall", "0, full", "0, full", "Budget(Refill)", "1"]
        );
    }

    #[test]
    fn requests_during_a_reading_wait_for_the_next() {
        let (mut coordinator, _inboxes) = coordinator("100", 9);
        let ask = |coordinator: &mut Coordinator<KernelEnvironment>| {
            let (answer, answered) = oneshot::channel();
            coordinator.on_reload("a test", Some(answer));
            answered
        };
        let mut first = ask(&mut coordinator);
        let mut second = ask(&mut coordinator);
        for (now, later) in [(true, false), (false, true)] {
            let Ok(Command::ConfigRead(read)) = coordinator.commands.recv() else {
                panic!("no reading")
            };
            coordinator.on_config_read(read);
            let answers = [first.try_recv(), second.try_recv()];
            let answered = answers.map(|answer| matches!(answer, Ok(Some(Ok(_)))));
            assert_eq!(answered, [now, later]);
        }
        assert!(coordinator.limits.reading.is_none());
    }
}
