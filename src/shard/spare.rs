//! Buffers for bytes to send that are used again and again.

use crate::limits;

/// Buffers that are kept with time: of those above, each tick frees one.
const KEPT: usize = 8;

/// Empty buffers.
#[derive(Debug, Default)]
pub(super) struct Spare {
    buffers: Vec<Vec<u8>>,
}

impl Spare {
    /// An empty buffer; [`put`](Self::put) takes it back.
    pub(super) fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Keeps a buffer for later, unless there are enough or it is too large to keep.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        let worth_it = (1..=limits::SPARE_BUFFER_BYTES).contains(&buffer.capacity());
        if worth_it && self.buffers.len() < limits::SPARE_BUFFERS {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }

    /// With time fewer are kept: a shard that needs more has as many again in a moment.
    pub(super) fn on_tick(&mut self) {
        if self.buffers.len() > KEPT {
            self.buffers.pop();
        }
    }
}
