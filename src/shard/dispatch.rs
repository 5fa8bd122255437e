//! Each completion goes to whom it concerns.

use super::Shard;
use super::machine::{Event, Reply};
use crate::environment::Environment;
use crate::ring::{Completion, Operation, Outcome, Ring};

impl<E: Environment> Shard<E> {
    /// Hands a completion to whom it concerns. One for a life of a connection that is over is
    /// dropped.
    pub(super) fn dispatch(&mut self, completion: Completion) {
        let Completion { token, outcome } = completion;
        let event = match outcome {
            Outcome::Accepted(result) => return self.on_accept(result),
            Outcome::HandedHere { from, slot } => return self.on_handed_here(from, token, slot),
            Outcome::Woken => return self.ring.start(Operation::Wake),
            Outcome::Ticked { lasts: true } => return,
            Outcome::Ticked { lasts: false } => return self.start_ticking(),
            // A server opens, binds and connects nothing.
            Outcome::Opened(_) | Outcome::Bound(_) | Outcome::Connected(_) => return,
            Outcome::Received { result: Ok(Some(received)), lasts } => {
                return self.on_received(token, received, lasts);
            }
            Outcome::Received { result: Ok(None), lasts } => Event::EndOfStream { lasts },
            Outcome::Received { result: Err(errno), lasts } => {
                Event::ReceiveFailed { errno, lasts }
            }
            Outcome::Readable(result) => Event::Readable(result),
            Outcome::Calmed(result) => Event::ReceiveCancelled(result),
            Outcome::Sent(result, batch) => Event::Sent(result, batch),
            Outcome::Unacknowledged(result) => Event::Unacknowledged(result),
            Outcome::Cut(result) => Event::Reset(result),
            Outcome::HalfClosed => Event::HalfClosed,
            Outcome::HandedOver { to, result } => Event::SentTo { to, result },
            Outcome::Closed => Event::Closed,
        };
        if self.with_connection(token, event) == Reply::Gone {
            self.cx.metrics.stale_completions.add(1);
        }
    }
}
