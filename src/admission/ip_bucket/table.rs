//! The buckets by source, in many small hash tables, so that no single step is long.
//!
//! One hash table of millions of sources has to move all of them at the moment it doubles, which
//! stops the shard for a tenth of a second and more. This is linear hashing (Litwin, VLDB 1980)
//! with a hash table for each segment: whenever the segments hold more than
//! [`MEAN_PER_SEGMENT`] on average, the next one in turn is split into itself and a new last
//! one; whenever they hold less than a quarter of that, the last is merged back into the one
//! that it was split from.
//!
//! Invariants: a source is in the segment that [`SourceTable::segment_of`] names. A segment
//! holds about two thousand buckets at most, as sources are spread by an unpredictable hash; one
//! step splits, merges or rehashes one segment. A table without sources owns no memory.
//!
//! Memory: 25 bytes for each place (a bucket and its control byte). A segment is between 7/16 and
//! 7/8 full while sources come, so 29 to 57 bytes for each source; a segment itself takes 40, less
//! than 0.1 for each source. While sources leave, what is less than a quarter full is made smaller
//! when [`SourceTable::sweep`] has been through it.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::Bucket;
use crate::admission::source_address::SourceKey;
use crate::sys::returned_memory::ReturnedMemory;

/// Sources that a segment holds on average before one more segment is made; just before it is
/// split it holds twice as many. Few enough that a step is short, 0.1 ms; many enough that a
/// segment is several pages, which can be given back to the kernel.
const MEAN_PER_SEGMENT: usize = 896;

/// Below one in so many of [`MEAN_PER_SEGMENT`], and of the places of a segment, memory is given
/// back. Far from what makes it grow, so that coming and going does neither.
const SPARSE: usize = 4;

type Segment = HashTable<Bucket, ReturnedMemory>;

/// See the module.
#[derive(Debug)]
pub(super) struct SourceTable {
    /// Never empty.
    segments: Vec<Segment>,
    hasher: RandomState,
    len: usize,
    /// Places of all segments.
    places: usize,
    /// Where [`sweep`](Self::sweep) goes on: from the last segment to the first, because the
    /// last is the one that is given up.
    swept_segment: usize,
    swept_places: usize,
    /// Buckets that were moved, in total.
    #[cfg(test)]
    pub(super) moved: u64,
}

impl SourceTable {
    pub(super) fn new(hasher: RandomState) -> Self {
        let first = HashTable::new_in(ReturnedMemory);
        let places = first.num_buckets();
        Self {
            segments: vec![first],
            hasher,
            len: 0,
            places,
            swept_segment: 0,
            swept_places: 0,
            #[cfg(test)]
            moved: 0,
        }
    }

    /// Sources remembered.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Places for sources.
    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// Segments of the table.
    #[cfg(test)]
    pub(super) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// The segment of a hash among `segments`: its upper bits, as many as name a segment. (A
    /// segment takes the places within it from the lower bits, and 7 more from the uppermost;
    /// these are between.)
    fn segment_of(hash: u64, segments: usize) -> usize {
        let bits = (hash >> 24) as usize;
        let doubled = segments.next_power_of_two();
        let index = bits & (doubled - 1);
        if index < segments { index } else { bits & (doubled / 2 - 1) }
    }

    pub(super) fn find(&self, source: SourceKey) -> Option<&Bucket> {
        let hash = self.hasher.hash_one(source);
        let segment = Self::segment_of(hash, self.segments.len());
        self.segments[segment].find(hash, |bucket| bucket.key == source)
    }

    pub(super) fn find_mut(&mut self, source: SourceKey) -> Option<&mut Bucket> {
        let hash = self.hasher.hash_one(source);
        let segment = Self::segment_of(hash, self.segments.len());
        self.segments[segment].find_mut(hash, |bucket| bucket.key == source)
    }

    /// The bucket of `source`, made if there is none.
    pub(super) fn find_or_insert(&mut self, source: SourceKey) -> &mut Bucket {
        if self.len >= self.segments.len() * MEAN_PER_SEGMENT {
            self.split();
        }
        let hash = self.hasher.hash_one(source);
        let index = Self::segment_of(hash, self.segments.len());
        self.make_room(index);
        let entry = self.segments[index].entry(
            hash,
            |bucket| bucket.key == source,
            |bucket| self.hasher.hash_one(bucket.key),
        );
        if matches!(entry, Entry::Vacant(_)) {
            self.len += 1;
        }
        entry.or_insert_with(|| Bucket::new(source)).into_mut()
    }

    /// Makes a segment that is full larger.
    fn make_room(&mut self, index: usize) {
        let segment = &mut self.segments[index];
        if segment.len() == segment.capacity() {
            self.places -= segment.num_buckets();
            #[cfg(test)]
            {
                self.moved += segment.len() as u64;
            }
            segment.reserve(1, |bucket| self.hasher.hash_one(bucket.key));
            self.places += segment.num_buckets();
        }
    }

    /// Removes the bucket of `source`, if there is one.
    pub(super) fn remove(&mut self, source: SourceKey) {
        let hash = self.hasher.hash_one(source);
        let segment = Self::segment_of(hash, self.segments.len());
        if let Ok(entry) = self.segments[segment].find_entry(hash, |bucket| bucket.key == source) {
            entry.remove();
            self.len -= 1;
            self.merge_if_sparse();
        }
    }

    /// Looks at the next `budget` places, at most all of them, and removes the buckets there of
    /// which `keep` is false. Returns how many it removed. Segments that it has been through are
    /// made smaller if they have become sparse.
    pub(super) fn sweep(
        &mut self,
        budget: usize,
        mut keep: impl FnMut(&mut Bucket) -> bool,
    ) -> usize {
        let before = self.len;
        for _ in 0..budget.min(self.places) {
            if self.swept_places >= self.segments[self.swept_segment].num_buckets() {
                self.shrink(self.swept_segment);
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
                self.merge_if_sparse();
            }
        }
        before - self.len
    }

    /// Splits the segment whose turn it is; the new one is the last.
    fn split(&mut self) {
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
        for bucket in whole {
            let hash = self.hasher.hash_one(bucket.key);
            let half = usize::from(Self::segment_of(hash, segments) != whole_index);
            let hasher = |bucket: &Bucket| self.hasher.hash_one(bucket.key);
            halves[half].insert_unique(hash, bucket, hasher);
        }
        self.places += halves[0].num_buckets() + halves[1].num_buckets();
        let [stays, goes] = halves;
        self.segments[whole_index] = stays;
        self.segments.push(goes);
    }

    /// Gives up the last segment if so many are not needed any more.
    fn merge_if_sparse(&mut self) {
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
        let hasher = |bucket: &Bucket| self.hasher.hash_one(bucket.key);
        into.reserve(last.len(), hasher);
        let comes_back = !last.is_empty();
        for bucket in last {
            into.insert_unique(self.hasher.hash_one(bucket.key), bucket, hasher);
        }
        self.places += into.num_buckets();
        if self.segments.len().is_power_of_two() {
            self.segments.shrink_to(2 * self.segments.len());
        }
        if self.swept_segment >= self.segments.len() {
            self.swept_segment = self.segments.len() - 1;
            self.swept_places = 0;
        } else if self.swept_segment == index && comes_back {
            self.swept_places = 0; // buckets may have come where the sweep has been
        }
    }

    /// Makes a segment smaller that uses few of its places.
    fn shrink(&mut self, index: usize) {
        let segment = &mut self.segments[index];
        if segment.len() * SPARSE < segment.num_buckets() {
            self.places -= segment.num_buckets();
            #[cfg(test)]
            {
                self.moved += segment.len() as u64;
            }
            segment.shrink_to_fit(|bucket| self.hasher.hash_one(bucket.key));
            self.places += segment.num_buckets();
        }
    }
}

#[cfg(test)]
mod tests;
