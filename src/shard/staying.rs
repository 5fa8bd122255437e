//! A drain is cancelled: whoever has not been sent a Close stays, and hears so if it has heard the
//! notice. Who has been sent one leaves as it was told, and is counted in the drain that told it.
//!
//! Invariant: when this is over no connection that is open belongs to a drain.

use super::Shard;
use super::drain::Drain;
use super::on_close;
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::connection::{Facts, State};
use crate::environment::Environment;
use crate::limits;
use crate::ring::FileSlot;

/// The way through the connections of a cancelled drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Staying {
    next: FileSlot,
    /// Those before it have heard the notice.
    noticed_before: FileSlot,
    end: FileSlot,
}

impl<E: Environment> Shard<E> {
    pub(super) fn begin_staying(&mut self, cancelled: &Drain) {
        let noticed_before = cancelled.noticed_before();
        self.staying = Some(Staying { next: 0, noticed_before, end: cancelled.end() });
    }

    pub(super) fn go_on_staying(&mut self) {
        let Some(mut staying) = self.staying.take() else { return };
        for _ in 0..limits::VISITS_PER_TURN {
            if staying.next >= staying.end {
                return;
            }
            let slot = staying.next;
            staying.next += 1;
            let Some(token) = self.connections.token(slot) else { continue };
            if !self.is_drained_and_open(token) {
                continue;
            }
            if let Some(connection) = self.connections.get_mut(token) {
                connection.facts.forget(Facts::DRAINED);
            }
            self.on_drained(DrainOutcome::Stayed);
            if slot < staying.noticed_before {
                self.send_reassurance(token);
            }
        }
        self.staying = Some(staying);
    }

    /// Another drain begins: whoever still belongs to the one before is counted there as it is
    /// now, without waiting for its end.
    pub(super) fn settle_cancelled(&mut self) {
        self.staying = None;
        for slot in 0..self.connections.end() {
            let Some(token) = self.connections.token(slot) else { continue };
            let Some(connection) = self.connections.get_mut(token) else { continue };
            if !connection.facts.has(Facts::DRAINED) {
                continue;
            }
            connection.facts.forget(Facts::DRAINED);
            let settled = match connection.state {
                State::Open => DrainOutcome::Stayed,
                _ => {
                    let reason = connection.reason.unwrap_or(CloseReason::Shutdown);
                    on_close::outcome(connection, reason)
                }
            };
            self.on_drained(settled);
        }
        for (before, outcomes) in
            self.metrics.drain_outcomes_before.iter().zip(&self.metrics.drain_outcomes)
        {
            before.set(outcomes.get());
        }
    }
}
