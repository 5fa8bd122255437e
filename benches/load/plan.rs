//! From arguments to rings: limits, how many rings, and each one's part.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{MAX_SLOTS, probe};
use tidegate::sys::rlimit;

use crate::arguments::{Churn, Common, Flood, Hold, Ramp};
use crate::client::{Door, Job, Manner, SPARE_FILES};
use crate::crew::{PhaseSign, Plan, Window};
use crate::pace::Pace;
use crate::sources::{Sources, Spread};
use crate::target::Target;
use crate::tun::Ranges;
use crate::{churn, ramp, tun};

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
    /// The report cannot be written to standard output.
    Output(io::Error),
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
            Self::Output(error) => write!(f, "standard output: {error}"),
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
        pace: Pace::of_rate(opens),
        max_opening: opening_at_once(opens).max(8 * parts.len() as u64),
        connect_timeout: common.connect_timeout,
        raw,
        manner: Manner::default(),
        epoch: Instant::now(),
    };
    Ok(Plan {
        phase: PhaseSign::default(),
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

/// Where the clients of a run come from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origins {
    base: Option<Ipv4Addr>,
    spread: Spread,
}

impl Origins {
    /// As the command line says.
    pub(crate) fn of(common: &Common) -> Self {
        Self { base: common.source_base, spread: common.spread() }
    }

    /// Another server than the URL's, for the same clients.
    ///
    /// # Errors
    /// It does not resolve.
    pub(crate) fn door(&self, target: &Target) -> Result<Door, String> {
        let address = target.resolve()?;
        let sources = Sources::new(address, self.base, self.spread);
        Ok(Door { target: Arc::new(target.clone()), address, sources })
    }
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
        pace: Pace::of_rate(flood.rate),
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
        phase: PhaseSign::default(),
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

/// A plan for clients in user space: one thread has them all.
///
/// # Errors
/// The target does not resolve.
pub(crate) fn tun(hold: &Hold, ranges: &Ranges) -> Result<Plan, Refused> {
    let common = &hold.common;
    let address = common.url.resolve().map_err(Refused::Usage)?;
    let address = tun::seen_from_outside(address, ranges).map_err(Refused::Usage)?;
    let job = Job {
        target: Arc::new(common.url.clone()),
        address,
        sources: Sources::new(address, common.source_base, common.spread()),
        first_index: 0,
        connections: common.connections,
        files: common.connections,
        pace: Pace::of_rate(hold.rate),
        max_opening: opening_at_once(hold.rate),
        connect_timeout: common.connect_timeout,
        raw: hold.raw,
        manner: Manner::default(),
        epoch: Instant::now(),
    };
    Ok(Plan {
        phase: PhaseSign::default(),
        jobs: vec![job],
        cores: common.cores.0.clone(),
        window: Window::Held,
        warm_up: Duration::ZERO,
        measure: hold.hold_for,
        settle: Duration::ZERO,
        politely: !common.abandon,
        server_pid: common.server_pid,
        ready_file: common.ready_file.clone(),
    })
}

/// A plan whose attempts come at a rate that rises.
///
/// # Errors
/// As [`plan`].
pub(crate) fn ramp(ramp: &Ramp) -> Result<Plan, Refused> {
    let room = room()?;
    let attempts = ramp::attempts(ramp);
    let parts = parts(attempts, ramp.common.threads, room);
    let mut plan = plan(&ramp.common, Some(ramp.to), false)?;
    let Some(first) = plan.jobs.first() else { return Ok(plan) };
    let whole = Job {
        first_index: 0,
        connections: attempts,
        files: room,
        pace: ramp::pace(ramp),
        max_opening: OPENING_AT_ONCE_AT_RATE,
        ..first.clone()
    };
    plan.jobs = divide(&whole, &parts);
    plan.window = Window::Attempts { leave: false };
    plan.settle = ramp.common.connect_timeout;
    Ok(plan)
}

/// A plan whose connections are replaced when they end, for as long as the clock says.
///
/// # Errors
/// As [`plan`].
pub(crate) fn churn(churn: &Churn) -> Result<Plan, Refused> {
    let room = room()?;
    let per_second = churn::per_second_wanted(churn);
    let mut plan = plan(&churn.common, Some(per_second), false)?;
    let rings = plan.jobs.len() as u64;
    let Some(first) = plan.jobs.first() else { return Ok(plan) };
    let whole = Job {
        first_index: 0,
        connections: ENDLESS,
        // Their number varies by chance, and those that are being opened and closed need room.
        files: (churn.common.connections / rings * 5 / 4 + 1_000).min(room),
        pace: Pace::Steady(per_second),
        max_opening: OPENING_AT_ONCE_AT_RATE,
        ..first.clone()
    };
    plan.jobs = divide(&whole, &parts(ENDLESS, rings, u64::MAX));
    plan.window = Window::Attempts { leave: false };
    plan.measure = Some(churn.go_on);
    plan.settle = churn.common.connect_timeout;
    Ok(plan)
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
            pace: whole.pace.share(share),
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
