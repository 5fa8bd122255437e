//! Data messages on their way out: compressed for those who negotiated it, where it is worth it.

use tungstenite::protocol::frame::coding::{Data, OpCode};

use super::{Compressor, Window};
use crate::websocket::frame;

/// Encodes the data messages of a shard, for one connection after the other.
#[derive(Debug, Default)]
pub struct Outgoing {
    compressor: Compressor,
    /// Messages from this length on are compressed, in bytes.
    threshold: usize,
    /// Messages compressed, since the counter was last taken.
    pub(crate) compressed: u64,
}

impl Outgoing {
    /// Compresses messages from `threshold` bytes on.
    pub fn new(threshold: usize) -> Self {
        Self { threshold, ..Self::default() }
    }

    /// Appends a message to `out` for a connection that has negotiated `window`, if any.
    pub fn encode(
        &mut self,
        kind: Data,
        message: &[u8],
        window: Option<Window>,
        out: &mut Vec<u8>,
    ) {
        match window.and_then(|window| self.compress(message, window)) {
            Some(payload) => frame::encode_compressed(kind, payload, out),
            None => frame::encode(OpCode::Data(kind), message, out),
        }
    }

    /// The compressed form of a frame that many connections get; every window can read it that
    /// [`holds`](Window::holds) its message. `None` if it is not worth it.
    pub fn shared(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let (kind, message) = frame::data_of(frame)?;
        let payload = self.compress(message, Window::FULL)?;
        let mut out = Vec::new();
        frame::encode_compressed(kind, payload, &mut out);
        Some(out)
    }

    fn compress(&mut self, message: &[u8], window: Window) -> Option<&[u8]> {
        if message.len() < self.threshold {
            return None;
        }
        self.compressed += 1;
        self.compressor.compress(message, window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_enough_is_compressed_for_those_who_can_read_it() {
        let mut outgoing = Outgoing::new(100);
        let long = [b'x'; 100];
        let mut encode = |message: &[u8], window| {
            let mut out = Vec::new();
            outgoing.encode(Data::Text, message, window, &mut out);
            (out[0], out.len())
        };
        assert_eq!(encode(&long, None), (0x81, 102));
        assert_eq!(encode(&long[1..], Some(Window::FULL)), (0x81, 101));
        let (first, len) = encode(&long, Some(Window::SMALLEST));
        assert!(first == 0xc1 && len < 20);
        assert_eq!(outgoing.compressed, 1);
    }

    #[test]
    fn a_publication_is_the_same_frame_compressed() {
        let mut outgoing = Outgoing::new(0);
        let mut plain = Vec::new();
        frame::encode(OpCode::Data(Data::Text), &[b'x'; 1000], &mut plain);
        let compressed = outgoing.shared(&plain).unwrap_or_default();
        assert!(compressed[0] == 0xc1 && compressed.len() < 30);
        let mut ping = Vec::new();
        let opcode = tungstenite::protocol::frame::coding::Control::Ping;
        frame::encode(OpCode::Control(opcode), &[b'x'; 100], &mut ping);
        assert_eq!(outgoing.shared(&ping), None);
    }
}
