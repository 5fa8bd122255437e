//! Time, chance and the kernel: everything that a shard or the coordinator takes from outside
//! besides its messages.
//!
//! [`Environment`] is a type parameter of both, so that a simulation runs them as they are, from
//! a seed. Invariant: nothing in `shard/` or `coordinator/` reads a clock, sleeps, or draws a
//! random number in another way; `tests/repository/rules.rs` checks it.

use std::fmt;
use std::io;
use std::time::Duration;

use jiff::Timestamp;

use crate::clock::{Clock, Now, Reading};
use crate::ring::{KernelRing, Ring};
use crate::sys::{random, thread_time};

/// What a thread of the server stands in.
pub trait Environment: fmt::Debug {
    /// The ring of a shard.
    type Ring: Ring;

    /// The moment on the monotonic clock that all threads of a server share.
    fn now(&self) -> Now;

    /// The wall clock, for reports; it may jump.
    fn wall(&self) -> Timestamp;

    /// Both clocks.
    fn read_clocks(&self) -> Reading {
        Reading { now: self.now(), wall: self.wall() }
    }

    /// Fills `bytes` with what nobody can guess.
    ///
    /// # Errors
    /// None on a machine that has started.
    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()>;

    /// Processor time of the calling thread in nanoseconds; it stands still while something else
    /// has the processor. 0 if the machine does not say.
    fn thread_ns(&self) -> u64;

    /// Blocks the thread: an injected fault.
    fn stall(&mut self, duration: Duration);
}

/// The real one: Linux.
#[derive(Clone, Copy, Debug)]
pub struct KernelEnvironment {
    clock: Clock,
}

impl KernelEnvironment {
    /// With the clock that the threads of a server share.
    pub fn new(clock: Clock) -> Self {
        Self { clock }
    }
}

impl Environment for KernelEnvironment {
    type Ring = KernelRing;

    fn now(&self) -> Now {
        self.clock.now()
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn fill_random(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        random::fill(bytes)
    }

    fn thread_ns(&self) -> u64 {
        thread_time::ns()
    }

    fn stall(&mut self, duration: Duration) {
        std::thread::sleep(duration);
    }
}
