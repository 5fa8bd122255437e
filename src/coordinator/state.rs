//! What the coordinator shows to readers: the phase, the epoch, the settings, the report; and how
//! pressed the server is, which the thread that looks (`pressure/sampler.rs`) writes; and how Redis is.
//!
//! Everything else only the coordinator writes; the admin listener and the shards read. Nothing here is on the
//! path of a message.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::deadline::Deadline;
use super::phase::Phase;
use super::refusal_log::Refusals;
use super::report::ShutdownReport;
use crate::admission::Seats;
use crate::clock::{Clock, Now};
use crate::config::Config;
use crate::memory_plan::MemoryPlan;
use crate::metrics::ShardMetrics;
use crate::pressure::Pressure;
use crate::redis::board::Board;
use crate::redis::relay::Relay;
use crate::resources;
use crate::sessions::desk::Desk;
use crate::supervisor::Supervisor;

/// The server as seen by those who only look.
#[derive(Debug)]
pub struct ServerState {
    /// The server's clock; its origin is the start of the process.
    pub clock: Clock,
    /// The counters of each shard.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// What the thread that talks to Redis shows; it writes there.
    pub redis: Board,
    /// Where publications for other nodes are handed over.
    pub relay: Relay,
    /// What is closed at the shutdown besides; whoever registers and closes it writes there.
    pub(crate) resources: resources::board::Board,
    /// The service manager, which is told of each phase.
    pub supervisor: Supervisor,
    /// Where sessions are asked for and let go of.
    pub sessions: Desk,
    /// The moment at which a shutdown is over whatever hangs.
    pub(crate) deadline: Arc<Deadline>,
    /// What bounds the number of connections besides the configuration.
    seats: Seats,
    memory: Mutex<MemoryPlan>,
    phase: AtomicU8,
    epoch: AtomicU64,
    drains: AtomicU64,
    ticks: AtomicU64,
    peak: AtomicU64,
    coordinator_turn_ms: AtomicU64,
    config: Mutex<Arc<Config>>,
    report: Mutex<ShutdownReport>,
    pressure: Mutex<Pressure>,
}

impl ServerState {
    /// The state of a server that is starting.
    pub fn new(config: Arc<Config>, clock: Clock, shards: Vec<Arc<ShardMetrics>>) -> Self {
        let seats = Seats { shards: shards.len(), per_shard: u32::MAX, by_memory: u64::MAX };
        let memory = MemoryPlan::unbounded(&config, shards.len());
        Self {
            clock,
            shards,
            redis: Board::default(),
            relay: Relay::default(),
            resources: resources::board::Board::default(),
            supervisor: Supervisor::default(),
            sessions: Desk::default(),
            deadline: Arc::new(Deadline::new(config.shutdown.deadline_ms)),
            seats,
            memory: Mutex::new(memory),
            phase: AtomicU8::new(Phase::Starting as u8),
            epoch: AtomicU64::new(0),
            drains: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            coordinator_turn_ms: AtomicU64::new(0),
            config: Mutex::new(config),
            report: Mutex::new(ShutdownReport::default()),
            pressure: Mutex::new(Pressure::default()),
        }
    }

    /// The same under a service manager.
    pub fn supervised_by(self, supervisor: Supervisor) -> Self {
        Self { supervisor, ..self }
    }

    /// The same with a deadline that is kept already.
    pub(crate) fn with_deadline(self, deadline: Arc<Deadline>) -> Self {
        Self { deadline, ..self }
    }

    /// The same with the places that its tables have, and with what the memory has for everything.
    pub fn with_room(self, seats: Seats, memory: MemoryPlan) -> Self {
        for shard in &self.shards {
            shard.capacity.set(seats.per_shard.into());
        }
        Self { seats, memory: Mutex::new(memory), ..self }
    }

    /// The most connections that can be open at once, under the settings in force.
    pub fn capacity(&self) -> u64 {
        let by_memory = self.memory_plan().connections();
        let seats = Seats { by_memory, ..self.seats };
        seats.capacity(self.config().admission.max_global_connections)
    }

    /// What everything may take of the memory.
    pub fn memory_plan(&self) -> MemoryPlan {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_memory_plan(&self, memory: MemoryPlan) {
        *self.memory.lock().unwrap_or_else(PoisonError::into_inner) = memory;
    }

    /// When the coordinator last came round, in milliseconds on the server's clock.
    pub fn coordinator_turn_ms(&self) -> u64 {
        self.coordinator_turn_ms.load(Ordering::Relaxed)
    }

    /// The settings in force; other ones after a reload.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        Phase::from_number(self.phase.load(Ordering::Acquire))
    }

    /// The shutdown epoch now; raised by one at each change of phase.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Ticks of the coordinator since the start, one each five seconds (S0.23).
    pub fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    /// Open connections of all shards now.
    pub fn connections(&self) -> u64 {
        self.shards.iter().map(|shard| shard.connections.get()).sum()
    }

    /// Connections that admission refused since the start, by reason.
    pub(super) fn refused(&self) -> Refusals {
        let of_all =
            |at: usize| self.shards.iter().map(move |shard| shard.admission_refused[at].get());
        std::array::from_fn(|at| of_all(at).sum())
    }

    /// The most connections that were open at once since the start, as the coordinator saw them
    /// (it looks every 100 ms) and at least what it is now.
    pub fn connections_peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).max(self.connections())
    }

    /// Milliseconds that all connections, ended and open, have been open in total.
    pub fn connection_ms(&self) -> u64 {
        let of_shard = |shard: &Arc<ShardMetrics>| {
            let now_ms = shard.connections.get() * shard.tick_ms.get();
            shard.connection_ms.get() + now_ms.saturating_sub(shard.open_since_ms.get())
        };
        self.shards.iter().map(of_shard).sum()
    }

    /// The shutdown as it stands.
    pub fn report(&self) -> ShutdownReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How pressed the server was at the last look, four times a second.
    pub fn pressure(&self) -> Pressure {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner) = pressure;
    }

    /// The server serves from here on.
    pub(crate) fn open(&self) {
        self.enter(Phase::Running);
    }

    pub(super) fn enter(&self, phase: Phase) -> u64 {
        self.phase.store(phase as u8, Ordering::Release);
        self.supervisor.entered(phase, self.config().shutdown.deadline_ms);
        self.epoch.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the drain that begins.
    pub(super) fn count_drain(&self) -> u64 {
        self.drains.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The number of the last drain that began; 0 before the first.
    pub(super) fn drains(&self) -> u64 {
        self.drains.load(Ordering::Acquire)
    }

    pub(super) fn set_config(&self, config: Config) {
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
    }

    /// The coordinator has come round.
    pub(super) fn note_peak(&self, now: Now) {
        self.peak.fetch_max(self.connections(), Ordering::Relaxed);
        self.coordinator_turn_ms.store(now.ms(), Ordering::Relaxed);
    }

    pub(crate) fn show(&self, report: ShutdownReport) {
        *self.report.lock().unwrap_or_else(PoisonError::into_inner) = report;
    }
}

#[cfg(test)]
impl ServerState {
    /// Puts the server into a phase, for tests of those who only look.
    pub(crate) fn enter_for_test(&self, phase: Phase) {
        self.enter(phase);
    }
}
