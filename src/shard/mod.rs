//! A shard: one thread, one ring, and everything that belongs to the connections on it.
//!
//! A turn of the loop: wait, dispatch each completion to one file, take messages, go on with
//! fan-outs and the drain, tick, submit once (at the next wait). Shards share nothing writable.
//! Invariants: one send in flight per connection; a descriptor is closed only when nothing else
//! is in flight on it; every end of a connection goes through `on_close`.

mod admitting;
mod by_source;
mod connections;
mod dispatch;
mod drain;
mod effects;
mod fan_out;
mod farewell;
mod gathering;
mod half_open;
mod heads;
mod hostile;
mod on_accept;
mod on_close;
mod on_message;
mod on_progress;
mod on_receive;
mod on_send;
mod on_tick;
mod outflow;
mod placement;
mod refusing;
mod sessions;
pub mod settings;
mod staying;
mod timers;
mod unadmitted;
mod unread;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use crossbeam_channel::Sender;

use crate::admission::{Abroad, Admission, Owners};
use crate::channels::registry::Registry;
use crate::clock::Now;
use crate::coordinator::command::Command;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::environment::Environment;
use crate::handler::{Effects, ShardRoutes};
use crate::limits;
use crate::mesh::inbox::Inbox;
use crate::mesh::outbox::Outbox;
use crate::metrics::ShardMetrics;
use crate::ring::{FileSlot, Operation, Ring, Token, Wait};
use crate::tables::{Map, Queue};
use crate::websocket::deflate::{Inflater, Outgoing};

use admitting::Deferred;
use connections::Connections;
use drain::Drain;
use fan_out::FanOut;
use farewell::Farewells;
use gathering::Gathering;
use half_open::HalfOpen;
use heads::Heads;
use hostile::{Output, PingCounts, Unfinished};
use on_accept::Accepting;
use on_receive::BeforeUpgrade;
use placement::Placement;
use refusing::Refusing;
use sessions::Sessions;
use settings::Settings;
use staying::Staying;
use timers::Timers;
use unadmitted::Unadmitted;
use unread::Unread;

/// What a shard is made of besides its ring.
pub struct Parts<E: Environment> {
    /// Its number, from 0.
    pub index: usize,
    /// Time, chance and processor time.
    pub environment: E,
    /// Where its messages come in.
    pub inbox: Inbox,
    /// The way to the other shards.
    pub outbox: Outbox,
    /// Which shard keeps the books of a source.
    pub owners: Owners,
    /// The counters of all shards, its own among them; those of the others are only read.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// The coordinator.
    pub commands: Sender<Command>,
    /// Its counters.
    pub metrics: Arc<ShardMetrics>,
    /// What it needs of the configuration.
    pub settings: Settings,
    /// Its part of the admission budgets.
    pub admission: Admission,
    /// The handlers by exact path.
    pub routes: ShardRoutes,
    /// The server, for its sessions.
    pub server: Arc<ServerState>,
    /// Keys for the hash tables.
    pub hash: RandomState,
}

/// One shard, generic over its environment so that a simulation can run it.
pub struct Shard<E: Environment> {
    index: usize,
    ring: E::Ring,
    environment: E,
    inbox: Inbox,
    outbox: Outbox,
    commands: Sender<Command>,
    metrics: Arc<ShardMetrics>,
    settings: Settings,
    routes: ShardRoutes,
    admission: Admission,
    owners: Owners,
    abroad: Abroad,
    deferred: Deferred,
    placement: Placement,
    accepting: Accepting,
    refusing: Refusing,
    half_open: HalfOpen,
    heads: Heads,
    unfinished: Unfinished,
    output: Output,
    ping_counts: PingCounts,
    connections: Connections,
    before_upgrade: Map<FileSlot, BeforeUpgrade>,
    unadmitted: Map<FileSlot, Unadmitted>,
    unread: Unread,
    timers: Timers,
    /// Connections whose deadline has come.
    due: Queue<FileSlot>,
    registry: Registry,
    sessions: Sessions,
    fan_outs: VecDeque<FanOut>,
    gathering: Gathering,
    effects: Effects,
    inflater: Inflater,
    spare: Vec<Vec<u8>>,
    /// Connections whose bytes wait to be read.
    readable: Queue<Token>,
    phase: Phase,
    drain: Option<Drain>,
    staying: Option<Staying>,
    farewells: Farewells,
    now: Now,
    tick: u32,
    unseen_ms: u64,
    own_time: on_tick::OwnTime,
}

impl<E: Environment> Shard<E> {
    /// A shard that has not begun to accept.
    pub fn new(ring: E::Ring, parts: Parts<E>) -> Self {
        let now = parts.environment.now();
        let capacity = ring.file_capacity();
        let half_open = HalfOpen::new(parts.settings.half_open);
        let heads = Heads::new(parts.settings.max_head_bytes_kept, parts.hash.clone());
        let refusing = Refusing::new(&parts.settings, parts.hash.clone());
        let farewells = Farewells::new(parts.settings.shards);
        let gathering = Gathering::new(parts.settings.gather);
        let unfinished = Unfinished::new(&parts.settings, parts.hash.clone());
        let output = Output::new(parts.settings.max_output_bytes, parts.hash.clone());
        let ping_counts = PingCounts::new(parts.settings.max_pings_per_second, parts.hash.clone());
        let max_channel_bytes = parts.settings.max_channel_bytes;
        let outgoing = Outgoing::new(parts.settings.compression_threshold);
        Self {
            index: parts.index,
            ring,
            environment: parts.environment,
            inbox: parts.inbox,
            abroad: Abroad::new(parts.outbox.shards()),
            outbox: parts.outbox,
            commands: parts.commands,
            metrics: parts.metrics,
            settings: parts.settings,
            routes: parts.routes,
            admission: parts.admission,
            owners: parts.owners,
            deferred: Deferred::new(),
            placement: Placement::new(parts.shards, parts.hash.clone()),
            accepting: Accepting::new(capacity),
            refusing,
            half_open,
            heads,
            unfinished,
            output,
            ping_counts,
            connections: Connections::default(),
            before_upgrade: Map::new(parts.hash.clone()),
            unadmitted: Map::new(parts.hash.clone()),
            unread: Unread::new(parts.hash.clone()),
            timers: Timers::new(on_tick::tick_at(now, 0)),
            due: Queue::default(),
            sessions: Sessions::new(parts.server, parts.hash.clone()),
            registry: Registry::new(parts.hash, max_channel_bytes),
            fan_outs: VecDeque::new(),
            gathering,
            effects: Effects { outgoing, ..Effects::default() },
            inflater: Inflater::default(),
            spare: Vec::new(),
            readable: Queue::default(),
            phase: Phase::Running,
            drain: None,
            staying: None,
            farewells,
            now,
            tick: on_tick::tick_at(now, 0),
            unseen_ms: 0,
            own_time: on_tick::OwnTime::default(),
        }
    }

    /// Runs until the coordinator ends it.
    ///
    /// # Errors
    /// Only what leaves the ring unusable.
    pub fn run(&mut self) -> io::Result<()> {
        self.begin();
        while !self.is_finished() {
            self.turn()?;
        }
        self.account_for_rest();
        Ok(())
    }

    /// Starts what every shard has in flight: the wake-up, the tick, its accepts.
    pub fn begin(&mut self) {
        self.ring.start(Operation::Wake);
        self.start_ticking();
        self.begin_accepting();
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn turn(&mut self) -> io::Result<()> {
        let wait = self.sleep_time();
        self.ring.turn(wait)?;
        self.act();
        Ok(())
    }

    /// The part of a turn behind the wait: acts on what has completed and on what is due.
    pub fn act(&mut self) {
        self.inbox.awake();
        self.look_at_the_clock();
        self.dispatch_some();
        self.go_on_accepting();
        self.take_messages();
        self.go_on_admitting();
        self.go_on_fanning_out();
        self.go_on_draining();
        self.go_on_staying();
        self.on_tick();
        self.meet_deadlines();
        self.receive_some();
        self.note_turn();
    }

    /// As many completions as fit into a part of a turn, and as start what the kernel can begin in
    /// such a part; the rest stays for the next.
    fn dispatch_some(&mut self) {
        let end_ns = self.now.ns() + limits::DISPATCH_NS;
        loop {
            for _ in 0..limits::COMPLETIONS_BETWEEN_LOOKS {
                let Some(completion) = self.ring.next_completion() else { return };
                self.dispatch(completion);
            }
            let full = self.ring.unsubmitted() >= limits::STARTED_PER_TURN;
            if full || self.environment.now().ns() >= end_ns {
                return;
            }
        }
    }

    /// How long the ring may sleep: not at all while work is left over, otherwise until
    /// something happens, a tick at the latest.
    pub fn sleep_time(&mut self) -> Wait {
        let work_left = !self.fan_outs.is_empty()
            || !self.readable.is_empty()
            || !self.due.is_empty()
            || self.staying.is_some()
            || self.drain.as_ref().is_some_and(Drain::has_work);
        if work_left || !self.inbox.may_sleep() {
            return Wait::AtMost(Duration::ZERO);
        }
        let paces = self.drain.as_ref().is_some_and(Drain::is_pacing);
        if paces || self.outbox.waits() {
            return Wait::AtMost(drain::PACE_INTERVAL);
        }
        self.gathering.wait()
    }

    fn start_ticking(&mut self) {
        self.ring.start(Operation::Tick(Duration::from_millis(limits::TICK_MS)));
    }
}
