//! What the thread that talks to Redis shows, and how it is told to take the node out. Without
//! Redis nobody writes here, and taking out has nothing to do.
//!
//! Locks are held for a copy; whoever reads never waits for Redis.

use std::sync::{Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::breaker::Change;
use super::counts::Cluster;
use super::reason::Reason;
use crate::clock::Now;

/// How Redis is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// There is none.
    #[default]
    Disabled,
    /// Nothing has succeeded or failed yet.
    Connecting,
    /// The last flush is in.
    Ok,
    /// Flushes fail.
    Unavailable,
    /// Another node that lives has the same id.
    Conflict,
    /// The node has been taken out.
    Left,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Disabled, Self::Connecting, Self::Ok, Self::Unavailable, Self::Conflict, Self::Left];

    /// For metrics and `/health/status` (S0.22).
    pub const fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Connecting => "connecting",
            Self::Ok => "ok",
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Left => "left",
        }
    }
}

/// What became of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushResult {
    /// Written.
    Ok,
    /// Another life has the id.
    Fenced,
    /// It failed; the reason is counted too.
    Failed,
}

impl FlushResult {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Fenced, Self::Failed];

    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fenced => "fenced",
            Self::Failed => "failed",
        }
    }
}

/// Upper bounds of the buckets of flush durations in milliseconds.
pub const DURATION_BUCKETS_MS: [u64; 7] = [1, 5, 10, 50, 100, 500, 1_000];

/// What is shown.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// How Redis is.
    pub status: Status,
    /// Why flushes fail, while they do.
    pub reason: Option<Reason>,
    /// The sums of the last flush that succeeded.
    pub cluster: Option<Cluster>,
    /// When that was.
    pub flushed: Option<Now>,
    /// From what age on the sums are not shown: the lease, in milliseconds.
    pub lease_ms: u64,
    /// This life's epoch, 0 if none.
    pub epoch: u64,
    /// Flushes by [`FlushResult`].
    pub flushes: [u64; FlushResult::ALL.len()],
    /// Failures by [`Reason`].
    pub failures: [u64; Reason::ALL.len()],
    /// Times that the breaker opened, and that it closed.
    pub opened: u64,
    /// See `opened`.
    pub closed: u64,
    /// Flushes by how long they took, the last bucket without a bound; not cumulative.
    pub durations: [u64; DURATION_BUCKETS_MS.len() + 1],
    /// How long all of them took, in nanoseconds.
    pub duration_ns: u64,
}

impl View {
    /// How Redis is, by what is known at `now`: if a flush has been waiting for longer than the
    /// lease holds, nobody counts on this node any more.
    pub fn status_at(&self, now: Now) -> Status {
        if self.status == Status::Ok && self.age_ms(now).is_none_or(|age| age > self.lease_ms) {
            return Status::Unavailable;
        }
        self.status
    }

    /// Why the last flush failed, or why none comes to an end.
    pub fn reason_at(&self, now: Now) -> Option<Reason> {
        let waits = self.status_at(now) == Status::Unavailable;
        self.reason.or_else(|| waits.then_some(Reason::TimedOut))
    }

    /// The sums if they can be shown for the cluster, otherwise the node speaks for itself.
    pub fn cluster_at(&self, now: Now) -> Option<Cluster> {
        self.cluster.filter(|_| self.status_at(now) == Status::Ok)
    }

    /// Milliseconds since the last flush that succeeded.
    pub fn age_ms(&self, now: Now) -> Option<u64> {
        Some(now.since(self.flushed?).as_millis() as u64)
    }

    pub(super) fn note_flush(&mut self, result: FlushResult, took_ns: u64) {
        self.flushes[result as usize] += 1;
        let bucket = DURATION_BUCKETS_MS.iter().position(|ms| took_ns <= ms * 1_000_000);
        self.durations[bucket.unwrap_or(DURATION_BUCKETS_MS.len())] += 1;
        self.duration_ns += took_ns;
    }

    pub(super) fn note_change(&mut self, change: Change) {
        match change {
            Change::Opened => self.opened += 1,
            Change::Closed => self.closed += 1,
        }
    }
}

/// How taking the node out stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// There is nothing to take out.
    Skipped,
    /// Not finished.
    UnderWay,
    /// It is out.
    Done,
    /// Redis did not take it.
    Failed,
    /// Redis did not answer.
    TimedOut,
}

/// The board.
#[derive(Debug)]
pub struct Board {
    view: Mutex<View>,
    departure: Mutex<Departure>,
    order: (Sender<Now>, Receiver<Now>),
}

impl Default for Board {
    fn default() -> Self {
        Self {
            view: Mutex::default(),
            departure: Mutex::new(Departure::Skipped),
            order: bounded(1),
        }
    }
}

impl Board {
    /// What is shown now.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for the last flush, which takes the node out; it is tried until `deadline`. Asking
    /// twice changes nothing.
    pub fn leave(&self, deadline: Now) {
        // Full: it has been asked.
        let _ = self.order.0.try_send(deadline);
    }

    /// How that stands.
    pub fn departure(&self) -> Departure {
        *self.departure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn set_departure(&self, departure: Departure) {
        *self.departure.lock().unwrap_or_else(PoisonError::into_inner) = departure;
    }

    pub(super) fn orders(&self) -> Receiver<Now> {
        self.order.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_shown_while_the_lease_of_the_last_flush_holds() {
        let cluster = Some(Cluster { connections: 7, ..Cluster::default() });
        let mut view = View {
            status: Status::Ok,
            cluster,
            flushed: Some(Now::from_ms(1_000)),
            lease_ms: 300,
            ..View::default()
        };
        assert_eq!(view.cluster_at(Now::from_ms(1_300)), cluster);
        assert_eq!(view.status_at(Now::from_ms(1_300)), Status::Ok);
        assert_eq!(view.cluster_at(Now::from_ms(1_301)), None);
        assert_eq!(view.status_at(Now::from_ms(1_301)), Status::Unavailable);
        assert_eq!(view.reason_at(Now::from_ms(1_300)), None);
        assert_eq!(view.reason_at(Now::from_ms(1_301)), Some(Reason::TimedOut));
        for status in Status::ALL.into_iter().filter(|status| *status != Status::Ok) {
            view.status = status;
            assert_eq!(view.cluster_at(Now::from_ms(1_000)), None, "{status:?}");
            assert_eq!(view.status_at(Now::from_ms(1_000)), status);
        }
    }

    #[test]
    fn without_redis_there_is_nothing_to_take_out() {
        let board = Board::default();
        board.leave(Now::default());
        board.leave(Now::default());
        assert_eq!(board.departure(), Departure::Skipped);
    }
}
