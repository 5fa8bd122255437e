//! What a client may make the server hold, and the budgets of all clients together.
//!
//! One client is bounded by its own limits: the message it sends, the queue it does not read, the
//! pings. Here is what a thousand of them do together: messages that never end
//! ([`Unfinished`]), replies and publications that nobody reads ([`Output`]), pings
//! ([`PingCounts`]). Each is a number of bytes or of frames with a limit; above it those who cause it
//! are closed, and counted. A shard has an equal part of the server's budget.

use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::RandomState;

use super::by_source::BySource;
use super::machine::context::Budgets;
use super::settings::Settings;
use crate::admission::SourceKey;
use crate::limits;
use crate::ring::{FileSlot, Token};
use crate::tables::{Map, Queue};

/// Messages of clients that have begun and not ended. A source has one message of the longest kind
/// for its share.
#[derive(Debug)]
pub(super) struct Unfinished {
    budget: u64,
    held: BySource,
}

/// Into how many parts a shard's part of the budget for unfinished messages is divided to find the
/// share of one source, which is one message of the longest kind at most.
const SOURCES_SHARING_UNFINISHED: u64 = 4;

/// Bytes by which the sources of unfinished messages are told apart: four buffers of a ring.
const UNFINISHED_GRAIN: u64 = 16 << 10;

impl Unfinished {
    pub(super) fn new(settings: &Settings, hash: RandomState) -> Self {
        let part = settings.max_unfinished_bytes / SOURCES_SHARING_UNFINISHED;
        let share = settings.one_message_bytes().min(part).max(UNFINISHED_GRAIN);
        let held = BySource::new(share, UNFINISHED_GRAIN, hash);
        Self { budget: settings.max_unfinished_bytes, held }
    }

    /// Bytes of all of them.
    pub(super) fn held(&self) -> u64 {
        self.held.weight()
    }

    /// A connection of a source holds so many bytes of its message. One that `begins` has a place of
    /// its own in the order.
    pub(super) fn set(&mut self, slot: FileSlot, source: SourceKey, bytes: usize, begins: bool) {
        if begins || bytes == 0 {
            self.held.remove(slot);
        }
        if bytes > 0 {
            self.held.set(slot, source, bytes as u64);
        }
    }

    /// A connection holds nothing of a message any more.
    pub(super) fn remove(&mut self, slot: FileSlot) {
        self.held.remove(slot);
    }

    /// The connection that has to give up its message, if they are more than the budget allows.
    pub(super) fn pop_excess(&mut self) -> Option<FileSlot> {
        if self.held.weight() <= self.budget {
            return None;
        }
        let slot = self.held.to_give_up()?;
        self.held.remove(slot);
        Some(slot)
    }
}

/// What waits for clients, or is on its way to them.
#[derive(Debug)]
pub(super) struct Output {
    budget: u64,
    /// Of single connections.
    own: u64,
    /// Publications that somebody may still wait for, and their lengths.
    publications: Queue<(Weak<Arc<[u8]>>, usize)>,
    published: u64,
    /// Connections for which something waits, each with a weight of 1.
    waiting: BySource,
    /// What the kernel has of them to send.
    in_flight: Map<FileSlot, u64>,
    /// The same of those that were reset for the budget, and the sum: it comes back in a moment.
    leaving: Map<FileSlot, u64>,
    leaves: u64,
}

impl Output {
    pub(super) fn new(budget: u64, hash: RandomState) -> Self {
        Self {
            budget,
            own: 0,
            publications: Queue::default(),
            published: 0,
            waiting: BySource::new(limits::WAITING_OF_A_SOURCE, 1, hash.clone()),
            in_flight: Map::new(hash.clone()),
            leaving: Map::new(hash),
            leaves: 0,
        }
    }

    /// The kernel is given so many bytes of a connection to send.
    pub(super) fn begin_send(&mut self, slot: FileSlot, bytes: usize) {
        self.hold(bytes);
        if self.waiting.has(slot) {
            self.in_flight.insert(slot, bytes as u64);
        }
    }

    /// The kernel has given them back.
    pub(super) fn end_send(&mut self, slot: FileSlot, bytes: usize) {
        self.release(bytes);
        if !self.in_flight.is_empty() {
            self.in_flight.remove(&slot);
        }
        if !self.leaving.is_empty() {
            self.leaves -= self.leaving.remove(&slot).unwrap_or(0);
        }
    }

    /// A connection holds so many bytes more.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.own += bytes as u64;
    }

    /// A connection holds so many bytes less.
    pub(super) fn release(&mut self, bytes: usize) {
        debug_assert!(self.own >= bytes as u64, "more given back than was held");
        self.own = self.own.saturating_sub(bytes as u64);
    }

    /// A connection holds so many bytes where it held `before`.
    pub(super) fn change(&mut self, before: usize, after: usize) {
        if after > before {
            self.hold(after - before);
        } else {
            self.release(before - after);
        }
    }

    /// A publication is counted once, for as long as anybody waits for it.
    pub(super) fn publish(&mut self, frame: &Rc<Arc<[u8]>>) {
        self.published += frame.len() as u64;
        self.publications.push_back((Rc::downgrade(frame), frame.len()));
    }

    /// Forgets publications that nobody waits for any more, some at a time.
    fn look_at_publications(&mut self) {
        for _ in 0..self.publications.len().min(limits::PUBLICATIONS_LOOKED_AT) {
            let Some((frame, len)) = self.publications.pop_front() else { return };
            if frame.strong_count() == 0 {
                self.published = self.published.saturating_sub(len as u64);
            } else {
                self.publications.push_back((frame, len));
            }
        }
    }

    /// Bytes of all of it.
    pub(super) fn held(&self) -> u64 {
        self.own + self.published
    }

    /// Something waits for a connection of a source from now on, or may do so.
    pub(super) fn begin_waiting(&mut self, slot: FileSlot, source: SourceKey) {
        if !self.waiting.has(slot) {
            self.waiting.set(slot, source, 1);
        }
    }

    /// Nothing waits for it any more.
    pub(super) fn end_waiting(&mut self, slot: FileSlot) {
        self.waiting.remove(slot);
    }

    /// If there is more than the budget allows, the connection for which something has been waiting
    /// for longest, of the source that has the most of such connections if these are more than its
    /// share. It is reset: a Close would keep what waits until it is answered.
    pub(super) fn pop_excess(&mut self) -> Option<FileSlot> {
        if !self.is_over() {
            return None;
        }
        let slot = self.waiting.to_give_up()?;
        self.waiting.remove(slot);
        if let Some(bytes) = self.in_flight.remove(&slot) {
            self.leaves += bytes;
            self.leaving.insert(slot, bytes);
        }
        Some(slot)
    }

    /// True if there is more than the budget allows.
    fn is_over(&mut self) -> bool {
        if self.held() - self.leaves > self.budget {
            self.look_at_publications();
        }
        self.held() - self.leaves > self.budget
    }
}

/// Who has pinged in this second, and how often. Only those who ping are in it.
#[derive(Debug)]
pub(super) struct PingCounts {
    most: u32,
    counts: Map<FileSlot, (u32, u32)>,
    hash: RandomState,
    until: u32,
}

impl PingCounts {
    pub(super) fn new(most: u32, hash: RandomState) -> Self {
        Self { most, counts: Map::new(hash.clone()), hash, until: 0 }
    }

    /// Counts pings of a connection; true if they are too many.
    pub(super) fn are_too_many(&mut self, token: Token, pings: u32) -> bool {
        if self.most == 0 || pings == 0 {
            return false;
        }
        let (generation, count) =
            self.counts.get_or_insert_with(token.slot, || (token.generation, 0));
        if *generation != token.generation {
            (*generation, *count) = (token.generation, 0);
        }
        *count = count.saturating_add(pings);
        *count > self.most
    }

    /// Begins anew every second.
    fn on_tick(&mut self, tick: u32) {
        if tick.wrapping_sub(self.until) < u32::MAX / 2 {
            self.counts = Map::new(self.hash.clone());
            self.until = tick.wrapping_add(limits::PING_WINDOW_TICKS);
        }
    }
}

impl Budgets {
    /// Begins the second of the pings anew, and forgets publications that have gone out. Meant for
    /// every tick.
    pub(super) fn on_tick(&mut self, tick: u32) {
        self.pings.on_tick(tick);
        self.output.look_at_publications();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publication_is_counted_once_and_until_nobody_waits_for_it() {
        let mut output = Output::new(100, RandomState::with_seeds(1, 2, 3, 4));
        let frame: Rc<Arc<[u8]>> = Rc::new(vec![0; 80].into());
        output.publish(&frame);
        let handles = vec![Rc::clone(&frame); 1000];
        assert!(!output.is_over());
        output.hold(30);
        assert!(output.is_over());
        drop((frame, handles));
        assert!(!output.is_over(), "looked at because it was over");
        output.release(30);
        assert_eq!(output.held(), 0);
    }

    #[test]
    fn one_goes_for_what_is_too_much_and_not_another_before_it_has_gone() {
        let mut output = Output::new(100, RandomState::with_seeds(1, 2, 3, 4));
        for slot in 0..4 {
            output.begin_waiting(slot, SourceKey::from_bits(slot.into()));
            output.begin_send(slot, 30);
        }
        assert_eq!(output.pop_excess(), Some(0));
        assert_eq!(output.pop_excess(), None, "what it has in flight comes back");
        output.hold(50);
        assert_eq!(output.pop_excess(), Some(1));
        assert_eq!(output.pop_excess(), Some(2), "110 bytes stay");
        assert_eq!(output.pop_excess(), None);
        (0..3).for_each(|slot| output.end_send(slot, 30));
        assert_eq!((output.held(), output.leaves, output.pop_excess()), (80, 0, None));
    }

    #[test]
    fn pings_are_counted_for_one_life_of_a_slot_and_one_second() {
        let mut counts = PingCounts::new(10, RandomState::with_seeds(1, 2, 3, 4));
        let (one, next) = (Token::new(7, 1), Token::new(7, 2));
        counts.on_tick(5);
        assert!(!counts.are_too_many(one, 10));
        assert!(counts.are_too_many(one, 1));
        assert!(!counts.are_too_many(next, 10), "another connection");
        counts.on_tick(5 + limits::PING_WINDOW_TICKS - 1);
        assert!(counts.are_too_many(next, 1));
        counts.on_tick(5 + limits::PING_WINDOW_TICKS);
        assert!(!counts.are_too_many(next, 10), "another second");
        assert!(!PingCounts::new(0, RandomState::with_seeds(1, 2, 3, 4)).are_too_many(one, 1000));
    }
}
