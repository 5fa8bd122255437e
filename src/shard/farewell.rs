//! What the log hears of the connections that a drain lets go: the first few of each kind at INFO,
//! the others at DEBUG, because there can be a million (rule 9; the coordinator logs how many there
//! are each second).

use tracing::{debug, info, warn};

use crate::admission::SourceKey;
use crate::close_reason::DrainOutcome;
use crate::limits::DRAIN_SAMPLE;

/// How many lines of each kind this shard may still write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Farewells {
    of_each: u32,
    begun: u32,
    byes: u32,
    completed: u32,
    failed: u32,
}

impl Farewells {
    /// For one of so many shards, which write the sample together.
    pub(super) fn new(shards: usize) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
        let of_each = (DRAIN_SAMPLE / shards).max(1);
        Self { of_each, begun: of_each, byes: of_each, completed: of_each, failed: of_each }
    }

    /// A drain begins: it has a sample of its own.
    pub(super) fn renew(&mut self) {
        let of_each = self.of_each;
        *self =
            Self { begun: of_each, byes: of_each, completed: of_each, failed: of_each, of_each };
    }
}

/// Takes one line from a sample, if there is one left.
fn is_sampled(left: &mut u32) -> bool {
    let is_sampled = *left > 0;
    *left = left.saturating_sub(1);
    is_sampled
}

/// An event at INFO if it is in the sample, at DEBUG otherwise.
macro_rules! sampled {
    ($left:expr, $($event:tt)*) => {
        if is_sampled($left) { info!($($event)*) } else { debug!($($event)*) }
    };
}

impl Farewells {
    /// The last message before Close (S2.15).
    pub(super) fn bye(&mut self, source: SourceKey, count: u64) {
        let event = "ws_shutdown_started";
        sampled!(&mut self.begun, event, %source, count, "Closing WebSocket connection");
        let event = "ws_shutdown_bye_sent";
        sampled!(&mut self.byes, event, %source, "bye sent");
    }

    /// The end of a connection of the drain (S2.29, S2.34).
    pub(super) fn left(&mut self, source: SourceKey, outcome: DrainOutcome) {
        let outcome_name = outcome.label();
        if !matches!(outcome, DrainOutcome::Reset | DrainOutcome::Forced) {
            let event = "ws_shutdown_completed";
            sampled!(&mut self.completed, event, %source, outcome = outcome_name, "connection has left");
        } else if is_sampled(&mut self.failed) {
            let event = "ws_shutdown_close_failed";
            warn!(event, %source, error = outcome_name, "connection was not closed in order");
        } else {
            let event = "ws_shutdown_close_failed";
            debug!(event, %source, error = outcome_name, "connection was not closed in order");
        }
    }
}
