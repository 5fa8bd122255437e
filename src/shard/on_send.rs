//! Bytes leave: one send in flight per connection, the rest waits in its queue.

use super::Shard;
use super::on_receive::Listen;
use crate::close_reason::CloseReason;
use crate::connection::outbound::Outbound;
use crate::connection::{Facts, InFlight, State};
use crate::environment::Environment;
use crate::limits;
use crate::ring::{Errno, Frame, Operation, Ring, SendBatch, Token};

impl<E: Environment> Shard<E> {
    /// Sends a frame, now or behind what is on its way already.
    pub(super) fn send(&mut self, token: Token, frame: Frame) {
        let tick = self.tick;
        let held = frame.held_bytes();
        if held > limits::SEND_AT_ONCE_BYTES {
            self.note_waiting(token);
        }
        let Some(connection) = self.connections.get_mut(token) else { return };
        self.output.hold(held);
        if !connection.in_flight.has(InFlight::SEND) {
            connection.in_flight.begin(InFlight::SEND);
            self.ring.start(Operation::Send(token, SendBatch::one(frame)));
            return;
        }
        let begins = connection.outbound.is_none();
        let queue = connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(tick)));
        self.metrics.queued_bytes.add(frame.len() as u64);
        queue.push(frame);
        if begins {
            let open = connection.state == State::Open;
            self.note_waiting(token);
            if open {
                self.set_open_timer(token);
            }
        }
    }

    pub(super) fn on_sent(
        &mut self,
        token: Token,
        result: Result<usize, Errno>,
        mut batch: SendBatch,
    ) {
        let tick = self.tick;
        let held = batch.held_bytes();
        self.output.release(held);
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::SEND);
        if connection.state == State::Ending {
            return self.close_if_quiet(token);
        }
        let Ok(sent) = result else { return self.on_send_failed(token) };
        self.metrics.bytes_sent.add(sent as u64);
        batch.advance(sent);
        let mut next = None;
        let begins = batch.remaining() > 0 && connection.outbound.is_none();
        if batch.remaining() > 0 {
            // A queue also if nothing else waits: its progress is what a stuck reader is known by.
            connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(tick)));
            self.output.hold(batch.held_bytes());
            next = Some(batch);
        } else if let SendBatch::One { frame: Frame::Own(bytes), .. } = batch {
            recycle(&mut self.spare, bytes);
        }
        if let Some(queue) = connection.outbound.as_mut() {
            queue.progress_tick = tick;
            if next.is_none() {
                next = queue.take();
                let taken = next.as_ref().map_or(0, SendBatch::remaining) as u64;
                let queued = &self.metrics.queued_bytes;
                queued.set(queued.get().saturating_sub(taken));
            }
        }
        match next {
            Some(batch) => {
                // More waits, so room came only because the client takes what it is sent: a
                // sign of life, also if its pong is stuck behind a long reply.
                connection.heard_tick = tick;
                connection.facts.forget(Facts::AWAITING_PONG);
                connection.in_flight.begin(InFlight::SEND);
                let open = connection.state == State::Open;
                self.ring.start(Operation::Send(token, batch));
                if begins {
                    self.note_waiting(token);
                    if open {
                        self.set_open_timer(token);
                    }
                }
            }
            None => {
                connection.outbound = None;
                self.note_taken(token);
                self.on_all_sent(token);
            }
        }
    }

    fn on_all_sent(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match connection.state {
            State::Flushing => self.end_quietly(token),
            State::Lingering => {
                connection.in_flight.begin(InFlight::HALF_CLOSE);
                self.ring.start(Operation::HalfClose(token));
            }
            // Reading may have been paused while the queue was long.
            _ => self.listen_again(token, Listen::Idle),
        }
    }

    /// The peer is gone before it could have read everything, our Close included.
    fn on_send_failed(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.reason.is_none_or(|reason| reason == CloseReason::Shutdown) {
            connection.reason = Some(CloseReason::Reset);
        }
        self.end_quietly(token);
    }

    /// An empty buffer for bytes to send; [`Self::recycle`] takes it back.
    pub(super) fn spare_buffer(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    pub(super) fn recycle(&mut self, buffer: Vec<u8>) {
        recycle(&mut self.spare, buffer);
    }
}

/// Keeps a buffer for later, unless there are enough or it is too large to keep.
fn recycle(spare: &mut Vec<Vec<u8>>, mut buffer: Vec<u8>) {
    let worth_it = (1..=limits::SPARE_BUFFER_BYTES).contains(&buffer.capacity());
    if worth_it && spare.len() < limits::SPARE_BUFFERS {
        buffer.clear();
        spare.push(buffer);
    }
}
