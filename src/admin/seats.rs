//! A bounded number of places for connections, all of which can be told to leave.

use std::cell::RefCell;
use std::rc::Rc;

use futures_channel::oneshot;
use slab::Slab;

/// Who is to be told, by place.
type Taken = Rc<RefCell<Slab<Option<oneshot::Sender<()>>>>>;

/// The places.
pub(super) struct Seats {
    taken: Taken,
    number: usize,
}

/// One of them, given back when dropped.
pub(super) struct Seat {
    /// Ready, with an error or without, when everybody is told to leave.
    pub(super) called: oneshot::Receiver<()>,
    place: usize,
    taken: Taken,
}

impl Seats {
    pub(super) fn new(number: usize) -> Self {
        Self { taken: Taken::default(), number }
    }

    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<Seat> {
        let mut taken = self.taken.borrow_mut();
        if taken.len() >= self.number {
            return None;
        }
        let (call, called) = oneshot::channel();
        let place = taken.insert(Some(call));
        Some(Seat { called, place, taken: Rc::clone(&self.taken) })
    }

    /// Tells everybody to leave.
    pub(super) fn call(&self) {
        // Dropping the sender is the call.
        let calls: Vec<_> =
            self.taken.borrow_mut().iter_mut().map(|(_, call)| call.take()).collect();
        drop(calls);
    }

    /// True when nobody is left.
    pub(super) fn are_free(&self) -> bool {
        self.taken.borrow().is_empty()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.taken.borrow_mut().try_remove(self.place);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take(), seats.take());
        assert!(first.is_some() && seats.take().is_none());
        drop(first);
        let mut third = seats.take().unwrap();
        assert_eq!(third.called.try_recv(), Ok(None));
        seats.call();
        assert!(third.called.try_recv().is_err(), "told to leave");
        assert!(!seats.are_free());
        drop((second, third));
        assert!(seats.are_free());
    }
}
