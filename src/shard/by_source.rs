//! Connections that hold something of a budget, by source: which of them goes when it is used up.
//!
//! A source has a share of its own first: while one holds more than that, the heaviest source gives
//! up what its longest holding connection has. Only if none does, the connection goes that has held
//! something for longest of all. So one source cannot have the connections of others ended, however
//! many connections it opens, and among many small sources who takes longest goes first.
//!
//! Pure. Invariants: a connection has one entry or none; the lists are in the order in which entries
//! were made; the weight of a source is the sum of those of its entries.

use std::collections::BTreeSet;

use ahash::RandomState;

use crate::admission::SourceKey;
use crate::connection::NONE;
use crate::ring::FileSlot;
use crate::tables::Map;

/// A place in a list.
#[derive(Clone, Copy, Debug)]
struct Links {
    older: FileSlot,
    newer: FileSlot,
}

/// The ends of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: FileSlot,
    newest: FileSlot,
}

const NO_ENDS: Ends = Ends { oldest: NONE, newest: NONE };

/// Which list.
#[derive(Clone, Copy, Debug)]
enum Order {
    OfAll,
    OfSource,
}

#[derive(Debug)]
struct Entry {
    source: SourceKey,
    weight: u64,
    of_all: Links,
    of_source: Links,
}

#[derive(Debug)]
struct Source {
    weight: u64,
    ends: Ends,
}

/// See the module.
#[derive(Debug)]
pub(super) struct BySource {
    /// What a source may hold before it is looked at for its weight.
    share: u64,
    /// The ranking is by multiples of this, at most the share, so that it is seldom changed.
    grain: u64,
    entries: Map<FileSlot, Entry>,
    sources: Map<SourceKey, Source>,
    /// Sources by weight.
    ranking: BTreeSet<(u64, SourceKey)>,
    ends: Ends,
    weight: u64,
}

impl BySource {
    pub(super) fn new(share: u64, grain: u64, hash: RandomState) -> Self {
        debug_assert!((1..=share).contains(&grain));
        Self {
            share,
            grain,
            entries: Map::new(hash.clone()),
            sources: Map::new(hash),
            ranking: BTreeSet::new(),
            ends: NO_ENDS,
            weight: 0,
        }
    }

    /// What all hold.
    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// Whether a connection holds something.
    pub(super) fn has(&self, slot: FileSlot) -> bool {
        self.entries.contains_key(&slot)
    }

    /// A connection holds so much. Its entry is made, with the latest place in the order, if it had
    /// none.
    pub(super) fn set(&mut self, slot: FileSlot, source: SourceKey, weight: u64) {
        match self.entries.get_mut(&slot) {
            Some(entry) => {
                let before = std::mem::replace(&mut entry.weight, weight);
                let source = entry.source;
                self.weigh(source, before, weight);
            }
            None => {
                let links = Links { older: NONE, newer: NONE };
                let entry = Entry { source, weight, of_all: links, of_source: links };
                self.entries.insert(slot, entry);
                self.sources.get_or_insert_with(source, || Source { weight: 0, ends: NO_ENDS });
                self.append(slot, source, Order::OfAll);
                self.append(slot, source, Order::OfSource);
                self.weigh(source, 0, weight);
            }
        }
    }

    /// A connection holds nothing any more.
    pub(super) fn remove(&mut self, slot: FileSlot) {
        if self.entries.is_empty() {
            return;
        }
        let Some(entry) = self.entries.remove(&slot) else { return };
        self.weigh(entry.source, entry.weight, 0);
        self.unlink(entry.of_all, entry.source, Order::OfAll);
        self.unlink(entry.of_source, entry.source, Order::OfSource);
        let is_last =
            self.sources.get(&entry.source).is_some_and(|source| source.ends.oldest == NONE);
        if is_last {
            self.sources.remove(&entry.source);
        }
    }

    /// The connection that has to go so that others have room.
    pub(super) fn to_give_up(&self) -> Option<FileSlot> {
        let heaviest = self.ranking.last().and_then(|(_, source)| self.sources.get(source));
        let ends = heaviest.filter(|source| source.weight > self.share);
        let oldest = ends.map_or(self.ends.oldest, |source| source.ends.oldest);
        (oldest != NONE).then_some(oldest)
    }

    /// A connection of a source has another weight.
    fn weigh(&mut self, source: SourceKey, before: u64, after: u64) {
        debug_assert!(self.weight >= before, "more is taken away than was there");
        self.weight = self.weight - before + after;
        let Some(known) = self.sources.get_mut(&source) else { return };
        let rank = known.weight / self.grain;
        known.weight = known.weight - before + after;
        let new_rank = known.weight / self.grain;
        if rank != new_rank {
            if rank > 0 {
                self.ranking.remove(&(rank, source));
            }
            if new_rank > 0 {
                self.ranking.insert((new_rank, source));
            }
        }
    }

    fn ends_mut(&mut self, source: SourceKey, order: Order) -> Option<&mut Ends> {
        match order {
            Order::OfAll => Some(&mut self.ends),
            Order::OfSource => self.sources.get_mut(&source).map(|source| &mut source.ends),
        }
    }

    fn links_mut(&mut self, slot: FileSlot, order: Order) -> Option<&mut Links> {
        let entry = self.entries.get_mut(&slot)?;
        Some(match order {
            Order::OfAll => &mut entry.of_all,
            Order::OfSource => &mut entry.of_source,
        })
    }

    fn append(&mut self, slot: FileSlot, source: SourceKey, order: Order) {
        let Some(ends) = self.ends_mut(source, order) else { return };
        let older = std::mem::replace(&mut ends.newest, slot);
        if ends.oldest == NONE {
            ends.oldest = slot;
        }
        if let Some(links) = self.links_mut(older, order) {
            links.newer = slot;
        }
        if let Some(links) = self.links_mut(slot, order) {
            *links = Links { older, newer: NONE };
        }
    }

    fn unlink(&mut self, links: Links, source: SourceKey, order: Order) {
        let Links { older, newer } = links;
        match self.links_mut(older, order) {
            Some(links) => links.newer = newer,
            None => self.ends_mut(source, order).into_iter().for_each(|ends| ends.oldest = newer),
        }
        match self.links_mut(newer, order) {
            Some(links) => links.older = older,
            None => self.ends_mut(source, order).into_iter().for_each(|ends| ends.newest = older),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(n: u64) -> SourceKey {
        SourceKey::from_bits(n)
    }

    fn held(share: u64, grain: u64) -> BySource {
        BySource::new(share, grain, RandomState::with_seeds(1, 2, 3, 4))
    }

    /// Ends whoever has to go until no more than `budget` is held; who went.
    fn give_up(held: &mut BySource, budget: u64) -> Vec<FileSlot> {
        let mut gone = Vec::new();
        while held.weight() > budget
            && let Some(slot) = held.to_give_up()
        {
            held.remove(slot);
            gone.push(slot);
        }
        gone
    }

    #[test]
    fn a_source_above_its_share_ends_its_own_connections_and_no_others() {
        let mut held = held(1_000, 64);
        (0..10).for_each(|slot| held.set(slot, source(slot.into()), 900));
        (100..300).for_each(|slot| held.set(slot, source(99), 100));
        let gone = give_up(&mut held, 12_000);
        assert_eq!(
            gone,
            (100..270).collect::<Vec<_>>(),
            "its oldest first, and as many as need be"
        );
        assert_eq!(give_up(&mut held, 10_000), (270..290).collect::<Vec<_>>());
        // Nobody is above the share now: the oldest of all.
        assert_eq!(give_up(&mut held, 9_100), [0]);
    }

    #[test]
    fn of_many_small_sources_who_has_held_something_longest_goes_first() {
        let mut held = held(1_000, 1);
        (0..100).for_each(|slot| held.set(slot, source(slot.into()), 10));
        held.set(50, source(50), 999);
        held.remove(0);
        held.set(0, source(0), 10);
        assert_eq!(give_up(&mut held, 1_959), [1, 2, 3]);
    }

    proptest! {
        /// Against a plain list.
        #[test]
        fn agrees_with_a_plain_list(
            steps in prop::collection::vec((0u8..4, 0u32..12, 0u64..4, 1u64..300), 1..300),
        ) {
            const SHARE: u64 = 400;
            let mut held = held(SHARE, 1);
            let mut model: Vec<(FileSlot, u64, u64)> = Vec::new();
            for (kind, slot, of, weight) in steps {
                let of = model.iter().find(|(known, ..)| *known == slot).map_or(of, |(_, of, _)| *of);
                if kind == 0 {
                    held.remove(slot);
                    model.retain(|(known, ..)| *known != slot);
                } else {
                    held.set(slot, source(of), weight);
                    match model.iter_mut().find(|(known, ..)| *known == slot) {
                        Some(entry) => entry.2 = weight,
                        None => model.push((slot, of, weight)),
                    }
                }
                let weight_of = |of: u64| -> u64 {
                    model.iter().filter(|entry| entry.1 == of).map(|entry| entry.2).sum()
                };
                prop_assert_eq!(held.weight(), (0..4).map(weight_of).sum::<u64>());
                prop_assert_eq!(held.has(slot), model.iter().any(|(known, ..)| *known == slot));
                let heaviest = (0..4).max_by_key(|of| (weight_of(*of), *of));
                let expected = match heaviest {
                    Some(of) if weight_of(of) > SHARE => model.iter().find(|entry| entry.1 == of),
                    _ => model.first(),
                };
                prop_assert_eq!(held.to_give_up(), expected.map(|entry| entry.0));
            }
            prop_assert_eq!(held.sources.len(), (0..4).filter(|of| model.iter().any(|entry| entry.1 == *of)).count());
        }
    }
}
