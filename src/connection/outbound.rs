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
    held: usize,
    /// Pongs among the frames.
    pub pongs: u32,
    /// The latest ping's, which goes out last, and instead of which a later one may.
    pong: Option<Frame>,
    /// The tick at which the kernel last took something, or the queue began.
    pub progress_tick: u32,
}

impl Outbound {
    /// An empty queue that begins at `tick`.
    pub fn new(tick: u32) -> Self {
        let frames = VecDeque::new();
        Self { frames, bytes: 0, held: 0, pongs: 0, pong: None, progress_tick: tick }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a frame behind the others.
    pub fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
        self.held += frame.held_bytes();
        self.frames.push_back(frame);
    }

    /// Memory that the frames hold for this connection alone, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Puts the pong for the latest ping behind everything; gives back an earlier one, which
    /// nobody waits for any more.
    pub fn set_pong(&mut self, pong: Frame) -> Option<Frame> {
        self.bytes += pong.len();
        self.held += pong.held_bytes();
        let earlier = self.pong.replace(pong)?;
        self.bytes -= earlier.len();
        self.held -= earlier.held_bytes();
        Some(earlier)
    }

    /// Takes the next frames to send: one, or several gathered. `None` if nothing waits.
    pub fn take(&mut self) -> Option<SendBatch> {
        let batch = match self.frames.len() {
            0 => SendBatch::one(self.pong.take()?),
            1 => SendBatch::one(self.frames.pop_front()?),
            waiting => {
                let count = waiting.min(limits::MAX_GATHERED_FRAMES);
                SendBatch::many(self.frames.drain(..count).collect())
            }
        };
        self.bytes -= batch.remaining();
        self.held -= batch.held_bytes();
        if self.frames.is_empty() {
            self.pongs = 0;
        }
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
        assert_eq!((outbound.bytes(), outbound.held_bytes()), (0, 0));
    }

    #[test]
    fn of_the_pongs_that_wait_at_the_end_only_the_latest_goes_out() {
        let mut outbound = Outbound::new(0);
        assert!(outbound.set_pong(Frame::Own(vec![1])).is_none());
        outbound.push(Frame::Own(vec![2]));
        assert!(outbound.set_pong(Frame::Own(vec![3, 3])).is_some());
        let mut sent = || outbound.take().map(|batch| batch.remaining());
        assert_eq!((sent(), sent(), sent()), (Some(1), Some(2), None));
        assert_eq!((outbound.bytes(), outbound.held_bytes()), (0, 0));
    }
}
