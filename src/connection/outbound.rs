//! Frames that wait behind the send in flight, and how far the client has come with what was sent.
//!
//! Exists only while something waits, or while a client that takes it slowly is watched. A stuck
//! reader costs handles here, never copies: a publication is one encoded frame for all its
//! subscribers.
//!
//! Order (RFC 6455 sections 5.4 and 5.5): pings and pongs go before the messages that wait, but not
//! into a frame that has begun. Close goes behind all messages, because it is the end of the
//! stream; where there is no time for them they are dropped, and Close follows the frame that has
//! begun.

use std::collections::VecDeque;

use super::progress::Progress;
use crate::limits;
use crate::ring::{Frame, SendBatch};

/// The queue of one connection.
#[derive(Debug)]
pub struct Outbound {
    /// First the control frames, then the others.
    frames: VecDeque<Frame>,
    /// How many of them are control frames.
    controls: usize,
    bytes: usize,
    held: usize,
    /// Pongs among the frames.
    pub pongs: u32,
    /// The latest ping's, instead of which a later one may go out.
    pong: Option<Frame>,
    /// The last frame is Close, and nothing else is to go out but what has begun.
    only_close: bool,
    /// How far the client has come.
    pub progress: Progress,
}

impl Outbound {
    /// An empty queue that begins at `tick`.
    pub fn new(tick: u32) -> Self {
        Self {
            frames: VecDeque::new(),
            controls: 0,
            bytes: 0,
            held: 0,
            pongs: 0,
            pong: None,
            only_close: false,
            progress: Progress::new(tick),
        }
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.pong.is_none()
    }

    /// Puts a frame behind the others.
    pub fn push(&mut self, frame: Frame) {
        self.count_in(&frame);
        self.frames.push_back(frame);
    }

    /// Puts a ping, or pongs, behind other control frames and before all messages.
    pub fn push_control(&mut self, frame: Frame) {
        self.count_in(&frame);
        self.frames.insert(self.controls, frame);
        self.controls += 1;
    }

    /// Memory that the frames hold for this connection alone, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held
    }

    /// Puts the pong for the latest ping before all messages, in place of an earlier one, which
    /// nobody waits for any more.
    pub fn set_pong(&mut self, pong: Frame) {
        self.count_in(&pong);
        if let Some(earlier) = self.pong.replace(pong) {
            self.count_out(&earlier);
        }
    }

    /// Drops all that waits but the last frame, which is Close.
    pub fn drop_all_but_close(&mut self) {
        self.only_close = true;
        let close = self.frames.pop_back();
        self.frames.clear();
        (self.controls, self.bytes, self.held, self.pongs, self.pong) = (0, 0, 0, 0, None);
        if let Some(close) = close {
            self.push(close);
        }
    }

    /// What goes out next, at most `room` bytes of what has not begun: the rest of `unfinished`,
    /// then control frames, then others, several gathered. If there is no room for a message, and
    /// then for Close, messages are dropped and Close goes. `None` if nothing waits.
    pub fn next(
        &mut self,
        mut unfinished: Option<SendBatch>,
        room: Option<usize>,
    ) -> Option<SendBatch> {
        if let Some(batch) = &mut unfinished {
            if room.is_some() || self.only_close {
                self.take_back(batch.take_unbegun());
            }
            if self.controls > 0 || self.pong.is_some() {
                let controls = self.take_controls();
                batch.insert(controls);
            }
            if batch.remaining() > 0 {
                return unfinished;
            }
        }
        match room {
            Some(room) => self.take_within(room),
            None => self.take(),
        }
    }

    /// Takes the next frames to send: one, or several gathered.
    fn take(&mut self) -> Option<SendBatch> {
        self.line_up_pong();
        self.take_first(self.frames.len().min(limits::MAX_GATHERED_FRAMES))
    }

    fn line_up_pong(&mut self) {
        if let Some(pong) = self.pong.take() {
            self.frames.insert(self.controls, pong);
            self.controls += 1;
        }
    }

    fn take_first(&mut self, count: usize) -> Option<SendBatch> {
        let batch = match count {
            0 => return None,
            1 => SendBatch::one(self.frames.pop_front()?),
            _ => SendBatch::many(self.frames.drain(..count).collect()),
        };
        self.controls = self.controls.saturating_sub(count);
        self.bytes -= batch.remaining();
        self.held -= batch.held_bytes();
        if self.controls == 0 {
            self.pongs = 0;
        }
        Some(batch)
    }

    /// Takes the next frames before Close that there is room for, or Close if there is none.
    fn take_within(&mut self, room: usize) -> Option<SendBatch> {
        self.line_up_pong();
        let messages = self.frames.len().saturating_sub(1);
        let mut left = room.min(limits::KERNEL_UNSENT_BYTES as usize);
        let mut count = 0;
        for frame in self.frames.iter().take(messages.min(limits::MAX_GATHERED_FRAMES)) {
            // One may be longer than what the kernel takes at once, but not than the room.
            if frame.len() > left && (count > 0 || frame.len() > room) {
                break;
            }
            left = left.saturating_sub(frame.len());
            count += 1;
        }
        if count == 0 && messages > 0 {
            self.drop_all_but_close();
        }
        self.take_first(count.max(1).min(self.frames.len()))
    }

    fn take_controls(&mut self) -> Vec<Frame> {
        self.line_up_pong();
        let controls: Vec<Frame> = self.frames.drain(..self.controls).collect();
        (self.controls, self.pongs) = (0, 0);
        controls.iter().for_each(|frame| self.count_out(frame));
        controls
    }

    /// Puts frames back to where they were taken from, unless nothing but Close is to go out.
    fn take_back(&mut self, frames: Vec<Frame>) {
        // Close is the last that was pushed, so it is among these only if nothing waits.
        let keep =
            if !self.only_close { frames.len() } else { usize::from(self.frames.is_empty()) };
        let skip = frames.len().saturating_sub(keep);
        for frame in frames.into_iter().skip(skip).rev() {
            self.count_in(&frame);
            self.frames.insert(self.controls, frame);
        }
    }

    fn count_in(&mut self, frame: &Frame) {
        self.bytes += frame.len();
        self.held += frame.held_bytes();
    }

    fn count_out(&mut self, frame: &Frame) {
        self.bytes -= frame.len();
        self.held -= frame.held_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(bytes: &[u8]) -> Frame {
        Frame::Own(bytes.to_vec())
    }

    fn sent(batch: Option<SendBatch>) -> Vec<u8> {
        match batch {
            None => Vec::new(),
            Some(SendBatch::One { frame, sent }) => frame.bytes()[sent..].to_vec(),
            Some(SendBatch::Many { frames, sent }) => {
                let all: Vec<u8> = frames.iter().flat_map(|frame| frame.bytes().to_vec()).collect();
                all[sent..].to_vec()
            }
        }
    }

    #[track_caller]
    fn assert_empty(outbound: &Outbound) {
        assert!(outbound.is_empty());
        assert_eq!((outbound.bytes(), outbound.held_bytes()), (0, 0));
    }

    #[test]
    fn frames_leave_in_order_and_bytes_add_up() {
        let mut outbound = Outbound::new(0);
        for n in 0..100_u8 {
            outbound.push(own(&[n; 2]));
        }
        assert_eq!(outbound.bytes(), 200);
        let mut seen = Vec::new();
        while let Some(batch) = outbound.next(None, None) {
            seen.extend(sent(Some(batch)));
        }
        assert_eq!(seen, (0..100).flat_map(|n| [n, n]).collect::<Vec<u8>>());
        assert_empty(&outbound);
    }

    #[test]
    fn control_frames_go_before_messages_and_of_the_late_pongs_only_the_latest() {
        let mut outbound = Outbound::new(0);
        outbound.push(own(b"ab"));
        outbound.set_pong(own(b"1"));
        outbound.push_control(own(b"p"));
        outbound.set_pong(own(b"2"));
        outbound.push_control(own(b"q"));
        outbound.push(own(b"cd"));
        assert_eq!(sent(outbound.next(None, None)), b"pq2abcd");
        assert_empty(&outbound);
    }

    #[test]
    fn control_frames_do_not_go_into_a_frame_that_has_begun() {
        let mut outbound = Outbound::new(0);
        let mut batch = SendBatch::many(vec![own(b"abcd"), own(b"ef")]);
        batch.advance(1);
        outbound.push(own(b"gh"));
        outbound.push_control(own(b"p"));
        outbound.set_pong(own(b"1"));
        assert_eq!(sent(outbound.next(Some(batch), None)), b"bcdp1ef");
        assert_eq!(sent(outbound.next(None, None)), b"gh");
        assert_empty(&outbound);
    }

    fn leaving() -> (Outbound, SendBatch) {
        let mut outbound = Outbound::new(0);
        outbound.push(own(b"ghi"));
        outbound.push(own(b"CLOSE"));
        let mut batch = SendBatch::many(vec![own(b"abc"), own(b"def")]);
        batch.advance(1);
        (outbound, batch)
    }

    #[test]
    fn messages_go_before_close_as_long_as_there_is_room() {
        let (mut outbound, batch) = leaving();
        assert_eq!(sent(outbound.next(Some(batch), Some(100))), b"bc", "what has begun");
        assert_eq!(sent(outbound.next(None, Some(5))), b"def");
        assert_eq!(sent(outbound.next(None, Some(3))), b"ghi");
        assert_eq!(sent(outbound.next(None, Some(0))), b"CLOSE");
        assert_eq!(sent(outbound.next(None, Some(100))), b"");
        assert_empty(&outbound);
        let (mut outbound, batch) = leaving();
        outbound.next(Some(batch), Some(100));
        assert_eq!(sent(outbound.next(None, Some(2))), b"CLOSE");
        assert_empty(&outbound);
    }

    #[test]
    fn close_follows_what_has_begun_when_nothing_else_may() {
        let (mut outbound, batch) = leaving();
        outbound.drop_all_but_close();
        assert_eq!(sent(outbound.next(Some(batch), None)), b"bc");
        assert_eq!(sent(outbound.next(None, None)), b"CLOSE");
        assert_empty(&outbound);
        // Close itself may be in the batch.
        let mut outbound = Outbound::new(0);
        outbound.drop_all_but_close();
        let mut batch = SendBatch::many(vec![own(b"abc"), own(b"def"), own(b"CLOSE")]);
        batch.advance(1);
        assert_eq!(sent(outbound.next(Some(batch), None)), b"bc");
        assert_eq!(sent(outbound.next(None, None)), b"CLOSE");
        assert_empty(&outbound);
    }

    #[test]
    fn a_message_longer_than_the_kernel_takes_at_once_has_room_if_there_is_time_for_it() {
        let most = limits::KERNEL_UNSENT_BYTES as usize;
        let mut outbound = Outbound::new(0);
        outbound.push(own(&vec![1; 2 * most]));
        outbound.push(own(b"CLOSE"));
        let batch = outbound.next(None, Some(3 * most));
        assert_eq!(batch.map(|batch| batch.remaining()), Some(2 * most));
        assert_eq!(sent(outbound.next(None, Some(most))), b"CLOSE");
    }
}
