//! What a ring reports back.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::operation::SendBatch;
use super::receive_buffers::Received;
use super::token::{FileSlot, Token};

/// A kernel error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A connection that was just accepted.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    /// Its direct descriptor.
    pub slot: FileSlot,
    /// Its peer.
    pub address: SocketAddr,
    /// More wait in the backlog, as this one has.
    pub more_wait: bool,
}

/// One finished operation.
#[derive(Debug)]
pub struct Completion {
    /// The connection it belongs to; slot 0 generation 0 for accept, wake and open.
    pub token: Token,
    /// What became of it.
    pub outcome: Outcome,
}

/// The result of each kind of operation.
#[derive(Debug)]
pub enum Outcome {
    /// Of `Accept`.
    Accepted(Result<Accepted, Errno>),
    /// Of `Watch`: something to read, end of stream, or an error to collect.
    Readable(Result<(), Errno>),
    /// Of `Receive` and `ReceiveMany`.
    Received {
        /// The bytes; `None` is the end of the stream. ENOBUFS says that all buffers are lent; EAGAIN
        /// also that there was none, but is one for the next try.
        result: Result<Option<Received>, Errno>,
        /// The receive goes on (`ReceiveMany` only).
        lasts: bool,
    },
    /// Of `Calm`; the lasting receive reports its own end.
    Calmed(Result<(), Errno>),
    /// Of `Send`, with the bytes given back.
    Sent(Result<usize, Errno>, SendBatch),
    /// Of `Unacknowledged`: so many bytes.
    Unacknowledged(Result<u32, Errno>),
    /// Of `Cut`.
    Cut(Result<(), Errno>),
    /// Of `HalfClose`.
    HalfClosed,
    /// Of `Close`: the slot is free.
    Closed,
    /// Of `Hand`.
    HandedOver {
        /// The number of the other ring.
        to: usize,
        /// The other ring has it.
        result: Result<(), Errno>,
    },
    /// Of a `Hand` on another ring; belongs to no operation of this one. The completion's token
    /// is what the connection was there.
    HandedHere {
        /// The number of that ring.
        from: usize,
        /// The direct descriptor here.
        slot: FileSlot,
    },
    /// Of `Wake`.
    Woken,
    /// Of `Tick`.
    Ticked {
        /// It goes on by itself.
        lasts: bool,
    },
    /// Of `Open`.
    Opened(Result<FileSlot, Errno>),
    /// Of `Bind`.
    Bound(Result<(), Errno>),
    /// Of `Connect`.
    Connected(Result<(), Errno>),
}
