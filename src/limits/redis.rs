//! Bounds of what is between the server and Redis.

use super::{MAX_ADMIN_BODY_BYTES, PUBLISH_QUEUE};

/// How long connecting to Redis may take in milliseconds, its greeting included.
pub const REDIS_CONNECT_MS: u64 = 1_000;

/// How long Redis may take for an answer in milliseconds. A flush takes well below one.
pub const REDIS_REPLY_MS: u64 = 1_000;

/// Flushes that may fail in a row before the breaker opens: one is an idle connection that broke.
pub const REDIS_FAILURES_TO_OPEN: u32 = 2;

/// The longest pause between tries of a Redis that fails in milliseconds, however long the flush
/// interval is: so soon after a recovery the counts are right again.
pub const REDIS_PAUSE_MAX_MS: u64 = 10_000;

/// Tries of one flush to get an epoch that holds. Two are enough unless something else writes to
/// the same keys.
pub const REDIS_EPOCH_TRIES: u32 = 4;

/// The longest pause between two nodes with one id taking each other's place, in milliseconds.
pub const REDIS_CONFLICT_PAUSE_MAX_MS: u64 = 60_000;

/// How long Redis remembers of a node that is gone what it counted and under which epoch, in
/// milliseconds: a week. A process that was stopped for longer is counted twice.
pub const REDIS_MEMORY_MS: u64 = 7 * 24 * 3_600_000;

/// How long the last flush may take when the server stops, in milliseconds (S1.14).
pub const REDIS_LEAVE_MS: u64 = 5_000;

/// The longest publication between nodes in bytes: what the admin takes in one request, and what
/// writing it as JSON adds. Longer ones are neither sent nor taken.
pub const REDIS_PUBLICATION_BYTES: usize = MAX_ADMIN_BODY_BYTES + (1 << 20);

/// Publications that wait for Redis, and their bytes together. A Redis that is well takes them in
/// milliseconds; one that is not costs so much memory and no more.
pub const REDIS_PUBLISH_QUEUE: usize = 4 * PUBLISH_QUEUE;
/// See [`REDIS_PUBLISH_QUEUE`].
pub const REDIS_PUBLISH_QUEUE_BYTES: usize = 16 << 20;

/// Bytes of publications that are written to Redis before their answers are read.
pub const REDIS_PUBLISH_BATCH_BYTES: usize = 1 << 20;

/// How often a node tells the others how far its publications are numbered, in milliseconds: so
/// soon they notice that the last ones are missing.
pub const REDIS_BEAT_MS: u64 = 1_000;

/// How long what a node publishes may take to come back to it, in milliseconds, before it is asked
/// whether both of its ways lead to one Redis.
pub const REDIS_ECHO_MS: u64 = 3 * REDIS_BEAT_MS;

/// Messages that are heard at one time to find out whether a beat is among them. A listener that is
/// further behind is not judged.
pub const REDIS_ECHO_MESSAGES: usize = 1 << 16;

/// How old a connection that writes to Redis may get, in milliseconds: so soon every link follows
/// a name that leads elsewhere, whatever the old server answers.
pub const REDIS_RENEW_MS: u64 = 5_000;

/// How long a link waits for its new connection while the old one works, in milliseconds: several
/// times what connecting takes in a data centre.
pub const REDIS_RENEW_GRACE_MS: u64 = 20;

/// Other nodes whose numbers are remembered, ended ones among them.
pub const REDIS_PUBLISHERS: usize = 1_024;

/// How far a number of a publisher may be ahead of its last one to be taken for a gap: 10,000
/// publications a second that were lost for five days.
pub const REDIS_GAP_MAX: u64 = 1 << 32;
