//! The rings: the one place that speaks to io_uring.
//!
//! Everything above sees [`Operation`] values going down and [`Completion`] values coming up
//! through the [`Ring`] trait, so that a seeded ring can stand in for the kernel in a
//! simulation. All memory that the kernel reads or writes (send buffers, addresses, receive
//! buffers) is owned here from submission to completion; that is what makes the interface safe.
//!
//! Not responsible for: what an operation means to a connection (`shard/`), nor for creating
//! sockets outside a ring (`sys/`).

#![allow(unsafe_code)]

mod completion;
mod file_table;
mod in_flight;
mod kernel_ring;
mod neighbours;
mod operation;
pub mod probe;
mod receive_buffers;
mod token;

pub use completion::{Accepted, Completion, Errno, Outcome};
pub use kernel_ring::{KernelRing, RingSettings};
pub use neighbours::Neighbours;
pub use operation::{Frame, Operation, SendBatch};
pub use receive_buffers::Received;
pub use token::{FileSlot, GENERATION_BITS, Kind, MAX_SLOTS, Token};

use std::io;
use std::time::Duration;

/// How long a turn waits for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Until there is one.
    ForOne,
    /// Until there is one, at most so long; zero only collects what is there.
    AtMost(Duration),
    /// Until there are [`limits::GATHERED`](crate::limits::GATHERED); after so long, until there
    /// is one. Less work for each completion, for up to so much more time until it is seen.
    ForMany(Duration),
}

/// What a shard asks of its ring. `KernelRing` is io_uring; a simulation brings its own.
pub trait Ring {
    /// Queues an operation. Never fails and never drops one: a full submission queue is handed
    /// to the kernel at once, and what the kernel does not take yet waits in line.
    fn start(&mut self, operation: Operation);

    /// Submits what was started, waits, and collects what has completed.
    ///
    /// # Errors
    /// Only what leaves the ring unusable. Interruption, time-out and a busy completion queue
    /// are part of a normal turn.
    fn turn(&mut self, wait: Wait) -> io::Result<()>;

    /// How many operations were started and wait for the next turn.
    fn unsubmitted(&mut self) -> usize;

    /// The next completion of this turn.
    fn next_completion(&mut self) -> Option<Completion>;

    /// The bytes that a receive brought.
    fn bytes(&mut self, received: &Received) -> &mut [u8];

    /// Gives a receive buffer back to the kernel. Each [`Received`] must end here.
    fn give_back(&mut self, received: Received);

    /// Lets no new connection begin; those that have begun are still accepted.
    fn let_nobody_begin(&mut self);

    /// True when no connection waits to be accepted.
    fn backlog_is_empty(&self) -> bool;

    /// How many direct descriptors this ring can hold.
    fn file_capacity(&self) -> u32;
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests;
