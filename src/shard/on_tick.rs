//! Time passes: deadlines of connections, pauses, and the shard's own figures.

use std::time::Duration;

use super::Shard;
use super::gathering::Gathering;
use super::machine::Event;
use super::timers::Timers;
use crate::clock::Now;
use crate::environment::Environment;
use crate::limits::{self, LONG_TURN_MS, TICK_MS};
use crate::ring::{FileSlot, Operation, Ring};
use crate::tables::Queue;

/// How long accepting rests after the kernel ran short of something: about 100 ms.
pub(super) const ACCEPT_PAUSE_TICKS: u32 = 2;

/// A shard that did not come round for so long stood still (SIGSTOP, a suspended machine): a
/// turn takes a tick at most. That time is not counted against its clients, who could not be
/// heard; were it longer, the answers to pings that are read after it would be too late.
const PAUSE_MS: u64 = 4 * TICK_MS;

/// A turn that took longer is looked at: was it at work, or did something else have its processor?
const LOOKED_AT_NS: u64 = 1_000_000;

/// How long the shard's thread had been on a processor at some moment in the last
/// [`LOOKED_AT_NS`] before a turn: reading that is a system call, too much for each turn.
#[derive(Debug, Default)]
pub(super) struct OwnTime {
    at: Now,
    ns: u64,
}

impl OwnTime {
    fn on_turn(&mut self, now: Now, thread_ns: impl FnOnce() -> u64) {
        if now.ns().saturating_sub(self.at.ns()) >= LOOKED_AT_NS {
            *self = Self { at: now, ns: thread_ns() };
        }
    }

    /// How much of a turn that has taken `busy_ns` the thread was at work, at most.
    fn of_turn(&self, busy_ns: u64, thread_ns: impl FnOnce() -> u64) -> u64 {
        if busy_ns < LOOKED_AT_NS {
            return busy_ns;
        }
        busy_ns.min(thread_ns().saturating_sub(self.ns))
    }
}

/// Places of the table of sources that are looked at per tick for whether the source can be
/// forgotten: as many as come round in about a minute, and not more than take 0.1 ms.
fn expire_budget(places: usize) -> usize {
    (places / 1_024).clamp(256, 4_096)
}

/// The tick of a moment, leaving out time that the shard did not see.
pub(super) fn tick_at(now: Now, unseen_ms: u64) -> u32 {
    (now.ms().saturating_sub(unseen_ms) / TICK_MS) as u32
}

/// What a shard knows of the time.
#[derive(Debug)]
pub(super) struct Timing {
    pub(super) timers: Timers,
    /// Connections whose deadline has come.
    pub(super) due: Queue<FileSlot>,
    pub(super) gathering: Gathering,
    /// Milliseconds in which the shard stood still.
    unseen_ms: u64,
    own_time: OwnTime,
}

impl Timing {
    pub(super) fn new(tick: u32, gather: Duration) -> Self {
        Self {
            timers: Timers::new(tick),
            due: Queue::default(),
            gathering: Gathering::new(gather),
            unseen_ms: 0,
            own_time: OwnTime::default(),
        }
    }
}

impl<E: Environment> Shard<E> {
    pub(super) fn start_ticking(&mut self) {
        self.ring.start(Operation::Tick(Duration::from_millis(TICK_MS)));
    }

    pub(super) fn look_at_the_clock(&mut self) {
        let now = self.environment.now();
        let gap_ms = now.since(self.cx.clock.now).as_millis() as u64;
        if gap_ms > PAUSE_MS {
            self.timing.unseen_ms += gap_ms - TICK_MS;
        }
        self.timing.gathering.note(now.since(self.cx.clock.now));
        self.timing.own_time.on_turn(now, || self.environment.thread_ns());
        self.cx.clock.now = now;
    }

    pub(super) fn on_tick(&mut self) {
        let tick = tick_at(self.cx.clock.now, self.timing.unseen_ms);
        if tick == self.cx.clock.tick {
            return;
        }
        self.cx.clock.tick = tick;
        self.cx.metrics.tick_ms.set(u64::from(tick) * TICK_MS);
        self.reconcile();
        let Timing { timers, due, .. } = &mut self.timing;
        timers.take_due(&mut self.connections, tick, due);
        while let Some(id) = self.cx.sessions.pop_late(tick) {
            self.with_connection(id, Event::SessionLate);
        }
        self.cx.budgets.on_tick(tick);
        self.cx.metrics.output_held_bytes.set(self.cx.budgets.output.held());
        self.resume_accepting(false);
        self.talk_about_budget(true);
        self.admitting.admission.withhold(self.cx.metrics.withheld.get());
        let sources = self.admitting.admission.ip_mut();
        sources.expire(self.cx.clock.now.ns(), expire_budget(sources.places()));
        self.cx.spare.on_tick();
        self.cx.metrics.head_bytes.set(self.cx.handshakes.heads.held());
        self.cx.metrics.tracked_sources.set(sources.len() as u64);
        self.cx.metrics.limited_sources.set(sources.limited_sources(self.cx.clock.now.ns()) as u64);
    }

    /// Some of those whose deadline has come, the longest waiting first. What is due is judged when
    /// one is looked at: who was heard of in the meantime only gets a new timer.
    pub(super) fn meet_deadlines(&mut self) {
        for _ in 0..limits::VISITS_PER_TURN {
            let Some(slot) = self.timing.due.pop_front() else { return };
            if let Some(id) = self.connections.token(slot) {
                self.with_connection(id, Event::Deadline);
            }
        }
    }

    pub(super) fn note_turn(&mut self) {
        let busy_ns = self.environment.now().ns().saturating_sub(self.cx.clock.now.ns());
        self.cx.metrics.busy_ns.add(busy_ns);
        self.cx.metrics.stall_max_ns.raise(busy_ns);
        self.cx
            .metrics
            .stall_own_max_ns
            .raise(self.timing.own_time.of_turn(busy_ns, || self.environment.thread_ns()));
        if busy_ns >= LONG_TURN_MS * 1_000_000 {
            self.cx.metrics.long_turns.add(1);
            self.cx.metrics.long_turn_ns.add(busy_ns);
        }
        self.cx.metrics.last_turn_ms.set(self.cx.clock.now.ms());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_the_thread_did_not_run_is_not_its_own() {
        let mut own = OwnTime::default();
        own.on_turn(Now::from_ms(5), || 7_000_000);
        assert_eq!(own.of_turn(200_000_000, || 9_500_000), 2_500_000);
        assert_eq!(own.of_turn(2_000_000, || 90_000_000), 2_000_000, "no more than the turn");
        let unread = || panic!("a turn too short to be looked at costs no system call");
        assert_eq!(own.of_turn(999_999, unread), 999_999);
    }
}
