//! A message of which half is sent before the drain and half after the notice.

use tidegate::websocket::frame::encode_masked;
use tidegate::websocket::{Data, OpCode};

/// Bytes of the message, as text.
const LENGTH: usize = 3_000;
/// The bit of a frame's first byte that says "last frame of its message".
const FIN: u8 = 0x80;

/// The message and the half that was not sent.
#[derive(Debug)]
pub(crate) struct Unfinished {
    text: String,
    rest: Option<Vec<u8>>,
}

impl Unfinished {
    /// The message of connection `index`, and the bytes to send now. Every other one is cut
    /// between two fragments, the rest in the middle of a frame's payload.
    pub(super) fn new(index: u64, key: [u8; 4], other_key: [u8; 4]) -> (Self, Vec<u8>) {
        let text: String = format!("unfinished {index} ").chars().cycle().take(LENGTH).collect();
        let mut begin = Vec::new();
        let rest = if index.is_multiple_of(2) {
            let (first, last) = text.as_bytes().split_at(LENGTH / 2);
            encode_masked(OpCode::Data(Data::Text), first, key, &mut begin);
            if let Some(byte) = begin.first_mut() {
                *byte &= !FIN;
            }
            let mut rest = Vec::new();
            encode_masked(OpCode::Data(Data::Continue), last, other_key, &mut rest);
            rest
        } else {
            encode_masked(OpCode::Data(Data::Text), text.as_bytes(), key, &mut begin);
            begin.split_off(LENGTH / 2)
        };
        (Self { text, rest: Some(rest) }, begin)
    }

    /// The bytes that complete the message, once.
    pub(super) fn take_rest(&mut self) -> Option<Vec<u8>> {
        self.rest.take()
    }

    /// True if `text` is this message.
    pub(super) fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tidegate::websocket::frame::Role;
    use tidegate::websocket::{Event, Incoming, Rules};

    #[test]
    fn both_halves_make_one_message() {
        for index in [4, 5] {
            let (mut message, mut begin) = Unfinished::new(index, [1, 2, 3, 4], [5, 6, 7, 8]);
            let rules = Rules { role: Role::Server, max_message_bytes: 1 << 16 };
            let mut partial = None;
            assert_eq!(Incoming::new(&mut begin, &mut partial, rules).next(), Ok(None));
            let mut rest = message.take_rest().unwrap();
            assert!(message.take_rest().is_none());
            let mut incoming = Incoming::new(&mut rest, &mut partial, rules);
            let Ok(Some(Event::Text(text))) = incoming.next() else { panic!("{index}") };
            assert!(message.is(text));
        }
    }
}
