//! How many sources are limited at a moment, without looking at any of them.
//!
//! A source that is limited by its rate is not limited any more from a time on that is known
//! when it becomes so, and nothing happens at that time that anybody would notice. So limited
//! sources are counted by that time, in slots of [`SLOT_NS`]: a slot that is over counts no
//! more. A source that is limited by its concurrency is counted until it is told otherwise, as
//! it recovers by an event.
//!
//! The number is too high by those who recovered within the slot that goes on, at most
//! [`SLOT_NS`] long, and otherwise exact.

/// Nanoseconds of a slot: 17 ms, less than the time between two looks at the number.
pub(super) const SLOT_NS: u64 = 1 << 24;

/// Slots that are kept: 68.7 s. The longest wait is an interval of the slowest rate, which is one
/// connection in a minute.
const SLOTS: usize = 4_096;
const _: () = assert!(SLOTS as u64 * SLOT_NS > 60_000_000_000 + SLOT_NS);

/// What a source is counted as; kept with the source, in four bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u32);

impl Mark {
    /// Not limited.
    pub(super) const FREE: Self = Self(0);
    /// Limited by its concurrency.
    const HELD: Self = Self(1 << 31);
    /// With the number of a slot in the other bits, which come round after 208 days.
    const WAITING: u32 = 1 << 30;
}

/// Why a source is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limited {
    /// It is not.
    No,
    /// Until one of its connections ends.
    ByConcurrency,
    /// Until this time.
    Until(u64),
}

/// The counts.
#[derive(Debug)]
pub(super) struct Recovery {
    /// By the slot in which they recover, modulo [`SLOTS`]. Made when the first is counted.
    waiting: Vec<u32>,
    /// The sum of `waiting`.
    waiting_in_all: usize,
    held: usize,
    /// The slot that goes on: those before it are over, and empty.
    slot: u64,
}

impl Recovery {
    pub(super) const fn new() -> Self {
        Self { waiting: Vec::new(), waiting_in_all: 0, held: 0, slot: 0 }
    }

    /// Limited sources.
    pub(super) fn limited(&mut self, now_ns: u64) -> usize {
        self.advance(now_ns);
        self.held + self.waiting_in_all
    }

    /// Counts a source as `limited` that was counted as `mark`, and returns how it is counted
    /// now. A time that is not in the future is [`Limited::No`].
    pub(super) fn count(&mut self, mark: Mark, limited: Limited, now_ns: u64) -> Mark {
        self.advance(now_ns);
        let new = match limited {
            Limited::Until(at_ns) if at_ns > now_ns => self.mark_of(at_ns),
            Limited::No | Limited::Until(_) => Mark::FREE,
            Limited::ByConcurrency => Mark::HELD,
        };
        if new != mark {
            self.forget(mark);
            self.remember(new);
        }
        new
    }

    /// The mark of a source that recovers at `at_ns`; of a time beyond the last slot, which no
    /// rate leads to, that of the last slot.
    fn mark_of(&self, at_ns: u64) -> Mark {
        let slot = (at_ns / SLOT_NS).min(self.slot + SLOTS as u64 - 1);
        Mark(Mark::WAITING | (slot as u32 & (Mark::WAITING - 1)))
    }

    /// The place of a mark in `waiting`; none if its slot is over.
    fn place(&self, mark: Mark) -> Option<usize> {
        let ahead = mark.0.wrapping_sub(self.slot as u32) & (Mark::WAITING - 1);
        let waits = mark.0 & Mark::WAITING != 0 && (ahead as usize) < SLOTS;
        waits.then_some(mark.0 as usize % SLOTS)
    }

    fn forget(&mut self, mark: Mark) {
        if mark == Mark::HELD {
            self.held -= 1;
        } else if let Some(place) = self.place(mark) {
            self.waiting[place] -= 1;
            self.waiting_in_all -= 1;
        }
    }

    fn remember(&mut self, mark: Mark) {
        if mark == Mark::HELD {
            self.held += 1;
        } else if let Some(place) = self.place(mark) {
            if self.waiting.is_empty() {
                self.waiting = vec![0; SLOTS];
            }
            self.waiting[place] += 1;
            self.waiting_in_all += 1;
        }
    }

    fn advance(&mut self, now_ns: u64) {
        let slot = now_ns / SLOT_NS;
        if self.waiting_in_all > 0 {
            for over in self.slot..slot.min(self.slot + SLOTS as u64) {
                let count = std::mem::take(&mut self.waiting[over as usize % SLOTS]);
                self.waiting_in_all -= count as usize;
            }
        }
        self.slot = self.slot.max(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: u64 = 60_000_000_000;

    #[test]
    fn a_time_that_is_over_counts_no_more_and_is_not_taken_off_twice() {
        let mut recovery = Recovery::new();
        let until = |at_ns| Limited::Until(at_ns);
        let first = recovery.count(Mark::FREE, until(10 * SLOT_NS), 0);
        let second = recovery.count(Mark::FREE, until(12 * SLOT_NS), 0);
        assert_eq!(recovery.limited(10 * SLOT_NS), 2, "within the slot");
        assert_eq!(recovery.limited(11 * SLOT_NS), 1);
        assert_eq!(recovery.count(first, Limited::No, 11 * SLOT_NS), Mark::FREE);
        assert_eq!(recovery.limited(11 * SLOT_NS), 1);
        // One turn of the slots later the same place counts somebody else.
        let now = (12 + SLOTS as u64 - 1) * SLOT_NS;
        recovery.count(Mark::FREE, until(now + SLOT_NS), now);
        recovery.count(second, Limited::No, now);
        assert_eq!(recovery.limited(now), 1);
        assert_eq!(recovery.limited(now + MINUTE), 0);
    }

    #[test]
    fn concurrency_lasts_until_it_is_taken_back() {
        let mut recovery = Recovery::new();
        let mark = recovery.count(Mark::FREE, Limited::ByConcurrency, 0);
        assert_eq!(recovery.limited(1000 * MINUTE), 1);
        let mark = recovery.count(mark, Limited::Until(1001 * MINUTE), 1000 * MINUTE);
        assert_eq!(recovery.limited(1000 * MINUTE), 1);
        assert_eq!(recovery.limited(1001 * MINUTE + SLOT_NS), 0);
        assert_ne!(mark, Mark::FREE, "nobody looked");
    }

    proptest! {
        /// Against a list of everybody.
        #[test]
        fn the_number_is_exact_but_for_the_slot_that_goes_on(
            steps in prop::collection::vec((0usize..20, 0u64..=MINUTE, 0u8..4, 0u64..MINUTE), 1..200),
        ) {
            let mut recovery = Recovery::new();
            let mut sources = [(Mark::FREE, Limited::No); 20];
            let mut now = 0;
            for (n, wait, kind, gap) in steps {
                now += gap >> (gap % 16);
                let limited = match kind {
                    0 => Limited::No,
                    1 => Limited::ByConcurrency,
                    _ => Limited::Until(now + wait),
                };
                sources[n] = (recovery.count(sources[n].0, limited, now), limited);
                let after = |moment: u64| {
                    let limited = sources.iter().filter(|(_, limited)| match limited {
                        Limited::No => false,
                        Limited::ByConcurrency => true,
                        Limited::Until(at_ns) => *at_ns > moment,
                    });
                    limited.count()
                };
                let counted = recovery.limited(now);
                let slot_began = now / SLOT_NS * SLOT_NS;
                prop_assert!(counted >= after(now));
                prop_assert!(counted <= after(slot_began.saturating_sub(1)));
            }
        }
    }
}
