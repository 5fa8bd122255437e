//! The thread that gives this node's publications to Redis.
//!
//! Several leave in one write; their answers are read one by one, and the first that is missing ends
//! the connection; the last says whether the server is still a master, without which none counts.
//! What has no answer yet is sent again on a new connection while somebody waits for it: the number
//! that it has tells those who have it that they do. Every second a beat says how far the numbers
//! are, to this node too. Invariant: numbers leave in order and none is left out.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use ::redis::{Cmd, RedisResult, Value, cmd};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use tracing::{error, info, warn};

use super::breaker::{Breaker, State};
use super::connector::{Connector, Established, chance, short};
use super::life::Life;
use super::link::Link;
use super::publication;
use super::reason::Reason;
use super::relay::{Outgoing, Reach};
use crate::clock::Now;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::limits::{
    REDIS_BEAT_MS, REDIS_PUBLISH_BATCH_BYTES, REDIS_PUBLISH_QUEUE, REDIS_REPLY_MS,
};

/// The thread's name.
const THREAD: &str = "tidegate-redis-out";

struct Publishing {
    state: Arc<ServerState>,
    link: Link,
    topic: String,
    life: Life,
    queue: Receiver<Outgoing>,
    /// Numbered, and not answered.
    waiting: VecDeque<Outgoing>,
    /// The last number that was used.
    number: u64,
    beat_due: Now,
    breaker: Breaker,
}

/// Starts the thread; from then on publications can be handed over.
///
/// # Errors
/// The thread cannot be made.
pub fn start(
    state: Arc<ServerState>,
    connector: Connector,
    topic: String,
    life: Life,
) -> io::Result<JoinHandle<()>> {
    let (sender, queue) = bounded(REDIS_PUBLISH_QUEUE);
    state.relay.open(life, sender);
    let board = Arc::clone(&state);
    let mut publishing = Publishing {
        beat_due: state.clock.now(),
        state,
        link: Link::new(connector),
        topic,
        life,
        queue,
        waiting: VecDeque::new(),
        number: 0,
        breaker: Breaker::new(REDIS_BEAT_MS),
    };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| publishing.run())).is_err() {
            error!("the thread that publishes to other nodes is gone; this node serves on alone");
            board.relay.outgoing.set(Some(Reason::Unreachable));
        }
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(run)
}

impl Publishing {
    fn run(&mut self) {
        while self.state.phase() != Phase::Stopped {
            match self.queue.recv_timeout(self.patience()) {
                Ok(item) => self.take(item),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.give_up_late();
            let now = self.state.clock.now();
            let is_due = !self.waiting.is_empty() || now >= self.beat_due;
            if is_due && self.breaker.allows(now) {
                let result = self.send(now);
                self.note(result);
            }
        }
    }

    /// Until the next beat; or, while Redis is away, until it is tried again.
    fn patience(&self) -> Duration {
        match self.breaker.state() {
            State::Open(until) => until.since(self.state.clock.now()).max(Duration::from_millis(1)),
            _ if !self.waiting.is_empty() => Duration::ZERO,
            _ => self.beat_due.since(self.state.clock.now()),
        }
    }

    /// Takes what waits, up to one write.
    fn take(&mut self, first: Outgoing) {
        let mut bytes: usize = self.waiting.iter().map(|item| item.bytes.len()).sum();
        let mut next = Some(first);
        while let Some(mut item) = next {
            bytes += item.bytes.len();
            self.number += self.state.relay.skipped.swap(0, Ordering::Relaxed) + 1;
            publication::set_number(&mut item.bytes, self.number);
            self.waiting.push_back(item);
            next =
                (bytes < REDIS_PUBLISH_BATCH_BYTES).then(|| self.queue.try_recv().ok()).flatten();
        }
    }

    /// Whoever handed these over does not wait for them any more.
    fn give_up_late(&mut self) {
        let now = self.state.clock.now();
        while self.waiting.front().is_some_and(|item| now >= item.until) {
            self.answer_first(Reach::TimedOut);
        }
    }

    fn answer_first(&mut self, reach: Reach) {
        let Some(item) = self.waiting.pop_front() else { return };
        let relay = &self.state.relay;
        relay.queued.fetch_sub(item.bytes.len(), Ordering::Relaxed);
        relay.note_sent(reach);
        // Whoever asked may have gone.
        let _ = item.answer.send(reach);
    }

    /// Sends all that waits, and a beat if it is time or the connection is new.
    fn send(&mut self, now: Now) -> RedisResult<()> {
        let Self { link, state, waiting, topic, number, life, .. } = self;
        let is_due = now >= self.beat_due;
        let beats = link.with(now, Duration::from_millis(REDIS_REPLY_MS), |established| {
            let mut request = Vec::new();
            for item in waiting.iter() {
                publish(topic, &item.bytes).write_packed_command(&mut request);
            }
            let beats = is_due || established.is_new;
            if beats {
                *number += state.relay.skipped.swap(0, Ordering::Relaxed);
                let mut bytes = publication::beat(*life);
                publication::set_number(&mut bytes, *number);
                publish(topic, &bytes).write_packed_command(&mut request);
            }
            request.extend(established.role_question());
            established.connection.send_packed_command(&request)?;
            for _ in 0..waiting.len() + usize::from(beats) {
                heard(established)?;
            }
            established.hear_role()?;
            Ok(beats)
        })?;
        let reach = self.state.relay.taken_reach();
        while !self.waiting.is_empty() {
            self.answer_first(reach);
        }
        if beats {
            self.beat_due = now.plus_ms(REDIS_BEAT_MS);
            self.state.relay.echo(|echo| echo.taken(now));
        }
        Ok(())
    }

    fn note(&mut self, result: RedisResult<()>) {
        let link = &self.state.relay.outgoing;
        let redis = &self.link.connector().shown;
        match result {
            Ok(()) => {
                self.breaker.succeeded();
                if link.set(None) {
                    let channel = &self.topic;
                    info!(redis, channel, "publications of this node go to the other nodes");
                }
            }
            Err(failure) => {
                let reason = Reason::of(&failure);
                self.breaker.failed(self.state.clock.now(), chance());
                let is_open = matches!(self.breaker.state(), State::Open(_));
                if is_open && link.set(Some(reason)) {
                    warn!(
                        redis,
                        reason = reason.label(),
                        error = short(&failure),
                        remedy = self.link.connector().remedy(reason),
                        "publications of this node reach its own clients only"
                    );
                }
            }
        }
    }
}

fn publish(topic: &str, bytes: &[u8]) -> Cmd {
    let mut command = cmd("PUBLISH");
    command.arg(topic).arg(bytes);
    command
}

/// The answer to one PUBLISH.
fn heard(established: &mut Established) -> RedisResult<()> {
    established.connection.recv_response().and_then(Value::extract_error).map(drop)
}
