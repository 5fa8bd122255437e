//! The pongs that answer the pings of one received chunk.
//!
//! Each ping is answered as long as its sender reads. Of the pings of somebody who does not, or who
//! sends them by the hundred, only the latest is (RFC 6455 section 5.5.3): what waits for a
//! connection is then bounded, however many it sends.

use tungstenite::protocol::frame::coding::{Control, OpCode};

use crate::limits;
use crate::websocket::frame::{self, CONTROL_PAYLOAD_MAX};

/// Answers pings, the first ones at once and the latest at the end.
#[derive(Debug)]
pub struct Pongs {
    allowed: u32,
    answered: u32,
    pings: u32,
    latest: [u8; CONTROL_PAYLOAD_MAX],
    /// Its length, if there is one.
    latest_len: Option<u8>,
}

impl Pongs {
    /// For a connection behind whose send so many pongs wait already.
    pub fn new(waiting: u32) -> Self {
        let allowed = limits::PONGS_WAITING.saturating_sub(waiting);
        Self { allowed, answered: 0, pings: 0, latest: [0; _], latest_len: None }
    }

    /// Takes a ping with this payload; appends its pong to `out` unless there are too many.
    pub fn answer(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        self.pings += 1;
        if self.answered < self.allowed {
            self.answered += 1;
            encode(payload, out);
            return;
        }
        // A control frame has no more; see `frame`.
        let len = payload.len().min(CONTROL_PAYLOAD_MAX);
        self.latest[..len].copy_from_slice(&payload[..len]);
        self.latest_len = Some(len as u8);
    }

    /// Pings taken.
    pub fn pings(&self) -> u32 {
        self.pings
    }

    /// Pongs appended.
    pub fn answered(&self) -> u32 {
        self.answered
    }

    /// The pong for the latest ping, if that was not answered at once.
    pub fn latest(&self) -> Option<Vec<u8>> {
        let payload = &self.latest[..usize::from(self.latest_len?)];
        let mut out = Vec::with_capacity(payload.len() + 2);
        encode(payload, &mut out);
        Some(out)
    }
}

fn encode(payload: &[u8], out: &mut Vec<u8>) {
    frame::encode(OpCode::Control(Control::Pong), payload, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pings_are_answered_and_then_only_the_latest() {
        let mut pongs = Pongs::new(limits::PONGS_WAITING - 2);
        let mut out = Vec::new();
        for payload in [&b"a"[..], b"b", b"c", b"longest", b"d"] {
            pongs.answer(payload, &mut out);
        }
        assert_eq!(out, b"\x8a\x01a\x8a\x01b");
        assert_eq!(pongs.latest().as_deref(), Some(&b"\x8a\x01d"[..]));
        assert_eq!((pongs.pings(), pongs.answered()), (5, 2));
    }

    #[test]
    fn a_full_queue_gets_the_latest_and_nothing_else() {
        let mut pongs = Pongs::new(limits::PONGS_WAITING + 7);
        let mut out = Vec::new();
        assert_eq!(pongs.latest(), None);
        pongs.answer(&[1; 125], &mut out);
        assert!(out.is_empty() && pongs.latest().is_some_and(|pong| pong.len() == 127));
    }
}
