//! What has arrived of a frame or a message that is not finished: the only state that reading
//! leaves behind between two chunks.
//!
//! Invariants: a [`Partial`] exists only while something is unfinished; its memory grows with
//! the bytes that arrived, never with a declared length; a message never holds more than the
//! limit.

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::deflate;
use super::frame::{FrameHeader, HEADER_MAX};
use super::mask::apply_mask;
use super::utf8::Unfinished;
use super::violation::Violation;

/// What a fragment without payload costs of the message limit, in bytes, unless it ends the
/// message.
///
/// A fragment needs no memory of its own here, so its payload is a fair price, except that an
/// endless row of empty fragments would be free. A final empty fragment is, as it can come only
/// once, and many senders end their streams with one.
pub const EMPTY_FRAGMENT_CHARGE: usize = 16;

/// The unfinished header, frame and message of one connection.
#[derive(Debug, Default)]
pub struct Partial {
    /// The first bytes of a header that is not complete, `header_len` of them.
    header: [u8; HEADER_MAX],
    header_len: u8,
    /// The frame whose payload is arriving.
    frame: Option<OpenFrame>,
    /// The data message in progress; one may be open while a control frame arrives.
    message: Option<Message>,
    /// The payload so far of the control frame that is arriving.
    control: Vec<u8>,
    /// When it began, in the owner's time; the owner sets it.
    pub(crate) begun_tick: Option<u32>,
}

/// A frame whose header is complete and whose payload is not.
#[derive(Debug)]
struct OpenFrame {
    fin: bool,
    opcode: OpCode,
    key: Option<[u8; 4]>,
    remaining: usize,
    /// Position in the payload, for the mask.
    offset: usize,
}

/// A data message of which at least one header has arrived.
#[derive(Debug)]
struct Message {
    body: Body,
    /// How much of the limit is used up: payload announced by complete headers, and
    /// [`EMPTY_FRAGMENT_CHARGE`] for each empty fragment.
    charged: usize,
}

/// The payload so far.
#[derive(Debug)]
enum Body {
    Text {
        text: String,
        open: Unfinished,
    },
    Binary(Vec<u8>),
    /// Gathered as it came: inflating it needs no state between two of its pieces then, and what
    /// is held is what was sent.
    Compressed(Data, Vec<u8>),
}

/// What became complete out of pieces.
#[derive(Debug)]
pub(super) enum Finished {
    Text(String),
    Binary(Vec<u8>),
    Compressed(Data, Vec<u8>),
    Control(Control, Vec<u8>),
}

impl Partial {
    /// A data message has begun and not ended, wherever between its bytes the reader stands.
    pub fn mid_message(&self) -> bool {
        self.message.is_some()
    }

    /// A frame has begun and not ended: part of its header or of its payload has not arrived.
    pub fn mid_frame(&self) -> bool {
        self.header_len > 0 || self.frame.is_some()
    }

    /// Bytes of memory that the unfinished parts hold, this struct included.
    pub fn held_bytes(&self) -> usize {
        let body = match &self.message {
            None => 0,
            Some(Message { body: Body::Text { text, .. }, .. }) => text.capacity(),
            Some(Message { body: Body::Binary(bytes) | Body::Compressed(_, bytes), .. }) => {
                bytes.capacity()
            }
        };
        size_of::<Self>() + body + self.control.capacity()
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.mid_frame() && !self.mid_message()
    }

    pub(super) fn frame_is_open(&self) -> bool {
        self.frame.is_some()
    }

    /// The bytes of an incomplete header.
    pub(super) fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Takes as much of `bytes` as fits behind the header's first bytes. With [`HEADER_MAX`]
    /// bytes any header is complete; some of them may belong to the payload.
    pub(super) fn extend_header(&mut self, bytes: &[u8]) {
        let start = usize::from(self.header_len);
        let taken = bytes.len().min(HEADER_MAX - start);
        self.header[start..start + taken].copy_from_slice(&bytes[..taken]);
        self.header_len += taken as u8;
    }

    /// Forgets the header's bytes, once it was understood.
    pub(super) fn clear_header(&mut self) {
        self.header_len = 0;
    }

    /// How much payload the message in progress may still get, or the next one if there is none,
    /// where a plain message may have `max` bytes.
    pub(super) fn remaining(&self, max: usize) -> usize {
        let charged = self.message.as_ref().map_or(0, |message| message.charged);
        self.limit(max).saturating_sub(charged)
    }

    /// What the whole payload of the message in progress may have, if there is one, where a plain
    /// message may have `max` bytes.
    pub(super) fn limit(&self, max: usize) -> usize {
        match &self.message {
            Some(Message { body: Body::Compressed(..), .. }) => deflate::longest_compressed(max),
            _ => max,
        }
    }

    /// Begins the frame of `header`, which fits the message in progress (see
    /// [`check_sequence`]) and the limit.
    ///
    /// # Errors
    /// The charge for an empty fragment exceeds `max` (1009).
    pub(super) fn open_frame(&mut self, header: &FrameHeader, max: usize) -> Result<(), Violation> {
        let &FrameHeader { fin, opcode, compressed, mask, payload_len, .. } = header;
        if let OpCode::Data(kind) = opcode {
            let message = self.message.get_or_insert_with(|| Message::new(kind, compressed));
            let empty = payload_len == 0 && !fin;
            message.charged += if empty { EMPTY_FRAGMENT_CHARGE } else { payload_len };
            let charged = message.charged;
            if charged > self.limit(max) {
                return Err(Violation::MessageTooBig);
            }
        }
        self.frame = Some(OpenFrame { fin, opcode, key: mask, remaining: payload_len, offset: 0 });
        Ok(())
    }

    /// Takes the payload of the open frame from the front of `input`, unmasking it there.
    /// Returns how many bytes were taken, and what became complete with them.
    ///
    /// # Errors
    /// Text that is not UTF-8, at the first byte that shows it, or a text message that ends
    /// inside a character (1007).
    pub(super) fn fill_frame(
        &mut self,
        input: &mut [u8],
        max: usize,
    ) -> Result<(usize, Option<Finished>), Violation> {
        let limit = self.limit(max);
        let Some(frame) = &mut self.frame else { return Ok((0, None)) };
        let taken = input.len().min(frame.remaining);
        let piece = &mut input[..taken];
        if let Some(key) = frame.key {
            apply_mask(piece, key, frame.offset);
        }
        frame.offset += taken;
        frame.remaining -= taken;
        match (frame.opcode, &mut self.message) {
            (OpCode::Control(_), _) => self.control.extend_from_slice(piece),
            (OpCode::Data(_), Some(message)) => message.append(piece, limit)?,
            (OpCode::Data(_), None) => debug_assert!(false, "a data frame opens its message"),
        }
        if frame.remaining > 0 {
            return Ok((taken, None));
        }
        Ok((taken, self.close_frame()?))
    }

    fn close_frame(&mut self) -> Result<Option<Finished>, Violation> {
        let Some(frame) = self.frame.take() else { return Ok(None) };
        match frame.opcode {
            OpCode::Control(kind) => {
                Ok(Some(Finished::Control(kind, std::mem::take(&mut self.control))))
            }
            OpCode::Data(_) if frame.fin => self.message.take().map(Message::finish).transpose(),
            OpCode::Data(_) => Ok(None),
        }
    }
}

/// Whether a frame of this kind may come now: a continuation needs a message in progress, and
/// while there is one nothing but continuations and control frames may come (section 5.4).
#[inline]
pub(super) fn check_sequence(opcode: OpCode, mid_message: bool) -> Result<(), Violation> {
    match opcode {
        OpCode::Data(Data::Continue) if !mid_message => Err(Violation::NothingToContinue),
        OpCode::Data(Data::Text | Data::Binary) if mid_message => Err(Violation::MessageInProgress),
        _ => Ok(()),
    }
}

impl Message {
    fn new(kind: Data, compressed: bool) -> Self {
        let body = match kind {
            _ if compressed => Body::Compressed(kind, Vec::new()),
            Data::Text => Body::Text { text: String::new(), open: Unfinished::default() },
            _ => Body::Binary(Vec::new()),
        };
        Self { body, charged: 0 }
    }

    fn append(&mut self, piece: &[u8], max: usize) -> Result<(), Violation> {
        match &mut self.body {
            Body::Text { text, open } => {
                // A character kept open from the piece before comes on top of this piece.
                text.reserve_exact(growth(text.len(), text.capacity(), piece.len() + 3, max));
                open.push(piece, text).map_err(|_| Violation::InvalidUtf8)
            }
            Body::Binary(bytes) | Body::Compressed(_, bytes) => {
                bytes.reserve_exact(growth(bytes.len(), bytes.capacity(), piece.len(), max));
                bytes.extend_from_slice(piece);
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Finished, Violation> {
        match self.body {
            Body::Text { text, open } if open.is_empty() => Ok(Finished::Text(text)),
            Body::Text { .. } => Err(Violation::InvalidUtf8),
            Body::Binary(bytes) => Ok(Finished::Binary(bytes)),
            Body::Compressed(kind, bytes) => Ok(Finished::Compressed(kind, bytes)),
        }
    }
}

/// How much to reserve beyond `len` so that `more` bytes fit: doubling, so that the copying
/// stays linear, but never beyond what the largest message needs.
fn growth(len: usize, capacity: usize, more: usize, max: usize) -> usize {
    if capacity - len >= more {
        return 0;
    }
    more.max((2 * capacity).min(max).saturating_sub(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_an_unfinished_message_is_small() {
        assert!(size_of::<Partial>() <= 144, "{}", size_of::<Partial>());
    }

    #[test]
    fn growth_doubles_up_to_the_limit() {
        assert_eq!(growth(0, 0, 10, 1000), 10);
        assert_eq!(growth(10, 10, 1, 1000), 10);
        assert_eq!(growth(10, 20, 10, 1000), 0);
        assert_eq!(growth(900, 900, 10, 1000), 100);
        assert_eq!(growth(1000, 1000, 3, 1000), 3);
    }

    #[test]
    fn a_control_frame_or_a_header_is_not_a_message() {
        let mut partial = Partial::default();
        assert!(partial.is_idle());
        partial.extend_header(&[0x89]);
        assert!(partial.mid_frame() && !partial.mid_message());
        partial.clear_header();
        let header = FrameHeader {
            fin: true,
            opcode: OpCode::Control(Control::Ping),
            compressed: false,
            mask: None,
            payload_len: 3,
            header_len: 2,
        };
        assert_eq!(partial.open_frame(&header, 10), Ok(()));
        assert!(partial.mid_frame() && !partial.mid_message());
        let taken =
            partial.fill_frame(&mut [1, 2], 10).map(|(taken, done)| (taken, done.is_none()));
        assert_eq!(taken, Ok((2, true)));
        assert!(partial.held_bytes() >= size_of::<Partial>() + 2);
    }
}
