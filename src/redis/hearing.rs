//! What has been heard of each publisher: what is new, what was heard before, and how much is
//! missing in between. Pure.
//!
//! A publisher counts what it says from 1, without leaving out a number, and also counts what it
//! could not send. So whoever hears a number knows what it has missed; the first number heard of a
//! publisher says nothing about what was before. A number is taken once: what was sent again
//! because an answer was lost is not delivered again.

use ahash::RandomState;
use hashbrown::HashMap;

use super::life::Life;
use crate::limits::REDIS_PUBLISHERS;

/// What a number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// It is new; so many before it were never heard.
    New {
        /// Publications that are missing.
        missed: u64,
    },
    /// It was heard before, or came after a later one.
    Old,
}

/// The last number of each publisher.
#[derive(Debug)]
pub struct Hearing {
    last: HashMap<Life, Last, RandomState>,
    /// How many things have been heard.
    heard: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    number: u64,
    heard: u64,
}

impl Hearing {
    /// Nothing has been heard.
    pub fn new(hash: RandomState) -> Self {
        Self { last: HashMap::with_hasher(hash), heard: 0 }
    }

    /// A publication with this number.
    pub fn publication(&mut self, publisher: Life, number: u64) -> Meaning {
        self.hear(publisher, number, 1)
    }

    /// A beat: the publisher has used this number, and no higher one.
    pub fn beat(&mut self, publisher: Life, number: u64) -> Meaning {
        self.hear(publisher, number, 0)
    }

    /// Publishers that are known.
    pub fn publishers(&self) -> usize {
        self.last.len()
    }

    fn hear(&mut self, publisher: Life, number: u64, own: u64) -> Meaning {
        self.heard += 1;
        let heard = self.heard;
        let Some(last) = self.last.get_mut(&publisher) else {
            self.make_room();
            self.last.insert(publisher, Last { number, heard });
            return Meaning::New { missed: 0 };
        };
        last.heard = heard;
        let Some(missed) = number.checked_sub(last.number).and_then(|n| n.checked_sub(own)) else {
            return Meaning::Old;
        };
        last.number = number;
        Meaning::New { missed }
    }

    /// Forgets whoever has been silent for longest if there are too many: nodes that have ended.
    fn make_room(&mut self) {
        if self.last.len() >= REDIS_PUBLISHERS {
            let silent = self.last.iter().min_by_key(|(_, last)| last.heard).map(|(life, _)| *life);
            silent.map(|life| self.last.remove(&life));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(hearing.beat(A, 0), Meaning::New { missed: 0 });
        assert_eq!(hearing.publication(A, 1), Meaning::New { missed: 0 });
        assert_eq!(hearing.beat(A, 1), Meaning::New { missed: 0 });
        assert_eq!(hearing.beat(A, 3), Meaning::New { missed: 2 });
        assert_eq!(hearing.beat(A, 2), Meaning::Old);
        assert_eq!(hearing.publication(A, 3), Meaning::Old);
        assert_eq!(hearing.publication(A, 4), Meaning::New { missed: 0 });
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_no_harm() {
        let mut hearing = hearing();
        hearing.publication(A, 1);
        assert_eq!(hearing.publication(A, u64::MAX), Meaning::New { missed: u64::MAX - 2 });
        assert_eq!(hearing.publication(A, u64::MAX), Meaning::Old);
        assert_eq!(hearing.beat(A, u64::MAX), Meaning::New { missed: 0 });
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
}
