//! Small values in no order of their own, in pieces: nothing is moved when there are many.

use allocator_api2::vec::Vec as VecIn;

use crate::sys::returned_memory::ReturnedMemory;

/// Values of one piece: 16 KiB of places in a table.
const PIECE: usize = 4_096;

/// Values of a list that is not worth making smaller.
const FEW: usize = 16;

type Values<T> = VecIn<T, ReturnedMemory>;

/// See the module. The first piece grows as a `Vec` does, up to [`PIECE`] values, so that a list of
/// one costs no more than that.
///
/// Invariant: all pieces but the last are full, and none behind the first is empty.
#[derive(Debug)]
pub(crate) struct List<T> {
    first: Values<T>,
    /// All others; boxed, because nearly no list has any.
    #[expect(clippy::box_collection, reason = "a pointer where nearly every list has nothing")]
    more: Option<Box<Vec<Values<T>>>>,
}

impl<T: Copy> List<T> {
    /// Values.
    pub(crate) fn len(&self) -> usize {
        let more =
            self.more.as_ref().and_then(|more| Some((more.len() - 1) * PIECE + more.last()?.len()));
        self.first.len() + more.unwrap_or(0)
    }

    fn piece(&self, index: usize) -> Option<&Values<T>> {
        match index.checked_sub(1) {
            None => Some(&self.first),
            Some(index) => self.more.as_ref()?.get(index),
        }
    }

    /// The value at `index`.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<T> {
        let index = index as usize;
        self.piece(index / PIECE)?.get(index % PIECE).copied()
    }

    /// Replaces the value at `index`.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) fn set(&mut self, index: u32, value: T) {
        let (piece, place) = (index as usize / PIECE, index as usize % PIECE);
        let piece = match (piece.checked_sub(1), &mut self.more) {
            (None, _) => &mut self.first,
            (Some(piece), Some(more)) => &mut more[piece],
            (Some(_), None) => panic!("{index} is beyond a list of {}", self.first.len()),
        };
        piece[place] = value;
    }

    /// Adds a value behind all others.
    pub(crate) fn push(&mut self, value: T) {
        if self.first.len() < PIECE {
            return self.first.push(value);
        }
        let more = self.more.get_or_insert_default();
        match more.last_mut() {
            Some(last) if last.len() < PIECE => last.push(value),
            _ => {
                let mut piece = VecIn::with_capacity_in(PIECE, ReturnedMemory);
                piece.push(value);
                more.push(piece);
            }
        }
    }

    /// Takes out the last value.
    fn pop(&mut self) -> Option<T> {
        let Some(more) = &mut self.more else {
            let value = self.first.pop();
            if self.first.len() * 4 < self.first.capacity() && self.first.capacity() > FEW {
                self.first.shrink_to(2 * self.first.len());
            }
            return value;
        };
        let last = more.last_mut()?;
        let value = last.pop();
        if last.is_empty() {
            more.pop();
        }
        if more.is_empty() {
            self.more = None;
        }
        value
    }

    /// Takes out the value at `index`; the last one comes to its place.
    pub(crate) fn swap_remove(&mut self, index: u32) {
        if let Some(last) = self.pop()
            && (index as usize) < self.len()
        {
            self.set(index, last);
        }
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        let more = self.more.iter().flat_map(|more| more.iter());
        self.first.capacity() + more.map(VecIn::capacity).sum::<usize>()
    }
}

impl<T> Default for List<T> {
    fn default() -> Self {
        Self { first: VecIn::new_in(ReturnedMemory), more: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_stay_where_they_are_and_memory_comes_back() {
        let mut list = List::default();
        (0..PIECE as u32).for_each(|n| list.push(n));
        let last: *const u32 = &raw const list.first[PIECE - 1];
        (PIECE as u32..1_000_000).for_each(|n| list.push(n));
        assert_eq!(last, &raw const list.first[PIECE - 1]);
        assert_eq!(
            (list.len(), list.get(999_999), list.get(1_000_000)),
            (1_000_000, Some(999_999), None)
        );
        (10..1_000_000).rev().for_each(|n| list.swap_remove(n));
        assert_eq!((list.len(), list.get(9)), (10, Some(9)));
        assert!(list.places() <= 64, "{} places for ten", list.places());
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_list(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 1usize..6_000), 1..12),
        ) {
            let (mut list, mut model) = (List::default(), Vec::new());
            for (comes, index, times) in steps {
                for n in 0..times {
                    if comes {
                        list.push(n);
                        model.push(n);
                    } else if !model.is_empty() {
                        let at = index.index(model.len());
                        list.swap_remove(at as u32);
                        model.swap_remove(at);
                    }
                }
                prop_assert_eq!(list.len(), model.len());
            }
            for (at, value) in model.iter().enumerate() {
                prop_assert_eq!(list.get(at as u32), Some(*value));
            }
        }
    }
}
