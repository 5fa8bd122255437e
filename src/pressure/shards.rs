//! How long the shards were away from their rings, and how busy they are: what changed between
//! two looks.
//!
//! A shard's own count of busy time leaves out what the kernel does for it inside the ring's
//! system call, so the processor is measured by the scheduler's books of its thread: time on a
//! core, and time for which it was ready and had none.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::clock::Now;
use crate::files::read::small_text;
use crate::limits::TICK_MS;
use crate::metrics::ShardMetrics;

/// How the threads of shards are called, as far as the kernel keeps names.
const THREAD_NAME: &str = "tidegate-shard-";

/// What was seen of the shards at the last look.
#[derive(Debug)]
pub struct ShardWatch {
    long_turns: Vec<LongTurns>,
    threads: Vec<Thread>,
    looked: Now,
}

/// Counters of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct LongTurns {
    count: u64,
    ns: u64,
}

impl LongTurns {
    fn of(shard: &ShardMetrics) -> Self {
        Self { count: shard.long_turns.get(), ns: shard.long_turn_ns.get() }
    }

    /// How long the long turns since `before` were, the average of them if there were several.
    fn since_ms(self, before: Self) -> u64 {
        let ns = self.ns.saturating_sub(before.ns);
        ns / self.count.saturating_sub(before.count).max(1) / 1_000_000
    }
}

/// The books of one thread.
#[derive(Debug)]
struct Thread {
    schedstat: PathBuf,
    runnable_ns: u64,
}

impl ShardWatch {
    /// Begins to watch these shards, whose threads have been started in this process.
    pub fn new(shards: &[Arc<ShardMetrics>], now: Now) -> Self {
        let long_turns = shards.iter().map(|shard| LongTurns::of(shard)).collect();
        Self { long_turns, threads: threads(Path::new("/proc/self/task")), looked: now }
    }

    /// The longest turn since the last look in milliseconds, also one that goes on, and the part
    /// of the time since then that the busiest shard was runnable, in parts of 1000.
    pub fn look(&mut self, shards: &[Arc<ShardMetrics>], now: Now) -> (u64, u16) {
        let mut longest_ms = 0;
        for (shard, before) in shards.iter().zip(&mut self.long_turns) {
            let turns = LongTurns::of(shard);
            longest_ms = longest_ms.max(turns.since_ms(*before)).max(away_ms(shard, now));
            *before = turns;
        }
        let passed_ns = now.since(self.looked).as_nanos() as u64;
        self.looked = now;
        let runnable = self.threads.iter_mut().map(Thread::runnable_since_last);
        (longest_ms, busy_per_mille(runnable.max().unwrap_or(0), passed_ns))
    }
}

/// For how long a shard that has not come round must have been away. It comes round every tick,
/// and what it says is when its last turn began.
fn away_ms(shard: &ShardMetrics, now: Now) -> u64 {
    match shard.last_turn_ms.get() {
        // Not begun.
        0 => 0,
        last => now.ms().saturating_sub(last).saturating_sub(TICK_MS),
    }
}

fn busy_per_mille(runnable_ns: u64, passed_ns: u64) -> u16 {
    let parts = (u128::from(runnable_ns) * 1000).checked_div(passed_ns.into()).unwrap_or(0);
    parts.min(1000) as u16
}

impl Thread {
    fn runnable_since_last(&mut self) -> u64 {
        // A thread that has ended is busy with nothing.
        let text = small_text(&self.schedstat).unwrap_or_default();
        let now = runnable_ns(&text).unwrap_or(self.runnable_ns);
        now.saturating_sub(std::mem::replace(&mut self.runnable_ns, now))
    }
}

/// The first two numbers of `/proc/PID/schedstat`: nanoseconds on a core, and waiting for one.
fn runnable_ns(schedstat: &str) -> Option<u64> {
    let mut numbers = schedstat.split_whitespace().map(str::parse::<u64>);
    let (on_core, waiting) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(on_core.saturating_add(waiting))
}

fn threads(tasks: &Path) -> Vec<Thread> {
    let thread = |task: fs::DirEntry| {
        let name = small_text(task.path().join("comm")).ok()?;
        let schedstat = task.path().join("schedstat");
        let runnable_ns = runnable_ns(&small_text(&schedstat).ok()?)?;
        name.starts_with(THREAD_NAME).then_some(Thread { schedstat, runnable_ns })
    };
    let tasks = fs::read_dir(tasks).into_iter().flatten().flatten();
    tasks.filter_map(thread).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> Vec<Arc<ShardMetrics>> {
        (0..2).map(|_| Arc::default()).collect()
    }

    #[test]
    fn a_long_turn_counts_once() {
        let shards = shards();
        let mut watch = ShardWatch::new(&shards, Now::from_ms(0));
        shards[1].long_turns.add(1);
        shards[1].long_turn_ns.add(1_500_000_000);
        assert_eq!(watch.look(&shards, Now::from_ms(250)).0, 1_500);
        assert_eq!(watch.look(&shards, Now::from_ms(500)).0, 0);
        shards[0].long_turns.add(2);
        shards[0].long_turn_ns.add(300_000_000);
        assert_eq!(watch.look(&shards, Now::from_ms(750)).0, 150);
    }

    #[test]
    fn a_shard_that_does_not_come_round_counts_while_it_is_away() {
        let shards = shards();
        let mut watch = ShardWatch::new(&shards, Now::from_ms(0));
        assert_eq!(watch.look(&shards, Now::from_ms(9_000)).0, 0, "it has not begun");
        shards[0].last_turn_ms.set(10_000);
        assert_eq!(watch.look(&shards, Now::from_ms(10_064)).0, 0, "it sleeps a tick");
        assert_eq!(watch.look(&shards, Now::from_ms(10_364)).0, 300);
    }

    #[test]
    fn busy_is_on_a_core_or_waiting_for_one() {
        assert_eq!(runnable_ns("100 50 7\n"), Some(150));
        assert_eq!((runnable_ns(""), runnable_ns("1 x 2")), (None, None));
        assert_eq!(busy_per_mille(950, 1_000), 950);
        assert_eq!(busy_per_mille(2_000, 1_000), 1_000);
        assert_eq!(busy_per_mille(1, 0), 0);
    }

    #[test]
    fn the_threads_of_shards_are_found_by_their_name() {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let before = threads(Path::new("/proc/self/task")).len();
        let named = std::thread::Builder::new().name(format!("{THREAD_NAME}7"));
        let thread = named.spawn(move || stopped.recv());
        let found = || threads(Path::new("/proc/self/task")).len() > before;
        while !found() {
            std::thread::yield_now();
        }
        drop(stop);
        assert!(thread.is_ok_and(|thread| thread.join().is_ok()));
    }
}
