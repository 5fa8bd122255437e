//! Writes to a standard stream as it was inherited.
//!
//! The file description is shared with other processes (a terminal with the shell, a pipe with a
//! sibling), so its flags are left as they are: O_NONBLOCK, set here, would be set there too.
//! A stream that was closed when the process started is `/dev/null`: the Rust runtime opens it
//! before `main`, so no socket ever gets the number of a standard stream.

use std::io;
use std::time::Duration;

/// A standard stream that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StandardStream {
    /// Descriptor 1.
    Output,
    /// Descriptor 2.
    Error,
}

impl StandardStream {
    const fn descriptor(self) -> i32 {
        match self {
            Self::Output => libc::STDOUT_FILENO,
            Self::Error => libc::STDERR_FILENO,
        }
    }

    /// One write(2), which blocks as long as the stream does; repeated if a signal interrupts it.
    ///
    /// # Errors
    /// EPIPE, ENOSPC, EIO, EFBIG, ...; EAGAIN ([`io::ErrorKind::WouldBlock`]) if the stream was
    /// inherited non-blocking and is full.
    pub fn write(self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            // SAFETY: reads `bytes`, which outlive the call; the descriptor is only a number.
            let count =
                unsafe { libc::write(self.descriptor(), bytes.as_ptr().cast(), bytes.len()) };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
    }

    /// Waits until a write would not block, or would fail, for `patience` at most; false if
    /// neither is so then.
    ///
    /// # Errors
    /// What poll(2) answers.
    pub fn wait_writable(self, patience: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.descriptor(), events: libc::POLLOUT, revents: 0 };
        let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd on the stack.
        match unsafe { libc::poll(&mut poll, 1, patience) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
            ready => Ok(ready > 0),
        }
    }

    /// Waits until nobody can read what is written here any more, for `patience` at most; true if
    /// it is so. A file is always readable.
    pub fn wait_reader_gone(self, patience: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.descriptor(), events: 0, revents: 0 };
        let patience = i32::try_from(patience.as_millis()).unwrap_or(i32::MAX);
        // SAFETY: one pollfd on the stack.
        let ready = unsafe { libc::poll(&mut poll, 1, patience) };
        ready > 0 && poll.revents & (libc::POLLERR | libc::POLLHUP) != 0
    }

    /// Writes everything, however the stream was inherited.
    ///
    /// # Errors
    /// As [`write`](Self::write), but never EAGAIN.
    pub fn write_all(self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_writable(Duration::from_secs(1))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
