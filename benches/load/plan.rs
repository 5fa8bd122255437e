//! From arguments to rings: limits, how many rings, and each one's part.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{MAX_SLOTS, probe};
use tidegate::sys::rlimit;

use crate::arguments::{Common, Flood};
use crate::client::{Job, Manner, SPARE_FILES};
use crate::crew::{Plan, Window};
use crate::sources::{Sources, Spread};

/// Attempts that may be unanswered at once over all rings when no rate is given: about what the
/// smallest usual listen backlog holds.
const OPENING_AT_ONCE: u64 = 400;
/// The same with a rate, which is meant to be kept even if the server is slow.
const OPENING_AT_ONCE_AT_RATE: u64 = 20_000;

/// Attempts of a run that ends by the clock: more than any machine makes.
pub(crate) const ENDLESS: u64 = 1 << 40;

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
    let room = room()?;
    let address = common.url.resolve().map_err(Refused::Usage)?;
    let parts = parts(common.connections, common.threads, room);
    let whole = Job {
        target: Arc::new(common.url.clone()),
        address,
        sources: Sources::new(address, common.source_base, common.spread()),
        first_index: 0,
        connections: common.connections,
        files: room,
        opens_per_second: opens,
        max_opening: opening_at_once(opens).max(8 * parts.len() as u64),
        connect_timeout: common.connect_timeout,
        raw,
        manner: Manner::default(),
        epoch: Instant::now(),
    };
    Ok(Plan {
        jobs: divide(&whole, &parts),
        cores: common.cores.0.clone(),
        window: Window::Held,
        warm_up: Duration::ZERO,
        measure: None,
        settle: Duration::ZERO,
        politely: !common.abandon,
        server_pid: common.server_pid,
        ready_file: common.ready_file.clone(),
    })
}

/// A plan whose window is the attempts. A ring has room for as many connections at once as it
/// may have descriptors, whatever the number of attempts.
///
/// # Errors
/// As [`plan`].
pub(crate) fn flood(flood: &Flood) -> Result<Plan, Refused> {
    let room = room()?;
    let address = flood.url.resolve().map_err(Refused::Usage)?;
    let attempts = flood.attempts.unwrap_or(ENDLESS);
    let rings = flood.rings.min(attempts);
    let at_once = flood.in_flight.unwrap_or(opening_at_once(flood.rate));
    let whole = Job {
        target: Arc::new(flood.url.clone()),
        address,
        sources: Sources::new(address, flood.source_base, Spread::Sources(flood.sources)),
        first_index: 0,
        connections: attempts,
        files: room,
        opens_per_second: flood.rate,
        max_opening: at_once.min(room * rings),
        connect_timeout: flood.connect_timeout,
        raw: false,
        manner: Manner {
            origin: flood.origin.as_deref().map(Arc::from),
            key: flood.key.as_deref().map(Arc::from),
            clients: flood.behind_proxy,
        },
        epoch: Instant::now(),
    };
    Ok(Plan {
        jobs: divide(&whole, &parts(attempts, rings, u64::MAX)),
        cores: flood.cores.0.clone(),
        window: Window::Attempts { leave: flood.leave },
        warm_up: Duration::ZERO,
        measure: flood.duration,
        settle: flood.connect_timeout,
        politely: !flood.abandon,
        server_pid: flood.server_pid,
        ready_file: flood.ready_file.clone(),
    })
}

/// Connections that one ring may have at a time.
fn room() -> Result<u64, Refused> {
    probe::check().map_err(Refused::Unavailable)?;
    let limit = rlimit::raise_open_files().or_else(|_| rlimit::open_files())?;
    let room = limit.soft.min(MAX_SLOTS.into()).saturating_sub(SPARE_FILES.into());
    if room < 64 {
        return Err(Refused::Usage(format!(
            "only {} open files are allowed, too few for a ring; raise the hard limit \
             (ulimit -Hn, LimitNOFILE=)",
            limit.soft
        )));
    }
    Ok(room)
}

fn opening_at_once(rate: Option<f64>) -> u64 {
    if rate.is_some() { OPENING_AT_ONCE_AT_RATE } else { OPENING_AT_ONCE }
}

/// One job for each part, with its share of rate and room.
fn divide(whole: &Job, parts: &[u64]) -> Vec<Job> {
    let mut first_index = 0;
    let mut jobs = Vec::new();
    for connections in parts.iter().copied() {
        let share = connections as f64 / whole.connections as f64;
        jobs.push(Job {
            first_index,
            connections,
            files: connections.min(whole.files),
            opens_per_second: whole.opens_per_second.map(|rate| rate * share),
            max_opening: (whole.max_opening / parts.len() as u64).max(1),
            ..whole.clone()
        });
        first_index += connections;
    }
    jobs
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
