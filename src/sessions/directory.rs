//! Where each session is: held by a connection of this node, or kept until somebody comes back for
//! it. Pure.
//!
//! Invariants: a session has one entry. What is kept is in the order in which it came, so that the
//! oldest is found without a search; its bytes are bounded, and who is above that loses the oldest.

use ahash::RandomState;

use super::id::SessionId;
use super::record::Record;
use crate::clock::Now;
use crate::connection::NONE;
use crate::ring::Token;
use crate::tables::{SegmentedTable, Slab};

/// The connection that holds a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its shard.
    pub shard: u16,
    /// The connection there.
    pub token: Token,
}

#[derive(Debug)]
struct Entry {
    id: SessionId,
    what: What,
}

#[derive(Debug)]
enum What {
    Held(Holder),
    Kept { record: Record, until: Now, older: u32, newer: u32 },
}

/// What an entry takes: its place here and in the index, and the block of its name.
pub const ENTRY_BYTES: usize = size_of::<Option<Entry>>() + 8 + 16 + super::id::CHARS_MAX;
const _: () = assert!(size_of::<Option<Entry>>() <= 64 && ENTRY_BYTES <= 152);

/// All sessions of a node.
#[derive(Debug)]
pub struct Directory {
    index: SegmentedTable<u32>,
    entries: Slab<Option<Entry>>,
    hash: RandomState,
    oldest: u32,
    newest: u32,
    held: usize,
    bytes: usize,
    bytes_max: usize,
}

impl Directory {
    /// An empty one that keeps at most `bytes_max`.
    pub fn new(hash: RandomState, bytes_max: usize) -> Self {
        Self {
            index: SegmentedTable::new(),
            entries: Slab::default(),
            hash,
            oldest: NONE,
            newest: NONE,
            held: 0,
            bytes: 0,
            bytes_max,
        }
    }

    /// Sessions that a connection holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Sessions that are kept.
    pub fn kept(&self) -> usize {
        self.entries.len() - self.held
    }

    /// What these take.
    pub fn kept_bytes(&self) -> usize {
        self.bytes
    }

    /// Who holds a session.
    pub fn holder(&self, id: &SessionId) -> Option<Holder> {
        match self.entry(self.find(id)?)?.what {
            What::Held(holder) => Some(holder),
            What::Kept { .. } => None,
        }
    }

    /// A connection holds the session from now on. Returns what was kept of it.
    pub fn hold(&mut self, id: &SessionId, holder: Holder) -> Option<Record> {
        let kept = self.take(id);
        match self.find(id).and_then(|at| self.entry_mut(at)) {
            Some(entry) => entry.what = What::Held(holder),
            None => {
                self.insert(id.clone(), What::Held(holder));
                self.held += 1;
            }
        }
        kept
    }

    /// Nobody holds the session any more.
    pub fn let_go(&mut self, id: &SessionId) {
        if self.holder(id).is_some() {
            self.remove(id);
            self.held -= 1;
        }
    }

    /// Keeps what is known of a session that nobody holds any more, until that moment. Returns how
    /// many others had to go for it.
    pub fn keep(&mut self, id: &SessionId, record: Record, until: Now) -> usize {
        self.let_go(id);
        self.take(id);
        self.bytes += cost(&record);
        let at =
            self.insert(id.clone(), What::Kept { record, until, older: self.newest, newer: NONE });
        self.link_newer(self.newest, at);
        self.newest = at;
        let mut lost = 0;
        while self.bytes > self.bytes_max && self.take_oldest().is_some() {
            lost += 1;
        }
        lost
    }

    /// Takes out what is kept of a session.
    pub fn take(&mut self, id: &SessionId) -> Option<Record> {
        let at = self.find(id)?;
        let What::Kept { older, newer, .. } = self.entry(at)?.what else { return None };
        self.link_newer(older, newer);
        self.link_older(newer, older);
        match self.remove(id)?.what {
            What::Kept { record, .. } => {
                self.bytes -= cost(&record);
                Some(record)
            }
            What::Held(_) => None,
        }
    }

    /// What is kept of a session.
    pub fn kept_of(&self, id: &SessionId) -> Option<&Record> {
        match &self.entry(self.find(id)?)?.what {
            What::Kept { record, .. } => Some(record),
            What::Held(_) => None,
        }
    }

    /// Takes out the oldest if its time is over.
    pub fn take_expired(&mut self, now: Now) -> Option<SessionId> {
        match self.entry(self.oldest)?.what {
            What::Kept { until, .. } if now >= until => self.take_oldest(),
            _ => None,
        }
    }

    /// The sessions that are held, a few at a time: from place `from` on, `places` of them. `None`
    /// when that is beyond the last.
    pub fn held_from(&self, from: u32, places: u32) -> Option<impl Iterator<Item = &SessionId>> {
        let is_over = from >= self.entries.end();
        let held = move |at| match self.entry(at) {
            Some(Entry { id, what: What::Held(_) }) => Some(id),
            _ => None,
        };
        (!is_over).then(|| (from..from.saturating_add(places)).filter_map(held))
    }

    fn take_oldest(&mut self) -> Option<SessionId> {
        let id = self.entry(self.oldest)?.id.clone();
        self.take(&id).map(|_| id)
    }

    fn find(&self, id: &SessionId) -> Option<u32> {
        let same = |at: &u32| self.entry(*at).is_some_and(|entry| entry.id == *id);
        self.index.find(self.hash.hash_one(id), same).copied()
    }

    fn entry(&self, at: u32) -> Option<&Entry> {
        self.entries.get(at)?.as_ref()
    }

    fn entry_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.entries.get_mut(at)?.as_mut()
    }

    fn insert(&mut self, id: SessionId, what: What) -> u32 {
        let hash = self.hash.hash_one(&id);
        let at = self.entries.insert(Some(Entry { id, what }));
        let Self { index, entries, hash: keyed, .. } = self;
        index.find_or_insert(hash, |_| false, || at, |at| hash_of(keyed, entries, *at));
        at
    }

    fn remove(&mut self, id: &SessionId) -> Option<Entry> {
        let hash = self.hash.hash_one(id);
        let at = self.find(id)?;
        let Self { index, entries, hash: keyed, .. } = self;
        index.remove(hash, |known| *known == at, |at| hash_of(keyed, entries, *at));
        self.entries.remove(at)
    }

    fn link_newer(&mut self, at: u32, to: u32) {
        match self.entry_mut(at).map(|entry| &mut entry.what) {
            Some(What::Kept { newer, .. }) => *newer = to,
            _ => self.oldest = to,
        }
    }

    fn link_older(&mut self, at: u32, to: u32) {
        match self.entry_mut(at).map(|entry| &mut entry.what) {
            Some(What::Kept { older, .. }) => *older = to,
            _ => self.newest = to,
        }
    }
}

fn hash_of(hash: &RandomState, entries: &Slab<Option<Entry>>, at: u32) -> u64 {
    entries.get(at).and_then(Option::as_ref).map_or(0, |entry| hash.hash_one(&entry.id))
}

fn cost(record: &Record) -> usize {
    ENTRY_BYTES + record.bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn directory(records: usize) -> Directory {
        let bytes = records * cost(&Record::default());
        Directory::new(RandomState::with_seeds(1, 2, 3, 4), bytes)
    }

    fn id(number: u8) -> SessionId {
        SessionId::new(&format!("session-{number}")).unwrap()
    }

    fn holder(slot: u32) -> Holder {
        Holder { shard: 1, token: Token::new(slot, 1) }
    }

    fn record(messages: u64) -> Record {
        Record { messages, ..Record::default() }
    }

    #[test]
    fn what_is_kept_is_had_back_once() {
        let mut directory = directory(10);
        assert_eq!(directory.hold(&id(1), holder(1)), None);
        assert_eq!(directory.holder(&id(1)), Some(holder(1)));
        assert_eq!(directory.keep(&id(1), record(7), Now::from_ms(5)), 0);
        assert_eq!((directory.held(), directory.kept()), (0, 1));
        assert_eq!(directory.kept_of(&id(1)), Some(&record(7)));
        assert_eq!(directory.hold(&id(1), holder(2)), Some(record(7)));
        assert_eq!((directory.held(), directory.kept(), directory.kept_bytes()), (1, 0, 0));
        assert_eq!(directory.take(&id(1)), None);
        directory.let_go(&id(1));
        assert_eq!(directory.holder(&id(1)), None);
    }

    #[test]
    fn the_oldest_goes_first_by_time_and_for_room() {
        let mut directory = directory(3);
        for number in 0..5 {
            let lost =
                directory.keep(&id(number), record(1), Now::from_ms(100 + u64::from(number)));
            assert_eq!(lost, usize::from(number >= 3));
        }
        assert_eq!(directory.take_expired(Now::from_ms(101)), None);
        assert_eq!(directory.take_expired(Now::from_ms(103)), Some(id(2)));
        assert_eq!(directory.take(&id(4)), Some(record(1)), "out of the middle or from the end");
        assert_eq!(directory.take_expired(Now::from_ms(103)), Some(id(3)));
        assert_eq!(directory.take_expired(Now::from_ms(999)), None);
        assert_eq!((directory.kept(), directory.kept_bytes()), (0, 0));
    }

    #[test]
    fn those_that_are_held_are_visited_a_few_at_a_time() {
        let mut directory = directory(100);
        (0..100).for_each(|number| drop(directory.hold(&id(number), holder(number.into()))));
        for number in (0..100).step_by(3) {
            directory.keep(&id(number), record(0), Now::default());
        }
        let (mut from, mut seen) = (0, Vec::new());
        while let Some(some) = directory.held_from(from, 7) {
            seen.extend(some.cloned());
            from += 7;
        }
        assert_eq!(seen.len(), directory.held());
    }

    proptest! {
        #[test]
        fn it_is_what_a_plain_list_is(steps: Vec<(u8, u8)>) {
            let mut directory = directory(4);
            let (mut kept, mut held) = (VecDeque::<(u8, u64)>::new(), std::collections::BTreeMap::new());
            for (at, (what, number)) in steps.into_iter().enumerate() {
                let number = number % 8;
                match what % 4 {
                    0 => {
                        let was = kept.iter().position(|(of, _)| *of == number).and_then(|at| kept.remove(at));
                        held.insert(number, at as u32);
                        let had = directory.hold(&id(number), holder(at as u32));
                        prop_assert_eq!(had.map(|record| record.messages), was.map(|(_, messages)| messages));
                    }
                    1 => {
                        held.remove(&number);
                        kept.retain(|(of, _)| *of != number);
                        kept.push_back((number, at as u64));
                        if kept.len() > 4 { kept.pop_front(); }
                        directory.keep(&id(number), record(at as u64), Now::from_ms(at as u64));
                    }
                    2 => {
                        held.remove(&number);
                        directory.let_go(&id(number));
                    }
                    _ => {
                        let first = kept.pop_front().map(|(number, _)| id(number));
                        prop_assert_eq!(directory.take_expired(Now::from_ms(u64::from(u32::MAX))), first);
                    }
                }
                prop_assert_eq!((directory.held(), directory.kept()), (held.len(), kept.len()));
                for (number, slot) in &held {
                    prop_assert_eq!(directory.holder(&id(*number)), Some(holder(*slot)));
                }
            }
        }
    }
}
