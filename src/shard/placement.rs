//! A connection goes to the lightest shard if this one has clearly more than its part: many
//! clients of one source, or one proxy for all of them. Only its descriptor moves, before a byte
//! has been read; its books stay with the owner of its source.
//!
//! Descriptor and papers travel apart (MSG_RING and the mesh) and come in any order. Invariant:
//! the papers are sent once the kernel has said that the descriptor is there, so a connection
//! that is nowhere has no papers.

use std::sync::Arc;

use ahash::RandomState;

use super::Shard;
use super::machine::{Event, Reply};
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::environment::Environment;
use crate::limits;
use crate::mesh::message::{Handed, ShardMessage};
use crate::metrics::ShardMetrics;
use crate::ring::{FileSlot, Ring, Token};
use crate::tables::Map;

/// What this shard knows of the others' load.
#[derive(Debug)]
pub(super) struct Placement {
    shards: Vec<Arc<ShardMetrics>>,
    /// Connections of each shard, as of `tick`, and those that this one has sent there since.
    loads: Vec<u64>,
    tick: u32,
    /// Half parcels, by where they come from and what they were there.
    arriving: Map<(usize, Token), Half>,
}

#[derive(Debug)]
enum Half {
    Descriptor(Token),
    Papers(Handed),
}

impl Placement {
    pub(super) fn new(shards: Vec<Arc<ShardMetrics>>, hash: RandomState) -> Self {
        let loads = vec![0; shards.len()];
        Self { shards, loads, tick: 0, arriving: Map::new(hash) }
    }

    /// The shard that should have one of the `own` connections of shard `index`, if any.
    fn target(&mut self, index: usize, own: u64, seats: u64, tick: u32) -> Option<usize> {
        if self.shards.len() < 2 || own < limits::PLACEMENT_SLACK {
            return None;
        }
        if std::mem::replace(&mut self.tick, tick) != tick {
            for (load, shard) in self.loads.iter_mut().zip(&self.shards) {
                *load = load_of(shard);
            }
        }
        let lightest = lightest(&self.loads, index)?;
        let full = own >= seats;
        if !full && !is_lumpy(own, self.loads[lightest]) {
            return None;
        }
        // Others may have sent it some meanwhile.
        self.loads[lightest] = (self.loads[lightest] + 1).max(load_of(&self.shards[lightest]));
        (self.loads[lightest] < seats).then_some(lightest)
    }
}

fn load_of(shard: &ShardMetrics) -> u64 {
    shard.connections.get() + shard.handshaking.get()
}

fn lightest(loads: &[u64], but: usize) -> Option<usize> {
    let others = (0..loads.len()).filter(|shard| *shard != but);
    others.min_by_key(|shard| loads[*shard])
}

/// Whether a shard with `own` connections should give one to a shard with `lightest`.
fn is_lumpy(own: u64, lightest: u64) -> bool {
    own > lightest + limits::PLACEMENT_SLACK.max(lightest / 16)
}

impl<E: Environment> Shard<E> {
    /// Connections that this shard can hold and still answer those that it refuses.
    pub(super) fn seats(&self) -> u32 {
        let files = self.ring.file_capacity();
        files - limits::RESERVED_FILES.min(files / 2)
    }

    /// The shard that should have one more connection of this one's, if any.
    pub(super) fn lighter_shard(&mut self) -> Option<usize> {
        let (own, seats) = (self.connections.live() as u64, self.seats().into());
        let to = self.placement.target(self.index, own, seats, self.cx.clock.tick)?;
        (!self.admitting.abroad.is_dead(to)).then_some(to)
    }

    /// The descriptor is there: what belongs to it follows.
    pub(super) fn send_papers(&mut self, to: usize, papers: Handed, admitted: bool) {
        if !admitted || self.admitting.abroad.lend(to) {
            self.mesh.outbox.post(to, ShardMessage::Handed(papers));
        } else {
            self.admitting.admission.released(papers.source, self.cx.clock.now.ns());
        }
    }

    /// The descriptor of a connection has come from another shard.
    pub(super) fn on_handed_here(&mut self, from: usize, there: Token, slot: FileSlot) {
        let tick = self.cx.clock.tick;
        let (token, connection) = self.connections.begin(slot, State::Arriving);
        (connection.accepted_tick, connection.heard_tick) = (tick, tick);
        self.begin_half_open(token);
        match self.placement.arriving.remove(&(from, there)) {
            Some(Half::Papers(papers)) => self.on_arrival(token, papers),
            _ => {
                self.placement.arriving.insert((from, there), Half::Descriptor(token));
            }
        }
    }

    /// The papers of a connection have come from another shard.
    pub(super) fn on_papers(&mut self, papers: Handed) {
        if papers.proxy.is_none() {
            self.admitting.abroad.welcome(papers.from);
        }
        match self.placement.arriving.remove(&(papers.from, papers.token)) {
            Some(Half::Descriptor(token)) => self.on_arrival(token, papers),
            _ => {
                let parcel = (papers.from, papers.token);
                self.placement.arriving.insert(parcel, Half::Papers(papers));
            }
        }
    }

    fn on_arrival(&mut self, token: Token, papers: Handed) {
        let reply = self.with_connection(token, Event::Arrived(papers));
        if matches!(reply, Reply::Gone | Reply::Passed) && papers.proxy.is_none() {
            self.release(papers.source);
        }
    }

    /// A shard has died: descriptors that came from it without papers get none any more.
    pub(super) fn forget_arrivals(&mut self, dead: usize) {
        let arriving = &mut self.placement.arriving;
        let of_dead = |((from, there), half): (&(usize, Token), &Half)| match half {
            Half::Descriptor(here) if *from == dead => Some((*there, *here)),
            Half::Descriptor(_) | Half::Papers(_) => None,
        };
        let orphans: Vec<_> = arriving.iter().filter_map(of_dead).collect();
        for (there, here) in orphans {
            self.placement.arriving.remove(&(dead, there));
            self.with_connection(here, Event::Evict(CloseReason::ShardFailed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lightest_of_the_others() {
        assert_eq!(lightest(&[5, 1, 3], 0), Some(1));
        assert_eq!(lightest(&[5, 1, 3], 1), Some(2));
        assert_eq!(lightest(&[5], 0), None);
    }

    #[test]
    fn a_few_more_than_the_others_are_no_reason_to_move() {
        assert!(!is_lumpy(limits::PLACEMENT_SLACK, 0));
        assert!(is_lumpy(limits::PLACEMENT_SLACK + 1, 0));
        assert!(!is_lumpy(10_500, 10_000) && is_lumpy(10_700, 10_000));
    }
}
