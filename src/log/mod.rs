//! The log of the process: human-readable on a terminal, JSON otherwise, to standard error;
//! RUST_LOG sets levels. And the hook that logs a panic with its place and backtrace.
//!
//! A thread that logs formats its line and puts it into a bounded queue (`queue`); a thread of
//! its own writes (`writer`). So a reader that stalls, a disk that is full or a pipe that broke
//! costs lines, which are counted by level (`tidegate_log_lines_dropped_total`) and mentioned in
//! the log once it can be written again; it never costs time, a shard or the process.
//!
//! This is the writer's own code and not tracing-appender's: that bounds lines and not bytes,
//! drops what cannot be written without counting it, never says in the log that lines are
//! missing, and has no place for the last line in a queue that is full.
//!
//! A program that has the server inside has its own log; nothing here is started then.

mod filter;
mod format;
mod queue;
mod writer;

use std::backtrace::Backtrace;
use std::cell::RefCell;
use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal};
use std::panic;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::{Level, Metadata, error, warn};
use tracing_subscriber::fmt::MakeWriter;

pub(crate) use queue::{LEVELS, Losses};

use crate::config::LogFormat;
use crate::limits::{LOG_FLUSH_MS, LOG_WRITER_MS};
use crate::sys::standard_stream::StandardStream;
use format::{EscapedJson, HumanFields};
use queue::Queue;
use writer::Writer;

/// The target of the last lines of a process: a full queue has a place for them.
pub(crate) const LAST: &str = "tidegate::last";

/// How often a flush looks how far the writer is.
const LOOK: Duration = Duration::from_millis(1);

/// The log of this process, once it is started.
static LOG: OnceLock<Log> = OnceLock::new();

thread_local! {
    /// On the writer's own thread: the line that is being made there.
    static OWN_LINE: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

#[derive(Debug)]
struct Log {
    queue: Arc<Queue>,
    is_human: bool,
}

/// Starts logging to standard error. In a program that has set up logging already, that stays.
///
/// # Errors
/// The thread that writes cannot be started.
pub(crate) fn start(format: LogFormat) -> io::Result<()> {
    let is_terminal = io::stderr().is_terminal();
    let is_human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => is_terminal,
    };
    let filter::Chosen { filter, complaint } = filter::choose(env::var_os(filter::NAME).as_deref());
    let queue = Arc::new(Queue::default());
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(Sink(Arc::clone(&queue)));
    let started = if is_human {
        logs.with_target(false).with_ansi(is_terminal).fmt_fields(HumanFields).try_init()
    } else {
        logs.json().flatten_event(true).map_event_format(EscapedJson).try_init()
    };
    if started.is_err() || LOG.set(Log { queue: Arc::clone(&queue), is_human }).is_err() {
        return Ok(());
    }
    let writer = Writer::new(queue, StandardStream::Error, losses_line);
    thread::Builder::new().name("tidegate-log".to_owned()).spawn(move || writer.run())?;
    log_panics();
    if let Some(complaint) = complaint {
        warn!("{complaint}");
    }
    Ok(())
}

/// Where the subscriber's lines go.
#[derive(Clone, Debug)]
struct Sink(Arc<Queue>);

/// One line on its way there.
struct LineSink<'a> {
    queue: &'a Queue,
    level: Level,
    is_last: bool,
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = LineSink<'a>;

    fn make_writer(&'a self) -> LineSink<'a> {
        LineSink { queue: &self.0, level: Level::ERROR, is_last: false }
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> LineSink<'a> {
        LineSink { queue: &self.0, level: *meta.level(), is_last: meta.target() == LAST }
    }
}

impl io::Write for LineSink<'_> {
    /// Takes a whole line, which is how the subscriber writes; there is no error, because what
    /// cannot be taken is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_own = OWN_LINE.with_borrow_mut(|own| match own {
            Some(own) => {
                own.extend_from_slice(line);
                true
            }
            None => false,
        });
        if !is_own {
            self.queue.push(self.level, self.is_last, line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes an error in the form of all lines, on the calling thread: for a process that has no
/// writer.
pub(crate) fn write_here(message: &str) {
    OWN_LINE.set(Some(Vec::new()));
    error!(target: LAST, "{message}");
    let line = OWN_LINE.take().unwrap_or_default();
    // Nobody else can be told.
    let _ = StandardStream::Error.write_all(&line);
}

/// The line about lines that were lost, in the form of all others. An error if errors are among
/// them: what the filter lets through of them it lets through of this.
fn losses_line(lost: &Losses) -> Vec<u8> {
    OWN_LINE.set(Some(Vec::new()));
    let [errors, warnings, infos, debugs, traces] = *lost;
    let total: u64 = lost.iter().sum();
    macro_rules! say {
        ($level:ident) => {
            $level!(
                lost = total,
                errors,
                warnings,
                infos,
                debugs,
                traces,
                "{total} lines of the log were lost: standard error was not read or could not be \
                 written; look at what reads it (a pipe, a full disk, a stopped terminal)"
            )
        };
    }
    if errors > 0 {
        say!(error);
    } else {
        say!(warn);
    }
    OWN_LINE.take().unwrap_or_default()
}

/// Lines that were lost so far; none if this process has no log of its own.
pub(crate) fn lost() -> Losses {
    LOG.get().map_or(Losses::default(), |log| log.queue.lost())
}

/// Lines that were lost or are not written yet.
pub(crate) fn unwritten() -> u64 {
    LOG.get().map_or(0, |log| log.queue.lost().iter().sum::<u64>() + log.queue.waiting())
}

/// Makes the thread that writes stand still, for tests of the server; false if there is none.
pub(crate) fn stall(ms: u64) -> bool {
    LOG.get().inspect(|log| log.queue.stall(ms)).is_some()
}

/// How the wait for the writer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything is written, or was given up.
    All,
    /// Standard error takes nothing, or too slowly: its reader's doing.
    Unread,
    /// Standard error would take bytes, and the writer gives it none: our doing.
    StandsStill,
}

/// Waits until the log is written, for a bounded time and `patience` at most: a fifth of a second
/// for a reader that does not read, and longer for a writer that may only want for a core.
pub(crate) fn flush(patience: Duration) -> Flushed {
    let Some(Log { queue, .. }) = LOG.get() else { return Flushed::All };
    let (started, before) = (Instant::now(), queue.progress());
    loop {
        if queue.is_settled() {
            return Flushed::All;
        }
        let waited = started.elapsed();
        if waited >= patience.min(Duration::from_millis(LOG_FLUSH_MS)) {
            let has_room = StandardStream::Error.wait_writable(Duration::ZERO).unwrap_or(false);
            if !has_room || queue.progress() != before || waited >= patience {
                return Flushed::Unread;
            }
        }
        if waited >= Duration::from_millis(LOG_WRITER_MS) {
            return Flushed::StandsStill;
        }
        thread::sleep(LOOK);
    }
}

/// Bytes of a line that is made without the subscriber: longer ones are cut.
const DIRECT_BYTES: usize = 512;

/// Writes the last line of the process past the queue, whose writer may stand still. Blocks as
/// long as standard error does, so only a thread calls it for which nobody waits long. Takes no
/// lock and no memory.
pub(crate) fn write_last(message: &str, not_done: fmt::Arguments<'_>, exit_code: u8) {
    let Some(Log { queue, is_human }) = LOG.get() else { return };
    let mut line = Direct { bytes: [0; DIRECT_BYTES], length: 0 };
    // What does not fit is cut.
    let _ = direct_line(&mut line, *is_human, message, not_done, exit_code);
    let end = line.bytes.len().saturating_sub(1).min(line.length);
    line.bytes[end] = b'\n';
    if queue.is_writing() {
        // Maybe in the middle of a line.
        let _ = StandardStream::Error.write(b"\n");
    }
    let _ = StandardStream::Error.write(&line.bytes[..=end]);
}

fn direct_line(
    line: &mut Direct,
    is_human: bool,
    message: &str,
    not_done: fmt::Arguments<'_>,
    exit_code: u8,
) -> fmt::Result {
    let now = Timestamp::now();
    if is_human {
        return write!(
            line,
            "{now:.6} ERROR {message} not_done=\"{not_done}\" exit_code={exit_code}"
        );
    }
    write!(
        line,
        "{{\"timestamp\":\"{now:.6}\",\"level\":\"ERROR\",\"message\":\"{message}\",\
         \"not_done\":\"{not_done}\",\"exit_code\":{exit_code},\"target\":\"{LAST}\"}}"
    )
}

/// Text in memory that is there already.
struct Direct {
    bytes: [u8; DIRECT_BYTES],
    length: usize,
}

impl fmt::Write for Direct {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = &mut self.bytes[self.length..];
        let count = text.len().min(room.len());
        room[..count].copy_from_slice(&text.as_bytes()[..count]);
        self.length += count;
        if count < text.len() { Err(fmt::Error) } else { Ok(()) }
    }
}

fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = thread::current();
        let backtrace = Backtrace::force_capture();
        error!(
            thread = thread.name().unwrap_or("unnamed"),
            place,
            %backtrace,
            "panic: {message}"
        );
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(is_human: bool, not_done: &str) -> String {
        let mut line = Direct { bytes: [0; DIRECT_BYTES], length: 0 };
        let _ = direct_line(&mut line, is_human, "the end", format_args!("{not_done}"), 70);
        String::from_utf8_lossy(&line.bytes[..line.length]).into_owned()
    }

    #[test]
    fn the_last_line_has_the_form_of_all_others() {
        let json: serde_json::Value =
            serde_json::from_str(&line(false, "shard 1")).unwrap_or_default();
        assert_eq!((&json["level"], &json["message"]), (&"ERROR".into(), &"the end".into()));
        assert_eq!((&json["not_done"], &json["exit_code"]), (&"shard 1".into(), &70.into()));
        let human = line(true, "shard 1");
        assert!(human.ends_with("Z ERROR the end not_done=\"shard 1\" exit_code=70"), "{human}");
    }

    #[test]
    fn a_last_line_that_is_too_long_is_cut() {
        assert_eq!(line(true, &"x".repeat(2 * DIRECT_BYTES)).len(), DIRECT_BYTES);
    }
}
