//! The thread that writes this node's counts to Redis, and reads the sums.
//!
//! One flush is in flight. What is written is the state at that moment; nothing is queued, so a
//! Redis that stands still costs one blocked thread and no memory. Every wait has a bound, and
//! whatever fails is tried again at the breaker's pace.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use ::redis::{ErrorKind, RedisError, RedisResult};
use crossbeam_channel::{Receiver, RecvTimeoutError};
use tracing::{error, info, warn};

use super::board::{Departure, FlushResult, Status};
use super::breaker::{Breaker, Change, State};
use super::conflicts::Conflicts;
use super::connector::{Connector, chance, short};
use super::counts::{Answer, Cluster, Counts, Identity, OtherLife, Standing, Verdict};
use super::link::Link;
use super::reason::Reason;
use super::scripts::{Scripts, Step};
use crate::clock::Now;
use crate::coordinator::state::ServerState;
use crate::limits::{REDIS_EPOCH_TRIES, REDIS_REPLY_MS};

/// Flush intervals that a lease holds.
const LEASE_INTERVALS: u64 = 3;

/// The thread's name.
const THREAD: &str = "tidegate-redis";

/// Writes, and remembers what it needs from one flush to the next.
struct Flusher {
    state: Arc<ServerState>,
    link: Link,
    identity: Identity,
    scripts: Scripts,
    standing: Standing,
    breaker: Breaker,
    interval_ms: u64,
    due: Now,
    conflicts: Conflicts,
}

/// What a flush came to.
enum Flushed {
    Written(Cluster),
    Conflict(OtherLife),
}

/// Starts the thread, which writes what `state` counts until it is told to take the node out.
///
/// # Errors
/// The thread cannot be made.
pub fn start(
    state: Arc<ServerState>,
    connector: Connector,
    identity: Identity,
    interval_ms: u64,
) -> io::Result<JoinHandle<()>> {
    let lease_ms = interval_ms * LEASE_INTERVALS;
    state.redis.update(|view| (view.status, view.lease_ms) = (Status::Connecting, lease_ms));
    state.redis.set_departure(Departure::UnderWay);
    let orders = state.redis.orders();
    let (board, started) = (Arc::clone(&state), Arc::clone(&state));
    let mut flusher = Flusher {
        due: state.clock.now(),
        state,
        link: Link::new(connector),
        identity,
        scripts: Scripts::new(),
        standing: Standing::default(),
        breaker: Breaker::new(interval_ms),
        interval_ms,
        conflicts: Conflicts::default(),
    };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| flusher.run(&orders))).is_err() {
            error!(
                "the thread that writes counts to Redis is gone; this node serves on without it"
            );
            board.redis.update(|view| view.status = Status::Unavailable);
            board.redis.set_departure(Departure::Failed);
        }
    };
    let spawned = thread::Builder::new().name(THREAD.to_owned()).spawn(run);
    if spawned.is_err() {
        started.redis.set_departure(Departure::Skipped);
    }
    spawned
}

impl Flusher {
    fn run(&mut self, orders: &Receiver<Now>) {
        let Identity { cluster, node, .. } = &self.identity;
        info!(redis = self.redis(), cluster, node, "counts are shared through Redis");
        loop {
            let wait = self.due.since(self.state.clock.now());
            match orders.recv_timeout(wait) {
                Ok(deadline) => return self.leave(deadline),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => self.come_round(),
            }
        }
    }

    /// The address of Redis, as it is shown.
    fn redis(&self) -> &str {
        &self.link.connector().shown
    }

    fn come_round(&mut self) {
        let started = self.state.clock.now();
        self.due = started.plus_ms(self.interval_ms);
        if self.breaker.allows(started) {
            let result = self.flush();
            let took_ns = self.state.clock.now().since(started).as_nanos() as u64;
            self.note(result, took_ns);
        }
        if let State::Open(until) = self.breaker.state() {
            self.due = until;
        }
    }

    /// Writes the counts; takes a new epoch where the old one no longer holds.
    fn flush(&mut self) -> RedisResult<Flushed> {
        for _ in 0..REDIS_EPOCH_TRIES {
            let before = self.standing.epoch();
            let answer = self.ask(Step::Flush, Duration::from_millis(REDIS_REPLY_MS))?;
            if let Answer::Written { epoch, instead_of, .. } = &answer {
                self.tell_epoch(*epoch, instead_of.as_ref());
            } else {
                warn!(epoch = before, ?answer, "this node's epoch has ended; taking a new one");
            }
            match self.standing.heard(answer) {
                Verdict::Accepted(cluster) => return Ok(Flushed::Written(cluster)),
                Verdict::Conflict(other) => return Ok(Flushed::Conflict(other)),
                Verdict::TakeAgain => {}
            }
        }
        Err((ErrorKind::UnexpectedReturnType, "no epoch could be had").into())
    }

    /// One script.
    fn ask(&mut self, step: Step, patience: Duration) -> RedisResult<Answer> {
        let Self { link, state, standing, scripts, identity, .. } = self;
        let lease_ms = self.interval_ms * LEASE_INTERVALS;
        link.with(state.clock.now(), patience, |established| {
            let connection = &mut established.connection;
            connection.set_read_timeout(Some(patience))?;
            connection.set_write_timeout(Some(patience))?;
            let (fence, counts) = (standing.next_fence(), counts(state));
            scripts.run(step, connection, identity, fence, counts, lease_ms)
        })
    }

    fn tell_epoch(&self, epoch: u64, instead_of: Option<&OtherLife>) {
        if epoch == self.standing.epoch() {
            return;
        }
        let node = &self.identity.node;
        match instead_of {
            Some(OtherLife { host, pid, started_at, is_leased, .. }) => info!(
                node,
                epoch,
                host,
                pid,
                started_at,
                was_leased = is_leased,
                "this node's counts take the place of those of an earlier life"
            ),
            None => info!(node, epoch, "this node's counts are in Redis"),
        }
    }

    fn note(&mut self, result: RedisResult<Flushed>, took_ns: u64) {
        let now = self.state.clock.now();
        let (change, noted) = match &result {
            Ok(Flushed::Written(_)) => (self.breaker.succeeded(), FlushResult::Ok),
            Ok(Flushed::Conflict(_)) => (self.breaker.succeeded(), FlushResult::Fenced),
            Err(_) => (self.breaker.failed(now, chance()), FlushResult::Failed),
        };
        let is_open = matches!(self.breaker.state(), State::Open(_));
        let reason = result.as_ref().err().map(Reason::of);
        let epoch = self.standing.epoch();
        self.state.redis.update(|view| {
            view.note_flush(noted, took_ns);
            view.epoch = epoch;
            if let Some(change) = change {
                view.note_change(change);
            }
            match (&result, reason) {
                (Ok(Flushed::Written(cluster)), _) => {
                    (view.status, view.reason) = (Status::Ok, None);
                    (view.cluster, view.flushed) = (Some(*cluster), Some(now));
                }
                (Ok(Flushed::Conflict(_)), _) => {
                    (view.status, view.reason) = (Status::Conflict, None);
                }
                (Err(_), Some(reason)) => {
                    view.failures[reason as usize] += 1;
                    view.reason = Some(reason);
                    if is_open {
                        view.status = Status::Unavailable;
                    }
                }
                (Err(_), None) => {}
            }
        });
        self.say(change, result.as_ref().err());
        match result {
            Ok(Flushed::Conflict(other)) => self.on_conflict(&other, now),
            Ok(Flushed::Written(_)) => self.conflicts.forget_after_peace(now),
            Err(_) => {}
        }
    }

    /// One line for one change.
    fn say(&self, change: Option<Change>, error: Option<&RedisError>) {
        match (change, error) {
            (Some(Change::Opened), Some(error)) => warn!(
                redis = self.redis(),
                reason = Reason::of(error).label(),
                error = short(error),
                remedy = self.link.connector().remedy(Reason::of(error)),
                "Redis is unavailable; this node goes on without it and tries again"
            ),
            (Some(Change::Closed), _) => info!(redis = self.redis(), "Redis is available"),
            _ => {}
        }
    }

    /// Two nodes that live have one id. They take turns, each pausing for longer and longer, and
    /// each says so when it has lost its turn.
    fn on_conflict(&mut self, other: &OtherLife, now: Now) {
        let Identity { node, host, pid, started_at, .. } = &self.identity;
        let pause_ms = self.conflicts.one_more(self.interval_ms * LEASE_INTERVALS, now);
        self.due = now.plus_ms(pause_ms);
        error!(
            node,
            this_host = host,
            this_pid = pid,
            this_started_at = started_at,
            other_host = other.host,
            other_pid = other.pid,
            other_started_at = other.started_at,
            next_try_ms = pause_ms,
            "two nodes use the same redis.node_id = {node}: this one ({host}, pid {pid}, started \
             {started_at}) and another ({}, pid {}, started {}); the counts of the cluster are \
             wrong until each has an id of its own",
            other.host,
            other.pid,
            other.started_at,
        );
    }

    /// The last flush, which takes the node out. A connection that has gone bad meanwhile is worth
    /// a second try.
    fn leave(&mut self, deadline: Now) {
        info!("Closing Redis connections");
        let tries = if self.link.is_there() { 2 } else { 1 };
        let mut departure = Departure::TimedOut;
        for _ in 0..tries {
            let left = deadline.since(self.state.clock.now());
            if left.is_zero() {
                break;
            }
            match self.ask(Step::Leave, left) {
                Ok(answer) => {
                    departure = Departure::Done;
                    self.state.redis.update(|view| view.status = Status::Left);
                    if let Answer::Fenced(other) = answer {
                        let OtherLife { host, pid, .. } = other;
                        info!(host, pid, "another life has this node's id, and keeps it");
                    }
                    info!("Redis connections closed");
                    break;
                }
                Err(error) => {
                    let timed_out = Reason::of(&error) == Reason::TimedOut;
                    departure = if timed_out { Departure::TimedOut } else { Departure::Failed };
                    let lease_ms = self.interval_ms * LEASE_INTERVALS;
                    let error = short(&error);
                    warn!(
                        error,
                        lease_ms,
                        "this node could not be taken out of Redis; its share \
                          ends with its lease"
                    );
                }
            }
        }
        self.link.close();
        self.state.redis.set_departure(departure);
    }
}

fn counts(state: &ServerState) -> Counts {
    Counts {
        connections: state.connections(),
        peak: state.connections_peak(),
        connection_ms: state.connection_ms(),
    }
}
