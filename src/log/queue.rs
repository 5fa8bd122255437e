//! The bounded queue between the threads that log and the one that writes.
//!
//! Invariant: pushing takes no lock and waits for nothing; what does not fit is counted by its
//! level. A queue of slots and two counters of what is in them, because lines differ in length:
//! either of the two bounds refuses a line.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use tracing::Level;

use crate::limits::{LOG_BYTES, LOG_LINES, LOG_RESERVED_LINES};

/// The levels, in the order of [`Losses`].
pub(crate) const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// Lines that were not written, by level, in the order of [`LEVELS`].
pub(crate) type Losses = [u64; LEVELS.len()];

pub(super) fn index(level: Level) -> usize {
    match level {
        Level::ERROR => 0,
        Level::WARN => 1,
        Level::INFO => 2,
        Level::DEBUG => 3,
        Level::TRACE => 4,
    }
}

/// A line, as it will be written.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) level: Level,
    /// One of the last lines of the process, for which there is a place of its own.
    pub(super) is_last: bool,
    pub(super) text: Box<[u8]>,
}

/// The queue, with what is known of its end.
#[derive(Debug)]
pub(super) struct Queue {
    slots: Sender<Line>,
    filled: Receiver<Line>,
    /// Of ordinary lines in the queue.
    lines: AtomicUsize,
    bytes: AtomicUsize,
    /// Lines that were put in, and lines that the writer is done with.
    entered: AtomicU64,
    left: AtomicU64,
    lost: [AtomicU64; LEVELS.len()],
    /// How many lost lines there were when the writer last tried to say so.
    said: AtomicU64,
    /// The writer is inside a write.
    is_writing: AtomicBool,
    /// For how long the writer is to stand still before its next line; for tests of the server.
    stall_ms: AtomicU64,
}

impl Default for Queue {
    fn default() -> Self {
        let (slots, filled) = bounded(LOG_LINES + LOG_RESERVED_LINES);
        Self {
            slots,
            filled,
            lines: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            entered: AtomicU64::new(0),
            left: AtomicU64::new(0),
            lost: Default::default(),
            said: AtomicU64::new(0),
            is_writing: AtomicBool::new(false),
            stall_ms: AtomicU64::new(0),
        }
    }
}

impl Queue {
    /// Puts a line in, or counts it as lost.
    pub(super) fn push(&self, level: Level, is_last: bool, text: &[u8]) {
        if !is_last && !self.has_room(text.len()) {
            return self.lose(level);
        }
        self.entered.fetch_add(1, Ordering::AcqRel);
        if self.slots.try_send(Line { level, is_last, text: text.into() }).is_err() {
            // More last lines than there can be, or no writer.
            self.lose(level);
            self.left.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes the room of an ordinary line, if there is that much.
    fn has_room(&self, bytes: usize) -> bool {
        let lines = self.lines.fetch_add(1, Ordering::AcqRel);
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let fits = lines < LOG_LINES && before.saturating_add(bytes) <= LOG_BYTES;
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&self, bytes: usize) {
        self.lines.fetch_sub(1, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// The next line, if there is one.
    pub(super) fn try_take(&self) -> Option<Line> {
        self.filled.try_recv().ok().map(|line| self.taken(line))
    }

    /// The next line, when there is one. Only the writer calls this, and it has nothing else to do.
    pub(super) fn take(&self) -> Line {
        loop {
            // The queue holds its own sender, so it is never disconnected.
            if let Ok(line) = self.filled.recv() {
                return self.taken(line);
            }
        }
    }

    fn taken(&self, line: Line) -> Line {
        if !line.is_last {
            self.give_back(line.text.len());
        }
        line
    }

    /// The writer is done with a line, whatever became of it.
    pub(super) fn done(&self) {
        self.left.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a line that will not be written.
    pub(super) fn lose(&self, level: Level) {
        self.lost[index(level)].fetch_add(1, Ordering::AcqRel);
    }

    /// Lines that were lost so far.
    pub(super) fn lost(&self) -> Losses {
        std::array::from_fn(|level| self.lost[level].load(Ordering::Acquire))
    }

    /// The writer has tried to say that so many lines were lost.
    pub(super) fn set_said(&self, lost: &Losses) {
        self.said.store(lost.iter().sum(), Ordering::Release);
    }

    /// Lines that the writer is not done with.
    pub(super) fn waiting(&self) -> u64 {
        let left = self.left.load(Ordering::Acquire);
        self.entered.load(Ordering::Acquire).saturating_sub(left)
    }

    /// Lines that the writer was done with so far: what grows if it makes progress.
    pub(super) fn progress(&self) -> u64 {
        self.left.load(Ordering::Acquire)
    }

    /// Whether every line was written or given up, and those that were lost were mentioned.
    pub(super) fn is_settled(&self) -> bool {
        let lost: u64 = self.lost().iter().sum();
        self.waiting() == 0 && self.said.load(Ordering::Acquire) >= lost
    }

    pub(super) fn set_writing(&self, is_writing: bool) {
        self.is_writing.store(is_writing, Ordering::Release);
    }

    pub(super) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::Acquire)
    }

    /// Makes the writer stand still before its next line.
    pub(super) fn stall(&self, ms: u64) {
        self.stall_ms.store(ms, Ordering::Release);
    }

    /// For how long the writer is to stand still now.
    pub(super) fn take_stall(&self) -> Duration {
        Duration::from_millis(self.stall_ms.swap(0, Ordering::AcqRel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_queue_refuses_and_counts_by_level() {
        let queue = Queue::default();
        for _ in 0..LOG_LINES {
            queue.push(Level::INFO, false, b"line\n");
        }
        assert_eq!((queue.waiting(), queue.lost()), (LOG_LINES as u64, [0; 5]));
        queue.push(Level::DEBUG, false, b"one too many\n");
        queue.push(Level::ERROR, false, b"one too many\n");
        assert_eq!((queue.waiting(), queue.lost()), (LOG_LINES as u64, [1, 0, 0, 1, 0]));
        assert!(queue.try_take().is_some());
        queue.push(Level::ERROR, false, b"there is room again\n");
        assert_eq!(queue.lost(), [1, 0, 0, 1, 0]);
    }

    #[test]
    fn long_lines_fill_it_by_their_bytes() {
        let queue = Queue::default();
        let line = vec![b'x'; LOG_BYTES / 4];
        for _ in 0..5 {
            queue.push(Level::WARN, false, &line);
        }
        assert_eq!((queue.waiting(), queue.lost()), (4, [0, 1, 0, 0, 0]));
        queue.push(Level::WARN, false, &vec![b'x'; LOG_BYTES + 1]);
        assert_eq!(queue.lost(), [0, 2, 0, 0, 0], "longer than the queue");
        assert!(queue.try_take().is_some());
        queue.push(Level::WARN, false, &line);
        assert_eq!(queue.lost(), [0, 2, 0, 0, 0], "what was refused took nothing");
    }

    #[test]
    fn the_last_lines_have_a_place_in_a_full_queue() {
        let queue = Queue::default();
        for _ in 0..=LOG_LINES {
            queue.push(Level::INFO, false, b"line\n");
        }
        for _ in 0..LOG_RESERVED_LINES {
            queue.push(Level::INFO, true, b"the cause\n");
        }
        assert_eq!(queue.lost(), [0, 0, 1, 0, 0]);
        queue.push(Level::INFO, true, b"more than there can be\n");
        assert_eq!(queue.lost(), [0, 0, 2, 0, 0]);
        let lines: Vec<_> = std::iter::from_fn(|| queue.try_take()).collect();
        assert_eq!(lines.len(), LOG_LINES + LOG_RESERVED_LINES);
        assert!(lines.last().is_some_and(|line| line.is_last));
    }

    #[test]
    fn it_is_settled_when_all_is_written_and_the_losses_are_said() {
        let queue = Queue::default();
        assert!(queue.is_settled());
        queue.push(Level::INFO, false, b"line\n");
        assert!(!queue.is_settled() && queue.try_take().is_some());
        assert!(!queue.is_settled(), "it is being written");
        queue.done();
        assert!(queue.is_settled());
        queue.lose(Level::INFO);
        assert!(!queue.is_settled());
        queue.set_said(&queue.lost());
        assert!(queue.is_settled());
    }
}
