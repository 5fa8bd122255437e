//! Bytes to the client: one send in flight, the rest waits in the connection's queue.

use super::Machine;
use super::context::Timer;
use crate::connection::deadline::{self, Deadlines, Due};
use crate::connection::outbound::Outbound;
use crate::connection::{Facts, InFlight, State};
use crate::limits::{self, TICK_MS};
use crate::ring::{Frame, SendBatch};

impl Machine<'_> {
    /// Sends a frame, now or behind what is on its way already.
    pub(super) fn send(&mut self, frame: Frame) {
        self.send_or_queue(frame, Outbound::push);
    }

    /// Sends a ping, or pongs, before all messages that have not begun.
    pub(super) fn send_control(&mut self, frame: Frame) {
        self.send_or_queue(frame, Outbound::push_control);
    }

    /// Sends the pong for the latest ping, in place of one that waits.
    pub(super) fn send_latest_pong(&mut self, pong: Frame) {
        self.send_or_queue(pong, Outbound::set_pong);
    }

    fn send_or_queue(&mut self, frame: Frame, queue_up: fn(&mut Outbound, Frame)) {
        let held = frame.held_bytes();
        if held > limits::SEND_AT_ONCE_BYTES {
            self.note_waiting();
        }
        if !self.connection.in_flight.has(InFlight::SEND) {
            if let Some(watched) = &mut self.connection.outbound {
                watched.progress.begin_patience(self.cx.clock.tick);
            }
            return self.begin_send(SendBatch::one(frame));
        }
        let begins = self.connection.outbound.is_none();
        self.change_queue(|queue| queue_up(queue, frame));
        if begins {
            self.note_waiting();
            if self.connection.state == State::Open {
                self.set_open_timer();
            }
        }
    }

    /// The kernel is given these bytes; nothing else of the connection is being sent.
    pub(super) fn begin_send(&mut self, batch: SendBatch) {
        debug_assert!(self.cx.next.send.is_none(), "two sends for one event");
        self.connection.in_flight.begin(InFlight::SEND);
        self.cx.budgets.output.begin_send(self.id.slot, batch.held_bytes());
        self.cx.next.send = Some(batch);
    }

    /// Changes the queue, which begins to exist if there is none, and accounts for the difference.
    pub(super) fn change_queue<T>(&mut self, change: impl FnOnce(&mut Outbound) -> T) -> T {
        let tick = self.cx.clock.tick;
        let queue = self.connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(tick)));
        let (bytes, held) = (queue.bytes(), queue.held_bytes());
        let result = change(queue);
        let (bytes_after, held_after) = (queue.bytes(), queue.held_bytes());
        self.cx.budgets.output.change(held, held_after);
        self.count_queued(bytes, bytes_after);
        result
    }

    /// What waits for a connection has changed from so many bytes to so many.
    pub(super) fn count_queued(&self, before: usize, after: usize) {
        let queued = &self.cx.metrics.queued_bytes;
        queued.set((queued.get() + after as u64).saturating_sub(before as u64));
    }

    /// Something waits for the client from now on, or may do so.
    pub(super) fn note_waiting(&mut self) {
        self.cx.budgets.output.begin_waiting(self.id.slot, self.connection.source);
    }

    /// Nothing waits for it any more.
    pub(super) fn note_taken(&mut self) {
        self.cx.budgets.output.end_waiting(self.id.slot);
    }

    /// Sets the timer of an open connection to whatever it needs next.
    pub(super) fn set_open_timer(&mut self) {
        debug_assert!(self.connection.state == State::Open);
        let tick = self.cx.clock.tick;
        self.cx.next.timer = match deadline::due(self.connection, tick, &self.cx.settings.deadlines)
        {
            Due::Never => Timer::Clear,
            Due::Later(at) => Timer::At(at),
            _ => Timer::At(tick.wrapping_add(1)),
        };
    }

    /// Sets the timer of the connection to so many ticks from now.
    pub(super) fn set_timer_in(&mut self, ticks: u32) {
        self.cx.next.timer = Timer::At(self.cx.clock.tick.wrapping_add(ticks));
    }

    /// The time limits of the connection: a drain has its own patience for an answer to Close.
    pub(super) fn deadlines(&self) -> Deadlines {
        let mut limits = self.cx.settings.deadlines;
        if let Some(terms) = &self.cx.shutdown.terms
            && self.connection.facts.has(Facts::DRAINED)
        {
            limits.close = terms.close_patience;
        }
        limits
    }

    /// How many bytes of messages the client will take, beyond those that the kernel has, before
    /// the drain forces what is left; `None` where nothing says so.
    pub(super) fn room_before_close(&self) -> Option<usize> {
        let terms = self.cx.shutdown.terms?;
        let left_ms = terms.forcing_at_ms.saturating_sub(self.cx.clock.now.ms());
        let facts = self.connection.facts;
        let is_closing = matches!(self.connection.state, State::Closing | State::Flushing)
            && facts.has(Facts::DRAINED)
            && facts.has(Facts::CLOSE_SENT);
        let progress = &self.connection.outbound.as_ref().filter(|_| is_closing)?.progress;
        let ticks = u32::try_from(left_ms / TICK_MS).unwrap_or(u32::MAX);
        let expected = progress.expected_in(ticks)?;
        // The rate is a mean, and the last segment comes as a whole.
        let room = (expected - expected / 8).saturating_sub(progress.outstanding());
        Some(usize::try_from(room).unwrap_or(usize::MAX))
    }
}
