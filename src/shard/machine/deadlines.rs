//! Time limits of a connection, and how far its client is with what was sent.
//!
//! In a drain a client that reads slowly is sent what there is time for, whole messages only, and
//! then Close, early enough for it to arrive before the drain forces what is left.

use super::Machine;
use super::context::Timer;
use crate::close_reason::CloseReason;
use crate::connection::Facts;
use crate::connection::deadline::{self, Due};
use crate::ring::{Errno, Frame};
use crate::websocket::{Control, OpCode, frame};

impl Machine<'_> {
    /// What is due is judged now: a client that was heard of in the meantime only gets a new timer.
    pub(super) fn on_deadline(&mut self) {
        let due = deadline::due(self.connection, self.cx.clock.tick, &self.deadlines());
        self.meet(due);
    }

    pub(super) fn on_unacknowledged(&mut self, result: Result<u32, Errno>) {
        let (limits, tick) = (self.deadlines(), self.cx.clock.tick);
        let due = deadline::observe(self.connection, result.ok().map(u64::from), tick, &limits);
        if self.room_before_close() == Some(0) {
            self.leave_only_close();
        }
        self.meet(due);
    }

    fn meet(&mut self, due: Due) {
        match due {
            Due::Never => {}
            Due::Ask => self.cx.next.ask_progress = true,
            Due::Later(tick) => self.cx.next.timer = Timer::At(tick),
            Due::Ping(next) => {
                self.cx.next.timer = Timer::At(next);
                self.ping();
            }
            Due::Calm(next) => {
                self.cx.next.timer = Timer::At(next);
                self.cancel_receive();
            }
            Due::HandshakeTimeout => self.on_handshake_timeout(),
            Due::KeepaliveTimeout => self.cut(CloseReason::KeepaliveTimeout),
            Due::WriteTimeout => self.cut(CloseReason::SlowConsumer),
            Due::MessageTimeout => {
                self.fail_for(CloseReason::MessageTimeout, "the message did not end in time");
            }
            Due::CloseTimeout => self.cut(CloseReason::Reset),
        }
    }

    fn ping(&mut self) {
        self.connection.facts.note(Facts::AWAITING_PONG);
        let mut bytes = self.cx.spare.take();
        frame::encode(OpCode::Control(Control::Ping), &[], &mut bytes);
        self.cx.metrics.pings_sent.add(1);
        self.send_control(Frame::Own(bytes));
    }
}
