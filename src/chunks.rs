//! A growing array in pieces: what is in it stays where it is.
//!
//! A `Vec` that outgrows its memory is copied into twice as much, and what it leaves behind is
//! seldom of use to anybody: a shard with many connections would pay for its tables twice. Here a
//! piece more is added, of which only what is in use is ever touched.

use std::ops::{Index, IndexMut};

/// Elements of one piece: 256 KiB of connections, 64 KiB of subscriptions.
const PIECE: usize = 4_096;

/// Elements that are numbered from 0 without a gap and never taken out.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
    len: usize,
}

impl<T> Chunks<T> {
    /// Elements.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Adds an element, which has the number [`Self::len`].
    pub(crate) fn push(&mut self, element: T) {
        if self.len.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        self.pieces[self.len / PIECE].push(element);
        self.len += 1;
    }

    /// The element `index`, if there is one.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.pieces.get(index / PIECE)?.get(index % PIECE)
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pieces.get_mut(index / PIECE)?.get_mut(index % PIECE)
    }
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), len: 0 }
    }
}

impl<T> Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.pieces[index as usize / PIECE][index as usize % PIECE]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.pieces[index as usize / PIECE][index as usize % PIECE]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_stay_where_they_are() {
        let mut chunks = Chunks::default();
        assert!(chunks.get(0).is_none());
        chunks.push(0);
        let first: *const u32 = &raw const chunks[0];
        for number in 1..=PIECE as u32 {
            chunks.push(number);
        }
        assert_eq!(first, &raw const chunks[0]);
        chunks[PIECE as u32] += 1;
        assert_eq!(chunks.get(PIECE - 1), Some(&(PIECE as u32 - 1)));
        assert_eq!(chunks.get_mut(PIECE), Some(&mut (PIECE as u32 + 1)));
        assert_eq!((chunks.get(PIECE + 1), chunks.len()), (None, PIECE + 1));
    }
}
