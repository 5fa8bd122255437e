//! A hash table in many small ones, by linear hashing (Litwin, VLDB 1980).
//!
//! Whenever the segments hold more than [`MEAN_PER_SEGMENT`] entries on average, the next one in
//! turn is split into itself and a new last one; whenever they hold less than a quarter of that,
//! the last is merged back into the one that it was split from.
//!
//! Like `hashbrown::HashTable` it is told the hash of what is looked for, and how an entry is
//! hashed (`hasher`), which has to be unpredictable for keys that a peer can choose.
//!
//! Invariants: an entry is in the segment that [`segment_of`] names for its hash. A segment holds
//! about two thousand entries at most; one step splits, merges or rehashes one segment. A table
//! without entries owns no memory but that of its first segment's list.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::sys::returned_memory::ReturnedMemory;

/// Entries that a segment holds on average before one more segment is made; just before it is
/// split it holds twice as many. Few enough that a step is short, 0.1 ms; many enough that a
/// segment is several pages, which can be given back to the kernel.
pub(crate) const MEAN_PER_SEGMENT: usize = 896;

/// Entries that one step moves at most: those of a segment, and each of them twice if a half turns
/// out larger than it was made.
#[cfg(test)]
pub(crate) const MOST_MOVED: u64 = 4_096;

/// Below one in so many of [`MEAN_PER_SEGMENT`] a segment is given up, and a segment of which the
/// sweep finds fewer of its places in use is made smaller. Far from what makes it grow, so that
/// coming and going does neither.
const SPARSE: usize = 4;

/// The same for a segment from which an entry is removed, which may be every second step.
const VERY_SPARSE: usize = 8;

/// Places of a segment that is not worth making smaller.
const FEW_PLACES: usize = 64;

type Segment<T> = HashTable<T, ReturnedMemory>;

/// The segment of a hash among `segments`: its upper bits, as many as name a segment. (A segment
/// takes the places within it from the lower bits, and 7 more from the uppermost; these are
/// between.)
fn segment_of(hash: u64, segments: usize) -> usize {
    let bits = (hash >> 24) as usize;
    let doubled = segments.next_power_of_two();
    let index = bits & (doubled - 1);
    if index < segments { index } else { bits & (doubled / 2 - 1) }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct SegmentedTable<T> {
    /// Never empty.
    segments: Vec<Segment<T>>,
    len: usize,
    /// Places of all segments.
    places: usize,
    /// Where [`sweep`](Self::sweep) goes on: from the last segment to the first, because the
    /// last is the one that is given up.
    swept_segment: usize,
    swept_places: usize,
    /// Entries that were moved, in total.
    #[cfg(test)]
    pub(crate) moved: u64,
}

impl<T> SegmentedTable<T> {
    /// A table without entries.
    pub(crate) fn new() -> Self {
        let first = HashTable::new_in(ReturnedMemory);
        let places = first.num_buckets();
        Self {
            segments: vec![first],
            len: 0,
            places,
            swept_segment: 0,
            swept_places: 0,
            #[cfg(test)]
            moved: 0,
        }
    }

    /// Entries.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Places for entries.
    pub(crate) fn places(&self) -> usize {
        self.places
    }

    /// Segments of the table.
    #[cfg(test)]
    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Checks what is counted against what is there.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn check_the_books(&self) {
        let sum = |of: fn(&Segment<T>) -> usize| self.segments.iter().map(of).sum::<usize>();
        assert_eq!(self.len, sum(Segment::len));
        assert_eq!(self.places, sum(Segment::num_buckets));
        assert!(self.swept_segment < self.segments.len());
    }

    /// All entries, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.segments.iter().flatten()
    }

    /// The entry with this hash that `is_it`.
    pub(crate) fn find(&self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&T> {
        self.segments[segment_of(hash, self.segments.len())].find(hash, is_it)
    }

    /// The same, to change it, but not what it is hashed by.
    pub(crate) fn find_mut(&mut self, hash: u64, is_it: impl FnMut(&T) -> bool) -> Option<&mut T> {
        let segment = segment_of(hash, self.segments.len());
        self.segments[segment].find_mut(hash, is_it)
    }

    /// The entry with this hash that `is_it`, made if there is none.
    pub(crate) fn find_or_insert(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        make: impl FnOnce() -> T,
        hasher: impl Fn(&T) -> u64,
    ) -> &mut T {
        if self.len >= self.segments.len() * MEAN_PER_SEGMENT {
            self.split(&hasher);
        }
        let index = segment_of(hash, self.segments.len());
        self.make_room(index, &hasher);
        let entry = self.segments[index].entry(hash, is_it, &hasher);
        if matches!(entry, Entry::Vacant(_)) {
            self.len += 1;
        }
        entry.or_insert_with(make).into_mut()
    }

    /// Makes a segment that is full larger.
    fn make_room(&mut self, index: usize, hasher: &impl Fn(&T) -> u64) {
        let segment = &mut self.segments[index];
        if segment.len() == segment.capacity() {
            self.places -= segment.num_buckets();
            #[cfg(test)]
            {
                self.moved += segment.len() as u64;
            }
            segment.reserve(1, hasher);
            self.places += segment.num_buckets();
        }
    }

    /// Takes out the entry with this hash that `is_it`.
    pub(crate) fn remove(
        &mut self,
        hash: u64,
        is_it: impl FnMut(&T) -> bool,
        hasher: impl Fn(&T) -> u64,
    ) -> Option<T> {
        let index = segment_of(hash, self.segments.len());
        let (removed, _) = self.segments[index].find_entry(hash, is_it).ok()?.remove();
        self.len -= 1;
        let segment = &self.segments[index];
        let places = segment.num_buckets();
        if places > FEW_PLACES && segment.len() * VERY_SPARSE < places {
            self.shrink(index, &hasher);
            if index == self.swept_segment {
                self.swept_places = 0; // entries have other places now
            }
        }
        self.merge_if_sparse(&hasher);
        Some(removed)
    }

    /// Looks at the next `budget` places, at most all of them, and removes the entries there of
    /// which `keep` is false. Returns how many it removed. Segments that it has been through are
    /// made smaller if they have become sparse.
    pub(crate) fn sweep(
        &mut self,
        budget: usize,
        hasher: impl Fn(&T) -> u64,
        mut keep: impl FnMut(&mut T) -> bool,
    ) -> usize {
        let before = self.len;
        for _ in 0..budget.min(self.places) {
            if self.swept_places >= self.segments[self.swept_segment].num_buckets() {
                self.shrink_if_sparse(self.swept_segment, &hasher);
                self.swept_segment =
                    self.swept_segment.checked_sub(1).unwrap_or(self.segments.len() - 1);
                self.swept_places = 0;
            }
            let place = self.swept_places;
            self.swept_places += 1;
            let Ok(mut entry) = self.segments[self.swept_segment].get_bucket_entry(place) else {
                continue;
            };
            if !keep(entry.get_mut()) {
                entry.remove();
                self.len -= 1;
                self.merge_if_sparse(&hasher);
            }
        }
        before - self.len
    }

    /// Splits the segment whose turn it is; the new one is the last.
    fn split(&mut self, hasher: &impl Fn(&T) -> u64) {
        let segments = self.segments.len() + 1;
        let whole_index = segments - 1 - segments.next_power_of_two() / 2;
        let whole =
            std::mem::replace(&mut self.segments[whole_index], HashTable::new_in(ReturnedMemory));
        self.places -= whole.num_buckets();
        // Each takes half; one that takes more grows by itself.
        let mut halves =
            [(); 2].map(|()| HashTable::with_capacity_in(whole.len() / 2, ReturnedMemory));
        #[cfg(test)]
        {
            self.moved += 2 * whole.len() as u64;
        }
        for entry in whole {
            let hash = hasher(&entry);
            let half = usize::from(segment_of(hash, segments) != whole_index);
            halves[half].insert_unique(hash, entry, hasher);
        }
        self.places += halves[0].num_buckets() + halves[1].num_buckets();
        let [stays, goes] = halves;
        self.segments[whole_index] = stays;
        self.segments.push(goes);
    }

    /// Gives up the last segment if so many are not needed any more.
    fn merge_if_sparse(&mut self, hasher: &impl Fn(&T) -> u64) {
        let segments = self.segments.len();
        if segments == 1 || self.len >= segments * MEAN_PER_SEGMENT / SPARSE {
            return;
        }
        let Some(last) = self.segments.pop() else { return };
        let index = segments - 1 - segments.next_power_of_two() / 2;
        let into = &mut self.segments[index];
        self.places -= last.num_buckets() + into.num_buckets();
        #[cfg(test)]
        {
            let grows = into.capacity() - into.len() < last.len();
            self.moved += (last.len() + if grows { into.len() } else { 0 }) as u64;
        }
        into.reserve(last.len(), hasher);
        let comes_back = !last.is_empty();
        for entry in last {
            into.insert_unique(hasher(&entry), entry, hasher);
        }
        self.places += into.num_buckets();
        if self.segments.len().is_power_of_two() {
            self.segments.shrink_to(2 * self.segments.len());
        }
        if self.swept_segment >= self.segments.len() {
            self.swept_segment = self.segments.len() - 1;
            self.swept_places = 0;
        } else if self.swept_segment == index && comes_back {
            self.swept_places = 0; // entries may have come where the sweep has been
        }
    }

    fn shrink_if_sparse(&mut self, index: usize, hasher: &impl Fn(&T) -> u64) {
        let segment = &self.segments[index];
        if segment.len() * SPARSE < segment.num_buckets() {
            self.shrink(index, hasher);
        }
    }

    /// Makes a segment as small as what is in it allows.
    fn shrink(&mut self, index: usize, hasher: &impl Fn(&T) -> u64) {
        let segment = &mut self.segments[index];
        self.places -= segment.num_buckets();
        #[cfg(test)]
        {
            self.moved += segment.len() as u64;
        }
        segment.shrink_to_fit(hasher);
        self.places += segment.num_buckets();
    }
}

impl<T> Default for SegmentedTable<T> {
    fn default() -> Self {
        Self::new()
    }
}
