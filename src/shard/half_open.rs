//! Connections that are accepted and not upgraded, and which of them goes when there are too many.
//!
//! Whoever connects and says nothing holds a descriptor and kernel memory until the handshake's
//! deadline; thousands who do so must not keep out those who speak. So there is a budget, and
//! one more than that ends the oldest: who has had the longest time is the least likely to
//! use it. Refused ones go first when descriptors are short, because admitted ones cannot use
//! those up.
//!
//! Invariant: `live` is the number of connections that are half-open in the sense of
//! [`is_half_open`]. The queues also hold tokens of connections that are not any more, but never
//! more than three for each that is (see [`Queue`]).

use super::connections::Connections;
use crate::connection::deadline::is_reached;
use crate::connection::{Connection, Facts, State};
use crate::ring::Token;
use crate::tables;

/// What a refused connection has for its request in any case, 192 to 256 ms: somebody who is slow
/// for a moment is told why. In so long a time the descriptors kept for refusals are used once.
const GRACE_TICKS: u32 = 4;

/// Half-open connections of a shard.
#[derive(Debug)]
pub(super) struct HalfOpen {
    budget: usize,
    live: usize,
    all: Queue,
    /// Those among them that were not admitted.
    refused: Queue,
}

impl HalfOpen {
    pub(super) fn new(budget: usize) -> Self {
        Self { budget, live: 0, all: Queue::default(), refused: Queue::default() }
    }

    /// How many there are.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// A connection is not half-open any more: upgraded, or ending.
    pub(super) fn left(&mut self) {
        debug_assert!(self.live > 0, "more left than came");
        self.live = self.live.saturating_sub(1);
    }

    /// A connection was accepted; gives back the oldest if that is one too many.
    pub(super) fn begin(&mut self, token: Token, connections: &Connections) -> Option<Token> {
        self.all.push(token, |token| is_half_open(connections, token));
        self.live += 1;
        if self.live <= self.budget {
            return None;
        }
        // On its way to another shard it cannot be ended; it has gone in a moment.
        let can_end = |token: Token| {
            connections.slot(token.slot).is_some_and(|slot| slot.state != State::Leaving)
        };
        self.all.pop_if(|token| is_half_open(connections, token), can_end)
    }

    /// A connection was refused admission and has its place until it has been told.
    pub(super) fn queue_refused(&mut self, token: Token, connections: &Connections) {
        self.refused.push(token, |token| is_refused(connections, token));
    }

    /// The oldest refused connection, unless it was accepted within [`GRACE_TICKS`].
    pub(super) fn pop_refused(&mut self, connections: &Connections, tick: u32) -> Option<Token> {
        let had_its_time = |token: Token| {
            connections.slot(token.slot).is_none_or(|connection| {
                is_reached(connection.accepted_tick.wrapping_add(GRACE_TICKS), tick)
            })
        };
        self.refused.pop_if(|token| is_refused(connections, token), had_its_time)
    }
}

/// Tokens in the order in which they came. Those that mean nothing any more are not looked for
/// when that happens, but taken out in passing: each that comes makes room for itself by
/// looking at [`LOOKS`](Self::LOOKS) others. While one round of looking goes on no more can come than a
/// half of what there was, so the queue is never longer than three times what is live, and no
/// step of it is long.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Older than `unseen`; looked at in this round.
    seen: tables::Queue<Token>,
    unseen: tables::Queue<Token>,
}

impl Queue {
    const LOOKS: usize = 3;

    pub(super) fn push(&mut self, token: Token, is_live: impl Fn(Token) -> bool) {
        self.unseen.push_back(token);
        for _ in 0..Self::LOOKS {
            let Some(token) = self.unseen.pop_front() else { break };
            if is_live(token) {
                self.seen.push_back(token);
            }
        }
        if self.unseen.is_empty() {
            std::mem::swap(&mut self.seen, &mut self.unseen);
        }
    }

    /// Takes out the oldest that is live, if it is `due`.
    pub(super) fn pop_if(
        &mut self,
        is_live: impl Fn(Token) -> bool,
        due: impl Fn(Token) -> bool,
    ) -> Option<Token> {
        loop {
            let older = if self.seen.is_empty() { &mut self.unseen } else { &mut self.seen };
            let token = *older.front()?;
            let live = is_live(token);
            if live && !due(token) {
                return None;
            }
            older.pop_front();
            if live {
                return Some(token);
            }
        }
    }
}

/// Accepted, not upgraded, and not ending.
fn is_half_open(connections: &Connections, token: Token) -> bool {
    connections.slot(token.slot).is_some_and(|connection| {
        connection.life.generation() == token.generation
            && !matches!(connection.state, State::Vacant | State::Ending)
            && !connection.facts.has(Facts::OPENED)
    })
}

/// The same, and known not to be admitted.
fn is_refused(connections: &Connections, token: Token) -> bool {
    let refused = |connection: &Connection| {
        let told = matches!(connection.state, State::Flushing | State::Lingering);
        (told || connection.state == State::TurnedAway) && !connection.facts.has(Facts::ADMITTED)
    };
    is_half_open(connections, token) && connections.slot(token.slot).is_some_and(refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn token(n: u32) -> Token {
        Token::new(n, 1)
    }

    proptest! {
        /// Against a sorted set: the oldest comes first, and the dead take no room.
        #[test]
        fn the_oldest_live_one_is_taken_and_the_queue_stays_short(
            steps in prop::collection::vec((0u8..8, any::<prop::sample::Index>()), 1..2_000),
            most in 1usize..60,
        ) {
            let mut queue = Queue::default();
            let mut live: BTreeSet<u32> = BTreeSet::new();
            for (n, (kind, index)) in steps.into_iter().enumerate() {
                match kind {
                    // One goes by itself, anywhere in the queue.
                    0..3 if !live.is_empty() => {
                        let gone = *index.get(&live.iter().copied().collect::<Vec<_>>());
                        live.remove(&gone);
                    }
                    3 => {
                        let oldest = queue.pop_if(|token| live.contains(&token.slot), |_| true);
                        prop_assert_eq!(oldest.map(|token| token.slot), live.pop_first());
                    }
                    _ => {
                        live.insert(n as u32);
                        queue.push(token(n as u32), |token| live.contains(&token.slot));
                        if live.len() > most {
                            let oldest = queue.pop_if(|token| live.contains(&token.slot), |_| true);
                            prop_assert_eq!(oldest.map(|token| token.slot), live.pop_first());
                        }
                        let length = queue.seen.len() + queue.unseen.len();
                        prop_assert!(length <= 3 * most + 4, "{} for at most {}", length, most);
                    }
                }
            }
        }
    }
}
