//! Time comes in from outside: read once per turn of a loop, then passed along as a value.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A moment on the monotonic clock, counted from the start of the process. Not affected by
/// changes of the wall clock; stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(u64);

impl Now {
    /// The moment `ns` nanoseconds after the start.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// The moment `ms` milliseconds after the start.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms * 1_000_000)
    }

    /// Nanoseconds since the start.
    pub const fn ns(self) -> u64 {
        self.0
    }

    /// Milliseconds since the start.
    pub const fn ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Whole seconds since the start.
    pub const fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }

    /// Later by `ms` milliseconds.
    pub const fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// Time from `earlier` to this moment; zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read at one moment: durations come from the first, reports show the second.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// The monotonic clock.
    pub now: Now,
    /// The wall clock, which may jump.
    pub wall: Timestamp,
}

impl Reading {
    /// The wall clock as RFC 3339 in UTC with milliseconds.
    pub fn timestamp(&self) -> String {
        format!("{:.3}", self.wall)
    }
}

/// Reads the monotonic clock. Copies share one origin, so their moments compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// The current moment.
    pub fn now(&self) -> Now {
        Now(self.origin.elapsed().as_nanos() as u64)
    }
}
