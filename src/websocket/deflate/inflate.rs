//! From the payload of a compressed message to the message (RFC 7692 section 7.2.2).
//!
//! The output is made in steps and never exceeds the limit by more than one byte, whatever the
//! input promises: a bomb costs what the largest message costs. After an error nothing more is
//! made of the input. Invariant: the state is fresh before every message.

use flate2::{Decompress, FlushDecompress, Status};

use crate::websocket::Violation;

/// What the sender left away at the end of the message.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// The output of one step, in bytes, and what is kept of the buffer between two messages.
const STEP: usize = 16 << 10;

/// A message may be made of several DEFLATE streams, each ended by a final block (section
/// 7.2.3.4). A sender that cannot flush ends one for each fragment. Beginning one costs much
/// more than its two bytes, so they are bounded.
const STREAMS_MAX: usize = 1024;

/// Reads compressed messages, one after the other.
#[derive(Debug)]
pub struct Inflater {
    state: Decompress,
    pub(super) output: Vec<u8>,
    /// Messages read, since the counter was last taken.
    pub(crate) messages: u64,
}

impl Default for Inflater {
    fn default() -> Self {
        Self { state: Decompress::new(false), output: Vec::new(), messages: 0 }
    }
}

impl Inflater {
    /// The message with this payload, all its fragments together; at most `max` bytes.
    ///
    /// # Errors
    /// The message is longer than `max` ([`Violation::MessageTooBig`]), or the payload is not
    /// DEFLATE ([`Violation::InvalidDeflate`]).
    pub fn inflate(&mut self, payload: &[u8], max: usize) -> Result<&[u8], Violation> {
        self.messages += 1;
        self.state.reset(false);
        if self.output.len() > STEP {
            self.output = Vec::new();
        }
        if payload.is_empty() {
            // Not what a compressor makes of an empty message (one byte), but clear enough.
            return Ok(&[]);
        }
        let mut progress = Progress { len: 0, streams: 1, max };
        self.feed(payload, &mut progress)?;
        self.feed(&TAIL, &mut progress)?;
        Ok(&self.output[..progress.len])
    }

    fn feed(&mut self, mut input: &[u8], progress: &mut Progress) -> Result<(), Violation> {
        while !input.is_empty() {
            self.make_room(progress);
            let (taken, made) = (self.state.total_in(), self.state.total_out());
            let room = &mut self.output[progress.len..];
            let status = self.state.decompress(input, room, FlushDecompress::None);
            let status = status.map_err(|_| Violation::InvalidDeflate)?;
            let taken = (self.state.total_in() - taken) as usize;
            let made = (self.state.total_out() - made) as usize;
            input = &input[taken..];
            progress.len += made;
            if progress.len > progress.max {
                return Err(Violation::MessageTooBig);
            }
            match status {
                Status::StreamEnd => {
                    progress.streams += 1;
                    if progress.streams > STREAMS_MAX {
                        return Err(Violation::InvalidDeflate);
                    }
                    self.state.reset(false);
                }
                // No step may be for nothing, or there would be no end to them.
                _ if taken == 0 && made == 0 => return Err(Violation::InvalidDeflate),
                _ => {}
            }
        }
        self.drain(progress)
    }

    /// What the state still holds of the output once all input is taken.
    fn drain(&mut self, progress: &mut Progress) -> Result<(), Violation> {
        while progress.len == self.output.len() {
            self.make_room(progress);
            let made = self.state.total_out();
            let room = &mut self.output[progress.len..];
            let status = self.state.decompress(&[], room, FlushDecompress::None);
            let made = (self.state.total_out() - made) as usize;
            progress.len += made;
            if progress.len > progress.max {
                return Err(Violation::MessageTooBig);
            }
            // An error here says that there was nothing to do.
            if made == 0 || !matches!(status, Ok(Status::Ok | Status::BufError)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Room for one more step, up to one byte more than the message may have.
    fn make_room(&mut self, progress: &Progress) {
        if progress.len == self.output.len() {
            let longer = (2 * self.output.len()).max(STEP).min(progress.max.saturating_add(1));
            self.output.resize(longer.max(progress.len + 1), 0);
        }
    }
}

/// How far a message has come.
struct Progress {
    len: usize,
    streams: usize,
    max: usize,
}
