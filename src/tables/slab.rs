//! Values by place, in pieces: what is in the table stays where it is.
//!
//! The lowest free place is taken first, so that what is left of a crowd comes to lie in few pieces;
//! one that has become empty is given back, but for one that is kept for the next of a crowd that
//! comes and goes. A vacant place holds the default of the type, so that a place costs no more than
//! a value.
//!
//! Invariant: the places of a piece below the length of its list that are not in use have their bit
//! set in `free`, and all above it; `with_room` names the pieces that have such a bit.

use std::collections::BTreeSet;
use std::ops::{Index, IndexMut};

use allocator_api2::vec::Vec as VecIn;

use crate::sys::returned_memory::ReturnedMemory;

/// Places of one piece: 64 KiB of subscriptions, 192 KiB of channels.
pub(crate) const PIECE: usize = 4_096;

const WORD: usize = u64::BITS as usize;

type Values<T> = VecIn<T, ReturnedMemory>;

#[derive(Debug)]
struct Piece<T> {
    values: Values<T>,
    used: usize,
    /// One bit for each place.
    free: [u64; PIECE / WORD],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    pieces: Vec<Piece<T>>,
    with_room: BTreeSet<u32>,
    spare: Option<Values<T>>,
    len: usize,
}

impl<T> Piece<T> {
    fn new() -> Self {
        Self { values: VecIn::new_in(ReturnedMemory), used: 0, free: [u64::MAX; PIECE / WORD] }
    }

    fn is_free(&self, place: usize) -> bool {
        self.free[place / WORD] & (1 << (place % WORD)) != 0
    }

    fn lowest_free(&self) -> Option<usize> {
        let word = self.free.iter().position(|word| *word != 0)?;
        Some(word * WORD + self.free[word].trailing_zeros() as usize)
    }
}

fn find(place: u32) -> (usize, usize) {
    (place as usize / PIECE, place as usize % PIECE)
}

impl<T: Default> Slab<T> {
    /// Values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All places that are in use are below this.
    pub(crate) fn end(&self) -> u32 {
        (self.pieces.len() * PIECE) as u32
    }

    /// Puts a value into a place and returns the place.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        let index = self.with_room.first().map_or(self.pieces.len(), |piece| *piece as usize);
        if index == self.pieces.len() {
            self.pieces.push(Piece::new());
            self.with_room.insert(index as u32);
        }
        let piece = &mut self.pieces[index];
        let Some(place) = piece.lowest_free() else {
            unreachable!("a piece with room has a free place")
        };
        piece.free[place / WORD] &= !(1 << (place % WORD));
        piece.used += 1;
        if piece.values.capacity() == 0 {
            let new = || VecIn::with_capacity_in(PIECE, ReturnedMemory);
            piece.values = self.spare.take().unwrap_or_else(new);
        }
        match piece.values.get_mut(place) {
            Some(vacant) => *vacant = value,
            None => {
                debug_assert!(piece.values.len() == place, "the lowest free place comes next");
                piece.values.push(value);
            }
        }
        if piece.used == PIECE {
            self.with_room.remove(&(index as u32));
        }
        self.len += 1;
        (index * PIECE + place) as u32
    }

    /// Takes the value out of a place, if there is one.
    pub(crate) fn try_remove(&mut self, place: u32) -> Option<T> {
        let (index, place) = find(place);
        let piece = self.pieces.get_mut(index).filter(|piece| !piece.is_free(place))?;
        let value = std::mem::take(&mut piece.values[place]);
        piece.free[place / WORD] |= 1 << (place % WORD);
        piece.used -= 1;
        self.len -= 1;
        self.with_room.insert(index as u32);
        if piece.used == 0 {
            self.give_back(index);
        }
        Some(value)
    }

    /// The same of a place that is known to be in use.
    ///
    /// # Panics
    /// When it is not: then somebody holds a place that is another's.
    pub(crate) fn remove(&mut self, place: u32) -> T {
        let Some(value) = self.try_remove(place) else { panic!("place {place} is vacant") };
        value
    }

    /// A piece has become empty.
    fn give_back(&mut self, index: usize) {
        let mut values =
            std::mem::replace(&mut self.pieces[index].values, VecIn::new_in(ReturnedMemory));
        values.clear();
        self.spare.get_or_insert(values);
        while self.pieces.last().is_some_and(|piece| piece.used == 0) {
            self.pieces.pop();
            self.with_room.remove(&(self.pieces.len() as u32));
        }
        if self.pieces.is_empty() {
            *self = Self::default();
        }
    }

    /// The value in a place, if there is one.
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        let (index, place) = find(place);
        let piece = self.pieces.get(index)?;
        piece.values.get(place).filter(|_| !piece.is_free(place))
    }

    /// The same, to change it.
    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        let (index, place) = find(place);
        let piece = self.pieces.get_mut(index).filter(|piece| !piece.is_free(place))?;
        piece.values.get_mut(place)
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        let spare = self.spare.as_ref().map_or(0, |spare| spare.capacity());
        spare + self.pieces.iter().map(|piece| piece.values.capacity()).sum::<usize>()
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { pieces: Vec::new(), with_room: BTreeSet::new(), spare: None, len: 0 }
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, place: u32) -> &T {
        let (index, place) = find(place);
        debug_assert!(!self.pieces[index].is_free(place), "a vacant place");
        &self.pieces[index].values[place]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, place: u32) -> &mut T {
        let (index, place) = find(place);
        debug_assert!(!self.pieces[index].is_free(place), "a vacant place");
        &mut self.pieces[index].values[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const MANY: u32 = 10 * PIECE as u32;

    #[test]
    fn values_stay_where_they_are_while_the_table_grows() {
        let mut slab = Slab::default();
        let first = slab.insert([7_u64; 2]);
        let address: *const [u64; 2] = &raw const slab[first];
        (1..MANY).for_each(|n| assert_eq!(slab.insert([u64::from(n); 2]), n));
        assert_eq!(address, &raw const slab[first]);
        assert_eq!(
            (slab.len(), slab.end(), slab[MANY - 1][0]),
            (MANY as usize, MANY, u64::from(MANY) - 1)
        );
    }

    #[test]
    fn memory_of_those_who_left_comes_back_but_for_a_piece() {
        let mut slab = Slab::default();
        let places: Vec<u32> = (0..MANY).map(|n| slab.insert(n)).collect();
        places[100..].iter().for_each(|place| assert_eq!(slab.remove(*place), *place));
        assert_eq!((slab.len(), slab.places(), slab.end()), (100, 2 * PIECE, PIECE as u32));
        places[..100].iter().for_each(|place| assert_eq!(slab.remove(*place), *place));
        assert_eq!((slab.is_empty(), slab.places(), slab.end()), (true, 0, 0));
    }

    /// Two in each piece stay; those who come afterwards fill the first pieces.
    #[test]
    fn the_lowest_free_place_is_taken_first() {
        let mut slab = Slab::default();
        (0..MANY).for_each(|n| assert_eq!(slab.insert(n), n));
        let stays = |n: &u32| *n as usize % PIECE < 2;
        (0..MANY).filter(|n| !stays(n)).for_each(|n| assert_eq!(slab.remove(n), n));
        assert_eq!([slab.insert(1), slab.insert(1)], [2, 3]);
        assert!(slab.get(4).is_none() && slab.try_remove(4).is_none());
    }

    proptest! {
        #[test]
        fn agrees_with_a_sorted_map(
            steps in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), 1u32..3_000), 1..40),
        ) {
            let (mut slab, mut model) = (Slab::default(), BTreeMap::new());
            for (comes, index, times) in steps {
                for _ in 0..times {
                    if comes {
                        let value = model.len() as u64;
                        let place = slab.insert(value);
                        prop_assert_eq!(model.insert(place, value), None);
                    } else if !model.is_empty() {
                        let from = index.index(slab.end() as usize) as u32;
                        let next = model.range(from..).next().or_else(|| model.iter().next());
                        let place = next.map_or(0, |(place, _)| *place);
                        prop_assert_eq!(slab.try_remove(place), model.remove(&place));
                    }
                }
                prop_assert_eq!(slab.len(), model.len());
                prop_assert!(slab.places() <= model.len() + 12 * PIECE);
            }
            for place in 0..slab.end() {
                prop_assert_eq!(slab.get(place), model.get(&place));
            }
        }
    }
}
