//! Who is subscribed to what, on one shard.
//!
//! Pure. A subscription is 16 bytes and a place of 4 bytes in its channel. The names of channels and
//! what belongs to each have a budget in bytes: a connection that asks for channels of its own may
//! take a part of what is left of it ([`Registry::room`]), so that those who ask for many are refused
//! long before those who ask for one.
//!
//! Invariants: while a fan-out visits a channel its members keep their places (a leaving one leaves
//! a hole), so that everybody who was there when it began is visited exactly once. Holes are closed
//! afterwards, some at a time ([`Registry::close_some_holes`]). No step moves more than a piece of a
//! table.

use std::sync::Arc;

use ahash::RandomState;

use crate::connection::NONE;
use crate::limits::CHANNELS_PART_OF_ROOM;
use crate::ring::FileSlot;
use crate::tables::{List, Queue, SegmentedTable, Slab};

/// Index of a channel on this shard.
pub type ChannelId = u32;

/// What a channel takes beside its name: its place, the two counters in front of the name, the
/// allocator's part of both blocks, its place in the index, and a first block of members.
pub const CHANNEL_BYTES: u64 = size_of::<Option<Channel>>() as u64 + 16 + 32 + 16 + 16;
const _: () = assert!(CHANNEL_BYTES == 144);

/// The subscriptions of one shard.
#[derive(Debug)]
pub struct Registry {
    by_name: SegmentedTable<ChannelId>,
    hash: RandomState,
    channels: Slab<Option<Channel>>,
    subscriptions: Slab<Subscription>,
    /// Channels that had holes when their last visit ended.
    with_holes: Queue<ChannelId>,
    budget: u64,
    /// What channels take of it.
    bytes: u64,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    members: List<u32>,
    visits: u32,
    holes: u32,
    /// Up to where its holes have been looked for.
    searched: u32,
}

/// One connection in one channel. `next` leads to the connection's next subscription.
#[derive(Clone, Copy, Debug, Default)]
struct Subscription {
    slot: FileSlot,
    channel: ChannelId,
    position: u32,
    next: u32,
}

const _: () = assert!(size_of::<Subscription>() == 16);

/// A visit to all who were in a channel when it began.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    channel: ChannelId,
    next: u32,
    end: u32,
}

/// There is no room for another channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// What a channel of this name takes of the budget.
fn cost(name: &str) -> u64 {
    CHANNEL_BYTES + name.len() as u64
}

impl Channel {
    fn is_abandoned(&self) -> bool {
        self.visits == 0 && self.members.len() == self.holes as usize
    }
}

impl Registry {
    /// An empty registry whose channels take no more than `budget` bytes; `hash` is keyed, so that
    /// names cannot be made to collide.
    pub fn new(hash: RandomState, budget: u64) -> Self {
        Self {
            by_name: SegmentedTable::new(),
            hash,
            channels: Slab::default(),
            subscriptions: Slab::default(),
            with_holes: Queue::default(),
            budget,
            bytes: 0,
        }
    }

    /// Subscriptions in total.
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    /// True if nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Channels with members.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// What channels take of the budget.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether anybody is in the channel.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Whether one connection may have all these channels, some of which may be there. Those that
    /// are not may take a part of what is left of the budget; one alone may take the rest.
    ///
    /// # Errors
    /// They may not.
    pub fn room<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), NoRoom> {
        let left = self.budget.saturating_sub(self.bytes);
        let (mut new, mut bytes) = (0_u64, 0_u64);
        for name in names.filter(|name| self.find(name).is_none()) {
            new += 1;
            bytes += cost(name);
        }
        let most = if new > 1 { left / CHANNELS_PART_OF_ROOM } else { left };
        if bytes <= most { Ok(()) } else { Err(NoRoom) }
    }

    /// Subscribes the connection `slot`, whose first subscription is `first`, and returns its
    /// new first. Subscribing twice to one channel changes nothing.
    ///
    /// # Errors
    /// The channel is not there, and there is no room for it.
    pub fn subscribe(&mut self, slot: FileSlot, first: u32, name: &str) -> Result<u32, NoRoom> {
        let channel = match self.find(name) {
            Some(channel) if self.is_member(first, channel) => return Ok(first),
            Some(channel) => channel,
            None => self.make(name)?,
        };
        let members = &mut channel_mut(&mut self.channels, channel).members;
        let position = members.len() as u32;
        let id = self.subscriptions.insert(Subscription { slot, channel, position, next: first });
        members.push(id);
        Ok(id)
    }

    /// Ends one subscription of a connection; returns its new first.
    pub fn unsubscribe(&mut self, first: u32, name: &str) -> u32 {
        let Some(channel) = self.find(name) else { return first };
        let (mut before, mut id) = (NONE, first);
        while id != NONE {
            let Subscription { channel: of, next, .. } = self.subscriptions[id];
            if of == channel {
                if before != NONE {
                    self.subscriptions[before].next = next;
                }
                self.remove(id);
                return if before == NONE { next } else { first };
            }
            (before, id) = (id, next);
        }
        first
    }

    /// Ends all subscriptions of a connection.
    pub fn leave(&mut self, first: u32) {
        let mut id = first;
        while id != NONE {
            let next = self.subscriptions[id].next;
            self.remove(id);
            id = next;
        }
    }

    /// The names of a connection's channels, in the order in which it subscribed.
    pub fn channels_of(&self, first: u32) -> Box<[Arc<str>]> {
        let ids = std::iter::successors((first != NONE).then_some(first), |id| {
            let next = self.subscriptions[*id].next;
            (next != NONE).then_some(next)
        });
        let name = |id: u32| Arc::clone(&self.channel(self.subscriptions[id].channel).name);
        let mut names: Vec<_> = ids.map(name).collect();
        names.reverse();
        names.into()
    }

    /// Begins to visit the members of a channel; `None` if it has none here. Each visit must be
    /// led to its end with [`Self::visit`].
    pub fn begin_visit(&mut self, name: &str) -> Option<Visit> {
        let channel = self.find(name)?;
        let visited = channel_mut(&mut self.channels, channel);
        visited.visits += 1;
        Some(Visit { channel, next: 0, end: visited.members.len() as u32 })
    }

    /// The next connection of a visit, or `None` at its end; after that the visit is over.
    pub fn visit(&mut self, visit: &mut Visit) -> Option<FileSlot> {
        let channel = self.channel(visit.channel);
        while visit.next < visit.end {
            let id = channel.members.get(visit.next)?;
            visit.next += 1;
            if id != NONE {
                return Some(self.subscriptions[id].slot);
            }
        }
        self.end_visit(visit.channel);
        None
    }

    fn find(&self, name: &str) -> Option<ChannelId> {
        let is_it = |id: &ChannelId| &*self.channel(*id).name == name;
        self.by_name.find(self.hash.hash_one(name), is_it).copied()
    }

    fn channel(&self, id: ChannelId) -> &Channel {
        let Some(channel) = &self.channels[id] else { panic!("channel {id} is not there") };
        channel
    }

    fn make(&mut self, name: &str) -> Result<ChannelId, NoRoom> {
        if self.bytes + cost(name) > self.budget {
            return Err(NoRoom);
        }
        self.bytes += cost(name);
        let (name, members): (Arc<str>, _) = (name.into(), List::default());
        let hashed = self.hash.hash_one(&*name);
        let id =
            self.channels.insert(Some(Channel { name, members, visits: 0, holes: 0, searched: 0 }));
        let Self { by_name, hash, channels, .. } = self;
        by_name.find_or_insert(hashed, |_| false, || id, |id| hash_of(hash, channels, *id));
        Ok(id)
    }

    fn is_member(&self, first: u32, channel: ChannelId) -> bool {
        let mut id = first;
        while id != NONE {
            let subscription = &self.subscriptions[id];
            if subscription.channel == channel {
                return true;
            }
            id = subscription.next;
        }
        false
    }

    fn remove(&mut self, id: u32) {
        let Subscription { channel: id, position, .. } = self.subscriptions.remove(id);
        let channel = channel_mut(&mut self.channels, id);
        if channel.visits > 0 {
            channel.members.set(position, NONE);
            channel.holes += 1;
            return;
        }
        self.take_out(id, position);
        self.drop_if_abandoned(id);
    }

    /// Takes a member out of its channel; the last comes to its place.
    fn take_out(&mut self, channel: ChannelId, position: u32) {
        let members = &mut channel_mut(&mut self.channels, channel).members;
        members.swap_remove(position);
        if let Some(moved) = members.get(position).filter(|moved| *moved != NONE) {
            self.subscriptions[moved].position = position;
        }
    }

    fn end_visit(&mut self, id: ChannelId) {
        let channel = channel_mut(&mut self.channels, id);
        debug_assert!(channel.visits > 0, "a visit ended that had not begun");
        channel.visits -= 1;
        if channel.visits == 0 && channel.holes > 0 {
            channel.searched = 0;
            self.with_holes.push_back(id);
        }
        self.drop_if_abandoned(id);
    }

    /// Looks at so many places of channels that have holes: the last members move into them, all
    /// others stay where they are.
    pub fn close_some_holes(&mut self, places: usize) {
        for _ in 0..places {
            let Some(&id) = self.with_holes.front() else { return };
            // It may be another channel, or have been visited since.
            let channel = self.channels.get_mut(id).and_then(Option::as_mut);
            let Some(channel) = channel.filter(|channel| channel.holes > 0 && channel.visits == 0)
            else {
                self.with_holes.pop_front();
                continue;
            };
            match channel.members.get(channel.searched) {
                // Leaving members may have brought a hole from the end to where it was searched.
                None => channel.searched = 0,
                Some(NONE) => {
                    channel.holes -= 1;
                    let position = channel.searched;
                    self.take_out(id, position);
                }
                Some(_) => channel.searched += 1,
            }
        }
    }

    fn drop_if_abandoned(&mut self, id: ChannelId) {
        if !self.channel(id).is_abandoned() {
            return;
        }
        let Self { by_name, hash, channels, .. } = self;
        let hashed = hash_of(hash, channels, id);
        by_name.remove(hashed, |known| *known == id, |id| hash_of(hash, channels, *id));
        if let Some(channel) = self.channels.remove(id) {
            self.bytes -= cost(&channel.name);
        }
    }
}

fn channel_mut(channels: &mut Slab<Option<Channel>>, id: ChannelId) -> &mut Channel {
    let Some(channel) = &mut channels[id] else { panic!("channel {id} is not there") };
    channel
}

fn hash_of(hash: &RandomState, channels: &Slab<Option<Channel>>, id: ChannelId) -> u64 {
    channels.get(id).and_then(Option::as_ref).map_or(0, |channel| hash.hash_one(&*channel.name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tables::segmented::MOST_MOVED;

    fn registry() -> Registry {
        Registry::new(RandomState::with_seeds(1, 2, 3, 4), u64::MAX)
    }

    fn visited(registry: &mut Registry, name: &str) -> Vec<FileSlot> {
        let Some(mut visit) = registry.begin_visit(name) else { return Vec::new() };
        std::iter::from_fn(|| registry.visit(&mut visit)).collect()
    }

    #[test]
    fn members_come_and_go() {
        let mut registry = registry();
        let a = registry.subscribe(1, NONE, "news").unwrap();
        let a = registry.subscribe(1, a, "chat").unwrap();
        assert_eq!(registry.subscribe(1, a, "news"), Ok(a), "twice is once");
        let names: Vec<_> = registry.channels_of(a).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["news", "chat"]);
        assert!(registry.channels_of(NONE).is_empty());
        let b = registry.subscribe(2, NONE, "news").unwrap();
        assert_eq!(visited(&mut registry, "news"), [1, 2]);
        let a = registry.unsubscribe(a, "news");
        assert_eq!(visited(&mut registry, "news"), [2]);
        assert_eq!(visited(&mut registry, "chat"), [1]);
        registry.leave(a);
        registry.leave(b);
        assert_eq!((registry.len(), registry.channels()), (0, 0), "empty channels are forgotten");
        assert_eq!(registry.bytes(), 0);
    }

    #[test]
    fn a_visit_meets_everybody_who_was_there_exactly_once() {
        let mut registry = registry();
        let firsts: Vec<u32> =
            (0..5).map(|slot| registry.subscribe(slot, NONE, "c").unwrap()).collect();
        let Some(mut visit) = registry.begin_visit("c") else { panic!("members") };
        assert_eq!(registry.visit(&mut visit), Some(0));
        registry.leave(firsts[0]); // already visited: must not move another into its place
        registry.leave(firsts[2]); // not visited yet: must not be met
        registry.subscribe(9, NONE, "c").unwrap(); // came later: must not be met
        let rest: Vec<_> = std::iter::from_fn(|| registry.visit(&mut visit)).collect();
        assert_eq!(rest, [1, 3, 4]);
        registry.close_some_holes(10);
        assert_eq!(visited(&mut registry, "c"), [9, 1, 4, 3], "holes are closed afterwards");
        registry.leave(firsts[3]);
        assert_eq!(visited(&mut registry, "c"), [9, 1, 4]);
    }

    #[test]
    fn a_channel_that_empties_during_a_visit_is_forgotten_after_it() {
        let mut registry = registry();
        let first = registry.subscribe(1, NONE, "c").unwrap();
        let Some(mut visit) = registry.begin_visit("c") else { panic!("members") };
        registry.leave(first);
        assert_eq!(registry.channels(), 1);
        assert_eq!(registry.visit(&mut visit), None);
        assert_eq!(registry.channels(), 0);
    }

    #[test]
    fn no_step_of_a_hundred_thousand_channels_moves_more_than_a_piece_and_the_memory_comes_back() {
        const CHANNELS: u32 = 100_000;
        let mut registry = registry();
        let (mut before, mut most) = (0, 0);
        let firsts: Vec<u32> = (0..CHANNELS)
            .map(|n| {
                let first = registry.subscribe(n, NONE, &format!("channel-{n}")).unwrap();
                most = most.max(registry.by_name.moved - before);
                before = registry.by_name.moved;
                first
            })
            .collect();
        assert!((896..=MOST_MOVED).contains(&most), "{most} names moved in one step");
        assert!(registry.bytes() > u64::from(CHANNELS) * CHANNEL_BYTES);
        for first in firsts {
            registry.leave(first);
            assert!(registry.by_name.moved - before <= MOST_MOVED);
            before = registry.by_name.moved;
        }
        let places = [
            registry.by_name.places(),
            registry.channels.places(),
            registry.subscriptions.places(),
        ];
        assert!(places.iter().all(|places| *places <= 64), "{places:?} for nothing");
        assert_eq!(registry.bytes(), 0);
    }

    /// The variant of a table that doubles: a list that is tidied in one go.
    #[test]
    fn holes_that_a_crowd_leaves_behind_are_closed_some_at_a_time() {
        const MEMBERS: u32 = 50_000;
        let mut registry = registry();
        let firsts: Vec<u32> =
            (0..MEMBERS).map(|slot| registry.subscribe(slot, NONE, "c").unwrap()).collect();
        let mut visit = registry.begin_visit("c").unwrap();
        let leave = |n: &usize| !n.is_multiple_of(10);
        (0..firsts.len()).filter(leave).for_each(|n| registry.leave(firsts[n]));
        let met = std::iter::from_fn(|| registry.visit(&mut visit)).count();
        assert_eq!(met, 5_000);
        let holes = |registry: &Registry| registry.channel(0).holes;
        assert_eq!(holes(&registry), 45_000, "the end of the visit closes none of them");
        registry.close_some_holes(512);
        assert!((44_488..45_000).contains(&holes(&registry)));
        // Meanwhile members come, leave, and are visited.
        let late = registry.subscribe(70_000, NONE, "c").unwrap();
        registry.leave(firsts[10]);
        assert_eq!(visited(&mut registry, "c").len(), 5_000);
        (0..200).for_each(|_| registry.close_some_holes(512));
        assert_eq!((holes(&registry), registry.with_holes.is_empty()), (0, true));
        let mut members = visited(&mut registry, "c");
        members.sort_unstable();
        let stayed = (0..MEMBERS).step_by(10).filter(|slot| *slot != 10).chain([70_000]);
        assert_eq!(members, stayed.collect::<Vec<_>>());
        registry.leave(late);
        (0..firsts.len()).step_by(10).filter(|n| *n != 10).for_each(|n| registry.leave(firsts[n]));
        assert_eq!((registry.len(), registry.channels()), (0, 0));
    }

    #[test]
    fn who_asks_for_many_channels_is_refused_long_before_who_asks_for_one() {
        let channel = CHANNEL_BYTES + 8;
        let budget = 10_000 * channel;
        let mut registry = Registry::new(RandomState::with_seeds(1, 2, 3, 4), budget);
        let names = |client: u32, count: u32| -> Vec<String> {
            (0..count).map(|n| format!("{client:05}-{n:02}")).collect()
        };
        let room = |registry: &Registry, names: &[String]| {
            registry.room(names.iter().map(String::as_str)).is_ok()
        };
        let mut clients = 0;
        while room(&registry, &names(clients, 64)) {
            let mut first = NONE;
            for name in names(clients, 64) {
                first = registry.subscribe(clients, first, &name).unwrap();
            }
            clients += 1;
        }
        let used = registry.bytes() / channel;
        assert!((1_800..2_000).contains(&used), "{used} of 10,000 when 64 are refused");
        assert!(room(&registry, &names(90_000, 60)), "fewer of them still go");
        assert!(room(&registry, &names(0, 64)), "channels that are there cost nothing");
        let alone = (0..20_000)
            .take_while(|n| registry.subscribe(*n, NONE, &format!("alone{n:03}")).is_ok());
        assert!(alone.count() > 7_900, "one each goes until nothing is left");
        assert!(registry.bytes() <= budget);
        assert_eq!(registry.subscribe(1, NONE, "another"), Err(NoRoom));
        assert!(registry.subscribe(1, NONE, "00000-00").is_ok());
    }
}
