//! Time passes: deadlines of connections, pauses, and the shard's own figures.

use super::Shard;
use crate::clock::Now;
use crate::close_reason::CloseReason;
use crate::connection::deadline::{self, Due};
use crate::connection::{Facts, State};
use crate::environment::Environment;
use crate::limits::{self, LONG_TURN_MS, TICK_MS};
use crate::ring::{Frame, Token};
use crate::websocket::frame;
use crate::websocket::{Control, OpCode};

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

impl<E: Environment> Shard<E> {
    pub(super) fn look_at_the_clock(&mut self) {
        let now = self.environment.now();
        let gap_ms = now.since(self.now).as_millis() as u64;
        if gap_ms > PAUSE_MS {
            self.unseen_ms += gap_ms - TICK_MS;
        }
        self.gathering.note(now.since(self.now));
        self.own_time.on_turn(now, || self.environment.thread_ns());
        self.now = now;
    }

    pub(super) fn on_tick(&mut self) {
        let tick = tick_at(self.now, self.unseen_ms);
        if tick == self.tick {
            return;
        }
        self.tick = tick;
        self.metrics.tick_ms.set(u64::from(tick) * TICK_MS);
        self.timers.take_due(&mut self.connections, tick, &mut self.due);
        self.give_up_on_sessions();
        self.on_hostile_tick();
        self.resume_accepting(false);
        self.talk_about_budget(true);
        let sources = self.admission.ip_mut();
        sources.expire(self.now.ns(), expire_budget(sources.places()));
        self.metrics.head_bytes.set(self.heads.held());
        self.metrics.tracked_sources.set(sources.len() as u64);
        self.metrics.limited_sources.set(sources.limited_sources(self.now.ns()) as u64);
    }

    /// Some of those whose deadline has come, the longest waiting first. What is due is judged when
    /// one is looked at: who was heard of in the meantime only gets a new timer.
    pub(super) fn meet_deadlines(&mut self) {
        for _ in 0..limits::VISITS_PER_TURN {
            let Some(slot) = self.due.pop_front() else { return };
            if let Some(token) = self.connections.token(slot) {
                self.on_deadline(token);
            }
        }
    }

    fn on_deadline(&mut self, token: Token) {
        let limits = self.deadlines_of(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        let due = deadline::due(connection, self.tick, &limits);
        self.meet(token, due);
    }

    /// Does what is due.
    pub(super) fn meet(&mut self, token: Token, due: Due) {
        match due {
            Due::Never => {}
            Due::Ask => self.ask_progress(token),
            Due::Later(tick) => self.timers.set(&mut self.connections, token.slot, tick),
            Due::Ping(next) => self.ping(token, next),
            Due::Calm(next) => {
                self.timers.set(&mut self.connections, token.slot, next);
                self.calm(token);
            }
            Due::HandshakeTimeout => self.on_handshake_timeout(token),
            Due::KeepaliveTimeout => self.cut(token, CloseReason::KeepaliveTimeout),
            Due::WriteTimeout => self.cut(token, CloseReason::SlowConsumer),
            Due::MessageTimeout => self.on_message_timeout(token),
            Due::CloseTimeout => self.cut(token, CloseReason::Reset),
        }
    }

    fn ping(&mut self, token: Token, next: u32) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.facts.note(Facts::AWAITING_PONG);
        let mut bytes = self.spare_buffer();
        frame::encode(OpCode::Control(Control::Ping), &[], &mut bytes);
        self.metrics.pings_sent.add(1);
        self.timers.set(&mut self.connections, token.slot, next);
        self.send_control(token, Frame::Own(bytes));
    }

    /// Sets the timer of an open connection to whatever it needs next.
    pub(super) fn set_open_timer(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        debug_assert!(connection.state == State::Open);
        match deadline::due(connection, self.tick, &self.settings.deadlines) {
            Due::Never => self.timers.clear(&mut self.connections, token.slot),
            Due::Later(tick) => self.timers.set(&mut self.connections, token.slot, tick),
            _ => self.timers.set(&mut self.connections, token.slot, self.tick.wrapping_add(1)),
        }
    }

    pub(super) fn set_timer_in(&mut self, token: Token, ticks: u32) {
        self.timers.set(&mut self.connections, token.slot, self.tick.wrapping_add(ticks));
    }

    pub(super) fn note_turn(&mut self) {
        let busy_ns = self.environment.now().ns().saturating_sub(self.now.ns());
        self.metrics.busy_ns.add(busy_ns);
        self.metrics.stall_max_ns.raise(busy_ns);
        self.metrics
            .stall_own_max_ns
            .raise(self.own_time.of_turn(busy_ns, || self.environment.thread_ns()));
        if busy_ns >= LONG_TURN_MS * 1_000_000 {
            self.metrics.long_turns.add(1);
            self.metrics.long_turn_ns.add(busy_ns);
        }
        self.metrics.last_turn_ms.set(self.now.ms());
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
