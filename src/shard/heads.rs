//! Bytes that are kept of connections before they are upgraded: PROXY headers and heads of requests
//! as far as they have come, and requests that wait for an answer of admission.
//!
//! All together have a budget ([`Use::Heads`](crate::memory_plan::Use::Heads)). Above it the one gives
//! way of which something has been kept for longest, by [`Rank`]: first those that are refused, which
//! only lose what is kept of them, then those that are not admitted, then those that are and have
//! not sent a whole request. Nothing that is upgraded has anything here.
//!
//! Invariant: `held` is what [`Kept::bytes_held`] says of all together, and `refused` of those with
//! [`Rank::Refused`].

use ahash::RandomState;

use super::half_open::Queue;
use crate::ring::{FileSlot, Token};
use crate::tables::Map;

/// What one costs beside its bytes: its entry in the table and in a queue, and the allocator's word.
const ENTRY_BYTES: u64 = 64;

/// Room is made in steps of so many bytes, so that a head that comes byte by byte is not copied at
/// each of them and one that is short has no room to spare.
const STEP_BYTES: usize = 512;

/// The part of the budget that refused connections may have: enough for the heads of browsers that
/// come in two pieces, without which they cannot be told why in a Close.
const REFUSED_PART: u64 = 4;

/// In which order connections give way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rank {
    /// Refused, and not told yet.
    Refused,
    /// Not admitted yet.
    Unadmitted,
    /// Admitted, and not upgraded.
    Admitted,
}

impl Rank {
    const ALL: [Self; 3] = [Self::Refused, Self::Unadmitted, Self::Admitted];
}

/// What is kept of one connection.
#[derive(Debug)]
struct Kept {
    generation: u32,
    rank: Rank,
    /// Empty while its connection is being served.
    bytes: Vec<u8>,
    /// The room that `bytes` has when they are here.
    capacity: usize,
}

impl Kept {
    fn bytes_held(&self) -> u64 {
        ENTRY_BYTES + self.capacity as u64
    }
}

/// What is kept of all of a shard's connections.
#[derive(Debug)]
pub(super) struct Heads {
    budget: u64,
    held: u64,
    refused: u64,
    kept: Map<FileSlot, Kept>,
    oldest: [Queue; Rank::ALL.len()],
}

fn is_kept(kept: &Map<FileSlot, Kept>, token: Token, rank: Rank) -> bool {
    kept.get(&token.slot)
        .is_some_and(|kept| kept.generation == token.generation && kept.rank == rank)
}

impl Heads {
    pub(super) fn new(budget: u64, hash: RandomState) -> Self {
        let kept = Map::new(hash);
        Self { budget, held: 0, refused: 0, kept, oldest: Default::default() }
    }

    /// Memory that all together hold, in bytes.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// What is kept of a connection.
    pub(super) fn get(&self, slot: FileSlot) -> &[u8] {
        self.kept.get(&slot).map_or(&[], |kept| &kept.bytes)
    }

    /// Takes what is kept of a connection, to be read and kept again or forgotten; nothing if there
    /// is nothing.
    pub(super) fn take(&mut self, slot: FileSlot) -> Option<Vec<u8>> {
        if self.kept.is_empty() {
            return None;
        }
        self.kept.get_mut(&slot).map(|kept| std::mem::take(&mut kept.bytes))
    }

    /// Keeps these bytes, which are all that is kept of the connection. The budget may be exceeded
    /// then ([`gives_way`](Self::gives_way)).
    pub(super) fn keep(&mut self, token: Token, rank: Rank, mut bytes: Vec<u8>) {
        bytes.shrink_to(bytes.len().next_multiple_of(STEP_BYTES));
        let capacity = bytes.capacity();
        let after = Kept { generation: token.generation, rank, bytes, capacity };
        self.count(&after, true);
        let was = self.kept.insert(token.slot, after);
        if let Some(before) = &was {
            self.count(before, false);
        }
        let is_queued =
            was.is_some_and(|before| before.generation == token.generation && before.rank == rank);
        if !is_queued {
            let kept = &self.kept;
            self.oldest[rank as usize].push(token, |token| is_kept(kept, token, rank));
        }
    }

    /// Keeps these bytes of a refused connection if there is room for it; otherwise it has nothing
    /// here any more.
    pub(super) fn keep_refused(&mut self, token: Token, bytes: Vec<u8>) -> bool {
        self.forget(token.slot);
        let room = bytes.len().next_multiple_of(STEP_BYTES) as u64 + ENTRY_BYTES;
        let is_kept = self.refused + room <= self.budget / REFUSED_PART;
        if is_kept {
            self.keep(token, Rank::Refused, bytes);
        }
        is_kept
    }

    /// Nothing is kept of a connection any more.
    pub(super) fn forget(&mut self, slot: FileSlot) {
        if self.kept.is_empty() {
            return;
        }
        if let Some(before) = self.kept.remove(&slot) {
            self.count(&before, false);
        }
    }

    /// The next connection that gives way, while more is held than the budget allows: it is ended,
    /// or, if it is refused, forgotten.
    pub(super) fn gives_way(&mut self) -> Option<(Token, Rank)> {
        if self.held <= self.budget {
            return None;
        }
        let kept = &self.kept;
        Rank::ALL.into_iter().zip(&mut self.oldest).find_map(|(rank, oldest)| {
            Some((oldest.pop_if(|token| is_kept(kept, token, rank), |_| true)?, rank))
        })
    }

    fn count(&mut self, kept: &Kept, is_more: bool) {
        let bytes = kept.bytes_held();
        let counts =
            [Some(&mut self.held), (kept.rank == Rank::Refused).then_some(&mut self.refused)];
        for count in counts.into_iter().flatten() {
            debug_assert!(is_more || *count >= bytes, "more given back than was held");
            *count = if is_more { *count + bytes } else { count.saturating_sub(bytes) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heads(budget: u64) -> Heads {
        Heads::new(budget, RandomState::with_seeds(1, 2, 3, 4))
    }

    fn token(slot: u32) -> Token {
        Token::new(slot, 1)
    }

    const PIECE: u64 = STEP_BYTES as u64 + ENTRY_BYTES;

    #[test]
    fn refused_ones_give_way_first_and_of_each_rank_the_oldest() {
        let mut heads = heads(4 * PIECE);
        heads.keep(token(1), Rank::Admitted, vec![1; 400]);
        heads.keep(token(2), Rank::Unadmitted, vec![2; 400]);
        heads.keep(token(3), Rank::Unadmitted, vec![3; 400]);
        assert!(heads.keep_refused(token(4), vec![4; 400]));
        assert_eq!(heads.gives_way(), None);
        heads.keep(token(5), Rank::Admitted, vec![5; 2_000]);
        let mut order = Vec::new();
        while let Some((token, rank)) = heads.gives_way() {
            heads.forget(token.slot);
            order.push((token.slot, rank));
        }
        assert_eq!(
            order,
            [(4, Rank::Refused), (2, Rank::Unadmitted), (3, Rank::Unadmitted), (1, Rank::Admitted),]
        );
        assert_eq!(heads.get(5), [5; 2_000]);
    }

    #[test]
    fn what_is_kept_again_keeps_its_place_and_another_life_of_the_slot_has_its_own() {
        let mut heads = heads(4 * PIECE);
        heads.keep(token(1), Rank::Admitted, vec![1; 600]);
        heads.keep(token(2), Rank::Admitted, vec![2; 600]);
        let mut bytes = heads.take(1).unwrap_or_default();
        bytes.push(1);
        heads.keep(token(1), Rank::Admitted, bytes);
        assert_eq!(heads.get(1), [1; 601]);
        heads.keep(token(3), Rank::Admitted, vec![3; 1_000]);
        assert_eq!(heads.gives_way(), Some((token(1), Rank::Admitted)));
        heads.forget(1);
        assert_eq!((heads.gives_way(), heads.take(1)), (None, None));
        heads.keep(Token::new(1, 2), Rank::Unadmitted, vec![0; 1_000]);
        assert_eq!(heads.gives_way(), Some((Token::new(1, 2), Rank::Unadmitted)));
    }

    #[test]
    fn refused_ones_have_a_part_of_the_budget_and_room_that_is_not_used_is_given_back() {
        let mut heads = heads(400 * PIECE);
        let kept = (0..1_000).filter(|&slot| heads.keep_refused(token(slot), vec![0; STEP_BYTES]));
        assert_eq!(kept.count(), 100);
        let mut long = Vec::with_capacity(16_384);
        long.push(0);
        heads.keep(token(2_000), Rank::Admitted, long);
        assert_eq!(heads.held(), 101 * PIECE);
        (0..=2_000).for_each(|slot| heads.forget(slot));
        assert_eq!((heads.held(), heads.refused), (0, 0));
        assert!(heads.kept.is_empty());
    }

    proptest! {
        /// Whatever comes and goes: the counts are those of what is there, and once everything has
        /// given way that has to, the budget is kept.
        #[test]
        fn never_more_than_the_budget(
            steps in prop::collection::vec((0u32..40, 0u8..5, 0usize..3_000), 1..300),
        ) {
            let mut heads = heads(20_000);
            for (slot, kind, len) in steps {
                let token = token(slot);
                match kind {
                    0 => heads.keep(token, Rank::Admitted, vec![0; len]),
                    1 => heads.keep(token, Rank::Unadmitted, vec![0; len]),
                    2 => {
                        let is_kept = heads.keep_refused(token, vec![0; len]);
                        prop_assert_eq!(is_kept, heads.kept.contains_key(&slot));
                    }
                    3 => {
                        if let Some(bytes) = heads.take(slot) {
                            heads.keep(token, Rank::Admitted, bytes);
                        }
                    }
                    _ => heads.forget(slot),
                }
                while let Some((token, _)) = heads.gives_way() {
                    heads.forget(token.slot);
                }
                let there = heads.kept.iter().map(|(_, kept)| kept).map(Kept::bytes_held).sum::<u64>();
                let refused = heads.kept.iter().map(|(_, kept)| kept).filter(|kept| kept.rank == Rank::Refused);
                prop_assert_eq!(heads.held(), there);
                prop_assert_eq!(heads.refused, refused.map(Kept::bytes_held).sum::<u64>());
                prop_assert!(heads.held() <= 20_000 && heads.refused <= 5_000);
            }
        }
    }
}
