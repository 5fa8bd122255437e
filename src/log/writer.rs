//! The thread that writes lines, the only one that can wait for the reader of the log.
//!
//! It can wait for ever: nobody waits for it longer than a bounded time, and the end of the
//! process does not join it. A line that cannot be written is counted, and the next one is
//! tried: a disk that was full has room again, a pipe that broke never has.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::Level;

use super::queue::{Losses, Queue};
use crate::limits::LOG_LINES;
use crate::sys::standard_stream::StandardStream;

/// How long one look for room in a non-blocking stream takes.
const WAIT: Duration = Duration::from_secs(1);

/// How long a stream is left alone that says it has room and takes nothing.
const PAUSE: Duration = Duration::from_millis(10);

/// Where lines go.
pub(super) trait Output {
    /// Writes a part of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Waits for room, after [`write`](Self::write) has said that there is none.
    fn wait(&mut self);
}

impl Output for StandardStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        StandardStream::write(*self, bytes)
    }

    fn wait(&mut self) {
        // What cannot be asked is tried again after a pause.
        if !self.wait_writable(WAIT).unwrap_or(false) {
            thread::sleep(PAUSE);
        }
    }
}

/// The state of the thread.
pub(super) struct Writer<O, N> {
    queue: Arc<Queue>,
    output: O,
    /// Makes the line that says how many were lost.
    notice: N,
    /// Lines that were lost and have been mentioned.
    said: Losses,
    /// Lines written since the last that was lost.
    since_loss: usize,
    /// The last line was cut in the middle.
    is_torn: bool,
}

impl<O: Output, N: FnMut(&Losses) -> Vec<u8>> Writer<O, N> {
    pub(super) fn new(queue: Arc<Queue>, output: O, notice: N) -> Self {
        Self { queue, output, notice, said: Losses::default(), since_loss: 0, is_torn: false }
    }

    /// Writes until the process ends.
    pub(super) fn run(mut self) -> ! {
        loop {
            self.write_next();
        }
    }

    /// Writes one line. Lost ones are mentioned when the reader has caught up, or when as many
    /// lines as the queue holds were written since, and before a last line.
    fn write_next(&mut self) {
        let line = self.queue.try_take().unwrap_or_else(|| {
            self.mention_losses();
            self.queue.take()
        });
        thread::sleep(self.queue.take_stall());
        if line.is_last || self.since_loss >= LOG_LINES {
            self.mention_losses();
        }
        match self.write_line(&line.text) {
            Ok(()) => self.since_loss = self.since_loss.saturating_add(1),
            Err(_) => self.lose(line.level),
        }
        self.queue.done();
    }

    fn lose(&mut self, level: Level) {
        self.queue.lose(level);
        self.since_loss = 0;
    }

    fn mention_losses(&mut self) {
        let lost = self.queue.lost();
        if lost == self.said {
            return;
        }
        let mut new = lost;
        new.iter_mut().zip(self.said).for_each(|(lost, said)| *lost -= said);
        let line = (self.notice)(&new);
        if self.write_line(&line).is_ok() {
            self.said = lost;
        }
        self.since_loss = 0;
        self.queue.set_said(&lost);
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        self.queue.set_writing(true);
        let written = self.write_whole(line);
        self.queue.set_writing(false);
        written
    }

    fn write_whole(&mut self, line: &[u8]) -> io::Result<()> {
        if self.is_torn {
            // Whoever reads line by line loses one line and not two.
            self.write_bytes(b"\n")?;
            self.is_torn = false;
        }
        self.write_bytes(line)
    }

    fn write_bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len();
        while !bytes.is_empty() {
            match self.output.write(bytes) {
                Ok(count @ 1..) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.output.wait(),
                result => {
                    self.is_torn |= bytes.len() < length;
                    return Err(result.err().unwrap_or(io::ErrorKind::WriteZero.into()));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// Answers writes from a script, then takes everything.
    #[derive(Default)]
    struct Script {
        answers: VecDeque<io::Result<usize>>,
        written: Vec<u8>,
        waits: usize,
    }

    impl Output for &mut Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = self.answers.pop_front().unwrap_or(Ok(bytes.len()))?.min(bytes.len());
            self.written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn wait(&mut self) {
            self.waits += 1;
        }
    }

    fn failed(kind: io::ErrorKind) -> io::Result<usize> {
        Err(kind.into())
    }

    /// What `lines` lead to, of which the last is one of the last.
    fn written(script: &mut Script, lines: &[&str]) -> (String, Losses) {
        let queue = Arc::new(Queue::default());
        for (index, line) in lines.iter().enumerate() {
            queue.push(Level::INFO, index + 1 == lines.len(), line.as_bytes());
        }
        let notice = |lost: &Losses| format!("lost {}\n", lost[2]).into_bytes();
        let mut writer = Writer::new(Arc::clone(&queue), &mut *script, notice);
        lines.iter().for_each(|_| writer.write_next());
        assert_eq!(queue.waiting(), 0);
        (String::from_utf8_lossy(&script.written).into_owned(), queue.lost())
    }

    #[test]
    fn a_stream_that_takes_a_part_at_a_time_gets_whole_lines_in_order() {
        let answers = [Ok(1), failed(io::ErrorKind::WouldBlock), Ok(2)].into();
        let mut script = Script { answers, ..Script::default() };
        assert_eq!(written(&mut script, &["one\n", "two\n"]), ("one\ntwo\n".into(), [0; 5]));
        assert_eq!(script.waits, 1);
    }

    #[test]
    fn a_line_that_fails_is_counted_and_the_next_is_tried() {
        for kind in [io::ErrorKind::BrokenPipe, io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let answers = [failed(kind), failed(kind)].into();
            let mut script = Script { answers, ..Script::default() };
            let (text, lost) = written(&mut script, &["one\n", "two\n", "three\n", "end\n"]);
            assert_eq!((text.as_str(), lost[2]), ("three\nlost 2\nend\n", 2), "{kind:?}");
        }
    }

    #[test]
    fn a_line_that_was_cut_does_not_run_into_the_next() {
        let answers = [Ok(2), failed(io::ErrorKind::StorageFull)].into();
        let mut script = Script { answers, ..Script::default() };
        let (text, lost) = written(&mut script, &["one\n", "two\n", "end\n"]);
        assert_eq!((text.as_str(), lost[2]), ("on\ntwo\nlost 1\nend\n", 1));
    }

    #[test]
    fn a_stream_that_never_takes_anything_is_tried_for_each_line() {
        let answers = (0..9).map(|_| Ok(0)).collect();
        let mut script = Script { answers, ..Script::default() };
        let (text, lost) = written(&mut script, &["one\n", "two\n", "end\n"]);
        assert_eq!((text.as_str(), lost[2]), ("", 3));
    }
}
