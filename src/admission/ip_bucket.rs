//! The rate and the number of connections of each source.
//!
//! The rate is the generic cell rate algorithm (ITU-T I.371): one time for each source, the
//! theoretical arrival of its next connection, moved on by one interval for each connection that
//! is *admitted*. A refused attempt moves nothing, so hammering does not lengthen the wait.
//!
//! Invariants: a bucket is there while its source holds a connection or has used some of its
//! burst. A bucket that has neither says nothing that a new one would not, and is removed at the
//! last close or by [`IpBuckets::expire`]; so leaving and coming back resets nothing. There are
//! never more buckets than `max_sources`, except those of exempt sources, which last no longer
//! than their connections.
//!
//! A bucket does not know its limits: they are looked up by its key whenever it is looked at, so
//! it stays small, and new limits hold for old buckets at once.

mod recovery;
mod source_table;

use std::sync::Arc;

use ahash::RandomState;

use recovery::{Limited, Mark, Recovery};
use source_table::SourceTable;

use super::pace::Pace;
use super::source_address::SourceKey;
use super::source_rules::{SourceRules, Treatment};

/// What a source may do that no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpLimits {
    /// Connections a minute; 0 is no limit.
    pub connections_per_minute: u32,
    /// Connections at once after a quiet time. At 60 a minute and a burst of 60: 60 at once,
    /// then one each second. 1 spaces every two connections by the full interval; 0 counts as 1,
    /// since a rate that lets nothing through is not a rate.
    pub burst: u32,
    /// Connections open at the same time; 0 is no limit.
    pub max_concurrent: u32,
    /// Sources remembered at the same time; attempts of further ones are refused. The table
    /// grows as sources come, a piece at a time: 29 to 57 bytes for each. A table of the final
    /// size from the start would cost a page for each of the first sources, because they lie
    /// scattered in it.
    pub max_sources: usize,
}

/// Why a source is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpRefusal {
    /// A rule denies it.
    Denied,
    /// It connects too often.
    RatePerIp {
        /// When it will be admitted, in milliseconds from now, rounded up; at least 1.
        retry_after_ms: u64,
    },
    /// It holds as many connections as it may.
    ConcurrentPerIp,
    /// It is new, and no more sources can be remembered.
    TableFull,
}

/// One source. There may be as many of these as connections.
#[derive(Debug)]
struct Bucket {
    key: SourceKey,
    /// The theoretical arrival time of the next connection; the burst is whole when it is past.
    arrival_ns: u64,
    /// Connections that are open.
    concurrent: u32,
    /// How it is counted in `IpBuckets::recovery`.
    mark: Mark,
}

const _: () = assert!(size_of::<Bucket>() == 24, "with its control byte, 25 a source");

const NS_PER_MS: u64 = 1_000_000;

/// How many places of a full table one attempt of a new source looks at for a bucket to remove.
const EXPIRE_WHEN_FULL: usize = 64;

/// The buckets of all sources of one shard.
#[derive(Debug)]
pub struct IpBuckets {
    table: SourceTable,
    pace: Pace,
    rules: Arc<SourceRules>,
    max_sources: usize,
    /// How many buckets are limited.
    recovery: Recovery,
}

impl IpBuckets {
    /// An empty table. `hasher` has to be seeded unpredictably, or attackers can choose sources
    /// that collide.
    pub fn new(limits: IpLimits, hasher: RandomState) -> Self {
        Self {
            table: SourceTable::new(hasher),
            pace: pace_of(limits),
            rules: Arc::default(),
            max_sources: limits.max_sources,
            recovery: Recovery::new(),
        }
    }

    /// Changes the limits. What a source has used stays used, as time, but at most one burst of
    /// the new limits, counted from its next attempt: nobody waits for a limit that is gone.
    /// Lowering `max_sources` removes nobody.
    pub fn set_limits(&mut self, limits: IpLimits) {
        self.pace = pace_of(limits);
        self.max_sources = limits.max_sources;
    }

    /// Changes the rules. Limits that become others for a source change as with
    /// [`set_limits`](Self::set_limits). Connections stay that a new rule would not let in.
    pub fn set_rules(&mut self, rules: Arc<SourceRules>) {
        self.rules = rules;
    }

    /// Admits one connection of `source` and counts it until [`released`](Self::released).
    ///
    /// # Errors
    /// The limit that forbids it; nothing was taken.
    pub fn admit(&mut self, source: SourceKey, now_ns: u64) -> Result<(), IpRefusal> {
        self.check(source, now_ns)?;
        self.commit(source, now_ns);
        Ok(())
    }

    /// Whether [`admit`](Self::admit) would succeed. It may remove buckets that have expired.
    ///
    /// # Errors
    /// The rule or the limit that forbids it: concurrency before rate, as waiting for the rate
    /// would not help then.
    pub fn check(&mut self, source: SourceKey, now_ns: u64) -> Result<(), IpRefusal> {
        let treatment = self.rules.find(source);
        if treatment == Some(Treatment::Denied) {
            return Err(IpRefusal::Denied);
        }
        let pace = pace_under(treatment, self.pace);
        if let Some(bucket) = self.table.find_mut(source) {
            bucket.refresh(pace, now_ns, &mut self.recovery);
            return bucket.judge(pace, now_ns);
        }
        if treatment == Some(Treatment::Exempt) {
            return Ok(());
        }
        if self.table.len() >= self.max_sources {
            self.expire(now_ns, EXPIRE_WHEN_FULL);
        }
        if self.table.len() >= self.max_sources { Err(IpRefusal::TableFull) } else { Ok(()) }
    }

    /// Counts one connection, after [`check`](Self::check) at the same time succeeded.
    pub fn commit(&mut self, source: SourceKey, now_ns: u64) {
        let pace = pace_under(self.rules.find(source), self.pace);
        let bucket = self.table.find_or_insert(source);
        bucket.arrival_ns = bucket.arrival_ns.max(now_ns).saturating_add(pace.interval_ns);
        bucket.concurrent += 1;
        bucket.refresh(pace, now_ns, &mut self.recovery);
    }

    /// A connection of `source` that was committed has ended.
    ///
    /// A source that is not known, or holds no connection, is a bug of the caller; in a release
    /// build it changes nothing.
    pub fn released(&mut self, source: SourceKey, now_ns: u64) {
        let pace = pace_under(self.rules.find(source), self.pace);
        let Some(bucket) = self.table.find_mut(source) else {
            debug_assert!(false, "a connection of {source} was released that nobody had counted");
            return;
        };
        debug_assert!(bucket.concurrent > 0, "{source} released more than it held");
        bucket.concurrent = bucket.concurrent.saturating_sub(1);
        bucket.refresh(pace, now_ns, &mut self.recovery);
        if bucket.is_expired(now_ns) {
            debug_assert!(bucket.mark == Mark::FREE, "an expired bucket limits nobody");
            self.table.remove(source);
        }
    }

    /// Looks at the next `budget` places of the table and removes the buckets there that have
    /// expired; what others are counted as is brought up to date with limits that have changed.
    /// Returns how many it removed. Meant for every tick, with a budget that comes round in a
    /// few times a burst's refill time: [`places`](Self::places) says how many there are.
    pub fn expire(&mut self, now_ns: u64, budget: usize) -> usize {
        let Self { table, pace, rules, recovery, .. } = self;
        table.sweep(budget, |bucket| {
            // Limits that have changed can only bring the time of an expired one nearer.
            if !bucket.is_expired(now_ns) {
                let pace = pace_under(rules.find(bucket.key), *pace);
                bucket.refresh(pace, now_ns, recovery);
            }
            let keeps = !bucket.is_expired(now_ns);
            if !keeps {
                bucket.mark = recovery.count(bucket.mark, Limited::No, now_ns);
            }
            keeps
        })
    }

    /// Sources whose next attempt would be refused for rate or concurrency, at `now_ns`, which
    /// must not go back.
    ///
    /// Counted as it happens, in constant time: a source from the connection that used up its
    /// limit until the time at which it may connect again, whether or not anybody looks at it
    /// then. The number is too high by those whose time came within the last 17 ms. After limits
    /// were changed, sources are counted by the old ones until [`expire`](Self::expire) has come
    /// by.
    pub fn limited_sources(&mut self, now_ns: u64) -> usize {
        self.recovery.limited(now_ns)
    }

    /// Connections of `source` that are open.
    pub fn concurrent(&self, source: SourceKey) -> u32 {
        self.table.find(source).map_or(0, |bucket| bucket.concurrent)
    }

    /// Sources remembered.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// No source is remembered.
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Places in the table: what a full round of [`expire`](Self::expire) looks at.
    pub fn places(&self) -> usize {
        self.table.places()
    }
}

impl Bucket {
    fn new(key: SourceKey) -> Self {
        Self { key, arrival_ns: 0, concurrent: 0, mark: Mark::FREE }
    }

    fn is_expired(&self, now_ns: u64) -> bool {
        self.concurrent == 0 && self.arrival_ns <= now_ns
    }

    /// What keeps the source from opening one more connection.
    fn limited(&self, pace: Pace, now_ns: u64) -> Limited {
        if pace.max_concurrent > 0 && self.concurrent >= pace.max_concurrent {
            return Limited::ByConcurrency;
        }
        let earliest_ns = self.arrival_ns.saturating_sub(pace.tolerance_ns);
        if earliest_ns > now_ns { Limited::Until(earliest_ns) } else { Limited::No }
    }

    /// Whether the source may open one more connection.
    fn judge(&self, pace: Pace, now_ns: u64) -> Result<(), IpRefusal> {
        match self.limited(pace, now_ns) {
            Limited::No => Ok(()),
            Limited::ByConcurrency => Err(IpRefusal::ConcurrentPerIp),
            Limited::Until(at_ns) => {
                let retry_after_ms = at_ns.saturating_sub(now_ns).div_ceil(NS_PER_MS);
                Err(IpRefusal::RatePerIp { retry_after_ms })
            }
        }
    }

    /// Brings the bucket up to date with limits that may have changed, and what it is counted as
    /// with that and with the time.
    fn refresh(&mut self, pace: Pace, now_ns: u64, recovery: &mut Recovery) {
        self.arrival_ns = self.arrival_ns.min(now_ns.saturating_add(pace.full_ns()));
        self.mark = recovery.count(self.mark, self.limited(pace, now_ns), now_ns);
    }
}

fn pace_of(limits: IpLimits) -> Pace {
    Pace::new(limits.connections_per_minute, limits.burst, limits.max_concurrent)
}

/// What holds for a source that the rules treat so. One that is denied keeps what it has used,
/// for when it is not any more.
fn pace_under(treatment: Option<Treatment>, general: Pace) -> Pace {
    match treatment {
        None | Some(Treatment::Denied) => general,
        Some(Treatment::Exempt) => Pace::UNLIMITED,
        Some(Treatment::Limited(pace)) => pace,
    }
}

#[cfg(test)]
mod tests;
