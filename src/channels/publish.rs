//! Encodes a publication once; every connection of every shard sends the same bytes.

use std::sync::Arc;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Data, OpCode};

/// A final, unmasked text frame (RFC 6455 5.2) around `payload`.
pub fn text_frame(payload: &str) -> Arc<[u8]> {
    let header = FrameHeader { opcode: OpCode::Data(Data::Text), ..FrameHeader::default() };
    let len = payload.len() as u64;
    let mut bytes = Vec::with_capacity(header.len(len) + payload.len());
    // Writing into a Vec cannot fail.
    let _ = header.format(len, &mut bytes);
    bytes.extend_from_slice(payload.as_bytes());
    bytes.into()
}

/// What plain clients receive for `POST /api/v1/broadcast` (S2.27).
pub fn broadcast_text(message: &str, title: &str, level: &str) -> String {
    serde_json::json!({ "type": "broadcast", "title": title, "message": message, "level": level })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_their_shortest_form() {
        assert_eq!(text_frame("hi").as_ref(), b"\x81\x02hi");
        assert_eq!(text_frame(&"x".repeat(126))[..4], [0x81, 126, 0, 126]);
        assert_eq!(text_frame(&"x".repeat(65_536))[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
