//! Frames that wait behind the send in flight.
//!
//! Exists only while something waits. A stuck reader costs handles here, never copies: a
//! publication is one encoded frame for all its subscribers.

use std::collections::VecDeque;

use crate::limits;
use crate::ring::{Frame, SendBatch};

/// The queue of one connection.
#[derive(Debug)]
pub struct Outbound {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// The tick at which the kernel last took something, or the queue began.
    pub progress_tick: u32,
}

impl Outbound {
    /// An empty queue that begins at `tick`.
    pub fn new(tick: u32) -> Self {
        Self { frames: VecDeque::new(), bytes: 0, progress_tick: tick }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a frame behind the others.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// Takes the next frames to send: one, or several gathered. `None` if nothing waits.
    pub fn take(&mut self) -> Option<SendBatch> {
        let batch = match self.frames.len() {
            0 => return None,
            1 => SendBatch::one(self.frames.pop_front()?),
            waiting => {
                let count = waiting.min(limits::MAX_GATHERED_FRAMES);
                SendBatch::many(self.frames.drain(..count).collect())
            }
        };
        self.bytes -= batch.remaining();
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_leave_in_order_and_bytes_add_up() {
        let mut outbound = Outbound::new(0);
        for n in 0..100_u8 {
            outbound.push(Frame::Own(vec![n; 2]));
        }
        assert_eq!(outbound.bytes(), 200);
        let mut seen = Vec::new();
        while let Some(batch) = outbound.take() {
            match batch {
                SendBatch::One { frame, .. } => seen.push(frame.bytes()[0]),
                SendBatch::Many { frames, .. } => seen.extend(frames.iter().map(|f| f.bytes()[0])),
            }
        }
        assert_eq!(seen, (0..100).collect::<Vec<u8>>());
        assert_eq!(outbound.bytes(), 0);
    }
}
