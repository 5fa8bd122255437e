//! The sources that are refused most, in a bounded number of entries.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi, ICDT 2005): a source that has an entry is counted
//! in it; one that has none takes over the entry with the lowest count, and that count with it as
//! what it may be counted too high by. Invariants: the counts add up to the refusals; each
//! count is at least the source's refusals and at most that and its error; a source that was
//! refused more often than one in [`REFUSED_SOURCES`] times has an entry.
//!
//! A step compares the source with those of all entries, which are few and lie side by side, and
//! finds the lowest count where the last one was found or a few entries further, since counts
//! only rise: tens of nanoseconds, whoever attacks and however many they are.

use super::refusal::RefusalReason;
use super::source_address::SourceKey;
use crate::limits::REFUSED_SOURCES;

/// A source that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedSource {
    /// Who.
    pub source: SourceKey,
    /// How often, at most.
    pub refused: u64,
    /// By how many `refused` may be too high.
    pub at_most_over: u64,
    /// Why, the last time.
    pub last_reason: RefusalReason,
    /// When that was.
    pub last_ns: u64,
}

/// The refusals of one shard, or of several put together.
#[derive(Debug, Clone)]
pub struct HeavyHitters {
    len: usize,
    sources: [SourceKey; REFUSED_SOURCES],
    /// Beside the sources, as both are searched from end to end.
    counts: [u64; REFUSED_SOURCES],
    rest: [Rest; REFUSED_SOURCES],
    /// No count is lower than this, and none of those before `searched` is as low.
    floor: u64,
    searched: usize,
}

/// What is not searched.
#[derive(Debug, Clone, Copy)]
struct Rest {
    error: u64,
    last_ns: u64,
    reason: RefusalReason,
}

impl Default for HeavyHitters {
    fn default() -> Self {
        Self {
            len: 0,
            sources: [SourceKey::from_bits(0); REFUSED_SOURCES],
            counts: [0; REFUSED_SOURCES],
            rest: [Rest { error: 0, last_ns: 0, reason: RefusalReason::Overload }; REFUSED_SOURCES],
            floor: 0,
            searched: 0,
        }
    }
}

impl HeavyHitters {
    /// Counts one refusal.
    pub fn count(&mut self, source: SourceKey, reason: RefusalReason, now_ns: u64) {
        let (entry, error) = match self.position(source) {
            Some(entry) => (entry, self.rest[entry].error),
            None if self.len < REFUSED_SOURCES => {
                self.len += 1;
                (self.len - 1, 0)
            }
            None => {
                let entry = self.lowest();
                (entry, self.counts[entry])
            }
        };
        self.sources[entry] = source;
        self.counts[entry] += 1;
        self.rest[entry] = Rest { error, last_ns: now_ns, reason };
    }

    /// The sources with the highest counts, at most `limit`, the highest first.
    pub fn top(&self, limit: usize) -> Vec<RefusedSource> {
        let mut all: Vec<_> = (0..self.len).map(|entry| self.entry(entry)).collect();
        sort(&mut all);
        all.truncate(limit);
        all
    }

    /// What a source that has no entry may have been refused at most.
    pub fn most_of_others(&self) -> u64 {
        if self.len < REFUSED_SOURCES { 0 } else { self.lowest_count() }
    }

    fn entry(&self, entry: usize) -> RefusedSource {
        let Rest { error, last_ns, reason } = self.rest[entry];
        RefusedSource {
            source: self.sources[entry],
            refused: self.counts[entry],
            at_most_over: error,
            last_reason: reason,
            last_ns,
        }
    }

    fn position(&self, source: SourceKey) -> Option<usize> {
        // Eight at a time without a branch between them.
        let is_in =
            |eight: &[SourceKey]| eight.iter().fold(false, |any, one| any | (*one == source));
        let eight = self.sources.chunks(8).position(is_in)? * 8;
        let at = eight + self.sources[eight..].iter().position(|other| *other == source)?;
        (at < self.len).then_some(at)
    }

    /// An entry with the lowest count.
    fn lowest(&mut self) -> usize {
        loop {
            let floor = self.floor;
            let unsearched = &self.counts[self.searched..];
            if let Some(found) = unsearched.iter().position(|count| *count == floor) {
                self.searched += found;
                return self.searched;
            }
            self.floor = self.lowest_count();
            self.searched = 0;
        }
    }

    fn lowest_count(&self) -> u64 {
        self.counts.iter().copied().min().unwrap_or_default()
    }
}

/// The most refused of several shards, the highest first. A source that one of them has no entry
/// for may have been refused there as well, as often as [`HeavyHitters::most_of_others`] says:
/// that is added, to the count and to what it may be too high by.
pub fn merge(shards: &[HeavyHitters], limit: usize) -> Vec<RefusedSource> {
    let mut all: Vec<RefusedSource> = Vec::new();
    let entries = shards.iter().flat_map(|shard| shard.top(REFUSED_SOURCES));
    for found in entries {
        if all.iter().any(|known| known.source == found.source) {
            continue;
        }
        let mut merged = RefusedSource { refused: 0, at_most_over: 0, ..found };
        for shard in shards {
            let Some(entry) = shard.position(found.source).map(|at| shard.entry(at)) else {
                merged.refused += shard.most_of_others();
                merged.at_most_over += shard.most_of_others();
                continue;
            };
            merged.refused += entry.refused;
            merged.at_most_over += entry.at_most_over;
            if entry.last_ns > merged.last_ns {
                (merged.last_ns, merged.last_reason) = (entry.last_ns, entry.last_reason);
            }
        }
        all.push(merged);
    }
    sort(&mut all);
    all.truncate(limit);
    all
}

fn sort(sources: &mut [RefusedSource]) {
    sources.sort_by_key(|entry| (std::cmp::Reverse(entry.refused), entry.source));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const REASONS: [RefusalReason; 2] = [RefusalReason::PerIpRate, RefusalReason::Capacity];

    fn source(n: u32) -> SourceKey {
        SourceKey::from_bits(u64::from(n) + 1)
    }

    #[test]
    fn few_sources_are_counted_exactly() {
        let mut hitters = HeavyHitters::default();
        assert!(hitters.top(10).is_empty());
        (0..5).for_each(|now| hitters.count(source(1), RefusalReason::Denied, now));
        hitters.count(source(2), RefusalReason::Capacity, 7);
        hitters.count(source(1), RefusalReason::PerIpRate, 9);
        let top = hitters.top(1);
        assert_eq!(
            top,
            [RefusedSource {
                source: source(1),
                refused: 6,
                at_most_over: 0,
                last_reason: RefusalReason::PerIpRate,
                last_ns: 9,
            }]
        );
        assert_eq!(hitters.top(64).len(), 2);
    }

    #[test]
    fn who_hammers_is_found_in_a_crowd_that_comes_once() {
        let mut hitters = HeavyHitters::default();
        for n in 0..100_000 {
            hitters.count(source(1_000 + n), RefusalReason::GlobalRate, 0);
            if n % 20 == 0 {
                hitters.count(source(n / 20 % 2), RefusalReason::PerIpRate, 0);
            }
        }
        let top = hitters.top(2);
        assert!(top.iter().all(|entry| entry.source < source(2)), "{top:?}");
        assert!(top.iter().all(|entry| entry.refused - entry.at_most_over <= 2_500), "{top:?}");
        assert!(top.iter().all(|entry| entry.refused >= 2_500), "{top:?}");
    }

    proptest! {
        /// Against counting everybody, for each shard and for all of them together.
        #[test]
        fn the_bounds_hold_and_nobody_frequent_is_missing(
            refusals in prop::collection::vec((0usize..3, 0u32..40, 1u32..8), 0..3_000),
        ) {
            let mut shards = [(); 3].map(|()| HeavyHitters::default());
            let mut exact: [HashMap<SourceKey, u64>; 3] = Default::default();
            for (at, (shard, n, spread)) in refusals.into_iter().enumerate() {
                let who = source(n * n / spread);
                shards[shard].count(who, REASONS[at % 2], at as u64);
                *exact[shard].entry(who).or_default() += 1;
            }
            for (shard, exact) in shards.iter().zip(&exact) {
                let all: u64 = exact.values().sum();
                let top = shard.top(REFUSED_SOURCES);
                prop_assert_eq!(top.iter().map(|entry| entry.refused).sum::<u64>(), all);
                check(&top, exact)?;
                for (who, count) in exact {
                    let found = top.iter().any(|entry| entry.source == *who);
                    prop_assert!(found || *count <= shard.most_of_others());
                    prop_assert!(found || *count <= all / REFUSED_SOURCES as u64);
                }
            }
            let mut together: HashMap<SourceKey, u64> = HashMap::new();
            for (who, count) in exact.iter().flatten() {
                *together.entry(*who).or_default() += count;
            }
            let merged = merge(&shards, usize::MAX);
            check(&merged, &together)?;
            prop_assert!(merged.is_sorted_by_key(|entry| std::cmp::Reverse(entry.refused)));
            prop_assert_eq!(&merge(&shards, 5)[..], &merged[..merged.len().min(5)]);
        }
    }

    fn check(top: &[RefusedSource], exact: &HashMap<SourceKey, u64>) -> Result<(), TestCaseError> {
        for entry in top {
            let count = exact.get(&entry.source).copied().unwrap_or_default();
            prop_assert!(entry.refused >= count, "{:?} {}", entry, count);
            prop_assert!(entry.refused - entry.at_most_over <= count, "{:?} {}", entry, count);
        }
        Ok(())
    }
}
