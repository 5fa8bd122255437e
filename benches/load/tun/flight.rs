//! What a client has sent and the server has not acknowledged.

use super::segment::{ACK, FIN, MSS, PSH, SYN};

/// What was sent and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Sequence number of the first of it.
    pub(super) start: u32,
    pub(super) syn: bool,
    pub(super) bytes: Vec<u8>,
    pub(super) fin: bool,
    /// How often it was sent again without an answer.
    pub(super) retries: u8,
    /// When it is sent again.
    pub(super) due_us: u64,
}

impl Flight {
    pub(super) fn len(&self) -> u32 {
        u32::from(self.syn) + self.bytes.len() as u32 + u32::from(self.fin)
    }

    /// Takes away what `ack` acknowledges; false if it acknowledges nothing new.
    pub(super) fn acknowledge(&mut self, ack: u32) -> bool {
        let mut count = ack.wrapping_sub(self.start);
        if count == 0 || count > self.len() {
            return false;
        }
        self.start = ack;
        if self.syn {
            self.syn = false;
            count -= 1;
        }
        let bytes = (count as usize).min(self.bytes.len());
        self.bytes.drain(..bytes);
        self.fin &= count as usize == bytes;
        true
    }

    /// What is sent again first: flags and payload of one segment.
    pub(super) fn first(&self) -> (u8, &[u8]) {
        let piece = self.bytes.len().min(MSS.into());
        let fin = self.fin && piece == self.bytes.len();
        match (self.syn, fin) {
            (true, _) => (SYN, &[]),
            (false, true) => (FIN | ACK, &self.bytes[..piece]),
            (false, false) => (PSH | ACK, &self.bytes[..piece]),
        }
    }
}
