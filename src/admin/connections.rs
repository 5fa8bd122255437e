//! The table of admin connections: how many there are, of whom, and which one gives way.
//!
//! A new connection always finds a place: when all are taken, or those of its source, the
//! connection that has been idle longest ends. It is a stranger's as long as strangers have more
//! than half of the places, so that they do not drive out known clients, and a known client's
//! otherwise, so that a new one has time to say what it wants. Without a runtime and without a
//! clock.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;

use super::stage::{Stage, Standing};
use crate::admission::SourceKey;

/// What a connection is called for. A dropped sender calls it to leave in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GiveWay;

/// The connections.
#[derive(Clone)]
pub(super) struct Connections {
    table: Rc<RefCell<Table>>,
}

struct Table {
    most: usize,
    most_per_source: usize,
    next: u64,
    entries: BTreeMap<u64, Entry>,
    sources: HashMap<SourceKey, usize>,
}

struct Entry {
    source: SourceKey,
    standing: Rc<Standing>,
    call: Option<oneshot::Sender<GiveWay>>,
}

/// A place in the table, given back when dropped.
pub(super) struct Permit {
    /// Ready with [`GiveWay`] when the connection has lost its place, with an error when the
    /// listener stops.
    pub(super) called: oneshot::Receiver<GiveWay>,
    pub(super) standing: Rc<Standing>,
    number: u64,
    table: Rc<RefCell<Table>>,
}

/// A new connection's place, and whose place it was.
pub(super) struct Admitted {
    pub(super) permit: Permit,
    /// The source and the stage of the connection that gave way.
    pub(super) evicted: Option<(SourceKey, Stage)>,
}

impl Connections {
    pub(super) fn new(most: usize, most_per_source: usize) -> Self {
        let (entries, sources) = (BTreeMap::new(), HashMap::new());
        let table = Table { most, most_per_source, next: 0, entries, sources };
        Self { table: Rc::new(RefCell::new(table)) }
    }

    /// A place for a connection of `source`; `None` if all are taken by requests of known clients
    /// that are being worked on.
    pub(super) fn admit(&self, source: SourceKey, now: Instant) -> Option<Admitted> {
        let mut table = self.table.borrow_mut();
        let (most, most_per_source) = (table.most, table.most_per_source);
        let of_source = table.sources.get(&source).copied().unwrap_or_default();
        let mut evicted = None;
        if of_source >= most_per_source {
            evicted = table.make_room(most_per_source / 2, |entry| entry.source == source);
        }
        if table.entries.len() >= most {
            evicted = table.make_room(most / 2, |_| true);
        }
        if table.entries.len() >= most {
            return None;
        }
        let (call, called) = oneshot::channel();
        let standing = Rc::new(Standing::accepted(now));
        let number = table.insert(source, Rc::clone(&standing), call);
        drop(table);
        let permit = Permit { called, standing, number, table: Rc::clone(&self.table) };
        Some(Admitted { permit, evicted })
    }

    /// Ends the connection that gives way first, to free what it holds; false if none can.
    pub(super) fn evict_any(&self) -> bool {
        let mut table = self.table.borrow_mut();
        let share = table.most / 2;
        table.make_room(share, |_| true).is_some()
    }

    /// Ends the connection that has been in `stage` longest, if that is at least `patience`;
    /// `besides` is for whose sake.
    pub(super) fn evict_from(
        &self,
        stage: Stage,
        patience: Duration,
        besides: &Rc<Standing>,
        now: Instant,
    ) -> bool {
        let waits = |entry: &Entry| {
            entry.standing.stage() == stage
                && entry.standing.waited(now) >= patience
                && !Rc::ptr_eq(&entry.standing, besides)
        };
        self.table.borrow_mut().evict(waits).is_some()
    }

    /// Calls every connection to leave after the answer that is under way.
    pub(super) fn call_all(&self) {
        let mut table = self.table.borrow_mut();
        let calls: Vec<_> = table.entries.values_mut().map(|entry| entry.call.take()).collect();
        drop(table);
        // Dropping the senders is the call.
        drop(calls);
    }

    pub(super) fn count(&self) -> usize {
        self.table.borrow().entries.len()
    }
}

impl Table {
    fn insert(
        &mut self,
        source: SourceKey,
        standing: Rc<Standing>,
        call: oneshot::Sender<GiveWay>,
    ) -> u64 {
        let number = self.next;
        self.next += 1;
        self.entries.insert(number, Entry { source, standing, call: Some(call) });
        *self.sources.entry(source).or_default() += 1;
        number
    }

    fn remove(&mut self, number: u64) -> Option<Entry> {
        let entry = self.entries.remove(&number)?;
        if let Some(count) = self.sources.get_mut(&entry.source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&entry.source);
            }
        }
        Some(entry)
    }

    /// Takes a place from those that `may` lose it: from strangers if they have more than `share`,
    /// otherwise from known clients; from the others if these have none to give.
    fn make_room(
        &mut self,
        share: usize,
        may: impl Fn(&Entry) -> bool,
    ) -> Option<(SourceKey, Stage)> {
        let strangers = |entry: &Entry| may(entry) && entry.standing.is_stranger();
        let known = |entry: &Entry| may(entry) && !entry.standing.is_stranger();
        if self.entries.values().filter(|entry| strangers(entry)).count() > share {
            self.evict(strangers).or_else(|| self.evict(known))
        } else {
            self.evict(known).or_else(|| self.evict(strangers))
        }
    }

    /// Takes the place of the first, in the order of giving way, of those that `may` lose it.
    fn evict(&mut self, may: impl Fn(&Entry) -> bool) -> Option<(SourceKey, Stage)> {
        let ranked =
            self.entries.iter().filter(|(_, entry)| may(entry)).filter_map(|(at, entry)| {
                let standing = &entry.standing;
                standing.rank().map(|rank| ((rank, standing.since()), *at))
            });
        let (_, number) = ranked.min()?;
        let Entry { source, standing, call } = self.remove(number)?;
        if let Some(call) = call {
            // An error means that it ends by itself at this moment.
            let _ = call.send(GiveWay);
        }
        Some((source, standing.stage()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Gone already if it gave way.
        self.table.borrow_mut().remove(self.number);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::admission::Prefixes;

    fn source(n: u8) -> SourceKey {
        Prefixes::default().key([192, 0, 2, n].into())
    }

    struct Clocked {
        connections: Connections,
        now: Instant,
    }

    impl Clocked {
        fn new(most: usize, most_per_source: usize) -> Self {
            Self { connections: Connections::new(most, most_per_source), now: Instant::now() }
        }

        /// A connection, a millisecond after the previous one.
        fn admit(&mut self, of: u8) -> Permit {
            self.now += Duration::from_millis(1);
            self.connections.admit(source(of), self.now).unwrap().permit
        }
    }

    fn has_given_way(permit: &mut Permit) -> bool {
        permit.called.try_recv().is_ok_and(|called| called.is_some())
    }

    #[test]
    fn the_longest_silent_gives_way_and_its_place_comes_back_once() {
        let mut clocked = Clocked::new(2, 2);
        let (mut first, mut second) = (clocked.admit(1), clocked.admit(1));
        let mut third = clocked.admit(2);
        assert!(has_given_way(&mut first) && !has_given_way(&mut second));
        drop(first);
        assert_eq!(clocked.connections.count(), 2);
        drop(second);
        assert_eq!(clocked.connections.count(), 1);
        assert!(!has_given_way(&mut third));
    }

    #[test]
    fn a_source_at_its_limit_takes_its_own_places() {
        let mut clocked = Clocked::new(4, 2);
        let mut honest = clocked.admit(1);
        let mut hostile: Vec<_> = (0..6).map(|_| clocked.admit(2)).collect();
        assert!(!has_given_way(&mut honest), "it is the oldest, and of another source");
        let gone =
            hostile.iter_mut().filter_map(|permit| has_given_way(permit).then_some(())).count();
        assert_eq!((gone, clocked.connections.count()), (4, 3));
    }

    /// Makes the client of a connection known, and leaves it idle.
    fn make_known(permit: &Permit, now: Instant) {
        permit.standing.enter(Stage::Working, now);
        permit.standing.set_trusted(true);
        permit.standing.enter(Stage::Answering, now);
        permit.standing.enter(Stage::Idle, now);
    }

    #[test]
    fn strangers_beyond_their_half_go_first_and_then_idle_known_clients() {
        let mut clocked = Clocked::new(4, 4);
        let mut known = clocked.admit(1);
        make_known(&known, clocked.now);
        let mut silent: Vec<_> = (0..5).map(|_| clocked.admit(1)).collect();
        assert!(!has_given_way(&mut known), "strangers had three of four places");
        let mut more = [clocked.admit(2), clocked.admit(2)];
        for permit in &more {
            make_known(permit, clocked.now);
        }
        let gone = silent.iter_mut().filter_map(|permit| has_given_way(permit).then_some(()));
        assert_eq!(gone.count(), 4);
        let newcomer = clocked.admit(3);
        assert!(has_given_way(&mut known), "strangers had one of four places");
        for permit in [&newcomer, &silent[4], &more[0], &more[1]] {
            permit.standing.set_trusted(true);
            if permit.standing.stage() == Stage::Silent || permit.standing.stage() == Stage::Idle {
                permit.standing.enter(Stage::Working, clocked.now);
            }
        }
        assert!(!more.iter_mut().any(has_given_way));
        assert!(clocked.connections.admit(source(4), clocked.now).is_none());
    }

    #[test]
    fn what_holds_memory_gives_way_after_its_patience() {
        let mut clocked = Clocked::new(4, 4);
        let mut slow = clocked.admit(1);
        slow.standing.enter(Stage::Working, clocked.now);
        slow.standing.enter(Stage::Body, clocked.now);
        let other = clocked.admit(1);
        let patience = Duration::from_millis(10);
        let evict = |stage, besides: &Permit, now| {
            clocked.connections.evict_from(stage, patience, &besides.standing, now)
        };
        let later = clocked.now + patience;
        assert!(!evict(Stage::Body, &other, clocked.now));
        assert!(!evict(Stage::Answering, &other, later));
        assert!(!evict(Stage::Body, &slow, later), "not for its own sake");
        assert!(evict(Stage::Body, &other, later));
        assert!(has_given_way(&mut slow));
    }

    #[test]
    fn all_are_called_to_leave() {
        let mut clocked = Clocked::new(4, 4);
        let mut permit = clocked.admit(1);
        assert_eq!(permit.called.try_recv(), Ok(None));
        clocked.connections.call_all();
        assert!(permit.called.try_recv().is_err());
    }
}
