//! The rings of one server, as each of them knows the others.
//!
//! Not responsible for: what is sent between them (`kernel_ring`).

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

/// The rings of one server, by number, so that each can hand descriptors to the others.
///
/// A ring that has ended is not found any more. One that ends while a descriptor is on its way
/// takes it with it.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    index: usize,
    rings: Arc<[AtomicI32]>,
}

impl Neighbours {
    /// No ring has this descriptor.
    pub(super) const NONE: RawFd = -1;

    /// Of `count` rings, none of which is there yet: what each of them is given.
    pub fn new(count: usize) -> impl Iterator<Item = Self> {
        let rings: Arc<[_]> = (0..count).map(|_| AtomicI32::new(Self::NONE)).collect();
        (0..count).map(move |index| Self { index, rings: Arc::clone(&rings) })
    }

    /// The number of the ring that this belongs to.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// The ring that this belongs to is there, or with [`Self::NONE`] not any more.
    pub(super) fn announce(&self, ring: RawFd) {
        if let Some(place) = self.rings.get(self.index) {
            place.store(ring, Ordering::Release);
        }
    }

    /// The descriptor of a ring that is there.
    pub(super) fn find(&self, index: usize) -> Option<RawFd> {
        let ring = self.rings.get(index)?.load(Ordering::Acquire);
        (ring != Self::NONE).then_some(ring)
    }
}
