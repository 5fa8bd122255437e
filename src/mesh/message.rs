//! The one enum for everything that a shard is told from outside. Each variant says who sends
//! it and what is lost if the inbox is full.

use std::sync::Arc;

use crate::admission::AdmissionPlan;
use crate::coordinator::phase::Phase;

/// A message to a shard.
#[derive(Clone, Debug)]
pub enum ShardMessage {
    /// Publisher -> every shard: one encoded frame for the subscribers of a channel. If an inbox
    /// is full the publisher waits and tries again, and reports a failure after its patience.
    Publish {
        /// The channel.
        channel: Arc<str>,
        /// The encoded frame, shared by all connections of all shards.
        frame: Arc<[u8]>,
    },
    /// Publisher -> every shard: one encoded frame for every open connection. As `Publish`.
    Broadcast {
        /// The encoded frame.
        frame: Arc<[u8]>,
    },
    /// Coordinator -> every shard: the server has entered a phase. The coordinator sends it
    /// again until the shard has acknowledged the epoch.
    Enter(PhaseOrder),
    /// Coordinator -> every shard: the limits are others from now on. Dropped, the shard would
    /// admit by its old limits; the coordinator sends the newest plan until the inbox takes it.
    Limits(Arc<AdmissionPlan>),
    /// Admin -> one shard, only with `debug.fault_injection`: misbehave.
    Fault(Fault),
}

/// An order to enter a phase.
#[derive(Clone, Debug)]
pub struct PhaseOrder {
    /// The shutdown epoch of this entry.
    pub epoch: u64,
    /// The phase.
    pub phase: Phase,
    /// How to drain; present from Refusing on.
    pub drain: Option<Arc<DrainOrder>>,
}

/// How a shard lets its connections go. The same order goes to every shard, each of which takes
/// its share of the pace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DrainOrder {
    /// Connections to close per second, all shards together.
    pub connections_per_second: u64,
    /// Connections open when the drain began, all shards together; 0 while not yet counted.
    pub connections: u64,
    /// The `reason` of the notice.
    pub reason: String,
    /// Reconnect slots: microseconds between two clients that come back.
    pub slot_spacing_us: u64,
    /// Reconnect slots: the first, in milliseconds after the notice.
    pub first_slot_ms: u64,
    /// The close code.
    pub close_code: u16,
    /// How long an answer to Close is awaited, in milliseconds.
    pub close_timeout_ms: u64,
    /// When connections are forced: how long they have to read their Close before they are cut,
    /// in milliseconds.
    pub last_moment_ms: u64,
    /// On the server's clock, in milliseconds: from then on a connection in the middle of a
    /// message is not waited for any more.
    pub patience_until_ms: u64,
}

/// A fault to inject, for tests of what the server survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Panic in the shard's thread.
    Panic,
    /// Block the shard's thread for so many milliseconds.
    Stall(u64),
}
