//! The thread that looks how pressed the server is, four times a second and more often when
//! memory is nearly short, and says so.
//!
//! A thread of its own and not the coordinator: reading allocates, and in a cgroup that is at its
//! limit an allocation can stand still until memory is found, exactly when signals and orders must
//! be heard. While it stands still the last level holds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::{io, thread};

use crossbeam_channel::Sender;
use tracing::{info, warn};

use super::busiest_second::BusiestSecond;
use super::level::{Inputs, Ladder};
use super::reading::Reader;
use super::shards::{ShardLoad, ShardWatch};
use super::trim::{Look, Trim};
use super::{AdmissionShare, Cause, Level, Pressure, Usage};
use crate::clock::Now;
use crate::connection::CONNECTION_BYTES;
use crate::coordinator::command::{Command, ShardFailure};
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::limits::{PRESSURE_CLOSE_LOOK_MS, PRESSURE_CLOSE_PER_MILLE, PRESSURE_LOOK_MS};
use crate::metrics::{Count, ShardMetrics};
use crate::sys::heap;

/// What a subscription takes: its entry, and its place in its channel.
const SUBSCRIPTION_BYTES: u64 = 20;

/// The thread's name.
const THREAD: &str = "tidegate-pressure";

/// Looks, and remembers what it needs from one look to the next.
#[derive(Debug)]
struct Sampler {
    state: Arc<ServerState>,
    reader: Reader,
    shards: ShardWatch,
    busiest: BusiestSecond,
    ladder: Ladder,
    /// Of each shard, for what presses it alone.
    shard_ladders: Vec<Ladder>,
    trim: Trim,
}

/// Starts the thread, which shows what it finds in `state` until nobody is admitted any more.
///
/// # Errors
/// The thread cannot be made.
pub fn start(
    state: Arc<ServerState>,
    reader: Reader,
    commands: Sender<Command>,
) -> io::Result<JoinHandle<()>> {
    let now = state.clock.now();
    let mut sampler = Sampler {
        shards: ShardWatch::new(&state.shards, now),
        busiest: BusiestSecond::new(now.seconds(), admitted(&state)),
        ladder: Ladder::default(),
        shard_ladders: vec![Ladder::default(); state.shards.len()],
        trim: Trim::new(now),
        state,
        reader,
    };
    // What is shown is right from the start.
    sampler.look();
    let run = move || {
        if catch_unwind(AssertUnwindSafe(|| sampler.run())).is_err() {
            let cause = ShardFailure::Panic("the log says where".to_owned());
            let thread = "pressure".to_owned();
            // Without a coordinator nobody wants to know.
            let _ = commands.send(Command::ThreadDied { thread, shard: None, cause });
        }
    };
    thread::Builder::new().name(THREAD.to_owned()).spawn(run)
}

impl Sampler {
    fn run(&mut self) {
        while self.state.phase() <= Phase::Notice {
            thread::sleep(self.until_next_look());
            self.look();
        }
    }

    fn until_next_look(&self) -> Duration {
        let filled = self.state.pressure().memory.map_or(0, Usage::filled_per_mille);
        Duration::from_millis(if filled < PRESSURE_CLOSE_PER_MILLE {
            PRESSURE_LOOK_MS
        } else {
            PRESSURE_CLOSE_LOOK_MS
        })
    }

    fn look(&mut self) {
        let now = self.state.clock.now();
        let config = self.state.config();
        let admission = &config.admission;
        self.busiest.note(now.seconds(), admitted(&self.state));
        let connections = |count: fn(&ShardMetrics) -> &Count| {
            self.state.shards.iter().map(|shard| count(shard).get()).sum::<u64>()
        };
        let held =
            connections(|shard| &shard.connections) + connections(|shard| &shard.handshaking);
        let mut loads = self.shards.look(&self.state.shards, now);
        if !admission.shed_load {
            loads.fill(ShardLoad::default());
        }
        // What presses some shards lowers what these admit; what presses all of them, the rate.
        let ShardLoad { longest_turn_ms, busy_per_mille } = ShardLoad::least(&loads);
        let seen = self.reader.look(admission.max_memory_bytes, held);
        let memory = seen.nearest;
        let inputs = Inputs { memory, tcp: self.reader.tcp(), longest_turn_ms, busy_per_mille };
        let (before, cause) = (self.ladder.level(), self.ladder.cause());
        let changed = self.ladder.look(&inputs, now);
        let level = self.ladder.level();
        self.state.set_pressure(Pressure {
            level,
            share: level.share(),
            base_per_second: self.busiest.base(admission.global_connections_per_second),
            cause: self.ladder.cause(),
            available: seen.smallest_budget,
            memory,
            tcp: inputs.tcp,
        });
        self.look_at_shards(&loads, now);
        // What is free and still counted as used would keep everybody out.
        let is_short = self.ladder.cause() == Some(Cause::Memory);
        let (held, resident) = (held_for_clients(&self.state), self.reader.anonymous());
        let look = Look { held, resident: resident.unwrap_or(0), is_short };
        if self.trim.is_due(look, now) {
            heap::trim();
        }
        if changed && let Some(cause) = self.ladder.cause().or(cause) {
            say(before, level, cause, &inputs);
        }
    }

    /// A shard that is pressed more than the server refuses a share of those that it could admit.
    fn look_at_shards(&mut self, loads: &[ShardLoad], now: Now) {
        let of_server = self.ladder.level();
        let shards = self.state.shards.iter().zip(loads).zip(&mut self.shard_ladders);
        for (index, ((shard, load), ladder)) in shards.enumerate() {
            let ShardLoad { longest_turn_ms, busy_per_mille } = *load;
            let inputs = Inputs { longest_turn_ms, busy_per_mille, ..Inputs::default() };
            let (before, cause) = (ladder.level(), ladder.cause());
            let changed = ladder.look(&inputs, now);
            let level = ladder.level();
            let share = if level > of_server { level.share() } else { AdmissionShare::ALL };
            shard.withheld.set(u64::from(AdmissionShare::ALL.parts() - share.parts()));
            // With one shard its pressure is the server's, which has been said.
            if changed
                && loads.len() > 1
                && let Some(cause) = ladder.cause().or(cause)
            {
                say_of_shard(index, before, level, cause, &inputs);
            }
        }
    }
}

/// Bytes of the heap that are held for clients, as far as they are counted.
fn held_for_clients(state: &ServerState) -> u64 {
    let of_shard = |shard: &Arc<ShardMetrics>| {
        let connections = shard.connections.get() + shard.handshaking.get();
        let subscriptions = shard.subscriptions.get();
        let held = [
            &shard.unfinished_bytes,
            &shard.output_held_bytes,
            &shard.head_bytes,
            &shard.channel_bytes,
        ];
        let held = held.iter().map(|count| count.get()).sum::<u64>();
        held + connections * CONNECTION_BYTES as u64 + subscriptions * SUBSCRIPTION_BYTES
    };
    let shards = state.shards.iter().map(of_shard).sum::<u64>();
    shards + state.sessions.figures().in_memory_bytes
}

/// Connections let in since the start, whether they were upgraded or not.
fn admitted(state: &ServerState) -> u64 {
    let of_shard = |shard: &Arc<ShardMetrics>| {
        let refused: u64 = shard.admission_refused.iter().map(Count::get).sum();
        shard.accepted.get().saturating_sub(refused)
    };
    state.shards.iter().map(of_shard).sum()
}

/// One line for one change.
fn say(before: Level, level: Level, cause: Cause, inputs: &Inputs) {
    let (used, limit) = amounts(cause, inputs);
    let (cause, share) = (cause.label(), level.share().ratio());
    if level == Level::LAST {
        warn!(cause, used, limit, share, "overload: nobody new is admitted");
    } else if level > before {
        warn!(cause, used, limit, share, "load is rising: only a share of the rate is admitted");
    } else if level == Level::NONE {
        info!(cause, used, limit, share, "load is back to normal");
    } else {
        info!(cause, used, limit, share, "load is falling");
    }
}

/// The same of one shard.
fn say_of_shard(shard: usize, before: Level, level: Level, cause: Cause, inputs: &Inputs) {
    let (used, limit) = amounts(cause, inputs);
    let (cause, share) = (cause.label(), level.share().ratio());
    if level > before {
        warn!(
            shard,
            cause, used, limit, share, "load of a shard is rising: it admits only a share"
        );
    } else if level == Level::NONE {
        info!(shard, cause, used, limit, share, "load of a shard is back to normal");
    } else {
        info!(shard, cause, used, limit, share, "load of a shard is falling");
    }
}

/// What there is of the cause, and the limit of that: bytes, milliseconds of a turn, parts of
/// 1000 of a core.
fn amounts(cause: Cause, inputs: &Inputs) -> (u64, u64) {
    match cause {
        Cause::Memory => inputs.memory.map_or((0, 0), |memory| (memory.used, memory.limit)),
        Cause::TcpMemory => inputs.tcp.map_or((0, 0), |tcp| (tcp.used, tcp.limit)),
        Cause::Stall => (inputs.longest_turn_ms, crate::limits::LONG_TURN_MS),
        Cause::Processor => (inputs.busy_per_mille.into(), 1000),
    }
}
