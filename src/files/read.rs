//! Reading a file: bounded in bytes and in time, and only of the kinds that the caller wants.
//!
//! A file is looked at before it is opened, because opening some devices does something, and again
//! once it is open. `O_NONBLOCK` keeps a FIFO from holding up whoever opens it.

use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::{Kind, location, text};
use crate::limits::{FILE_POLL_MS, FILE_SETTLE_PATIENCE_MS, FILE_SETTLED_MS, KERNEL_FILE_BYTES};

/// Why a file was not read.
#[derive(Debug)]
pub enum NotRead {
    /// The system said so.
    Failed(io::Error),
    /// It is not of a kind that is read here.
    Kind(Kind),
    /// It is a descriptor of this process, which can be something else by now.
    Descriptor,
    /// It has more bytes than this.
    TooLong(u64),
    /// It was still being written at every look.
    Unsettled,
    /// A pipe whose writer has not come, or has not ended, within this time.
    Unfinished(Duration),
}

impl NotRead {
    /// Whether there is nothing at the path.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, NotRead::Failed(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<io::Error> for NotRead {
    fn from(error: io::Error) -> Self {
        NotRead::Failed(error)
    }
}

impl fmt::Display for NotRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRead::Failed(error) => write!(f, "it cannot be read: {error}"),
            NotRead::Kind(Kind::Fifo) => {
                f.write_str("it is a pipe, which gives its content once, and not a regular file")
            }
            NotRead::Kind(kind) => write!(f, "it is {kind} and not a regular file"),
            NotRead::Descriptor => f.write_str(
                "it is a descriptor that the process was started with, and not a file with a name",
            ),
            NotRead::TooLong(most) => write!(f, "it is longer than {most} bytes"),
            NotRead::Unsettled => f.write_str("it is being written at this moment"),
            NotRead::Unfinished(patience) => {
                write!(f, "it is a pipe that nobody wrote to its end within {patience:?}")
            }
        }
    }
}

impl std::error::Error for NotRead {}

/// Reads a regular file of at most `most_bytes`.
///
/// # Errors
/// It is longer, of another kind, or cannot be read.
pub fn regular(path: &Path, most_bytes: u64) -> Result<Vec<u8>, NotRead> {
    let (file, _) = open(path, |kind| kind == Kind::Regular)?;
    to_end(&file, most_bytes)
}

/// Reads a small text of the kernel's (`/proc`, `/sys`, cgroups) or of another program's.
///
/// # Errors
/// It is no regular file, too long, not UTF-8, or cannot be read.
pub fn small_text(path: impl AsRef<Path>) -> io::Result<String> {
    let bytes = regular(path.as_ref(), KERNEL_FILE_BYTES).map_err(|error| match error {
        NotRead::Failed(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    })?;
    text::decode(bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

/// Reads a regular file that others may be writing: only once it has been left alone for
/// [`FILE_SETTLED_MS`] and has not changed while it was read. Descriptors of the process
/// (`/dev/stdin`, `/dev/fd/63`) are refused: the number may belong to another file by now.
///
/// # Errors
/// As [`regular`], or it does not come to rest within [`FILE_SETTLE_PATIENCE_MS`].
pub fn settled(path: &Path, most_bytes: u64) -> Result<Vec<u8>, NotRead> {
    if location::is_descriptor(path) {
        return Err(NotRead::Descriptor);
    }
    let give_up = Instant::now() + Duration::from_millis(FILE_SETTLE_PATIENCE_MS);
    loop {
        let (file, before) = open(path, |kind| kind == Kind::Regular)?;
        let bytes = to_end(&file, most_bytes)?;
        let after = file.metadata()?;
        if is_same(&before, &after) && is_at_rest(&after, SystemTime::now()) {
            return Ok(bytes);
        }
        if Instant::now() >= give_up {
            return Err(NotRead::Unsettled);
        }
        thread::sleep(Duration::from_millis(FILE_POLL_MS));
    }
}

/// Reads a file that is read once: a regular one, or a pipe or a character device to its end, which
/// has to come within `patience`. The kind tells the caller whether it can be read again.
///
/// # Errors
/// It is too long, of another kind, a pipe without a writer, or cannot be read.
pub fn once(path: &Path, most_bytes: u64, patience: Duration) -> Result<(Vec<u8>, Kind), NotRead> {
    let wanted = |kind| matches!(kind, Kind::Regular | Kind::Fifo | Kind::CharacterDevice);
    let (file, before) = open(path, wanted)?;
    let kind = Kind::of(before.file_type());
    if kind == Kind::Regular {
        let bytes = to_end(&file, most_bytes)?;
        let bytes = match is_same(&before, &file.metadata()?) {
            true => bytes,
            false => settled(path, most_bytes)?,
        };
        return Ok((bytes, kind));
    }
    Ok((stream_to_end(&file, kind, most_bytes, patience)?, kind))
}

fn open(path: &Path, wanted: impl Fn(Kind) -> bool) -> Result<(File, Metadata), NotRead> {
    let look = |metadata: Metadata| {
        let kind = Kind::of(metadata.file_type());
        if wanted(kind) { Ok(metadata) } else { Err(NotRead::Kind(kind)) }
    };
    look(fs::metadata(path)?)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = look(file.metadata()?)?;
    Ok((file, metadata))
}

fn to_end(file: &File, most_bytes: u64) -> Result<Vec<u8>, NotRead> {
    let mut bytes = Vec::new();
    file.take(most_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most_bytes { Err(NotRead::TooLong(most_bytes)) } else { Ok(bytes) }
}

/// A FIFO gives 0 bytes both before its first writer and after its last.
fn stream_to_end(
    file: &File,
    kind: Kind,
    most_bytes: u64,
    patience: Duration,
) -> Result<Vec<u8>, NotRead> {
    let give_up = Instant::now() + patience;
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match (&mut &*file).read(&mut chunk) {
            Ok(0) if kind != Kind::Fifo || !bytes.is_empty() => return Ok(bytes),
            Ok(0) => {}
            Ok(count) if (bytes.len() + count) as u64 > most_bytes => {
                return Err(NotRead::TooLong(most_bytes));
            }
            Ok(count) => {
                bytes.extend_from_slice(&chunk[..count]);
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= give_up {
            return Err(NotRead::Unfinished(patience));
        }
        thread::sleep(Duration::from_millis(FILE_POLL_MS));
    }
}

/// Whether two looks at an open file saw one content.
fn is_same(one: &Metadata, other: &Metadata) -> bool {
    let version = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    version(one) == version(other)
}

/// A time in the future is that of another clock, and says nothing.
fn is_at_rest(metadata: &Metadata, now: SystemTime) -> bool {
    let Ok(changed) = metadata.modified() else { return true };
    now.duration_since(changed).map_or(true, |age| age >= Duration::from_millis(FILE_SETTLED_MS))
}
