//! The buckets by source, in a table that grows and shrinks in pieces ([`SegmentedTable`]).
//!
//! Memory: 25 bytes for each place (a bucket and its control byte). A segment is between 7/16 and
//! 7/8 full while sources come, so 29 to 57 bytes for each source; a segment itself takes 40, less
//! than 0.1 for each source. While sources leave, what is less than a quarter full is made smaller
//! when [`SourceTable::sweep`] has been through it.

use ahash::RandomState;

use super::Bucket;
use crate::admission::source_address::SourceKey;
use crate::tables::SegmentedTable;

/// See the module.
#[derive(Debug)]
pub(super) struct SourceTable {
    buckets: SegmentedTable<Bucket>,
    hash: RandomState,
}

impl SourceTable {
    pub(super) fn new(hash: RandomState) -> Self {
        Self { buckets: SegmentedTable::new(), hash }
    }

    /// Sources remembered.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Places for sources.
    pub(super) fn places(&self) -> usize {
        self.buckets.places()
    }

    pub(super) fn find(&self, source: SourceKey) -> Option<&Bucket> {
        self.buckets.find(self.hash.hash_one(source), |bucket| bucket.key == source)
    }

    pub(super) fn find_mut(&mut self, source: SourceKey) -> Option<&mut Bucket> {
        self.buckets.find_mut(self.hash.hash_one(source), |bucket| bucket.key == source)
    }

    /// The bucket of `source`, made if there is none.
    pub(super) fn find_or_insert(&mut self, source: SourceKey) -> &mut Bucket {
        let Self { buckets, hash } = self;
        buckets.find_or_insert(
            hash.hash_one(source),
            |bucket| bucket.key == source,
            || Bucket::new(source),
            |bucket| hash.hash_one(bucket.key),
        )
    }

    /// Removes the bucket of `source`, if there is one.
    pub(super) fn remove(&mut self, source: SourceKey) {
        let Self { buckets, hash } = self;
        buckets.remove(
            hash.hash_one(source),
            |bucket| bucket.key == source,
            |bucket| hash.hash_one(bucket.key),
        );
    }

    /// Looks at the next `budget` places, at most all of them, and removes the buckets there of
    /// which `keep` is false. Returns how many it removed.
    pub(super) fn sweep(&mut self, budget: usize, keep: impl FnMut(&mut Bucket) -> bool) -> usize {
        let Self { buckets, hash } = self;
        buckets.sweep(budget, |bucket| hash.hash_one(bucket.key), keep)
    }
}

#[cfg(test)]
mod tests;
