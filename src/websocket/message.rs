//! From received bytes to messages: a pull decoder over one chunk.
//!
//! A frame that lies whole in the chunk is unmasked in place and handed out as a slice of it.
//! What must wait for more bytes moves into a [`Partial`], which exists only as long as it is
//! needed: an idle connection holds none.
//!
//! Not here: what to answer (pongs, the closing handshake), rates, and deadlines.

use std::ops::Range;

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::close_frame;
use super::deflate::{self, Inflater};
use super::frame::{self, FrameHeader, PayloadMax, Role};
use super::mask::apply_mask;
use super::partial::{Finished, Partial, check_sequence};
use super::violation::Violation;

/// What the peer sent, complete and valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping; its payload, at most 125 bytes, belongs in the pong.
    Ping(&'a [u8]),
    /// A pong, asked for or not.
    Pong(&'a [u8]),
    /// The peer is closing; nothing that follows is read (section 5.5.1).
    Close {
        /// Absent when the peer gave none. Always one that may be sent.
        code: Option<u16>,
        /// At most 123 bytes; empty when the peer gave none.
        reason: &'a str,
    },
}

impl Event<'_> {
    /// Bytes of the message, inflated; 0 for anything else.
    pub fn message_bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Binary(bytes) => bytes.len(),
            Self::Ping(_) | Self::Pong(_) | Self::Close { .. } => 0,
        }
    }
}

/// What the reader accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Which end of the connection we are.
    pub role: Role,
    /// The most bytes a message may have over all its fragments, inflated if it is compressed;
    /// beyond, 1009. Empty fragments count too: see [`EMPTY_FRAGMENT_CHARGE`](super::partial::EMPTY_FRAGMENT_CHARGE).
    pub max_message_bytes: usize,
}

/// The decoder of one received chunk. Call [`next`](Self::next) until it returns `None`.
#[derive(Debug)]
pub struct Incoming<'a> {
    input: &'a mut [u8],
    position: usize,
    partial: &'a mut Option<Box<Partial>>,
    rules: Rules,
    /// Present if compression was negotiated.
    inflater: Option<&'a mut Inflater>,
    /// Keeps alive what the last event points to, when that is not the chunk.
    finished: Option<Finished>,
}

/// A complete message or control frame, before its payload is shown.
enum Ready {
    /// Whole in the chunk, unmasked.
    InInput(OpCode, Range<usize>),
    /// The same, compressed.
    CompressedInInput(Data, Range<usize>),
    /// Put together from pieces.
    Assembled(Finished),
}

enum Step {
    Ready(Ready),
    Again,
    NeedMore,
}

impl<'a> Incoming<'a> {
    /// Reads `input`, which continues where the last chunk of this connection ended, and is
    /// unmasked in place. `partial` is what the last chunk left open; between two connections'
    /// lives it must be `None`.
    pub fn new(input: &'a mut [u8], partial: &'a mut Option<Box<Partial>>, rules: Rules) -> Self {
        Self { input, position: 0, partial, rules, inflater: None, finished: None }
    }

    /// The same on a connection that has negotiated compression: messages may have RSV1, and
    /// `inflater` reads them.
    pub fn inflating(mut self, inflater: &'a mut Inflater) -> Self {
        self.inflater = Some(inflater);
        self
    }

    /// The next complete message or control frame; `None` when the chunk is used up, and after
    /// a Close. Then `partial` is `Some` only if a frame or a message is unfinished.
    ///
    /// # Errors
    /// The first rule the peer broke. Nothing more can be read from this connection: drop the
    /// decoder and the partial, and close.
    // Not an iterator: the event borrows the decoder.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Violation> {
        self.finished = None;
        match self.advance()? {
            Some(ready) => self.show(ready).map(Some),
            None => Ok(None),
        }
    }

    /// The frames of the chunk behind what [`next`](Self::next) has given, as they came.
    pub fn rest(&self) -> &[u8] {
        &self.input[self.position..]
    }

    #[inline]
    fn advance(&mut self) -> Result<Option<Ready>, Violation> {
        loop {
            let step = match self.partial.as_deref() {
                Some(partial) if partial.frame_is_open() => self.continue_frame()?,
                Some(partial) if partial.mid_frame() => self.continue_header()?,
                _ => self.begin_frame()?,
            };
            match step {
                Step::Ready(ready) => return Ok(Some(ready)),
                Step::Again => {}
                Step::NeedMore => return Ok(None),
            }
        }
    }

    #[inline]
    fn begin_frame(&mut self) -> Result<Step, Violation> {
        let rest = &self.input[self.position..];
        if rest.is_empty() {
            return Ok(Step::NeedMore);
        }
        if let Some(header) = frame::parse_header(rest, self.rules.role, self.payload_max())? {
            self.position += header.header_len;
            return self.enter_frame(&header);
        }
        self.position = self.input.len();
        self.partial.get_or_insert_default().extend_header(rest);
        Ok(Step::NeedMore)
    }

    fn continue_header(&mut self) -> Result<Step, Violation> {
        let payload_max = self.payload_max();
        let Some(partial) = self.partial.as_deref_mut() else { return Ok(Step::Again) };
        let rest = &self.input[self.position..];
        let before = partial.header().len();
        partial.extend_header(rest);
        match frame::parse_header(partial.header(), self.rules.role, payload_max)? {
            Some(header) => {
                partial.clear_header();
                self.position += header.header_len - before;
                self.release_partial();
                self.enter_frame(&header)
            }
            None => {
                self.position = self.input.len();
                Ok(Step::NeedMore)
            }
        }
    }

    /// The header is complete and `position` stands behind it.
    #[inline]
    fn enter_frame(&mut self, header: &FrameHeader) -> Result<Step, Violation> {
        let mid_message = self.partial.as_ref().is_some_and(|partial| partial.mid_message());
        check_sequence(header.opcode, mid_message)?;
        let available = self.input.len() - self.position;
        let whole = header.fin && !matches!(header.opcode, OpCode::Data(Data::Continue));
        if whole && available >= header.payload_len {
            let payload = self.position..self.position + header.payload_len;
            if let Some(key) = header.mask {
                apply_mask(&mut self.input[payload.clone()], key, 0);
            }
            self.position = payload.end;
            let ready = match header.opcode {
                OpCode::Data(kind) if header.compressed => Ready::CompressedInInput(kind, payload),
                opcode => Ready::InInput(opcode, payload),
            };
            return Ok(Step::Ready(ready));
        }
        self.partial.get_or_insert_default().open_frame(header, self.rules.max_message_bytes)?;
        Ok(Step::Again)
    }

    fn continue_frame(&mut self) -> Result<Step, Violation> {
        let Some(partial) = self.partial.as_deref_mut() else { return Ok(Step::Again) };
        let rest = &mut self.input[self.position..];
        let (taken, finished) = partial.fill_frame(rest, self.rules.max_message_bytes)?;
        self.position += taken;
        if partial.frame_is_open() {
            return Ok(Step::NeedMore);
        }
        self.release_partial();
        Ok(finished.map_or(Step::Again, |finished| Step::Ready(Ready::Assembled(finished))))
    }

    /// How much payload the message in progress, or the next one, may still get.
    #[inline]
    fn payload_max(&self) -> PayloadMax {
        let max = self.rules.max_message_bytes;
        PayloadMax {
            plain: self.partial.as_ref().map_or(max, |partial| partial.remaining(max)),
            compressed: self.inflater.as_ref().map(|_| deflate::longest_compressed(max)),
        }
    }

    fn release_partial(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| partial.is_idle()) {
            *self.partial = None;
        }
    }

    #[inline]
    fn show(&mut self, ready: Ready) -> Result<Event<'_>, Violation> {
        match ready {
            Ready::InInput(OpCode::Data(Data::Text), range) => {
                let text = simdutf8::basic::from_utf8(&self.input[range]);
                text.map(Event::Text).map_err(|_| Violation::InvalidUtf8)
            }
            Ready::InInput(OpCode::Data(_), range) => Ok(Event::Binary(&self.input[range])),
            Ready::CompressedInInput(kind, range) => {
                let max = self.rules.max_message_bytes;
                inflate(self.inflater.as_deref_mut(), kind, &self.input[range], max)
            }
            Ready::InInput(OpCode::Control(kind), range) => {
                self.stop_after(kind);
                show_control(kind, &self.input[range])
            }
            Ready::Assembled(finished) => {
                if let Finished::Control(kind, _) = finished {
                    self.stop_after(kind);
                }
                let max = self.rules.max_message_bytes;
                match self.finished.insert(finished) {
                    Finished::Text(text) => Ok(Event::Text(text)),
                    Finished::Binary(bytes) => Ok(Event::Binary(bytes)),
                    Finished::Compressed(kind, bytes) => {
                        inflate(self.inflater.as_deref_mut(), *kind, bytes, max)
                    }
                    Finished::Control(kind, payload) => show_control(*kind, payload),
                }
            }
        }
    }

    /// Nothing that follows a Close is read.
    fn stop_after(&mut self, kind: Control) {
        if kind == Control::Close {
            self.position = self.input.len();
            *self.partial = None;
        }
    }
}

fn inflate<'m>(
    inflater: Option<&'m mut Inflater>,
    kind: Data,
    payload: &[u8],
    max: usize,
) -> Result<Event<'m>, Violation> {
    // Without one no header with RSV1 was let pass.
    let message = inflater.ok_or(Violation::ReservedBits)?.inflate(payload, max)?;
    match kind {
        Data::Text => {
            let text = simdutf8::basic::from_utf8(message);
            text.map(Event::Text).map_err(|_| Violation::InvalidUtf8)
        }
        _ => Ok(Event::Binary(message)),
    }
}

fn show_control(kind: Control, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match kind {
        Control::Ping => Ok(Event::Ping(payload)),
        Control::Pong => Ok(Event::Pong(payload)),
        Control::Close => {
            let (code, reason) = close_frame::parse(payload)?;
            Ok(Event::Close { code, reason })
        }
        Control::Reserved(_) => Err(Violation::ReservedOpcode),
    }
}

#[cfg(test)]
mod tests;
