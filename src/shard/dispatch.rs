//! Each completion goes to one file. One for a life of a slot that is over is dropped here.

use super::Shard;
use crate::environment::Environment;
use crate::ring::{Completion, Operation, Outcome, Ring};

impl<E: Environment> Shard<E> {
    pub(super) fn dispatch(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        match outcome {
            Outcome::Accepted(result) => return self.on_accept(result),
            Outcome::HandedHere { from, slot } => return self.on_handed_here(from, token, slot),
            Outcome::Woken => return self.ring.start(Operation::Wake),
            Outcome::Ticked { lasts: true } => return,
            Outcome::Ticked { lasts: false } => return self.start_ticking(),
            // A server opens, binds and connects nothing.
            Outcome::Opened(_) | Outcome::Bound(_) | Outcome::Connected(_) => return,
            _ => {}
        }
        if self.connections.get_mut(token).is_none() {
            self.metrics.stale_completions.add(1);
            if let Outcome::Received { result: Ok(Some(received)), .. } = outcome {
                self.ring.give_back(received);
            } else if let Outcome::Sent(_, batch) = outcome {
                self.output.release(batch.held_bytes());
            }
            return;
        }
        match outcome {
            Outcome::Readable(result) => self.on_readable(token, result),
            Outcome::Received { result, lasts } => self.on_received(token, result, lasts),
            Outcome::Calmed(result) => self.on_calmed(token, result),
            Outcome::Sent(result, batch) => self.on_sent(token, result, batch),
            Outcome::Unacknowledged(result) => self.on_unacknowledged(token, result),
            Outcome::Cut(result) => self.on_cut(token, result),
            Outcome::HalfClosed => self.on_half_closed(token),
            Outcome::HandedOver { to, result } => self.on_handed_over(token, to, result),
            Outcome::Closed => self.on_closed(token),
            _ => {}
        }
    }
}
