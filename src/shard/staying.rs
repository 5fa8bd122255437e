//! A drain is cancelled: whoever has not been sent a Close stays, and hears so if it has heard the
//! notice. Who has been sent one leaves as it was told, and is counted in the drain that told it.
//!
//! Invariant: when this is over no connection that is open belongs to a drain.

use super::Shard;
use super::drain::Drain;
use super::machine::{Event, Reply};
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
        self.draining.cancelled = Some(Staying { next: 0, noticed_before, end: cancelled.end() });
    }

    pub(super) fn go_on_staying(&mut self) {
        let Some(mut staying) = self.draining.cancelled.take() else { return };
        for _ in 0..limits::VISITS_PER_TURN {
            if staying.next >= staying.end {
                return;
            }
            let noticed = staying.next < staying.noticed_before;
            self.settle(staying.next, Event::DrainCancelled { noticed });
            staying.next += 1;
        }
        self.draining.cancelled = Some(staying);
    }

    /// Another drain begins: whoever still belongs to the one before is counted there as it is
    /// now, without waiting for its end.
    pub(super) fn settle_cancelled(&mut self) {
        self.draining.cancelled = None;
        for slot in 0..self.connections.end() {
            self.settle(slot, Event::DrainSettled);
        }
        let metrics = &self.cx.metrics;
        for (before, outcomes) in metrics.drain_outcomes_before.iter().zip(&metrics.drain_outcomes)
        {
            before.set(outcomes.get());
        }
    }

    fn settle(&mut self, slot: FileSlot, event: Event<'_>) {
        if let Some(id) = self.connections.token(slot)
            && let Reply::Settled(outcome) = self.with_connection(id, event)
        {
            self.on_drained(outcome);
        }
    }
}
