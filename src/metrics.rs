//! Counters of a shard: written by that shard alone, read by anybody.
//!
//! One writer each, so an increment is a plain load and store without a locked instruction; each
//! shard's block has cache lines of its own. Rendering is the admin's business.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::admission::Rung;
use crate::channels::ChannelRefusal;
use crate::close_reason::{CloseReason, DrainOutcome};

/// Labels of `tidegate_admission_refused_total`; the order is that of
/// [`ShardMetrics::admission_refused`].
pub const REFUSAL_LABELS: [&str; 7] = [
    "per_ip_rate",
    "per_ip_concurrent",
    "global_rate",
    "capacity",
    "denied",
    "draining",
    "overload",
];

/// A number with one writing thread.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Sets the value; only the owning shard calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds; only the owning shard calls this.
    pub fn add(&self, more: u64) {
        self.set(self.get().wrapping_add(more));
    }

    /// Raises to `value` if that is more; only the owning shard calls this.
    pub fn raise(&self, value: u64) {
        if value > self.get() {
            self.set(value);
        }
    }
}

/// Everything that one shard counts.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ShardMetrics {
    /// Upgraded connections that are open now (gauge).
    pub connections: Count,
    /// The largest value of `connections` since the start.
    pub connections_peak: Count,
    /// Accepted connections that have not finished their handshake (gauge).
    pub handshaking: Count,
    /// Accepted TCP connections.
    pub accepted: Count,
    /// Connections that were upgraded (101).
    pub opened: Count,
    /// Upgraded connections that ended, by [`CloseReason`]; for handshakes that ended before
    /// the upgrade see `handshakes_ended`.
    pub closed: [Count; CloseReason::ALL.len()],
    /// Accepted connections that ended before the upgrade, by [`CloseReason`].
    pub handshakes_ended: [Count; CloseReason::ALL.len()],
    /// Refusals by admission, in the order of [`REFUSAL_LABELS`].
    pub admission_refused: [Count; REFUSAL_LABELS.len()],
    /// What was done with those that admission refused, by [`Rung`].
    pub refusals: [Count; Rung::ALL.len()],
    /// Data messages from clients.
    pub messages_received: Count,
    /// Data messages queued for clients.
    pub messages_sent: Count,
    /// Payload and header bytes from clients, after the upgrade.
    pub bytes_received: Count,
    /// Bytes accepted by the kernel for clients, the upgrade's answer included.
    pub bytes_sent: Count,
    /// Open connections that have negotiated compression (gauge).
    pub compressing: Count,
    /// Compressed messages from clients that were inflated.
    pub messages_inflated: Count,
    /// Replies that were compressed, each for one client.
    pub replies_compressed: Count,
    /// Publications that were compressed, each once for all clients of this shard.
    pub publications_compressed: Count,
    /// Publications taken from the inbox.
    pub publications: Count,
    /// Subscriptions of channels (gauge).
    pub subscriptions: Count,
    /// Bytes of channels that somebody is subscribed to, names and what belongs to each (gauge).
    pub channel_bytes: Count,
    /// Subscriptions that were refused, by `ChannelRefusal`.
    pub channels_refused: [Count; ChannelRefusal::ALL.len()],
    /// Reads of compressed messages that cost so much that the connection had to wait its turn.
    pub heavy_reads: Count,
    /// What these cost in total, in nanoseconds.
    pub heavy_ns: Count,
    /// Bytes queued for clients that the kernel has not taken yet (gauge).
    pub queued_bytes: Count,
    /// Memory that messages to clients hold, those on their way and publications included
    /// (gauge).
    pub output_held_bytes: Count,
    /// Memory that is kept of requests and PROXY headers before the upgrade (gauge).
    pub head_bytes: Count,
    /// Memory that unfinished messages of clients hold (gauge).
    pub unfinished_bytes: Count,
    /// Milliseconds that ended connections had been open, in total.
    pub connection_ms: Count,
    /// The sum, over the open connections, of when each was accepted, in `tick_ms`. With their
    /// number and `tick_ms` now it gives how long they have been open in total.
    pub open_since_ms: Count,
    /// The time of the shard's ticks in milliseconds, by which connections age: that for which
    /// it stood still is left out.
    pub tick_ms: Count,
    /// What became of the connections that were open when a drain began, over all drains: one
    /// that was cancelled is followed by another.
    pub drain_outcomes: [Count; DrainOutcome::ALL.len()],
    /// Those of them that belong to earlier drains.
    pub drain_outcomes_before: [Count; DrainOutcome::ALL.len()],
    /// Connections that were open when the last drain began.
    pub drain_started_with: Count,
    /// Those of them that have been sent the notice.
    pub drain_noticed: Count,
    /// 1 when all of them have.
    pub drain_all_noticed: Count,
    /// The longest turn of the loop in nanoseconds: how long the ring was not looked at.
    pub stall_max_ns: Count,
    /// The most processor time that the shard's thread itself took in a turn, in nanoseconds, as
    /// far as the kernel knows: a hypervisor may take some without saying so. At most a
    /// millisecond of what came before the turn is in it.
    pub stall_own_max_ns: Count,
    /// Turns of the loop that took [`LONG_TURN_MS`](crate::limits::LONG_TURN_MS) or longer.
    pub long_turns: Count,
    /// How long these took in total, in nanoseconds.
    pub long_turn_ns: Count,
    /// Time spent in turns of the loop, not waiting, in nanoseconds.
    pub busy_ns: Count,
    /// When the shard last came round, in milliseconds on the server's clock.
    pub last_turn_ms: Count,
    /// Times that no receive buffer was free.
    pub buffers_starved: Count,
    /// Times that accepting was paused: table full, or the kernel refused (EMFILE, ENFILE).
    pub accept_paused: Count,
    /// The kernel's number of the shard's thread; 0 before it has begun.
    pub thread: Count,
    /// What of every 1024 attempts that could be admitted the shard refuses because it is pressed
    /// itself. Written by the thread that looks at the pressure.
    pub withheld: Count,
    /// Sources that are being tracked (gauge).
    pub tracked_sources: Count,
    /// Sources that would be refused now (gauge).
    pub limited_sources: Count,
    /// Places that are taken by admitted connections of this shard's sources, upgraded or not,
    /// wherever they are held (gauge).
    pub admitted: Count,
    /// Places that are leased to this shard, `admitted` among them (gauge).
    pub slots_granted: Count,
    /// Places that it gave back because there were none elsewhere.
    pub slots_reclaimed: Count,
    /// Tokens of the global rate that are leased to this shard (gauge).
    pub tokens_held: Count,
    /// Attempts that waited for the coordinator because the lease was empty.
    pub admission_deferred: Count,
    /// Attempts whose source belongs to another shard, which had to be asked.
    pub owner_asked: Count,
    /// Connections that were handed to a lighter shard.
    pub placed: Count,
    /// Connections that should have been, but that shard had no room.
    pub placements_failed: Count,
    /// Highest number of connections that the table of this shard can hold.
    pub capacity: Count,
    /// The shutdown epoch that the shard has acknowledged.
    pub epoch: Count,
    /// Completions of operations of an earlier life of a slot: dropped.
    pub stale_completions: Count,
    /// Pings sent.
    pub pings_sent: Count,
}

impl ShardMetrics {
    /// How many connections of the last drain have had this outcome.
    pub fn drained_by(&self, outcome: DrainOutcome) -> u64 {
        let index = outcome.index();
        self.drain_outcomes[index].get().wrapping_sub(self.drain_outcomes_before[index].get())
    }

    /// The shard has died and its connections with it: their ends are counted, what it held is
    /// nothing any more. Called by its thread, last of all.
    pub fn lose_everything(&self) {
        let lost = self.connections.get();
        self.closed[CloseReason::ShardFailed.index()].add(lost);
        self.handshakes_ended[CloseReason::ShardFailed.index()].add(self.handshaking.get());
        let gauges = [
            &self.connections,
            &self.open_since_ms,
            &self.handshaking,
            &self.subscriptions,
            &self.channel_bytes,
            &self.queued_bytes,
            &self.head_bytes,
            &self.tracked_sources,
            &self.limited_sources,
            &self.admitted,
            &self.slots_granted,
            &self.tokens_held,
        ];
        gauges.iter().for_each(|gauge| gauge.set(0));
        let unaccounted = self.drain_started_with.get().saturating_sub(self.drained());
        self.drain_outcomes[DrainOutcome::Reset.index()].add(unaccounted);
    }

    /// How many connections of the last drain have had any outcome.
    pub fn drained(&self) -> u64 {
        DrainOutcome::ALL.map(|outcome| self.drained_by(outcome)).iter().sum()
    }
}
