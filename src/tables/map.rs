//! Values by key, in a hash table that grows and shrinks in pieces.

use std::hash::Hash;

use ahash::RandomState;

use super::SegmentedTable;

/// See the module.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    entries: SegmentedTable<(K, V)>,
    hash: RandomState,
}

impl<K: Hash + Eq, V> Map<K, V> {
    /// An empty map; `hash` is keyed, so that keys cannot be made to collide.
    pub(crate) fn new(hash: RandomState) -> Self {
        Self { entries: SegmentedTable::new(), hash }
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of `key`.
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let found = self.entries.find(self.hash.hash_one(key), |(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let found = self.entries.find_mut(self.hash.hash_one(key), |(known, _)| known == key);
        found.map(|(_, value)| value)
    }

    /// Whether there is a value of `key`.
    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// The value of `key`, made if there is none.
    pub(crate) fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V
    where
        K: Copy,
    {
        let Self { entries, hash } = self;
        let entry = entries.find_or_insert(
            hash.hash_one(key),
            |(known, _)| *known == key,
            || (key, make()),
            |(key, _)| hash.hash_one(key),
        );
        &mut entry.1
    }

    /// Sets the value of `key`; returns the one before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        if let Some(known) = self.get_mut(&key) {
            return Some(std::mem::replace(known, value));
        }
        let Self { entries, hash } = self;
        let hashed = hash.hash_one(&key);
        entries.find_or_insert(hashed, |_| false, || (key, value), |(key, _)| hash.hash_one(key));
        None
    }

    /// Takes out the value of `key`.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let Self { entries, hash } = self;
        let hashed = hash.hash_one(key);
        let removed =
            entries.remove(hashed, |(known, _)| known == key, |(key, _)| hash.hash_one(key));
        removed.map(|(_, value)| value)
    }

    /// All keys, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// Entries that were moved, in total.
    #[cfg(test)]
    pub(crate) fn moved(&self) -> u64 {
        self.entries.moved
    }

    /// Places for entries.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.entries.places()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::segmented::MOST_MOVED;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn map<V>() -> Map<u32, V> {
        Map::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    #[test]
    fn no_step_of_growing_and_shrinking_moves_more_than_a_piece_and_the_memory_comes_back() {
        const ENTRIES: u32 = 200_000;
        let mut map = map();
        let (mut before, mut most) = (0, 0);
        for n in 0..2 * ENTRIES {
            match n.checked_sub(ENTRIES) {
                None => drop(map.insert(n, [n; 12])),
                Some(n) => assert_eq!(map.remove(&n), Some([n; 12])),
            }
            most = most.max(map.moved() - before);
            before = map.moved();
        }
        assert!((896..=MOST_MOVED).contains(&most), "{most} moved in one step");
        assert!(map.moved() < 16 * u64::from(ENTRIES), "{} moved in all", map.moved());
        assert!(map.is_empty() && map.places() <= 64, "{} places for nothing", map.places());
    }

    /// Nothing but removals, at random places, and no sweep.
    #[test]
    fn of_a_crowd_that_has_left_a_few_places_for_each_who_stays_are_kept() {
        let mut map = map();
        (0..100_000).for_each(|n| assert_eq!(map.insert(n, n), None));
        (0..100_000).filter(|n| n % 100 != 0).for_each(|n| assert_eq!(map.remove(&n), Some(n)));
        assert_eq!(map.len(), 1_000);
        assert!(map.places() <= 16_384, "{} places", map.places());
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(steps in prop::collection::vec((0u8..4, 0u32..400), 1..2_000)) {
            let (mut map, mut model) = (map(), BTreeMap::new());
            for (step, (kind, key)) in steps.into_iter().enumerate() {
                match kind {
                    0 => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                    1 => {
                        let found = *map.get_or_insert_with(key, || step);
                        prop_assert_eq!(found, *model.entry(key).or_insert(step));
                    }
                    _ => prop_assert_eq!(map.insert(key, step), model.insert(key, step)),
                }
                prop_assert_eq!(map.get(&key), model.get(&key));
                prop_assert_eq!(map.len(), model.len());
            }
            let mut all: Vec<_> = map.iter().map(|(key, step)| (*key, *step)).collect();
            all.sort_unstable();
            prop_assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        }
    }
}
