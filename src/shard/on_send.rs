//! Bytes leave: one send in flight per connection, the rest waits in its queue.

use super::Shard;
use super::on_receive::Listen;
use crate::close_reason::CloseReason;
use crate::connection::outbound::Outbound;
use crate::connection::{InFlight, State};
use crate::environment::Environment;
use crate::limits;
use crate::ring::{Errno, Frame, Operation, Ring, SendBatch, Token};

impl<E: Environment> Shard<E> {
    /// Sends a frame, now or behind what is on its way already.
    pub(super) fn send(&mut self, token: Token, frame: Frame) {
        self.send_or_queue(token, frame, Outbound::push);
    }

    /// Sends a ping, or pongs, before all messages that have not begun.
    pub(super) fn send_control(&mut self, token: Token, frame: Frame) {
        self.send_or_queue(token, frame, Outbound::push_control);
    }

    /// The same with the pong for the latest ping, in place of one that waits.
    pub(super) fn send_latest_pong(&mut self, token: Token, pong: Frame) {
        self.send_or_queue(token, pong, Outbound::set_pong);
    }

    fn send_or_queue(&mut self, token: Token, frame: Frame, queue_up: fn(&mut Outbound, Frame)) {
        let tick = self.tick;
        let held = frame.held_bytes();
        if held > limits::SEND_AT_ONCE_BYTES {
            self.note_waiting(token);
        }
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !connection.in_flight.has(InFlight::SEND) {
            connection.in_flight.begin(InFlight::SEND);
            if let Some(watched) = &mut connection.outbound {
                watched.progress.begin_patience(tick);
            }
            self.output.hold(held);
            self.ring.start(Operation::Send(token, SendBatch::one(frame)));
            return;
        }
        let begins = connection.outbound.is_none();
        let queue = connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(tick)));
        let (bytes, held) = (queue.bytes(), queue.held_bytes());
        queue_up(queue, frame);
        let (bytes_after, held_after) = (queue.bytes(), queue.held_bytes());
        let open = connection.state == State::Open;
        self.output.change(held, held_after);
        self.count_queued(bytes, bytes_after);
        if begins {
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
        self.output.release(batch.held_bytes());
        let room = self.room_before_close(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::SEND);
        if connection.state == State::Ending {
            return self.close_if_quiet(token);
        }
        let Ok(sent) = result else { return self.on_send_failed(token) };
        self.metrics.bytes_sent.add(sent as u64);
        batch.advance(sent);
        let mut unfinished = None;
        let mut begins = false;
        if batch.remaining() > 0 {
            // A queue also if nothing else waits: its progress is what a stuck reader is known by.
            begins = connection.outbound.is_none();
            connection.outbound.get_or_insert_with(|| Box::new(Outbound::new(tick)));
            unfinished = Some(batch);
        } else if let SendBatch::One { frame: Frame::Own(bytes), .. } = batch {
            recycle(&mut self.spare, bytes);
        }
        let Some(queue) = &mut connection.outbound else { return self.on_all_sent(token) };
        queue.progress.hand(sent);
        let (bytes, held) = (queue.bytes(), queue.held_bytes());
        let next = queue.next(unfinished, room);
        let (bytes_after, held_after) = (queue.bytes(), queue.held_bytes());
        self.output.change(held, held_after);
        self.count_queued(bytes, bytes_after);
        match next {
            Some(batch) => {
                self.output.hold(batch.held_bytes());
                self.go_on_sending(token, batch, begins);
            }
            None => self.on_all_sent(token),
        }
    }

    fn go_on_sending(&mut self, token: Token, batch: SendBatch, begins: bool) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.begin(InFlight::SEND);
        let open = connection.state == State::Open;
        let held = batch.held_bytes();
        self.ring.start(Operation::Send(token, batch));
        if begins {
            self.note_waiting(token);
            if open {
                self.set_open_timer(token);
            }
        }
        // Reading may have been paused while more waited.
        self.read_on_beside(token, held);
    }

    /// What waits for a connection has changed from so many bytes to so many.
    pub(super) fn count_queued(&self, before: usize, after: usize) {
        let queued = &self.metrics.queued_bytes;
        queued.set((queued.get() + after as u64).saturating_sub(before as u64));
    }

    /// The kernel has everything. How far the client is with it goes on mattering if its end, or
    /// its pong, is awaited.
    fn on_all_sent(&mut self, token: Token) {
        self.note_taken(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.stop_watching();
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
