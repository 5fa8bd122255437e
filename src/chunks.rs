//! A growing array in pieces: what is in it stays where it is.
//!
//! A `Vec` that outgrows its memory is copied into twice as much, and what it leaves behind is
//! seldom of use to anybody: a shard with many connections would pay for its tables twice. Here a
//! piece more is added, of which only what is in use is ever touched.

use std::ops::{Index, IndexMut};

/// Elements of one piece: 256 KiB of connections, 64 KiB of subscriptions.
const PIECE: usize = 4_096;

/// The piece that an element is in, and its place there.
#[inline]
fn find(index: u32) -> (usize, usize) {
    (index as usize / PIECE, index as usize % PIECE)
}

/// Elements that are numbered from 0 without a gap and never taken out.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// All but the last are full.
    pieces: Vec<Vec<T>>,
    len: u32,
}

impl<T> Chunks<T> {
    /// Elements.
    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Adds an element, which has the number [`Self::len`].
    pub(crate) fn push(&mut self, element: T) {
        let (piece, place) = find(self.len);
        if place == 0 {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        self.pieces[piece].push(element);
        self.len += 1;
    }

    /// The element `index`, if there is one.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let (piece, place) = find(index);
        self.pieces.get(piece)?.get(place)
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let (piece, place) = find(index);
        self.pieces.get_mut(piece)?.get_mut(place)
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
        let (piece, place) = find(index);
        &self.pieces[piece][place]
    }
}

impl<T> IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        let (piece, place) = find(index);
        &mut self.pieces[piece][place]
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
        let piece = PIECE as u32;
        for number in 1..=piece {
            chunks.push(number);
        }
        assert_eq!(first, &raw const chunks[0]);
        chunks[piece] += 1;
        assert_eq!(chunks.get(piece - 1), Some(&(piece - 1)));
        assert_eq!(chunks.get_mut(piece), Some(&mut (piece + 1)));
        assert_eq!((chunks.get(piece + 1), chunks.len()), (None, piece + 1));
    }
}
