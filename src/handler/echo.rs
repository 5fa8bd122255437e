//! `/echo`: every message comes back as it was. For conformance tests and benchmarks.

use super::{Effects, Handler, Inbound};

/// Answers a message with itself.
#[derive(Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        match inbound {
            Inbound::Opening { .. } => {}
            Inbound::Text(text) => effects.text(text),
            Inbound::Binary(bytes) => effects.binary(bytes),
        }
    }
}
