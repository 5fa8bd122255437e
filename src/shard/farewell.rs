//! What clients hear of a drain: the notice with their slot, the goodbye before Close, and that the
//! server stays after all. And what the log hears of each of them: the first few of each kind at
//! INFO, the others at DEBUG, because there can be a million (rule 9; the coordinator logs how many
//! there are each second).

use serde_json::json;
use tracing::{debug, info, warn};

use super::Shard;
use super::drain::Drain;
use crate::admission::SourceKey;
use crate::close_reason::DrainOutcome;
use crate::environment::Environment;
use crate::limits::DRAIN_SAMPLE;
use crate::ring::{Frame, Token};
use crate::websocket::{Data, OpCode, frame};

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

impl<E: Environment> Shard<E> {
    /// `server.shutdown`, with the time to come back (D22).
    pub(super) fn write_notice(&self, drain: &Drain, out: &mut Vec<u8>) {
        let mut notice = json!({
            "type": "server.shutdown",
            "reason": drain.order.reason,
            "reconnect_after_ms": drain.next_slot_ms(),
        });
        if let Some(address) = &drain.order.reconnect_to {
            notice["reconnect_to"] = address.as_str().into();
        }
        self.write_text(&notice.to_string(), out);
    }

    /// What takes a notice back: the server stays, and so may the client.
    pub(super) fn send_reassurance(&mut self, token: Token) {
        let mut bytes = self.spare_buffer();
        self.write_text(r#"{"type":"server.shutdown_cancelled"}"#, &mut bytes);
        self.send(token, Frame::Own(bytes));
    }

    /// The last message before Close (S2.15).
    pub(super) fn write_bye(&mut self, token: Token, out: &mut Vec<u8>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let source = connection.source;
        let count = self.messages_of(token);
        let bye = json!({
            "bye": true,
            "total": count,
            "message": "Server is shutting down gracefully",
        });
        let begun = &mut self.farewells.begun;
        sampled!(begun, event = "ws_shutdown_started", %source, count, "Closing WebSocket connection");
        self.write_text(&bye.to_string(), out);
        let byes = &mut self.farewells.byes;
        sampled!(byes, event = "ws_shutdown_bye_sent", %source, "bye sent");
    }

    /// The end of a connection of the drain (S2.29, S2.34).
    pub(super) fn say_left(&mut self, source: SourceKey, outcome: DrainOutcome) {
        let outcome_name = outcome.label();
        if !matches!(outcome, DrainOutcome::Reset | DrainOutcome::Forced) {
            let completed = &mut self.farewells.completed;
            let event = "ws_shutdown_completed";
            sampled!(completed, event, %source, outcome = outcome_name, "connection has left");
        } else if is_sampled(&mut self.farewells.failed) {
            let event = "ws_shutdown_close_failed";
            warn!(event, %source, error = outcome_name, "connection was not closed in order");
        } else {
            let event = "ws_shutdown_close_failed";
            debug!(event, %source, error = outcome_name, "connection was not closed in order");
        }
    }

    fn write_text(&self, text: &str, out: &mut Vec<u8>) {
        frame::encode(OpCode::Data(Data::Text), text.as_bytes(), out);
        self.metrics.messages_sent.add(1);
    }
}
