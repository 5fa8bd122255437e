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

use super::Shard;
use super::by_source::BySource;
use super::settings::Settings;
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::environment::Environment;
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
}

impl Output {
    pub(super) fn new(budget: u64, hash: RandomState) -> Self {
        let waiting = BySource::new(limits::WAITING_OF_A_SOURCE, 1, hash);
        Self { budget, own: 0, publications: Queue::default(), published: 0, waiting }
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

    fn held(&self) -> u64 {
        self.own + self.published
    }

    /// True if there is more than the budget allows.
    pub(super) fn is_over(&mut self) -> bool {
        if self.held() > self.budget {
            self.look_at_publications();
        }
        self.held() > self.budget
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
    fn are_too_many(&mut self, token: Token, pings: u32) -> bool {
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

impl<E: Environment> Shard<E> {
    /// After bytes of a client: what it holds of its message now, where it held `before`.
    pub(super) fn note_unfinished(&mut self, token: Token, before: usize) {
        let tick = self.tick;
        let Some(connection) = self.connections.get_mut(token) else { return };
        let (mut after, mut begins) = (0, false);
        if let Some(partial) = &mut connection.partial {
            after = partial.held_bytes();
            begins = partial.begun_tick.is_none();
            partial.begun_tick.get_or_insert(tick);
        }
        if before == 0 && after == 0 {
            return;
        }
        let (open, source) = (connection.state == State::Open, connection.source);
        let held = &mut self.unfinished.held;
        if begins || after == 0 {
            held.remove(token.slot); // another message has a place of its own in the order
        }
        if after > 0 {
            held.set(token.slot, source, after as u64);
        }
        if begins && open && self.settings.deadlines.message > 0 {
            self.set_open_timer(token);
        }
        while self.unfinished.held.weight() > self.unfinished.budget {
            let Some(slot) = self.unfinished.held.to_give_up() else { break };
            self.unfinished.held.remove(slot);
            let Some(oldest) = self.connections.token(slot) else { continue };
            let text = "too much is unfinished of all messages";
            self.fail_for(oldest, CloseReason::UnfinishedEvicted, text);
        }
        self.metrics.unfinished_bytes.set(self.unfinished.held.weight());
    }

    /// Forgets what a client has sent of a message.
    pub(super) fn drop_unfinished(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.partial.take().is_some() {
            self.unfinished.held.remove(token.slot);
            self.metrics.unfinished_bytes.set(self.unfinished.held.weight());
        }
    }

    /// A message has taken too long.
    pub(super) fn on_message_timeout(&mut self, token: Token) {
        self.fail_for(token, CloseReason::MessageTimeout, "the message did not end in time");
    }

    /// Counts a client's pings.
    pub(super) fn note_pings(&mut self, token: Token, pings: u32) {
        if self.ping_counts.are_too_many(token, pings) {
            self.fail_for(token, CloseReason::PingFlood, "too many pings");
        }
    }

    /// Something waits for a client from now on, or may do so.
    pub(super) fn note_waiting(&mut self, token: Token) {
        let waiting = &mut self.output.waiting;
        if let Some(connection) = self.connections.get_mut(token)
            && !waiting.has(token.slot)
        {
            waiting.set(token.slot, connection.source, 1);
        }
    }

    /// Nothing waits for it any more.
    pub(super) fn note_taken(&mut self, token: Token) {
        self.output.waiting.remove(token.slot);
    }

    /// Something more was queued: if it is too much of all together, the client is cut for which
    /// something has been waiting for longest, of the source that has the most of such clients if
    /// these are more than its share. A Close would keep what waits until it is answered.
    pub(super) fn look_at_output(&mut self) {
        if !self.output.is_over() {
            return;
        }
        let Some(slot) = self.output.waiting.to_give_up() else { return };
        self.output.waiting.remove(slot);
        if let Some(token) = self.connections.token(slot) {
            self.cut(token, CloseReason::SlowConsumer);
        }
    }

    pub(super) fn on_hostile_tick(&mut self) {
        self.ping_counts.on_tick(self.tick);
        self.output.look_at_publications();
        self.metrics.output_held_bytes.set(self.output.held());
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
