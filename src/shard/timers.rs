//! The timer wheel of a shard: one deadline per connection, linked through the connections
//! themselves, so that a timer costs no memory of its own and setting one is constant work.

use super::connections::Connections;
use crate::connection::deadline::is_reached;
use crate::connection::{NONE, UNLINKED};
use crate::limits::WHEEL_SLOTS;
use crate::ring::FileSlot;
use crate::tables::Queue;

/// The wheel. A slot holds the connections whose tick is equal to its index modulo the number
/// of slots; those of a later turn stay when it comes round.
#[derive(Debug)]
pub(crate) struct Timers {
    heads: Box<[u32; WHEEL_SLOTS]>,
    done: u32,
}

impl Timers {
    /// An empty wheel at tick `now`.
    pub(crate) fn new(now: u32) -> Self {
        Self { heads: Box::new([NONE; WHEEL_SLOTS]), done: now }
    }

    /// Sets the deadline of a connection, in place of the one it had.
    pub(crate) fn set(&mut self, connections: &mut Connections, slot: FileSlot, tick: u32) {
        self.clear(connections, slot);
        // A tick that has been done already would wait for a whole turn of the wheel.
        let tick = if is_reached(tick, self.done) { self.done.wrapping_add(1) } else { tick };
        let head = std::mem::replace(&mut self.heads[index(tick)], slot);
        if let Some(links) = connections.slot_mut(slot).map(|connection| &mut connection.timer) {
            links.tick = tick;
            links.next = head;
            links.previous = NONE;
        }
        if let Some(second) = connections.slot_mut(head) {
            second.timer.previous = slot;
        }
    }

    /// Takes the deadline of a connection away, if it has one.
    pub(crate) fn clear(&mut self, connections: &mut Connections, slot: FileSlot) {
        let Some(connection) = connections.slot_mut(slot) else {
            debug_assert!(false, "a timer of a connection that never was");
            return;
        };
        let links = connection.timer;
        if links.previous == UNLINKED {
            return;
        }
        connection.timer.previous = UNLINKED;
        match connections.slot_mut(links.previous) {
            Some(before) => before.timer.next = links.next,
            None => self.heads[index(links.tick)] = links.next,
        }
        if let Some(after) = connections.slot_mut(links.next) {
            after.timer.previous = links.previous;
        }
    }

    /// Takes out those whose deadline has come by tick `now`, into `due`.
    pub(crate) fn take_due(
        &mut self,
        connections: &mut Connections,
        now: u32,
        due: &mut Queue<FileSlot>,
    ) {
        let behind = now.wrapping_sub(self.done).min(WHEEL_SLOTS as u32);
        for step in 0..behind {
            let mut slot = self.heads[index(now.wrapping_sub(step))];
            while let Some(connection) = connections.slot(slot) {
                let links = connection.timer;
                if is_reached(links.tick, now) {
                    self.clear(connections, slot);
                    due.push_back(slot);
                }
                slot = links.next;
            }
        }
        self.done = now;
    }
}

const fn index(tick: u32) -> usize {
    tick as usize & (WHEEL_SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::State;

    fn due_at(timers: &mut Timers, connections: &mut Connections, now: u32) -> Vec<FileSlot> {
        let mut queue = Queue::default();
        timers.take_due(connections, now, &mut queue);
        let mut due: Vec<_> = std::iter::from_fn(|| queue.pop_front()).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn deadlines_fire_once_and_at_their_tick() {
        let mut connections = Connections::default();
        for slot in 0..4 {
            connections.begin(slot, State::Open);
        }
        let mut timers = Timers::new(u32::MAX - 2);
        timers.set(&mut connections, 0, 1);
        timers.set(&mut connections, 1, 1);
        timers.set(&mut connections, 2, WHEEL_SLOTS as u32 + 1); // same slot, next turn
        timers.set(&mut connections, 3, u32::MAX - 5); // already past: next tick
        timers.set(&mut connections, 1, 3); // moved
        assert_eq!(due_at(&mut timers, &mut connections, u32::MAX), [3]);
        assert_eq!(due_at(&mut timers, &mut connections, 1), [0]);
        assert!(due_at(&mut timers, &mut connections, 2).is_empty());
        assert_eq!(due_at(&mut timers, &mut connections, 400), [1]);
        timers.clear(&mut connections, 1); // not linked: nothing happens
        assert_eq!(due_at(&mut timers, &mut connections, 100_000), [2]);
        assert!(due_at(&mut timers, &mut connections, 200_000).is_empty());
    }

    #[test]
    fn cleared_deadlines_do_not_fire() {
        let mut connections = Connections::default();
        for slot in 0..3 {
            connections.begin(slot, State::Open);
        }
        let mut timers = Timers::new(0);
        for slot in 0..3 {
            timers.set(&mut connections, slot, 5);
        }
        timers.clear(&mut connections, 1);
        assert_eq!(due_at(&mut timers, &mut connections, 10), [0, 2]);
    }
}
