//! How pressed the server is for memory and time, and what that leaves of the rate of admission.
//!
//! A thread of its own ([`sampler`]) looks four times a second at what the kernel and the shards
//! say ([`reading`], parsed by [`memory`]); [`level`] makes a level of it; the level is a share
//! of the rate. Not here: what shards do with the share, and connections that are already in,
//! whose memory is bounded one by one (`server.max_message_bytes`, `server.max_queued_bytes`).
//!
//! Invariant: only memory stops admission; a shard that is busy, for example with refusing, never
//! locks out everybody.

pub mod busiest_second;
pub mod cgroup;
pub mod level;
pub mod memory;
pub mod reading;
pub mod sampler;
pub mod shards;
mod trim;

pub use level::{Cause, Level};
pub use memory::{TcpMemory, Usage};

/// What is left of the rate of admission, in parts of 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AdmissionShare(u16);

impl AdmissionShare {
    /// All of it.
    pub const ALL: Self = Self(1024);
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// So many parts of 1024; more count as all.
    pub const fn new(parts: u16) -> Self {
        Self(if parts > 1024 { 1024 } else { parts })
    }

    /// From 0, which is nobody, to 1024, which is all.
    pub const fn parts(self) -> u16 {
        self.0
    }

    /// From 0 to 1.
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 1024.0
    }

    /// Whether nobody is to enter.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The share of a rate, rounded up so that it is 0 only for [`NONE`](Self::NONE) or for a
    /// rate of 0.
    pub fn of(self, per_second: u64) -> u64 {
        (u128::from(per_second) * u128::from(self.0)).div_ceil(1024) as u64
    }
}

/// The server at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pressure {
    /// The level, from none.
    pub level: Level,
    /// What of the rate of admission the level leaves.
    pub share: AdmissionShare,
    /// Connections a second that the share is of.
    pub base_per_second: u64,
    /// What the level is for; `None` at no pressure.
    pub cause: Option<Cause>,
    /// Bytes that may be used in all: the least of the budgets; `None` if none could be read.
    pub available: Option<u64>,
    /// The memory that is nearest to its limit; `None` if nothing could be read.
    pub memory: Option<Usage>,
    /// What all sockets of the machine, or of the cgroup, hold; `None` if it could not be read.
    pub tcp: Option<TcpMemory>,
}

impl Default for Pressure {
    /// None.
    fn default() -> Self {
        Self {
            level: Level::NONE,
            share: AdmissionShare::ALL,
            base_per_second: 0,
            cause: None,
            available: None,
            memory: None,
            tcp: None,
        }
    }
}

impl Pressure {
    /// Connections a second that may be admitted; `None` if that is no fewer than configured.
    /// 0 is nobody: to be refused as overload, not as over the rate.
    pub fn admitted_per_second(&self) -> Option<u64> {
        (self.share < AdmissionShare::ALL).then(|| self.share.of(self.base_per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_a_small_rate_is_not_nobody() {
        assert_eq!(AdmissionShare::new(128).of(1), 1);
        assert_eq!(AdmissionShare::new(128).of(1000), 125);
        assert_eq!(AdmissionShare::NONE.of(u64::MAX), 0);
        assert_eq!(AdmissionShare::new(2000), AdmissionShare::ALL);
        assert_eq!(AdmissionShare::ALL.of(u64::MAX), u64::MAX);
    }
}
