//! From arguments to rings: limits, how many rings, and each one's part.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{MAX_SLOTS, probe};
use tidegate::sys::rlimit;

use crate::arguments::Common;
use crate::client::{Job, SPARE_FILES};
use crate::crew::Plan;
use crate::sources::Sources;

/// Attempts that may be unanswered at once over all rings when no rate is given: about what the
/// smallest usual listen backlog holds.
const OPENING_AT_ONCE: u64 = 400;
/// The same with a rate, which is meant to be kept even if the server is slow.
const OPENING_AT_ONCE_AT_RATE: u64 = 20_000;

/// Why a run cannot start or go on.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Something on the command line.
    Usage(String),
    /// No io_uring here.
    Unavailable(probe::Unavailable),
    /// The kernel.
    Kernel(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) => f.write_str(why),
            Self::Unavailable(why) => why.fmt(f),
            Self::Kernel(error) => error.fmt(f),
        }
    }
}

/// A plan with no window yet.
///
/// # Errors
/// The target does not resolve, or the process may open too few files.
pub(crate) fn plan(common: &Common, opens: Option<f64>, raw: bool) -> Result<Plan, Refused> {
    let address = common.url.resolve().map_err(Refused::Usage)?;
    probe::check().map_err(Refused::Unavailable)?;
    let limit = rlimit::raise_open_files().or_else(|_| rlimit::open_files())?;
    let per_ring = limit.soft.min(MAX_SLOTS.into()).saturating_sub(SPARE_FILES.into());
    if per_ring < 64 {
        return Err(Refused::Usage(format!(
            "only {} open files are allowed, too few for a ring; raise the hard limit \
             (ulimit -Hn, LimitNOFILE=)",
            limit.soft
        )));
    }
    let parts = parts(common.connections, common.threads, per_ring);
    let rings = parts.len() as u64;
    let max_opening = match opens {
        Some(_) => OPENING_AT_ONCE_AT_RATE,
        None => OPENING_AT_ONCE,
    };
    let (target, epoch) = (Arc::new(common.url.clone()), Instant::now());
    let mut first_index = 0;
    let mut jobs = Vec::new();
    for connections in parts {
        jobs.push(Job {
            target: Arc::clone(&target),
            address,
            sources: Sources::new(address, common.source_base, common.spread()),
            first_index,
            connections,
            opens_per_second: opens
                .map(|rate| rate * connections as f64 / common.connections as f64),
            max_opening: (max_opening / rings).max(8),
            connect_timeout: common.connect_timeout,
            raw,
            epoch,
        });
        first_index += connections;
    }
    Ok(Plan {
        jobs,
        cores: common.cores.0.clone(),
        warm_up: Duration::ZERO,
        measure: None,
        settle: Duration::ZERO,
        politely: !common.abandon,
        server_pid: common.server_pid,
        ready_file: common.ready_file.clone(),
    })
}

/// Connections of each ring: at least `threads` rings, at most `per_ring` connections in one,
/// as even as possible.
fn parts(connections: u64, threads: u64, per_ring: u64) -> Vec<u64> {
    let rings = threads.min(connections).max(connections.div_ceil(per_ring));
    let (each, more) = (connections / rings, connections % rings);
    (0..rings).map(|ring| each + u64::from(ring < more)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_added_when_one_cannot_hold_its_part() {
        assert_eq!(parts(10, 1, 100), [10]);
        assert_eq!(parts(10, 3, 100), [4, 3, 3]);
        assert_eq!(parts(250, 1, 100), [84, 83, 83]);
        assert_eq!(parts(2, 5, 100), [1, 1]);
    }
}
