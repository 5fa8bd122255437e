//! The thread that keeps sessions: takes what shards say, asks Redis if there is one, and tells shards
//! what they are to do.
//!
//! While Redis stands still so does this thread, for a bounded time; shards do not wait for it, and
//! what they say meanwhile is queued up to a bound.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use ::redis::RedisError;
use ahash::RandomState;
use crossbeam_channel::{Receiver, unbounded};
use tracing::{error, info, warn};

use super::desk::Flush;
use super::figures::Loss;
use super::keeper::{Ask, Event, Keeper, Order, Said};
use crate::clock::Now;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::limits::{PUBLISH_PATIENCE_MS, REDIS_BEAT_MS, SESSION_BATCH, SESSION_LOOK_MS};
use crate::memory_plan::Use;
use crate::mesh::inbox::{NotTaken, Postbox};
use crate::mesh::message::ShardMessage;
use crate::redis::breaker::{Breaker, Change, State};
use crate::redis::reason::Reason;
use crate::redis::session_store::Store;

/// The thread's name.
const THREAD: &str = "tidegate-sessions";

/// How long nothing may happen before time is passed to the keeper.
const IDLE: Duration = Duration::from_millis(100);

/// The first so many saves of a shutdown are named in the log, and then counted each second.
const NAMED: u64 = 10;

struct Working {
    state: Arc<ServerState>,
    keeper: Keeper,
    queue: Receiver<Event>,
    postboxes: Vec<Postbox>,
    /// What a shard had no room for.
    waiting: VecDeque<Order>,
    store: Option<Store>,
    breaker: Breaker,
    /// A client has asked for a session. Before that Redis is not asked for any.
    is_used: bool,
    said: SaidSoFar,
}

/// What the log has of the saves of a shutdown.
#[derive(Default)]
struct SaidSoFar {
    named: u64,
    counted: u64,
    at: Option<Now>,
}

/// Starts the thread; with a `store` sessions are saved there, without one they are kept in memory.
///
/// # Errors
/// The thread cannot be made.
pub fn start(
    state: Arc<ServerState>,
    postboxes: Vec<Postbox>,
    store: Option<Store>,
) -> io::Result<JoinHandle<()>> {
    let config = state.config();
    let settings = &config.sessions;
    let (sender, queue) = unbounded();
    state.sessions.open(sender);
    if store.is_some() {
        state.sessions.set_flush(Flush::UnderWay);
    }
    let keeper = Keeper::new(
        RandomState::new(),
        store.is_some(),
        settings.resume_timeout_ms,
        settings.expiry_ms,
        usize::try_from(state.memory_plan().allowed(Use::Sessions)).unwrap_or(usize::MAX),
    );
    let (board, started) = (Arc::clone(&state), Arc::clone(&state));
    let mut working = Working {
        state,
        keeper,
        queue,
        postboxes,
        waiting: VecDeque::new(),
        store,
        breaker: Breaker::new(REDIS_BEAT_MS),
        is_used: false,
        said: SaidSoFar::default(),
    };
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| working.run())).is_err() {
            error!("the thread that keeps sessions is gone; this node serves on without them");
            board.sessions.set_flush(Flush::Failed);
        }
    };
    let spawned = thread::Builder::new().name(THREAD.to_owned()).spawn(run);
    if spawned.is_err() {
        started.sessions.set_flush(Flush::Skipped);
    }
    spawned
}

impl Working {
    fn run(&mut self) {
        while self.state.phase() != Phase::Stopped {
            let first = self.queue.recv_timeout(self.patience()).ok();
            for event in first.into_iter().chain(self.queue.try_iter()).take(SESSION_BATCH) {
                self.is_used |= matches!(event, Event::Attach { .. });
                self.keeper.on_event(event, self.state.clock.now());
            }
            self.ask_redis();
            self.keeper.tick(self.now());
            self.tell_shards();
            self.tell_nodes();
            self.show();
            if self.state.sessions.flush_until().is_some() && self.go_on_flushing() {
                return;
            }
        }
    }

    fn now(&self) -> Now {
        self.state.clock.now()
    }

    fn patience(&self) -> Duration {
        let can_ask = self.store.is_some() && !matches!(self.breaker.state(), State::Open(_));
        if can_ask && self.keeper.has_asks() {
            return Duration::ZERO;
        }
        let is_waited_for = self.keeper.has_pending()
            || !self.waiting.is_empty()
            || self.state.sessions.flush_until().is_some();
        if is_waited_for { Duration::from_millis(SESSION_LOOK_MS / 4) } else { IDLE }
    }

    /// One batch. With nothing to ask, a Redis that was away is asked whether it is back.
    fn ask_redis(&mut self) {
        let now = self.now();
        let Some(store) = &mut self.store else { return };
        if !self.is_used {
            return;
        }
        if !self.breaker.allows(now) {
            return self.keeper.set_available(false);
        }
        let asks = self.keeper.next_asks(SESSION_BATCH, now);
        let is_closed = self.breaker.state() == State::Closed;
        if asks.is_empty() && is_closed {
            return;
        }
        let keeper = &self.keeper;
        let kept_of = |ask: &Ask| match ask {
            Ask::Save(id) => keeper.kept_of(id),
            _ => None,
        };
        let (said, result) = store.ask(&asks, kept_of, now);
        let now = self.now();
        let mut asks = VecDeque::from(asks);
        for said in said {
            let Some(ask) = asks.pop_front() else { break };
            self.note_save(&ask, &said, now);
            self.keeper.heard(&ask, said, now);
        }
        self.keeper.give_back(asks.into());
        let change = match &result {
            Ok(()) => self.breaker.succeeded(),
            Err(_) => self.breaker.failed(now, 1.0),
        };
        self.keeper.set_available(!matches!(self.breaker.state(), State::Open(_)));
        match (change, result) {
            (Some(Change::Closed), _) => info!("sessions are saved in Redis"),
            (Some(Change::Opened), Err(failure)) => self.log_unavailable(&failure),
            _ => {}
        }
    }

    fn log_unavailable(&self, failure: &RedisError) {
        let Some(store) = &self.store else { return };
        let (error, remedy) = store.shown(failure);
        warn!(
            reason = Reason::of(failure).label(),
            error, remedy, "sessions cannot be saved in Redis; until they can they stay in memory"
        );
    }

    fn tell_shards(&mut self) {
        self.waiting.extend(self.keeper.orders.drain(..));
        for _ in 0..self.waiting.len() {
            let Some(order) = self.waiting.pop_front() else { break };
            let (Order::Attached { holder, .. } | Order::LetGo { holder }) = &order;
            let Some(postbox) = self.postboxes.get(usize::from(holder.shard)) else { continue };
            // A shard that is gone has no connections.
            let result = postbox.post(ShardMessage::Session(order));
            if let Err(NotTaken::Full(ShardMessage::Session(order))) = result {
                self.waiting.push_back(order);
            }
        }
    }

    fn tell_nodes(&mut self) {
        let until = self.now().plus_ms(PUBLISH_PATIENCE_MS);
        for (life, id) in self.keeper.notices.drain(..) {
            self.state.relay.to_holder(life, id.as_str(), until);
        }
    }

    fn show(&mut self) {
        let directory = self.keeper.directory();
        let (held, kept) = (directory.held() as u64, directory.kept() as u64);
        let bytes = directory.kept_bytes() as u64;
        let figures = &mut self.keeper.figures;
        (figures.held, figures.in_memory, figures.in_memory_bytes) = (held, kept, bytes);
        self.state.sessions.show(*figures);
    }

    /// S2.17, S2.29: the first saves of a shutdown by name, then how many there were each second.
    fn note_save(&mut self, ask: &Ask, said: &Said, now: Now) {
        let (Ask::Save(id), Said::Ours { is_ours: true }) = (ask, said) else { return };
        if !self.state.phase().is_shutting_down() {
            return;
        }
        if self.said.named < NAMED {
            self.said.named += 1;
            let count = self.keeper.kept_of(id).map_or(0, |record| record.messages);
            return info!(session_id = ?id, count, "ws_shutdown_session_saved");
        }
        self.said.counted += 1;
        let since = *self.said.at.get_or_insert(now);
        if now >= since.plus_ms(1_000) {
            self.say_counted(now);
        }
    }

    fn say_counted(&mut self, now: Now) {
        let sessions = std::mem::take(&mut self.said.counted);
        self.said.at = Some(now);
        if sessions > 0 {
            info!(sessions, "ws_shutdown_session_saved");
        }
    }

    /// True when the flush is over: everything is saved, or the time is.
    fn go_on_flushing(&mut self) -> bool {
        let now = self.now();
        let is_late = self.state.sessions.flush_until().is_some_and(|until| now >= until);
        let left = self.keeper.unsaved() + self.keeper.directory().held();
        if left + self.queue.len() > 0 && !is_late {
            return false;
        }
        // What has been let go of and not been looked at is counted once, as what it is.
        while let Ok(event) = self.queue.try_recv() {
            self.keeper.on_event(event, now);
        }
        let left = self.keeper.unsaved() + self.keeper.directory().held();
        self.say_counted(now);
        self.keeper.figures.lose(Loss::NotInTime, left as u64);
        self.show();
        let saved = self.keeper.figures.saved;
        let flush = if left == 0 { Flush::Done } else { Flush::TimedOut };
        match flush {
            Flush::Done => info!(saved, "all sessions are saved"),
            _ => warn!(saved, not_saved = left, "the time to save sessions is over"),
        }
        self.state.sessions.set_flush(flush);
        true
    }
}
