//! From a message to the payload of a compressed one (RFC 7692 section 7.2.1).

use flate2::{Compress, Compression, FlushCompress, Status};

use super::Window;

/// How hard is tried, of 9: of a kilobyte of JSON the higher levels save a few per cent more and
/// take twice as long.
const LEVEL: Compression = Compression::new(3);

/// Messages longer than this are sent as they are: compressing one takes several milliseconds,
/// and for so long nobody else on the shard would be served.
pub const LONGEST: usize = 256 << 10;

/// Compresses messages, each by itself. It holds one state for each window that was asked for, a
/// third of a megabyte each.
#[derive(Debug, Default)]
pub struct Compressor {
    states: [Option<Box<Compress>>; 7],
    output: Vec<u8>,
}

impl Compressor {
    /// The payload of a frame with RSV1 for this message; `None` if it would not be shorter than
    /// the message, or the message is longer than [`LONGEST`].
    pub fn compress(&mut self, message: &[u8], window: Window) -> Option<&[u8]> {
        if message.len() > LONGEST {
            return None;
        }
        let state = self.states[usize::from(window.code()) - 1].get_or_insert_with(|| {
            Box::new(Compress::new_with_window_bits(LEVEL, false, window.bits()))
        });
        state.reset();
        // What has no room here is not worth sending; four bytes are cut off again.
        self.output.resize(message.len() + 4, 0);
        let status = state.compress(message, &mut self.output, FlushCompress::Sync);
        let made = state.total_out() as usize;
        let whole = state.total_in() as usize == message.len() && made < self.output.len();
        if !matches!(status, Ok(Status::Ok)) || !whole {
            return None;
        }
        let payload = self.output[..made].strip_suffix(&[0, 0, 0xff, 0xff])?;
        (payload.len() < message.len()).then_some(payload)
    }
}
