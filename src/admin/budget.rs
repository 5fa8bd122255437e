//! A budget of bytes that several holders share. Safe to share between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The budget.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    taken: Arc<AtomicUsize>,
    most: usize,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(super) struct Charge {
    taken: Arc<AtomicUsize>,
    most: usize,
    count: usize,
}

impl Budget {
    pub(super) fn new(most: usize) -> Self {
        Self { taken: Arc::default(), most }
    }

    /// A part of nothing, to grow.
    pub(super) fn charge(&self) -> Charge {
        Charge { taken: Arc::clone(&self.taken), most: self.most, count: 0 }
    }

    /// A part of `count`; `None` if there is not so much left. One that is larger than the whole
    /// budget is all of it.
    pub(super) fn take(&self, count: usize) -> Option<Charge> {
        let mut charge = self.charge();
        charge.grow_to(count.min(self.most)).then_some(charge)
    }
}

impl Charge {
    /// True if the part is now `count` at least; false, and unchanged, if there is not so much left.
    pub(super) fn grow_to(&mut self, count: usize) -> bool {
        let more = count.saturating_sub(self.count);
        let fits = |taken: usize| taken.checked_add(more).filter(|sum| *sum <= self.most);
        let grown = self.taken.fetch_update(Relaxed, Relaxed, fits).is_ok();
        if grown {
            self.count += more;
        }
        grown
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let before = self.taken.fetch_sub(self.count, Relaxed);
        debug_assert!(before >= self.count);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_comes_back() {
        let budget = Budget::new(10);
        let mut one = budget.take(6).unwrap();
        assert!(one.grow_to(3) && one.count == 6, "it does not shrink");
        assert!(budget.take(5).is_none());
        let mut other = budget.charge();
        assert!(other.grow_to(4) && !other.grow_to(5) && !one.grow_to(7));
        drop(one);
        assert!(other.grow_to(10));
        drop(other);
        let all = budget.take(1_000).unwrap();
        assert_eq!(all.count, 10);
        assert!(budget.take(1).is_none() && budget.take(0).is_some());
    }
}
