//! Files of the operator: how the server and its commands read and write what a path names.
//!
//! A path of the configuration can name anything: a FIFO that nobody writes, a device without an
//! end, a symbolic link, a file that is mounted by itself. Everything that reads or writes a file
//! goes through here, so that no path makes the process wait for ever, read without a bound, or
//! replace what is not a regular file.
//!
//! - [`read`]: bounded in bytes, of regular files unless the caller wants what is read once
//! - [`write`](write::write): whole or not at all where that is possible, never blocking
//! - [`text`]: bytes as UTF-8, with the encodings that editors produce instead named
//! - `location`: what a path leads to
//!
//! The calls return when the file system does. Where that must not hold the caller up, a disk
//! that hangs included, it calls [`within`].

mod location;
pub mod read;
pub mod text;
pub mod write;

use std::fmt;
use std::fs::FileType;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A pipe, with a name or without.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: a terminal, `/dev/null`.
    CharacterDevice,
    /// A block device: a disk.
    BlockDevice,
    /// None of these.
    Other,
}

impl Kind {
    /// The kind of an open file, or of what a path leads to.
    #[must_use]
    pub fn of(file_type: FileType) -> Self {
        if file_type.is_file() {
            Kind::Regular
        } else if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else if file_type.is_socket() {
            Kind::Socket
        } else if file_type.is_char_device() {
            Kind::CharacterDevice
        } else if file_type.is_block_device() {
            Kind::BlockDevice
        } else {
            Kind::Other
        }
    }
}

/// For messages: with its article.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Regular => "a regular file",
            Kind::Directory => "a directory",
            Kind::Fifo => "a pipe (FIFO)",
            Kind::Socket => "a socket",
            Kind::CharacterDevice => "a character device",
            Kind::BlockDevice => "a block device",
            Kind::Other => "no kind of file that is known here",
        })
    }
}

/// Runs `work` on a thread of this name and waits for its result for `patience`. A thread that
/// hangs in the file system is left to itself.
///
/// # Errors
/// The thread cannot be made, `work` panics, or takes longer (`TimedOut`).
pub fn within<T: Send + 'static>(
    name: &str,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (done, result) = sync_channel(1);
    let run = move || {
        // The caller may have given up meanwhile.
        let _ = done.send(work());
    };
    thread::Builder::new().name(name.to_owned()).spawn(run)?;
    result.recv_timeout(patience).map_err(|error| match error {
        RecvTimeoutError::Timeout => {
            let message = format!("the file system has not answered for {patience:?}");
            io::Error::new(io::ErrorKind::TimedOut, message)
        }
        RecvTimeoutError::Disconnected => io::Error::other("the thread panicked"),
    })
}

#[cfg(test)]
mod tests;
