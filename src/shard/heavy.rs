//! Connections whose bytes cost much: they are read from in turn, in a part of the shard's time.
//!
//! A few kilobytes of compressed bombs cost milliseconds, and one connection can send thousands of
//! them in a second. What a read costs is reckoned by the bytes of its messages, inflated
//! ([`Work`]); one of [`HEAVY_NS`] or more sends its connection to the end of a queue, from which one is
//! read at a time. All of them together have one part in [`PARTS`] of the shard's time, however many
//! they are, and one turn has [`TURN_NS`] for them. Others notice nothing, and a connection that is
//! alone with its long messages has a hundred megabytes a second.
//!
//! Pure. A connection pays nothing for this: only those that wait have a place here.
//!
//! Invariant: what is held is not read from, and has a place in the queue.

use std::time::Duration;

use ahash::RandomState;

use crate::ring::{FileSlot, Token};
use crate::tables::{Map, Queue};

/// From so much on a read is heavy: several times what a full buffer of small messages costs.
const HEAVY_NS: u64 = 250_000;

/// Bytes of messages after which a read is interrupted: the longest message is read in one go, and
/// no second one behind it.
const BYTES_AT_ONCE: u64 = 256 << 10;

/// What a byte of a compressed message costs in nanoseconds: inflating takes 0.5 to 3, and what a
/// handler does with it comes on top.
const BYTE_NS: u64 = 2;

/// What beginning a compressed message costs, however short it is.
const MESSAGE_NS: u64 = 1_000;

/// All heavy connections together have the shard for one part in so many of the time.
const PARTS: u64 = 4;

/// What a turn has for heavy reads, the one that exceeds it included.
const TURN_NS: u64 = 2_000_000;

/// What one read of a connection that compresses costs.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    bytes: u64,
    messages: u64,
}

impl Work {
    /// One more message of so many bytes.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.messages += 1;
    }

    /// True if the read is to be interrupted.
    pub(super) fn is_enough(self) -> bool {
        self.bytes > BYTES_AT_ONCE
    }

    /// True if the connection has to wait its turn for it.
    pub(super) fn is_heavy(self) -> bool {
        self.cost_ns() >= HEAVY_NS
    }

    pub(super) fn cost_ns(self) -> u64 {
        self.bytes.saturating_mul(BYTE_NS) + self.messages * MESSAGE_NS
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Heavy {
    waiting: Queue<Token>,
    /// Generations of those that wait.
    held: Map<FileSlot, u32>,
    /// None of them is read from before.
    next_ns: u64,
    /// What heavy reads have cost in this turn.
    turn_ns: u64,
}

impl Heavy {
    pub(super) fn new(hash: RandomState) -> Self {
        Self { waiting: Queue::default(), held: Map::new(hash), next_ns: 0, turn_ns: 0 }
    }

    pub(super) fn begin_turn(&mut self) {
        self.turn_ns = 0;
    }

    /// True if this turn has no time left for heavy reads.
    pub(super) fn is_turn_full(&self) -> bool {
        self.turn_ns >= TURN_NS
    }

    /// Whether a connection waits here.
    pub(super) fn holds(&self, token: Token) -> bool {
        !self.held.is_empty() && self.held.get(&token.slot) == Some(&token.generation)
    }

    /// A read of the connection was so much work, and it waits from now on. `now_ns` is the beginning
    /// of the turn, so the time of the read is part of its rest.
    pub(super) fn push(&mut self, token: Token, work: Work, now_ns: u64) {
        let cost_ns = work.cost_ns();
        self.turn_ns += cost_ns;
        self.next_ns = self.next_ns.max(now_ns).saturating_add(cost_ns.saturating_mul(PARTS));
        if self.held.insert(token.slot, token.generation) != Some(token.generation) {
            self.waiting.push_back(token);
        }
    }

    /// The connection whose turn it is to be read from, if it is anybody's.
    pub(super) fn pop(&mut self, now_ns: u64) -> Option<Token> {
        if now_ns < self.next_ns || self.is_turn_full() {
            return None;
        }
        while let Some(token) = self.waiting.pop_front() {
            // Its descriptor may be another's that waits too.
            if self.holds(token) {
                self.held.remove(&token.slot);
                return Some(token);
            }
        }
        None
    }

    /// How long nobody of those who wait is read from; `None` if nobody waits.
    pub(super) fn rests(&self, now_ns: u64) -> Option<Duration> {
        let rests = Duration::from_nanos(self.next_ns.saturating_sub(now_ns));
        (!self.waiting.is_empty()).then_some(rests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn heavy() -> Heavy {
        Heavy::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    /// Work of so many nanoseconds.
    fn work(ns: u64) -> Work {
        Work { bytes: ns / BYTE_NS, messages: 0 }
    }

    fn token(slot: u32) -> Token {
        Token::new(slot, 1)
    }

    /// However many they are and however much they send.
    #[test]
    fn together_they_have_a_quarter_of_the_time_and_each_has_its_turn() {
        for connections in [1, 10, 1_000] {
            let mut heavy = heavy();
            (0..connections).for_each(|slot| heavy.push(token(slot), work(MS), 0));
            let mut reads = vec![0; connections as usize];
            let (mut now, mut spent) = (0, 0);
            while now < 16_000 * MS {
                heavy.begin_turn();
                if let Some(token) = heavy.pop(now) {
                    reads[token.slot as usize] += 1;
                    heavy.push(token, work(MS), now);
                    (now, spent) = (now + MS, spent + MS);
                }
                now += MS / 4;
            }
            let share = spent as f64 / now as f64;
            assert!((0.18..=0.25).contains(&share), "{share} for {connections}");
            let (least, most) =
                (reads.iter().min().unwrap_or(&0), reads.iter().max().unwrap_or(&0));
            assert!(most - least <= 1, "{least} to {most}");
        }
    }

    #[test]
    fn a_turn_ends_when_heavy_reads_have_had_its_time_also_of_connections_that_are_new() {
        let mut heavy = heavy();
        let first = (0..100).take_while(|slot| {
            heavy.push(token(*slot), work(MS / 2), 0);
            !heavy.is_turn_full()
        });
        assert_eq!(first.count(), 3);
        assert_eq!(heavy.pop(1_000 * MS), None, "the turn is full");
        heavy.begin_turn();
        assert_eq!(heavy.pop(1_000 * MS), Some(token(0)));
    }

    #[test]
    fn a_connection_that_has_gone_or_whose_descriptor_is_anothers_is_not_read_from() {
        let mut heavy = heavy();
        heavy.push(Token::new(7, 1), work(MS), 0);
        assert!(heavy.holds(Token::new(7, 1)) && !heavy.holds(Token::new(7, 2)));
        heavy.push(Token::new(7, 2), work(MS), 0);
        heavy.begin_turn();
        assert_eq!(heavy.pop(8 * MS), Some(Token::new(7, 2)));
        assert_eq!((heavy.pop(8 * MS), heavy.rests(8 * MS)), (None, None));
        assert!(!heavy.holds(Token::new(7, 2)));
    }

    #[test]
    fn many_short_messages_are_work_too() {
        let work = |messages, bytes| {
            let mut work = Work::default();
            (0..messages).for_each(|_| work.add(bytes));
            work
        };
        assert!(!work(100, 100).is_heavy() && work(250, 1).is_heavy());
        assert!(work(1, 1 << 20).is_enough() && !work(1, 100_000).is_heavy());
    }
}
