//! Counts that are kept step by step are compared with the table of connections at every tick of a
//! debug build: a count that is not what it counts is a fault of the server, and ends it there.

use super::Shard;
use crate::connection::{Connection, Facts, State};
use crate::environment::Environment;

/// What the table of connections says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    live: usize,
    /// Not upgraded, and not ending.
    half_open: usize,
    /// Upgraded, and not closed.
    open: u64,
    /// Not upgraded, and not closed nor gone to another shard.
    handshaking: u64,
    /// Bytes behind the sends in flight.
    queued_bytes: u64,
    /// Memory that they hold for one connection alone.
    held_bytes: u64,
}

impl Counts {
    fn add(&mut self, connection: &Connection) {
        let facts = connection.facts;
        let opened = facts.has(Facts::OPENED);
        self.live += 1;
        self.half_open += usize::from(!opened && connection.state != State::Ending);
        self.open += u64::from(opened);
        self.handshaking += u64::from(!opened && !facts.has(Facts::MOVED));
        self.queued_bytes += connection.queued_bytes() as u64;
        self.held_bytes += connection.held_bytes() as u64;
    }
}

impl<E: Environment> Shard<E> {
    /// Compares, in a debug build.
    pub(super) fn reconcile(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut counts = Counts::default();
        let slots = (0..self.connections.end()).filter_map(|slot| self.connections.slot(slot));
        slots
            .filter(|connection| connection.is_live())
            .for_each(|connection| counts.add(connection));
        let metrics = &self.cx.metrics;
        let kept = Counts {
            live: self.connections.live(),
            half_open: self.cx.handshakes.half_open.live(),
            open: metrics.connections.get(),
            handshaking: metrics.handshaking.get(),
            queued_bytes: metrics.queued_bytes.get(),
            held_bytes: counts.held_bytes,
        };
        assert_eq!(kept, counts, "what is counted (left) and what there is");
        let output = self.cx.budgets.output.held();
        assert!(output >= counts.held_bytes, "{output} held, {} queued", counts.held_bytes);
    }
}
