//! What has been heard of each publisher: what is new, what was heard before, and how much is
//! missing in between. Pure.
//!
//! A publisher counts what it says from 1, without leaving out a number, and also counts what it
//! could not send. So whoever hears a number knows what it has missed; the first number heard of a
//! publisher says nothing about what was before. A number is taken once: what was sent again
//! because an answer was lost is not delivered again, and what comes after a later number is late.
//!
//! Numbers come from outside, and one that is wrong must not silence its publisher:
//!
//! - A number that is further than [`REDIS_GAP_MAX`] from the last one, in either direction, begins a
//!   second run beside the first and is taken; each number belongs to the run that it is nearest to.
//! - A number less far ahead is a gap. If it was wrong, the publisher's next beats say less: two of
//!   them, [`REDIS_BEAT_MS`] apart or nearly so, put the last number back to theirs. What was on its
//!   way for long says less too, but at once and not for so long.

use ahash::RandomState;
use hashbrown::HashMap;

use super::life::Life;
use crate::clock::Now;
use crate::limits::{REDIS_BEAT_MS, REDIS_GAP_MAX, REDIS_PUBLISHERS};

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is new; so many before it were never heard.
    New {
        /// Publications that are missing, [`REDIS_GAP_MAX`] at most.
        missed: u64,
    },
    /// It was heard before, or came after a later one.
    Old,
}

/// The last number of each publisher.
#[derive(Debug)]
pub struct Hearing {
    runs: HashMap<Life, Runs, RandomState>,
    /// How many things have been heard.
    heard: u64,
}

/// How far a publisher has counted.
#[derive(Clone, Copy, Debug)]
struct Runs {
    /// The last number of the run that goes on.
    last: u64,
    /// The last number of another run, far from it.
    other: Option<u64>,
    /// Since when its beats have said less than `last`.
    doubted: Option<Now>,
    /// When it was heard, counted in things heard.
    heard: u64,
}

impl Hearing {
    /// Nothing has been heard.
    pub fn new(hash: RandomState) -> Self {
        Self { runs: HashMap::with_hasher(hash), heard: 0 }
    }

    /// A publication with this number.
    pub fn publication(&mut self, publisher: Life, number: u64) -> Meaning {
        let Some(runs) = self.runs_of(publisher, number) else { return Meaning::New { missed: 0 } };
        runs.publication(number)
    }

    /// A beat: the publisher has used this number, and no higher one.
    pub fn beat(&mut self, publisher: Life, number: u64, now: Now) -> Meaning {
        let Some(runs) = self.runs_of(publisher, number) else { return Meaning::New { missed: 0 } };
        runs.beat(number, now)
    }

    /// Publishers that are known.
    pub fn publishers(&self) -> usize {
        self.runs.len()
    }

    /// What was heard of a publisher before; `None` if this is the first of it.
    fn runs_of(&mut self, publisher: Life, number: u64) -> Option<&mut Runs> {
        self.heard += 1;
        let heard = self.heard;
        if !self.runs.contains_key(&publisher) {
            self.make_room();
            let first = Runs { last: number, other: None, doubted: None, heard };
            self.runs.insert(publisher, first);
            return None;
        }
        let runs = self.runs.get_mut(&publisher)?;
        runs.heard = heard;
        Some(runs)
    }

    /// Forgets the publisher that has been silent for longest if there are too many: nodes that have
    /// ended.
    fn make_room(&mut self) {
        if self.runs.len() >= REDIS_PUBLISHERS {
            let silent = self.runs.iter().min_by_key(|(_, runs)| runs.heard).map(|(life, _)| *life);
            silent.map(|life| self.runs.remove(&life));
        }
    }
}

impl Runs {
    fn publication(&mut self, number: u64) -> Meaning {
        if !self.go_to_run_of(number) {
            return Meaning::New { missed: 0 };
        }
        match number.checked_sub(self.last) {
            None | Some(0) => Meaning::Old,
            Some(ahead) => self.go_on(number, ahead - 1),
        }
    }

    fn beat(&mut self, number: u64, now: Now) -> Meaning {
        if !self.go_to_run_of(number) {
            return Meaning::New { missed: 0 };
        }
        match number.checked_sub(self.last) {
            Some(ahead) => self.go_on(number, ahead),
            None => self.doubt(number, now),
        }
    }

    fn go_on(&mut self, number: u64, missed: u64) -> Meaning {
        (self.last, self.doubted) = (number, None);
        Meaning::New { missed }
    }

    /// The publisher says that it has not counted so far.
    fn doubt(&mut self, number: u64, now: Now) -> Meaning {
        let since = *self.doubted.get_or_insert(now);
        if now >= since.plus_ms(REDIS_BEAT_MS / 2) {
            (self.last, self.doubted) = (number, None);
        }
        Meaning::Old
    }

    /// Makes the run that this number belongs to the one that goes on. False if it belongs to none:
    /// another one begins with it.
    fn go_to_run_of(&mut self, number: u64) -> bool {
        let is_near = |run: u64| number.abs_diff(run) <= REDIS_GAP_MAX;
        let to_last = number.abs_diff(self.last);
        match self.other {
            Some(other) if is_near(other) && number.abs_diff(other) < to_last => {
                self.other = Some(self.last);
                (self.last, self.doubted) = (other, None);
                true
            }
            _ if is_near(self.last) => true,
            _ => {
                self.other = Some(number);
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Now = Now::from_ms(1_000);

    const A: Life = Life::from_bytes([1; 16]);
    const B: Life = Life::from_bytes([2; 16]);

    fn hearing() -> Hearing {
        Hearing::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn what_is_missing_is_counted_once_and_for_each_publisher() {
        let mut hearing = hearing();
        assert_eq!(hearing.publication(A, 5), Meaning::New { missed: 0 }, "the first says nothing");
        assert_eq!(hearing.publication(A, 6), Meaning::New { missed: 0 });
        assert_eq!(hearing.publication(B, 100), Meaning::New { missed: 0 });
        assert_eq!(hearing.publication(A, 9), Meaning::New { missed: 2 });
        assert_eq!(hearing.publication(A, 10), Meaning::New { missed: 0 });
        assert_eq!(hearing.publication(B, 101), Meaning::New { missed: 0 });
    }

    #[test]
    fn what_was_heard_or_comes_late_is_old() {
        let mut hearing = hearing();
        hearing.publication(A, 5);
        assert_eq!(hearing.publication(A, 5), Meaning::Old);
        assert_eq!(hearing.publication(A, 8), Meaning::New { missed: 2 });
        assert_eq!(hearing.publication(A, 6), Meaning::Old);
        assert_eq!(hearing.publication(A, 0), Meaning::Old);
    }

    #[test]
    fn a_beat_tells_of_a_lost_end_and_is_no_publication() {
        let mut hearing = hearing();
        assert_eq!(hearing.beat(A, 0, NOW), Meaning::New { missed: 0 });
        assert_eq!(hearing.publication(A, 1), Meaning::New { missed: 0 });
        assert_eq!(hearing.beat(A, 1, NOW), Meaning::New { missed: 0 });
        assert_eq!(hearing.beat(A, 3, NOW), Meaning::New { missed: 2 });
        assert_eq!(hearing.beat(A, 2, NOW), Meaning::Old);
        assert_eq!(hearing.publication(A, 3), Meaning::Old);
        assert_eq!(hearing.publication(A, 4), Meaning::New { missed: 0 });
    }

    #[test]
    fn a_number_far_away_is_taken_and_silences_nobody() {
        for far in [u64::MAX, u64::MAX - 1, 1 << 63, (1 << 63) - 1, REDIS_GAP_MAX + 6] {
            let mut hearing = hearing();
            hearing.publication(A, 5);
            assert_eq!(hearing.publication(A, far), Meaning::New { missed: 0 }, "{far}");
            assert_eq!(hearing.publication(A, 6), Meaning::New { missed: 0 }, "{far}");
            assert_eq!(hearing.publication(A, far), Meaning::Old, "{far}: heard before");
            assert_eq!(hearing.publication(A, 6), Meaning::Old, "{far}");
            assert_eq!(hearing.beat(A, far, NOW), Meaning::New { missed: 0 }, "{far}");
            assert_eq!(hearing.publication(A, 9), Meaning::New { missed: 2 }, "{far}");
        }
    }

    #[test]
    fn a_publisher_that_is_heard_first_with_a_number_far_away_is_heard_with_small_ones() {
        let mut hearing = hearing();
        hearing.publication(A, u64::MAX);
        for number in 1..10 {
            assert_eq!(hearing.publication(A, number), Meaning::New { missed: 0 });
        }
        assert_eq!(hearing.beat(A, 10, NOW), Meaning::New { missed: 1 });
    }

    #[test]
    fn a_number_near_ahead_is_taken_back_by_two_beats() {
        let mut hearing = hearing();
        hearing.publication(A, 5);
        assert_eq!(hearing.publication(A, 500), Meaning::New { missed: 494 });
        assert_eq!(hearing.publication(A, 6), Meaning::Old);
        let at = |beats: u64| NOW.plus_ms(beats * REDIS_BEAT_MS);
        assert_eq!(hearing.beat(A, 6, at(1)), Meaning::Old);
        assert_eq!(hearing.publication(A, 7), Meaning::Old);
        assert_eq!(hearing.beat(A, 7, at(2)), Meaning::Old);
        assert_eq!(hearing.publication(A, 8), Meaning::New { missed: 0 });
    }

    #[test]
    fn beats_that_were_on_their_way_for_long_take_nothing_back() {
        let mut hearing = hearing();
        hearing.publication(A, 8);
        // All at once, from connections on which nothing was answered.
        for late in [5, 6, 7] {
            assert_eq!(hearing.beat(A, late, NOW), Meaning::Old);
        }
        assert_eq!(hearing.publication(A, 7), Meaning::Old);
        assert_eq!(hearing.beat(A, 8, NOW.plus_ms(REDIS_BEAT_MS)), Meaning::New { missed: 0 });
        assert_eq!(hearing.beat(A, 7, NOW.plus_ms(2 * REDIS_BEAT_MS)), Meaning::Old);
        assert_eq!(hearing.publication(A, 8), Meaning::Old);
    }

    #[test]
    fn the_publishers_that_are_remembered_are_bounded() {
        let mut hearing = hearing();
        hearing.publication(A, 1);
        for life in 0..2 * REDIS_PUBLISHERS as u128 {
            hearing.publication(Life::from_bytes(life.to_be_bytes()), 1);
            hearing.publication(A, life as u64 + 2);
        }
        assert_eq!(hearing.publishers(), REDIS_PUBLISHERS);
        assert_eq!(hearing.publication(A, 1), Meaning::Old, "who speaks is not forgotten");
    }

    /// Numbers near the last one, near zero, and near the ends of their range.
    fn any_number() -> impl Strategy<Value = u64> {
        let near = |at: u64| (0..300_u64).prop_map(move |by| at.wrapping_add(by).wrapping_sub(150));
        prop_oneof![any::<u64>(), near(0), near(1 << 63), near(REDIS_GAP_MAX), near(1_000),]
    }

    proptest! {
        /// Whatever was said in its name, a publisher that beats is heard after two beats, and what
        /// one wrong number can add to what is missing is bounded.
        #[test]
        fn a_publisher_is_heard_whatever_was_said_in_its_name(
            spoofed in prop::collection::vec((any_number(), any::<bool>()), 0..20),
            from in 0..2_000_u64,
        ) {
            let mut hearing = hearing();
            hearing.publication(A, from);
            for (number, is_beat) in spoofed {
                let meaning = match is_beat {
                    true => hearing.beat(A, number, NOW),
                    false => hearing.publication(A, number),
                };
                if let Meaning::New { missed } = meaning {
                    prop_assert!(missed <= REDIS_GAP_MAX);
                }
            }
            let at = |beats: u64| NOW.plus_ms(beats * REDIS_BEAT_MS);
            hearing.beat(A, from, at(1));
            hearing.beat(A, from, at(2));
            for number in from + 1..from + 10 {
                prop_assert_eq!(hearing.publication(A, number), Meaning::New { missed: 0 });
                prop_assert_eq!(hearing.publication(A, number), Meaning::Old);
            }
        }

        /// Without wrong numbers: each is new once, and what is missing is exact.
        #[test]
        fn a_publisher_that_counts_is_heard_once_and_what_it_lost_is_exact(
            gaps in prop::collection::vec(prop_oneof![Just(0), 0..5_u64, Just(1 << 30)], 1..40),
        ) {
            let mut hearing = hearing();
            let mut number = 1;
            hearing.publication(A, number);
            for missed in gaps {
                number += missed + 1;
                prop_assert_eq!(hearing.publication(A, number), Meaning::New { missed });
                prop_assert_eq!(hearing.publication(A, number), Meaning::Old);
            }
        }
    }
}
