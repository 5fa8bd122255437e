//! Limits that change while the server runs: the configuration is read again, and what it says
//! about admission reaches every shard.
//!
//! Reading is done by a thread of its own, because a file can be a pipe or on a disk that hangs,
//! and the coordinator must hear signals meanwhile. Requests that come during a reading wait for
//! the next one, since the file may have changed behind the reader's back.
//!
//! Invariant: a shard that has taken a plan never gets an older one.

use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use tracing::{error, info, warn};

use super::Coordinator;
use super::command::{Command, ReloadAnswer};
use crate::admission::{AdmissionPlan, Seats};
use crate::config::{Config, Sources};
use crate::limits::ADMIN_CONNECTIONS;
use crate::mesh::inbox::NotTaken;
use crate::mesh::message::ShardMessage;

/// Whoever waits for a reading to end.
type Asker = oneshot::Sender<ReloadAnswer>;

/// The limits in force, and readings of new ones.
#[derive(Debug)]
pub struct Limits {
    sources: Sources,
    seats: Seats,
    commands: Sender<Command>,
    plan: Arc<AdmissionPlan>,
    /// The shards that have not taken the plan.
    owed: Vec<bool>,
    /// A reading is going on; who waits for it.
    reading: Option<Vec<Asker>>,
    /// Another is wanted after it; who waits for that.
    wanted: Option<Vec<Asker>>,
}

impl Limits {
    /// For shards that have begun under `plan`. What is read from `sources` comes back through
    /// `commands`.
    pub fn new(
        sources: Sources,
        seats: Seats,
        plan: Arc<AdmissionPlan>,
        commands: Sender<Command>,
    ) -> Self {
        let owed = vec![false; seats.shards];
        Self { sources, seats, commands, plan, owed, reading: None, wanted: None }
    }

    /// For a coordinator that takes over from one that died. Which plan each shard has taken is
    /// not known: all get that of the settings in force, which is never older.
    pub fn inherited(
        sources: Sources,
        seats: Seats,
        settings: &Config,
        commands: Sender<Command>,
    ) -> Self {
        let plan = Arc::new(AdmissionPlan::new(&settings.admission, seats));
        let owed = vec![true; seats.shards];
        Self { owed, ..Self::new(sources, seats, plan, commands) }
    }

    fn begin_reading(&mut self, askers: Vec<Asker>) {
        self.reading = Some(askers);
        let (sources, commands) = (self.sources.clone(), self.commands.clone());
        let read = move || {
            let loaded = catch_unwind(|| Config::load(sources));
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

    fn change(&mut self, plan: AdmissionPlan) {
        self.plan = Arc::new(plan);
        self.owed.fill(true);
    }
}

impl Coordinator {
    pub(super) fn on_reload(&mut self, cause: &str, answer: Option<Asker>) {
        info!(cause, "reading the configuration again");
        let limits = &mut self.limits;
        if limits.reading.is_none() {
            return limits.begin_reading(answer.into_iter().collect());
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
            self.limits.change(AdmissionPlan::new(&config.admission, self.limits.seats));
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

    /// Hands the plan to the shards that have not taken it, and changes what it grants while a
    /// lowered capacity is not reached yet.
    pub(super) fn hand_out_limits(&mut self) {
        let limits = &mut self.limits;
        let used: Vec<_> = self.state.shards.iter().map(|shard| shard.admitted.get()).collect();
        let configured = self.state.config().admission.max_global_connections;
        let granted = limits.seats.grants(configured, &used);
        if granted != limits.plan.granted {
            limits.change(AdmissionPlan { granted, ..AdmissionPlan::clone(&limits.plan) });
        }
        for (shard, owed) in self.shards.iter().zip(&mut limits.owed) {
            if *owed && shard.alive {
                let posted = shard.postbox.post(ShardMessage::Limits(Arc::clone(&limits.plan)));
                *owed = matches!(posted, Err(NotTaken::Full(_)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::Clock;
    use crate::config::FlagValue;
    use crate::coordinator::state::ServerState;
    use crate::mesh::inbox::{Inbox, inbox};
    use crate::mesh::message::Fault;
    use crate::metrics::ShardMetrics;
    use crate::sys::event_fd::EventFd;
    use crossbeam_channel::bounded;

    fn config(most: &str) -> Config {
        let flags = vec![FlagValue::new("--set", "admission.max_global_connections", most)];
        Config::load(Sources { flags, ..Sources::default() }).unwrap()
    }

    /// Two shards with room for one message each.
    fn coordinator(most: &str) -> (Coordinator, Vec<Inbox>) {
        let config = Arc::new(config(most));
        let seats = Seats { shards: 2, per_shard: 1000 };
        let plan = Arc::new(AdmissionPlan::new(&config.admission, seats));
        let metrics = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
        let state = Arc::new(ServerState::new(config, Clock::start(), metrics));
        let (sender, commands) = bounded(10);
        let (postboxes, inboxes) = (0..2).map(|_| inbox(1, EventFd::new().unwrap())).unzip();
        let limits = Limits::new(Sources::default(), seats, plan, sender);
        (Coordinator::new(state, commands, postboxes, limits), inboxes)
    }

    fn granted(inbox: &Inbox) -> Option<Vec<u32>> {
        match inbox.take()? {
            ShardMessage::Limits(plan) => Some(plan.granted.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plan_is_sent_until_it_is_taken_and_then_no_more() {
        let (mut coordinator, inboxes) = coordinator("100");
        coordinator.hand_out_limits();
        assert!(inboxes.iter().all(|inbox| inbox.take().is_none()), "they began with it");
        let stuck = ShardMessage::Fault(Fault::Stall(1));
        coordinator.shards[0].postbox.post(stuck).unwrap();
        coordinator.on_config_read(Ok(Box::new(config("50"))));
        coordinator.on_config_read(Ok(Box::new(config("60"))));
        coordinator.hand_out_limits();
        assert_eq!(granted(&inboxes[1]), Some(vec![25, 25]));
        assert!(inboxes[0].take().is_some(), "what it was stuck with");
        coordinator.hand_out_limits();
        for inbox in &inboxes {
            assert_eq!(granted(inbox), Some(vec![30, 30]), "the newest, and only that");
        }
        coordinator.hand_out_limits();
        assert!(inboxes.iter().all(|inbox| inbox.take().is_none()));
    }

    #[test]
    fn a_coordinator_that_takes_over_gives_every_shard_the_settings_in_force() {
        let (mut coordinator, inboxes) = coordinator("100");
        coordinator.state.set_config(config("50"));
        let (seats, commands) = (coordinator.limits.seats, coordinator.limits.commands.clone());
        let settings = coordinator.state.config();
        coordinator.limits = Limits::inherited(Sources::default(), seats, &settings, commands);
        coordinator.hand_out_limits();
        for inbox in &inboxes {
            assert_eq!(granted(inbox), Some(vec![25, 25]));
        }
    }

    #[test]
    fn a_lowered_capacity_is_divided_anew_as_connections_leave() {
        let (mut coordinator, inboxes) = coordinator("100");
        let hold = |coordinator: &Coordinator, counts: [u64; 2]| {
            for (shard, count) in coordinator.state.shards.iter().zip(counts) {
                shard.admitted.set(count);
            }
        };
        hold(&coordinator, [30, 12]);
        coordinator.on_config_read(Ok(Box::new(config("40"))));
        assert_eq!(granted(&inboxes[0]), Some(vec![0, 0]), "42 of 40");
        assert_eq!(granted(&inboxes[1]), Some(vec![0, 0]));
        for (counts, expected) in [([30, 2], vec![34, 6]), ([20, 2], vec![20, 20])] {
            hold(&coordinator, counts);
            coordinator.look_around();
            assert_eq!(granted(&inboxes[0]), Some(expected.clone()));
            assert_eq!(granted(&inboxes[1]), Some(expected));
        }
    }

    #[test]
    fn requests_during_a_reading_wait_for_the_next() {
        let (mut coordinator, _inboxes) = coordinator("100");
        let ask = |coordinator: &mut Coordinator| {
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
