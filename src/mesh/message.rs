//! The one enum for everything that a shard is told from outside. Each variant says who sends
//! it and what is lost if the inbox is full.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_channel::mpsc::UnboundedSender;

use crate::admission::leases::Reply;
use crate::admission::{AdmissionPlan, HeavyHitters, SourceKey, Verdict};
use crate::coordinator::phase::Phase;
use crate::ring::Token;
use crate::sessions::keeper::Order;

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
    /// Coordinator -> one shard: about its part of the global budgets. Never dropped: what does
    /// not fit waits with the coordinator, in order with the plans.
    Budget(Reply),
    /// Coordinator -> every shard: this one has died, and its connections with it. Never dropped.
    Died {
        /// The dead shard.
        shard: usize,
    },
    /// Shard -> the owner of a source: may it connect? The connection waits until the answer.
    /// What passes between shards is never dropped; it waits in the sender's outbox.
    Ask {
        /// Who asks.
        from: usize,
        /// The connection there.
        token: Token,
        /// Whose it is.
        source: SourceKey,
    },
    /// Owner -> the shard that asked. If it says admitted, the connection is booked.
    Verdict {
        /// The connection.
        token: Token,
        /// Whose it is.
        source: SourceKey,
        /// Never [`Verdict::Deferred`].
        verdict: Verdict,
    },
    /// Shard -> the owner of these sources: a connection of each has ended that was booked there.
    Ended {
        /// Who held them.
        from: usize,
        /// One entry for each connection.
        sources: Vec<SourceKey>,
    },
    /// Shard -> another: what belongs to a descriptor that was handed to it.
    Handed(Handed),
    /// Admin -> every shard: which sources were refused most? One answer, at once. Dropped, the
    /// admin's answer has one shard less and says so.
    TopRefused(UnboundedSender<Box<HeavyHitters>>),
    /// Sessions -> one shard: about the session of a connection. What does not fit waits there; a
    /// connection that hears nothing starts anew.
    Session(Order),
    /// Admin -> one shard, only with `debug.fault_injection`: misbehave.
    Fault(Fault),
}

/// A connection on its way to another shard, beside its descriptor; the two come in any order.
#[derive(Clone, Copy, Debug)]
pub struct Handed {
    /// Where it comes from.
    pub from: usize,
    /// What it was there: with `from`, the name of the parcel.
    pub token: Token,
    /// Whose it is.
    pub source: SourceKey,
    /// The client's port, for logs.
    pub port: u16,
    /// The peer if it is a trusted proxy, which has not said for whom it connects. Otherwise the
    /// connection is admitted, and booked with the shard that it comes from.
    pub proxy: Option<SocketAddr>,
    /// Milliseconds since its accept.
    pub age_ms: u64,
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
    /// Which drain of this process it is: one that was cancelled is followed by another.
    pub number: u64,
    /// Connections to close per second, all shards together; 0 while nobody is to go.
    pub connections_per_second: u64,
    /// How long this pace rises from nothing when it begins, or begins again, in milliseconds.
    pub ramp_ms: u64,
    /// Connections open when the drain began, all shards together; 0 while not yet counted.
    pub connections: u64,
    /// How often the slots were others: a new number tells everybody anew.
    pub notice_round: u64,
    /// The `reason` of the notice.
    pub reason: String,
    /// Where clients are to come back, if it is not where they came from.
    pub reconnect_to: Option<String>,
    /// Reconnect slots: how much longer each client waits, after its Close, than the one that is
    /// closed before it, in nanoseconds.
    pub slot_spacing_ns: u64,
    /// Reconnect slots: the first, in milliseconds after the Close.
    pub first_slot_ms: u64,
    /// The close code.
    pub close_code: u16,
    /// How long an answer to Close is awaited, in milliseconds.
    pub close_timeout_ms: u64,
    /// When connections are forced: how long they have to read their Close before they are cut,
    /// in milliseconds.
    pub last_moment_ms: u64,
    /// When the listeners close: how long the last refused connections have to read their answer
    /// before the shard ends, in milliseconds.
    pub last_answers_ms: u64,
    /// On the server's clock, in milliseconds: from then on a connection in the middle of a
    /// message is not waited for any more.
    pub patience_until_ms: u64,
    /// On the server's clock, in milliseconds: when what is left is forced.
    pub forcing_at_ms: u64,
}

/// A fault to inject, for tests of what the server survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Panic in the shard's thread.
    Panic,
    /// Block the shard's thread for so many milliseconds.
    Stall(u64),
}
