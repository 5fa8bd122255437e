//! A connection meets an event, and what comes of it is carried out: the only place that looks a
//! connection up for an event, and the only one that starts operations on it.

use super::Shard;
use super::heads::Rank;
use super::machine::context::{Receive, Timer};
use super::machine::{self, Event, Reply};
use crate::close_reason::CloseReason;
use crate::environment::Environment;
use crate::limits;
use crate::ring::{Operation, Received, Ring, Token};

impl<E: Environment> Shard<E> {
    /// The bytes stay in the ring's buffer while they are read.
    pub(super) fn on_received(&mut self, id: Token, received: Received, lasts: bool) {
        let Some(connection) = self.connections.get_mut(id) else {
            self.cx.metrics.stale_completions.add(1);
            return self.ring.give_back(received);
        };
        let event = Event::Received { bytes: self.ring.bytes(&received), lasts };
        machine::handle(id, connection, event, &mut self.cx);
        self.ring.give_back(received);
        self.carry_out(id);
    }

    /// Hands an event to its connection, and carries out what follows from it. An event of a life that
    /// is over is dropped, and memory that it brings back is accounted for.
    pub(super) fn with_connection(&mut self, id: Token, event: Event<'_>) -> Reply {
        let Some(connection) = self.connections.get_mut(id) else {
            if let Event::Sent(_, batch) = event {
                self.cx.budgets.output.end_send(id.slot, batch.held_bytes());
            }
            return Reply::Gone;
        };
        let reply = machine::handle(id, connection, event, &mut self.cx);
        self.carry_out(id);
        reply
    }

    fn carry_out(&mut self, id: Token) {
        let next = std::mem::take(&mut self.cx.next);
        if let Some(batch) = next.send {
            self.ring.start(Operation::Send(id, batch));
        }
        if next.cancel_receive {
            self.ring.start(Operation::Calm(id));
        }
        if next.reset {
            self.ring.start(Operation::Cut(id));
        }
        match next.receive {
            Receive::None => {}
            Receive::Poll => self.ring.start(Operation::Watch(id)),
            Receive::Once { poll_first } => {
                self.ring.start(Operation::Receive { token: id, wait: poll_first });
            }
            Receive::Many => self.ring.start(Operation::ReceiveMany(id)),
        }
        if next.half_close {
            self.ring.start(Operation::HalfClose(id));
        }
        if next.ask_progress {
            self.ring.start(Operation::Unacknowledged(id));
        }
        if let Some(to) = next.send_to {
            self.ring.start(Operation::Hand { token: id, to });
        }
        if next.close {
            self.ring.start(Operation::Close(id));
        }
        match next.timer {
            Timer::Keep => {}
            Timer::Clear => self.timing.timers.clear(&mut self.connections, id.slot),
            Timer::At(tick) => self.timing.timers.set(&mut self.connections, id.slot, tick),
        }
        if next.queue_readable {
            self.readable.push_back(id);
        }
        if next.queue_refused {
            self.cx.handshakes.half_open.queue_refused(id, &self.connections);
        }
        if next.ended {
            self.connections.end_life(id.slot);
        }
        if next.holds_more {
            self.relieve_budgets();
        }
    }

    /// Budgets hold after a connection has taken more of them: the connections that have to give way,
    /// which may be the same one, are ended.
    fn relieve_budgets(&mut self) {
        while let Some(slot) = self.cx.budgets.unfinished.pop_excess() {
            if let Some(id) = self.connections.token(slot) {
                self.with_connection(id, Event::EvictUnfinished);
            }
        }
        while let Some((oldest, rank)) = self.cx.handshakes.heads.gives_way() {
            match rank {
                Rank::Refused => self.cx.handshakes.heads.forget(oldest.slot),
                Rank::Unadmitted | Rank::Admitted => {
                    self.with_connection(oldest, Event::Evict(CloseReason::HeadEvicted));
                }
            }
            let kept = self.cx.handshakes.heads.get(oldest.slot);
            debug_assert!(kept.is_empty(), "nothing is kept of what ends");
        }
        self.cx.metrics.head_bytes.set(self.cx.handshakes.heads.held());
        while let Some(slot) = self.cx.budgets.output.pop_excess() {
            if let Some(id) = self.connections.token(slot) {
                self.with_connection(id, Event::EvictOutput);
            }
        }
    }

    /// Reads on from the connection whose bytes cost much that has waited longest, if it is time.
    pub(super) fn read_heavy(&mut self) {
        if let Some(id) = self.cx.heavy.pop(self.cx.clock.now.ns()) {
            self.with_connection(id, Event::HeavyTurn);
        }
    }

    /// Begins to receive from those who have sent something, the longest waiting first. Each holds a
    /// buffer until the next turn, so a burst does not make a quiet shard keep one for each of them.
    pub(super) fn receive_some(&mut self) {
        for _ in 0..limits::RECEIVES_PER_TURN {
            let Some(id) = self.readable.pop_front() else { break };
            self.with_connection(id, Event::ReceiveTurn);
        }
    }
}
