//! Which sources are refused so often that others come first when answers to refusals are short.
//!
//! Refusals of a source are counted by the generic cell rate algorithm (ITU-T I.371) at
//! [`REFUSALS_OF_A_SOURCE`] a second, in a table of fixed size: a source has a place among a few, and
//! one that finds them taken gets that of the source which was refused least often of late. So who
//! comes with more sources than there are places is counted for none of them, and shares with
//! everybody what everybody has; who comes with few is known.

use ahash::RandomState;

use super::source_address::SourceKey;
use crate::limits::REFUSALS_OF_A_SOURCE;

/// Sources that are counted: one that comes on top takes the place of the one that is refused least
/// often. 16 KiB.
const SOURCES: usize = 1_024;

/// Places among which a source has one.
const WAYS: usize = 4;

const NS_PER_SECOND: u64 = 1_000_000_000;
const INTERVAL_NS: u64 = NS_PER_SECOND / REFUSALS_OF_A_SOURCE;

const _: () = assert!(SOURCES.is_multiple_of(WAYS));

#[derive(Debug, Clone, Copy)]
struct Place {
    source: SourceKey,
    /// The theoretical arrival time of its next refusal.
    arrival_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct RefusalShares {
    places: Box<[[Place; WAYS]]>,
    hash: RandomState,
}

impl RefusalShares {
    /// Nobody has been refused yet; `hash` is keyed, so that sources cannot be made to collide.
    pub fn new(hash: RandomState) -> Self {
        let place = Place { source: SourceKey::from_bits(0), arrival_ns: 0 };
        let places = vec![[place; WAYS]; SOURCES / WAYS].into();
        Self { places, hash }
    }

    /// Counts one refusal of a source; true if it has had more than its share.
    pub fn count(&mut self, source: SourceKey, now_ns: u64) -> bool {
        let index = self.hash.hash_one(source) as usize % self.places.len();
        let ways = &mut self.places[index];
        let known = ways.iter().position(|place| place.source == source);
        let least = || (0..WAYS).min_by_key(|way| ways[*way].arrival_ns).unwrap_or(0);
        let way = known.unwrap_or_else(least);
        let before_ns = if known.is_some() { ways[way].arrival_ns } else { 0 };
        // What it is refused beyond twice its share changes nothing.
        let most_ns = now_ns.saturating_add(2 * NS_PER_SECOND);
        let arrival_ns = before_ns.max(now_ns).saturating_add(INTERVAL_NS).min(most_ns);
        ways[way] = Place { source, arrival_ns };
        arrival_ns > now_ns.saturating_add(NS_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> RefusalShares {
        RefusalShares::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn loud(shares: &mut RefusalShares, source: u64, times: usize, now_ns: u64) -> usize {
        (0..times).filter(|_| shares.count(SourceKey::from_bits(source), now_ns)).count()
    }

    #[test]
    fn a_source_has_its_share_each_second_and_others_have_theirs() {
        let mut shares = shares();
        assert_eq!(loud(&mut shares, 1, 100, 0), 80);
        assert_eq!(loud(&mut shares, 2, 20, 0), 0);
        assert_eq!(loud(&mut shares, 1, 1, NS_PER_SECOND / 2), 1, "it went on too long for that");
        assert_eq!(loud(&mut shares, 1, 100, 3 * NS_PER_SECOND), 80, "after a quiet time");
    }

    #[test]
    fn a_source_that_does_not_stop_stays_known_among_ten_thousand_others() {
        let mut shares = shares();
        loud(&mut shares, 1, 100, 0);
        for other in 2..10_000 {
            let now_ns = other * 100_000;
            assert_eq!(loud(&mut shares, other, 1, now_ns), 0);
            assert_eq!(loud(&mut shares, 1, 1, now_ns), 1, "after {other} others");
        }
    }
}
