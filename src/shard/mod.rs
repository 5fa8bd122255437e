//! A shard: one thread, one ring, and everything that belongs to the connections on it.
//!
//! A turn of the loop: wait, let each completion meet its connection, take messages, go on with
//! fan-outs and the drain, tick, submit once (at the next wait). Shards share nothing writable.
//!
//! Two floors: the driver, which is the files here, owns the ring, the table of connections and the
//! timers; below it the machine (`machine/`) is what one connection does with one event, without any of
//! these. The driver looks a connection up in one place (`events`). What a
//! connection means for others it notes as an action, which is carried out before the turn ends.
//! Invariants: one send in flight per connection; a descriptor is closed only when nothing else
//! is in flight on it.

mod admitting;
mod by_source;
mod connections;
mod dispatch;
mod drain;
mod events;
mod fan_out;
mod farewell;
mod gathering;
mod half_open;
mod heads;
mod heavy;
mod hostile;
mod machine;
mod on_accept;
mod on_message;
mod on_tick;
mod outflow;
mod placement;
mod reconcile;
mod refusing;
mod sessions;
pub mod settings;
mod spare;
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

use crate::admission::{Admission, Owners};
use crate::channels::registry::Registry;
use crate::coordinator::command::Command;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::environment::Environment;
use crate::handler::{Effects, ShardRoutes};
use crate::limits;
use crate::mesh::inbox::Inbox;
use crate::mesh::outbox::Outbox;
use crate::metrics::ShardMetrics;
use crate::ring::{Operation, Ring, Token, Wait};
use crate::sessions::id::SessionId;
use crate::tables::{Map, Queue};
use crate::websocket::deflate::{Inflater, Outgoing};

use admitting::Admitting;
use connections::Connections;
use drain::{Drain, Draining};
use fan_out::FanOut;
use farewell::Farewells;
use half_open::HalfOpen;
use heads::Heads;
use heavy::Heavy;
use hostile::{Output, PingCounts, Unfinished};
use machine::Event;
use machine::context::{Action, Budgets, Context, Handshakes, Next, Serving, Shutdown, TurnTime};
use on_accept::Accepting;
use on_tick::Timing;
use placement::Placement;
use refusing::Refusing;
use sessions::Sessions;
use settings::Settings;
use spare::Spare;
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

/// The ways to and from other threads.
struct Mesh {
    inbox: Inbox,
    outbox: Outbox,
    commands: Sender<Command>,
}

/// One shard, generic over its environment so that a simulation can run it.
pub struct Shard<E: Environment> {
    index: usize,
    ring: E::Ring,
    environment: E,
    mesh: Mesh,
    connections: Connections,
    cx: Context,
    admitting: Admitting,
    placement: Placement,
    accepting: Accepting,
    timing: Timing,
    fan_outs: VecDeque<FanOut>,
    /// Connections whose bytes wait to be received.
    readable: Queue<Token>,
    draining: Draining,
}

impl<E: Environment> Shard<E> {
    /// A shard that has not begun to accept.
    pub fn new(ring: E::Ring, parts: Parts<E>) -> Self {
        let now = parts.environment.now();
        let tick = on_tick::tick_at(now, 0);
        let (settings, hash) = (parts.settings, parts.hash);
        let outgoing = Outgoing::new(settings.compression_threshold);
        let cx = Context {
            metrics: parts.metrics,
            clock: TurnTime { now, tick, accepts_late: false },
            next: Next::default(),
            actions: Vec::new(),
            serving: Serving {
                routes: parts.routes,
                effects: Effects { outgoing, ..Effects::default() },
                inflater: Inflater::default(),
            },
            budgets: Budgets {
                unfinished: Unfinished::new(&settings, hash.clone()),
                output: Output::new(settings.max_output_bytes, hash.clone()),
                pings: PingCounts::new(settings.max_pings_per_second, hash.clone()),
            },
            unread: Unread::new(hash.clone()),
            heavy: Heavy::new(hash.clone()),
            sessions: Sessions::new(parts.index, parts.server, hash.clone()),
            handshakes: Handshakes {
                half_open: HalfOpen::new(settings.half_open),
                requests: Map::new(hash.clone()),
                unadmitted: Map::new(hash.clone()),
                heads: Heads::new(settings.max_head_bytes_kept, hash.clone()),
            },
            refusing: Refusing::new(&settings, hash.clone()),
            spare: Spare::default(),
            shutdown: Shutdown {
                phase: Phase::Running,
                terms: None,
                log: Farewells::new(settings.shards),
            },
            registry: Registry::new(hash.clone(), settings.max_channel_bytes),
            settings,
        };
        Self {
            index: parts.index,
            admitting: Admitting::new(parts.admission, parts.owners, parts.outbox.shards()),
            placement: Placement::new(parts.shards, hash),
            accepting: Accepting::new(ring.file_capacity()),
            timing: Timing::new(tick, cx.settings.gather),
            mesh: Mesh { inbox: parts.inbox, outbox: parts.outbox, commands: parts.commands },
            environment: parts.environment,
            ring,
            connections: Connections::default(),
            cx,
            fan_outs: VecDeque::new(),
            readable: Queue::default(),
            draining: Draining::default(),
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
        self.mesh.inbox.awake();
        self.look_at_the_clock();
        self.cx.heavy.begin_turn();
        self.dispatch_some();
        self.carry_out_actions();
        self.go_on_accepting();
        self.take_messages();
        self.go_on_admitting();
        self.go_on_fanning_out();
        self.go_on_draining();
        self.go_on_staying();
        self.on_tick();
        self.meet_deadlines();
        self.read_heavy();
        self.receive_some();
        self.carry_out_actions();
        self.note_turn();
    }

    /// Does what connections meant for others, until there is nothing more of it.
    fn carry_out_actions(&mut self) {
        while !self.cx.actions.is_empty() {
            let mut actions = std::mem::take(&mut self.cx.actions);
            for (id, action) in actions.drain(..) {
                self.carry_out_action(id, action);
            }
            if self.cx.actions.is_empty() {
                self.cx.actions = actions; // keeps its memory
            }
        }
    }

    fn carry_out_action(&mut self, id: Token, action: Action) {
        match action {
            Action::Ask { source } => self.admit(id, source),
            Action::Transfer { to, papers, admitted } => self.send_papers(to, papers, admitted),
            Action::BeginSession { id: session, channels } => {
                let session = session.or_else(|| self.issue_session().ok());
                self.with_connection(id, Event::SessionBegins { id: session, channels });
            }
            Action::Ended { source, admitted, outcome } => {
                if admitted {
                    self.release(source);
                }
                if let Some(outcome) = outcome {
                    self.cx.shutdown.log.left(source, outcome);
                    self.on_drained(outcome);
                }
                self.resume_accepting(true);
            }
        }
    }

    fn issue_session(&mut self) -> io::Result<SessionId> {
        let mut bytes = [0; 16];
        self.environment.fill_random(&mut bytes)?;
        Ok(SessionId::issue(bytes))
    }

    /// As many completions as fit into a part of a turn, and as start what the kernel can begin in
    /// such a part; the rest stays for the next.
    fn dispatch_some(&mut self) {
        let end_ns = self.cx.clock.now.ns() + limits::DISPATCH_NS;
        loop {
            for _ in 0..limits::COMPLETIONS_BETWEEN_LOOKS {
                let Some(completion) = self.ring.next_completion() else { return };
                self.dispatch(completion);
                if self.cx.heavy.is_turn_full() {
                    return;
                }
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
            || !self.timing.due.is_empty()
            || self.draining.cancelled.is_some()
            || self.draining.drain.as_ref().is_some_and(Drain::has_work);
        if work_left || !self.mesh.inbox.may_sleep() {
            return Wait::AtMost(Duration::ZERO);
        }
        let is_pacing = self.draining.drain.as_ref().is_some_and(Drain::is_pacing);
        let paces = (is_pacing || self.mesh.outbox.waits()).then_some(drain::PACE_INTERVAL);
        let heavy = self.cx.heavy.rests(self.cx.clock.now.ns());
        match paces.into_iter().chain(heavy).min() {
            Some(longest) => Wait::AtMost(longest),
            None => self.timing.gathering.wait(),
        }
    }
}
