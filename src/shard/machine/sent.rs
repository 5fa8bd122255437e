//! Sends complete, whole or in part, and the kernel says how far the client is with them.

use super::Machine;
use crate::close_reason::CloseReason;
use crate::connection::{InFlight, State};
use crate::ring::{Errno, Frame, SendBatch};

impl Machine<'_> {
    pub(super) fn on_sent(&mut self, result: Result<usize, Errno>, mut batch: SendBatch) {
        self.cx.budgets.output.end_send(self.id.slot, batch.held_bytes());
        self.connection.in_flight.end(InFlight::SEND);
        if self.connection.state == State::Ending {
            return;
        }
        let Ok(sent) = result else { return self.on_send_failed() };
        self.cx.metrics.bytes_sent.add(sent as u64);
        batch.advance(sent);
        let mut unfinished = None;
        // A queue also if nothing else waits: its progress is what a stuck reader is known by.
        let begins = batch.remaining() > 0 && self.connection.outbound.is_none();
        if batch.remaining() > 0 {
            unfinished = Some(batch);
        } else if let SendBatch::One { frame: Frame::Own(bytes), .. } = batch {
            self.cx.spare.put(bytes);
        }
        if unfinished.is_none() && self.connection.outbound.is_none() {
            return self.on_all_sent();
        }
        let room = self.room_before_close();
        let next = self.change_queue(|queue| {
            queue.progress.hand(sent);
            queue.next(unfinished, room)
        });
        match next {
            Some(batch) => self.go_on_sending(batch, begins),
            None => self.on_all_sent(),
        }
    }

    fn go_on_sending(&mut self, batch: SendBatch, begins: bool) {
        // Reading may have been paused while more waited.
        self.goes_on_with = Some(batch.held_bytes());
        self.begin_send(batch);
        if begins {
            self.note_waiting();
            if self.connection.state == State::Open {
                self.set_open_timer();
            }
        }
    }

    /// The kernel has everything. How far the client is with it goes on mattering if its end, or
    /// its pong, is awaited.
    fn on_all_sent(&mut self) {
        self.note_taken();
        match self.connection.state {
            State::Open => self.connection.stop_watching(),
            State::Flushing => self.end_quietly(),
            State::Lingering => {
                self.connection.in_flight.begin(InFlight::HALF_CLOSE);
                self.cx.next.half_close = true;
            }
            State::Closing
            | State::Vacant
            | State::Unadmitted
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Handshake
            | State::TurnedAway
            | State::Ending => {}
        }
    }

    /// The peer is gone before it could have read everything, our Close included.
    fn on_send_failed(&mut self) {
        if self.connection.reason.is_none_or(|reason| reason == CloseReason::Shutdown) {
            self.connection.reason = Some(CloseReason::Reset);
        }
        self.end_quietly();
    }

    pub(super) fn on_half_closed(&mut self) {
        self.connection.in_flight.end(InFlight::HALF_CLOSE);
    }
}
