//! How far clients are with what is sent to them: the kernel's answers, and what they mean for a
//! connection that is ending.
//!
//! In a drain a client that reads slowly is sent what there is time for, whole messages only, and
//! then Close, early enough for it to arrive before the drain forces what is left.

use super::Shard;
use crate::connection::deadline::{self, Deadlines};
use crate::connection::{Connection, Facts, State};
use crate::environment::Environment;
use crate::limits::TICK_MS;
use crate::ring::{Errno, Operation, Ring, Token};

impl<E: Environment> Shard<E> {
    /// Asks how much of what was sent the client has not acknowledged.
    pub(super) fn ask_progress(&mut self, token: Token) {
        self.ring.start(Operation::Unacknowledged(token));
    }

    pub(super) fn on_unacknowledged(&mut self, token: Token, result: Result<u32, Errno>) {
        let tick = self.tick;
        let limits = self.deadlines_of(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        let due = deadline::observe(connection, result.ok().map(u64::from), tick, &limits);
        if self.room_before_close(token) == Some(0) {
            self.leave_only_close(token);
        }
        self.meet(token, due);
    }

    /// The time limits of a connection: a drain has its own patience for an answer to Close.
    pub(super) fn deadlines_of(&mut self, token: Token) -> Deadlines {
        let mut limits = self.settings.deadlines;
        let drained = |connection: &mut Connection| connection.facts.has(Facts::DRAINED);
        if let Some(drain) = &self.drain
            && self.connections.get_mut(token).is_some_and(drained)
        {
            limits.close = drain.close_patience();
        }
        limits
    }

    /// The client's end is awaited from now on.
    pub(super) fn await_end(&mut self, token: Token) {
        let limits = self.deadlines_of(token);
        let tick = self.tick;
        let Some(connection) = self.connections.get_mut(token) else { return };
        let ticks = deadline::first_look(connection, tick, &limits);
        self.set_timer_in(token, ticks);
    }

    /// How many bytes of messages the client will take, beyond those that the kernel has, before
    /// the drain forces what is left; `None` where nothing says so.
    pub(super) fn room_before_close(&mut self, token: Token) -> Option<usize> {
        let left_ms = self.drain.as_ref()?.left_ms(self.now);
        let connection = self.connections.get_mut(token)?;
        let facts = connection.facts;
        let is_closing = matches!(connection.state, State::Closing | State::Flushing)
            && facts.has(Facts::DRAINED)
            && facts.has(Facts::CLOSE_SENT);
        let progress = &connection.outbound.as_ref().filter(|_| is_closing)?.progress;
        let ticks = u32::try_from(left_ms / TICK_MS).unwrap_or(u32::MAX);
        let expected = progress.expected_in(ticks)?;
        // The rate is a mean, and the last segment comes as a whole.
        let room = (expected - expected / 8).saturating_sub(progress.outstanding());
        Some(usize::try_from(room).unwrap_or(usize::MAX))
    }

    /// Drops the messages that wait before Close; the one that has begun is finished.
    pub(super) fn leave_only_close(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        debug_assert!(connection.facts.has(Facts::CLOSE_SENT), "Close is the last that waits");
        let Some(queue) = &mut connection.outbound else { return };
        let (bytes, held) = (queue.bytes(), queue.held_bytes());
        queue.drop_all_but_close();
        let (bytes_left, held_left) = (queue.bytes(), queue.held_bytes());
        self.output.release(held - held_left);
        self.count_queued(bytes, bytes_left);
    }
}
