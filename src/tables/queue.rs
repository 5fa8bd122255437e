//! First in, first out, in pieces: growing moves nothing, and what was taken out is given back.

use std::collections::VecDeque;

/// Values of one piece, 8 KiB of connections' ids.
const PIECE: usize = 1_024;

/// See the module.
///
/// Invariant: only the first piece can be empty, and only if it is the only one; no piece holds more
/// than [`PIECE`] values.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pieces: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Queue<T> {
    /// Values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// True if there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value that has waited longest.
    pub(crate) fn front(&self) -> Option<&T> {
        self.pieces.front()?.front()
    }

    /// Puts a value behind all others.
    pub(crate) fn push_back(&mut self, value: T) {
        match self.pieces.back_mut() {
            Some(piece) if piece.len() < PIECE => piece.push_back(value),
            _ => {
                // The first grows with what there is; more of them are many anyway.
                let mut piece = VecDeque::with_capacity(if self.len == 0 { 0 } else { PIECE });
                piece.push_back(value);
                self.pieces.push_back(piece);
            }
        }
        self.len += 1;
    }

    /// Takes out the value that has waited longest.
    pub(crate) fn pop_front(&mut self) -> Option<T> {
        let piece = self.pieces.front_mut()?;
        let value = piece.pop_front()?;
        self.len -= 1;
        if piece.is_empty() && self.pieces.len() > 1 {
            self.pieces.pop_front();
        }
        Some(value)
    }

    /// The same, if it is as wanted.
    pub(crate) fn pop_front_if(&mut self, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
        if is_wanted(self.front()?) { self.pop_front() } else { None }
    }

    /// Places for which there is memory.
    #[cfg(test)]
    pub(crate) fn places(&self) -> usize {
        self.pieces.iter().map(VecDeque::capacity).sum()
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), len: 0 }
    }
}

impl<T> Extend<T> for Queue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push_back(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn values_stay_where_they_are_and_memory_comes_back() {
        let mut queue = Queue::default();
        (0..PIECE).for_each(|n| queue.push_back(n));
        let last: *const usize = &raw const queue.pieces[0][PIECE - 1];
        (PIECE..100 * PIECE).for_each(|n| queue.push_back(n));
        assert_eq!(last, &raw const queue.pieces[0][PIECE - 1]);
        (0..100 * PIECE).for_each(|n| assert_eq!(queue.pop_front(), Some(n)));
        assert_eq!((queue.pop_front(), queue.front(), queue.len()), (None, None, 0));
        assert!(queue.places() <= 2 * PIECE, "{} places for nothing", queue.places());
    }

    proptest! {
        #[test]
        fn agrees_with_a_plain_queue(steps in prop::collection::vec((any::<bool>(), 1usize..3_000), 1..40)) {
            let (mut queue, mut model) = (Queue::default(), VecDeque::new());
            for (comes, times) in steps {
                for n in 0..times {
                    if comes {
                        queue.push_back(n);
                        model.push_back(n);
                    } else {
                        prop_assert_eq!(queue.front(), model.front());
                        prop_assert_eq!(queue.pop_front(), model.pop_front());
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                prop_assert!(queue.places() <= queue.len() + 4 * PIECE);
            }
        }
    }
}
