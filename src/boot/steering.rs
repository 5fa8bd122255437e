//! Lets the kernel give each connection to the shard that owns its source.
//!
//! The server is right without it: it only saves the questions that shards would ask each other.

use std::os::fd::{AsRawFd, OwnedFd};

use ahash::RandomState;
use tracing::warn;

use crate::admission::Owners;
use crate::admission::steering_program::steering_program;
use crate::config::Config;
use crate::sys::steering;

/// The owners of this process's sources, which nobody can know beforehand.
pub(super) fn draw_owners(shards: usize) -> Owners {
    Owners::new(shards, RandomState::new().hash_one(shards) as u32)
}

/// Steers what connects to `listeners`, which all listen, each for the shard at its position.
pub(super) fn begin(listeners: &[OwnedFd], owners: Owners, config: &Config) {
    let [first, _, ..] = listeners else { return };
    let prefixes = config.admission.prefixes();
    let program = steering_program(owners, prefixes, &config.server.trusted_proxies);
    if let Err(error) = steering::attach(first.as_raw_fd(), &program) {
        warn!(
            "sources are not steered to their shard: {error}; every connection that arrives on \
             another shard costs a question to its owner"
        );
    }
}
