//! Who is subscribed to what, on one shard.
//!
//! Pure. A subscription is 16 bytes and a place of 4 bytes in its channel. Invariant: while a
//! fan-out visits a channel its members keep their places (a leaving one leaves a hole), so
//! that everybody who was there when it began is visited exactly once.

use std::sync::Arc;

use ahash::RandomState;
use allocator_api2::vec::Vec as VecIn;
use hashbrown::HashMap;
use slab::Slab;

use crate::chunks::Chunks;
use crate::connection::NONE;
use crate::ring::FileSlot;
use crate::sys::returned_memory::ReturnedMemory;

/// Index of a channel on this shard.
pub type ChannelId = u32;

/// A list of so many members grows by a quarter, a shorter one to twice its length, which would be
/// much room for nobody in a long one.
const LONG: usize = 1_024;

/// The subscriptions of one shard.
#[derive(Debug)]
pub struct Registry {
    by_name: HashMap<Arc<str>, ChannelId, RandomState>,
    channels: Slab<Channel>,
    subscriptions: Chunks<Subscription>,
    free: u32,
    count: usize,
}

#[derive(Debug)]
struct Channel {
    name: Arc<str>,
    members: VecIn<u32, ReturnedMemory>,
    visits: u32,
    holes: u32,
}

/// One connection in one channel. `next` leads to the connection's next subscription, or to the
/// next free place.
#[derive(Clone, Copy, Debug)]
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

impl Registry {
    /// An empty registry; `hash` is keyed, so that names cannot be made to collide.
    pub fn new(hash: RandomState) -> Self {
        Self {
            by_name: HashMap::with_hasher(hash),
            channels: Slab::new(),
            subscriptions: Chunks::default(),
            free: NONE,
            count: 0,
        }
    }

    /// Subscriptions in total.
    pub fn len(&self) -> usize {
        self.count
    }

    /// True if nobody is subscribed to anything.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Channels with members.
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Subscribes the connection `slot`, whose first subscription is `first`, and returns its
    /// new first. Subscribing twice to one channel changes nothing.
    pub fn subscribe(&mut self, slot: FileSlot, first: u32, name: &str) -> u32 {
        let channel = self.channel(name);
        if self.is_member(first, channel) {
            return first;
        }
        let members = &mut self.channels[channel as usize].members;
        let position = members.len() as u32;
        let subscription = Subscription { slot, channel, position, next: first };
        let id = match self.free {
            NONE => {
                self.subscriptions.push(subscription);
                self.subscriptions.len() - 1
            }
            id => {
                let place = &mut self.subscriptions[id];
                self.free = place.next;
                *place = subscription;
                id
            }
        };
        if members.len() == members.capacity() && members.len() >= LONG {
            members.reserve_exact(members.len() / 4);
        }
        members.push(id);
        self.count += 1;
        id
    }

    /// Ends one subscription of a connection; returns its new first.
    pub fn unsubscribe(&mut self, first: u32, name: &str) -> u32 {
        let Some(&channel) = self.by_name.get(name) else { return first };
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
        let channel = |id: u32| self.subscriptions[id].channel as usize;
        let mut names: Vec<_> =
            ids.map(|id| Arc::clone(&self.channels[channel(id)].name)).collect();
        names.reverse();
        names.into()
    }

    /// Begins to visit the members of a channel; `None` if it has none here. Each visit must be
    /// led to its end with [`Self::visit`].
    pub fn begin_visit(&mut self, name: &str) -> Option<Visit> {
        let channel = *self.by_name.get(name)?;
        let members = self.channels.get_mut(channel as usize)?;
        members.visits += 1;
        Some(Visit { channel, next: 0, end: members.members.len() as u32 })
    }

    /// The next connection of a visit, or `None` at its end; after that the visit is over.
    pub fn visit(&mut self, visit: &mut Visit) -> Option<FileSlot> {
        let channel = self.channels.get(visit.channel as usize)?;
        while visit.next < visit.end {
            let id = channel.members[visit.next as usize];
            visit.next += 1;
            if id != NONE {
                return Some(self.subscriptions[id].slot);
            }
        }
        self.end_visit(visit.channel);
        None
    }

    fn channel(&mut self, name: &str) -> ChannelId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let name: Arc<str> = name.into();
        let members = VecIn::new_in(ReturnedMemory);
        let channel = Channel { name: Arc::clone(&name), members, visits: 0, holes: 0 };
        let id = self.channels.insert(channel) as ChannelId;
        self.by_name.insert(name, id);
        id
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
        let Subscription { channel, position, .. } = self.subscriptions[id];
        self.subscriptions[id].next = self.free;
        self.free = id;
        self.count -= 1;
        let members = &mut self.channels[channel as usize];
        if members.visits > 0 {
            members.members[position as usize] = NONE;
            members.holes += 1;
            return;
        }
        members.members.swap_remove(position as usize);
        if let Some(&moved) = members.members.get(position as usize) {
            self.subscriptions[moved].position = position;
        }
        self.drop_if_empty(channel);
    }

    fn end_visit(&mut self, id: ChannelId) {
        let channel = &mut self.channels[id as usize];
        channel.visits -= 1;
        if channel.visits == 0 {
            self.close_holes(id);
        }
        self.drop_if_empty(id);
    }

    /// The last members move into the holes; all others stay where they are.
    fn close_holes(&mut self, id: ChannelId) {
        let channel = &mut self.channels[id as usize];
        let mut position = 0;
        while channel.holes > 0 {
            if channel.members[position] != NONE {
                position += 1;
                continue;
            }
            channel.members.swap_remove(position);
            channel.holes -= 1;
            if let Some(&moved) = channel.members.get(position).filter(|moved| **moved != NONE) {
                self.subscriptions[moved].position = position as u32;
            }
        }
    }

    fn drop_if_empty(&mut self, id: ChannelId) {
        let channel = &self.channels[id as usize];
        if channel.members.is_empty() && channel.visits == 0 {
            let channel = self.channels.remove(id as usize);
            self.by_name.remove(&channel.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry() -> Registry {
        Registry::new(RandomState::with_seeds(1, 2, 3, 4))
    }

    fn visited(registry: &mut Registry, name: &str) -> Vec<FileSlot> {
        let Some(mut visit) = registry.begin_visit(name) else { return Vec::new() };
        std::iter::from_fn(|| registry.visit(&mut visit)).collect()
    }

    #[test]
    fn members_come_and_go() {
        let mut registry = registry();
        let a = registry.subscribe(1, NONE, "news");
        let a = registry.subscribe(1, a, "chat");
        assert_eq!(registry.subscribe(1, a, "news"), a, "twice is once");
        let names: Vec<_> = registry.channels_of(a).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["news", "chat"]);
        assert!(registry.channels_of(NONE).is_empty());
        let b = registry.subscribe(2, NONE, "news");
        assert_eq!(visited(&mut registry, "news"), [1, 2]);
        let a = registry.unsubscribe(a, "news");
        assert_eq!(visited(&mut registry, "news"), [2]);
        assert_eq!(visited(&mut registry, "chat"), [1]);
        registry.leave(a);
        registry.leave(b);
        assert_eq!((registry.len(), registry.channels()), (0, 0), "empty channels are forgotten");
    }

    #[test]
    fn a_visit_meets_everybody_who_was_there_exactly_once() {
        let mut registry = registry();
        let firsts: Vec<u32> = (0..5).map(|slot| registry.subscribe(slot, NONE, "c")).collect();
        let Some(mut visit) = registry.begin_visit("c") else { panic!("members") };
        assert_eq!(registry.visit(&mut visit), Some(0));
        registry.leave(firsts[0]); // already visited: must not move another into its place
        registry.leave(firsts[2]); // not visited yet: must not be met
        registry.subscribe(9, NONE, "c"); // came later: must not be met
        let rest: Vec<_> = std::iter::from_fn(|| registry.visit(&mut visit)).collect();
        assert_eq!(rest, [1, 3, 4]);
        assert_eq!(visited(&mut registry, "c"), [9, 1, 4, 3], "holes are closed afterwards");
        registry.leave(firsts[3]);
        assert_eq!(visited(&mut registry, "c"), [9, 1, 4]);
    }

    #[test]
    fn a_channel_that_empties_during_a_visit_is_forgotten_after_it() {
        let mut registry = registry();
        let first = registry.subscribe(1, NONE, "c");
        let Some(mut visit) = registry.begin_visit("c") else { panic!("members") };
        registry.leave(first);
        assert_eq!(registry.channels(), 1);
        assert_eq!(registry.visit(&mut visit), None);
        assert_eq!(registry.channels(), 0);
    }
}
