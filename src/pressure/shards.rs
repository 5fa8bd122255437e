//! How long the shards were away from their rings, and how busy they are: what changed between
//! two looks.
//!
//! A shard's own count of busy time leaves out what the kernel does for it inside the ring's
//! system call, so the processor is measured by the scheduler's books of its thread: time on a
//! core, and time for which it was ready and had none.

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Now;
use crate::files::read::small_text;
use crate::limits::TICK_MS;
use crate::metrics::ShardMetrics;

/// What was seen of the shards at the last look.
#[derive(Debug)]
pub struct ShardWatch {
    shards: Vec<Seen>,
    looked: Now,
}

/// What was seen of one shard.
#[derive(Debug)]
struct Seen {
    long_turns: LongTurns,
    thread: Thread,
}

/// How one shard did since the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShardLoad {
    /// Its longest turn in milliseconds, also one that goes on.
    pub longest_turn_ms: u64,
    /// The part of the time that it was at work or wanted to be, in parts of 1000.
    pub busy_per_mille: u16,
}

impl ShardLoad {
    /// What even the shard that is least pressed has of either.
    pub fn least(loads: &[Self]) -> Self {
        Self {
            longest_turn_ms: loads.iter().map(|load| load.longest_turn_ms).min().unwrap_or(0),
            busy_per_mille: loads.iter().map(|load| load.busy_per_mille).min().unwrap_or(0),
        }
    }
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
    /// Absent until the thread has begun.
    schedstat: Option<PathBuf>,
    runnable_ns: u64,
}

impl ShardWatch {
    /// Begins to watch these shards, whose threads have been started in this process.
    pub fn new(shards: &[Arc<ShardMetrics>], now: Now) -> Self {
        let seen = |shard: &Arc<ShardMetrics>| {
            let mut thread = Thread { schedstat: None, runnable_ns: 0 };
            thread.runnable_since_last(shard.thread.get());
            Seen { long_turns: LongTurns::of(shard), thread }
        };
        Self { shards: shards.iter().map(seen).collect(), looked: now }
    }

    /// How each shard did since the last look.
    pub fn look(&mut self, shards: &[Arc<ShardMetrics>], now: Now) -> Vec<ShardLoad> {
        let passed_ns = now.since(self.looked).as_nanos() as u64;
        self.looked = now;
        let look = |(shard, seen): (&Arc<ShardMetrics>, &mut Seen)| {
            let turns = LongTurns::of(shard);
            let longest_turn_ms = turns.since_ms(seen.long_turns).max(away_ms(shard, now));
            seen.long_turns = turns;
            let runnable_ns = seen.thread.runnable_since_last(shard.thread.get());
            ShardLoad { longest_turn_ms, busy_per_mille: busy_per_mille(runnable_ns, passed_ns) }
        };
        shards.iter().zip(&mut self.shards).map(look).collect()
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
    fn runnable_since_last(&mut self, id: u64) -> u64 {
        let begins = self.schedstat.is_none();
        if begins && id > 0 {
            self.schedstat = Some(format!("/proc/self/task/{id}/schedstat").into());
        }
        let Some(schedstat) = &self.schedstat else { return 0 };
        // A thread that has ended is busy with nothing.
        let text = small_text(schedstat).unwrap_or_default();
        let now = runnable_ns(&text).unwrap_or(self.runnable_ns);
        let since = now.saturating_sub(std::mem::replace(&mut self.runnable_ns, now));
        if begins { 0 } else { since }
    }
}

/// The first two numbers of `/proc/PID/schedstat`: nanoseconds on a core, and waiting for one.
fn runnable_ns(schedstat: &str) -> Option<u64> {
    let mut numbers = schedstat.split_whitespace().map(str::parse::<u64>);
    let (on_core, waiting) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some(on_core.saturating_add(waiting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shards() -> Vec<Arc<ShardMetrics>> {
        (0..2).map(|_| Arc::default()).collect()
    }

    fn turns(watch: &mut ShardWatch, shards: &[Arc<ShardMetrics>], ms: u64) -> Vec<u64> {
        let loads = watch.look(shards, Now::from_ms(ms));
        loads.iter().map(|load| load.longest_turn_ms).collect()
    }

    #[test]
    fn a_long_turn_counts_once() {
        let shards = shards();
        let mut watch = ShardWatch::new(&shards, Now::from_ms(0));
        shards[1].long_turns.add(1);
        shards[1].long_turn_ns.add(1_500_000_000);
        assert_eq!(turns(&mut watch, &shards, 250), [0, 1_500]);
        assert_eq!(turns(&mut watch, &shards, 500), [0, 0]);
        shards[0].long_turns.add(2);
        shards[0].long_turn_ns.add(300_000_000);
        assert_eq!(turns(&mut watch, &shards, 750), [150, 0]);
    }

    #[test]
    fn a_shard_that_does_not_come_round_counts_while_it_is_away() {
        let shards = shards();
        let mut watch = ShardWatch::new(&shards, Now::from_ms(0));
        assert_eq!(turns(&mut watch, &shards, 9_000), [0, 0], "it has not begun");
        shards[0].last_turn_ms.set(10_000);
        assert_eq!(turns(&mut watch, &shards, 10_064), [0, 0], "it sleeps a tick");
        assert_eq!(turns(&mut watch, &shards, 10_364), [300, 0]);
    }

    #[test]
    fn what_all_shards_have_is_the_servers() {
        let load = |longest_turn_ms, busy_per_mille| ShardLoad { longest_turn_ms, busy_per_mille };
        assert_eq!(ShardLoad::least(&[load(80, 1000), load(0, 990)]), load(0, 990));
        assert_eq!(ShardLoad::least(&[]), load(0, 0));
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
    fn each_shard_is_charged_for_its_own_thread() {
        let shards = shards();
        shards[1].thread.set(crate::sys::thread_time::thread_id());
        let mut watch = ShardWatch::new(&shards, Now::from_ms(0));
        let begun = crate::sys::thread_time::ns();
        while crate::sys::thread_time::ns() < begun + 30_000_000 {
            std::hint::spin_loop();
        }
        let loads = watch.look(&shards, Now::from_ms(30));
        assert_eq!(loads[0].busy_per_mille, 0);
        // The kernel brings these books up to date at its own ticks.
        assert!(loads[1].busy_per_mille >= 500, "{loads:?}");
    }
}
