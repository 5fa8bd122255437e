//! Every bound of the server that is not a setting, with its reason and with the relations
//! between them checked when it is compiled.

mod redis;

pub use redis::*;

/// Submission queue entries of a shard's ring. A full queue is handed to the kernel at once, so
/// this is a batch size: 2,048 entries of 64 bytes stay in the second-level cache.
pub const SUBMISSIONS: u32 = 2_048;

/// Completion queue entries of a shard's ring: several batches of inline completions fit before
/// the kernel has to keep any on its overflow list.
pub const COMPLETIONS: u32 = 16_384;

/// Accepts in flight per shard: one batch of new connections for one turn of the loop. Each
/// holds a place for the peer's address, which multishot accept cannot report.
pub const ACCEPTS: u32 = 64;

/// Accepts for which there are always descriptors: while fewer are free, the refused connections
/// that are longest silent are ended. One turn takes so many new connections at least.
pub const ACCEPTS_KEPT: u32 = 16;

/// Direct descriptors kept for connections above the capacity, which are told 503 and closed.
/// A full table makes the kernel drop an accepted connection without an answer.
pub const REFUSAL_SLOTS: u32 = 256;

/// Direct descriptors kept for connections that other shards hand over: as many as can be on their
/// way at a moment. Accepting leaves them alone.
pub const ARRIVALS: u32 = 64;

/// Direct descriptors of a shard that are no places for connections: for those that are refused,
/// for accepts in flight and for arrivals.
pub const RESERVED_FILES: u32 = REFUSAL_SLOTS + ACCEPTS + ARRIVALS;

/// Connections that a shard has more than another before it gives new ones away: handing one
/// over takes about two microseconds, which is worth more than a small difference.
pub const PLACEMENT_SLACK: u64 = 16;

/// Attempts per shard that wait for the coordinator to say whether there is room; further ones
/// are told 503. Other shards' questions are among them.
pub const DEFERRED: usize = 8_192;

/// From so many on nothing is accepted, so that more wait in the backlog.
pub const DEFERRED_PAUSE: usize = 1_024;

/// Connections from trusted proxies per shard that are not admitted yet, because they have not
/// said for whom they are. A proxy says so at once, so a thousand of them at a time are a storm
/// or somebody who holds them; further ones are told 503.
pub const UNADMITTED: usize = 1_024;

/// How many of these may be beyond what the shard could admit: half of [`REFUSAL_SLOTS`], so
/// that a full server has descriptors left to say so to everybody else.
pub const UNADMITTED_BEYOND: usize = REFUSAL_SLOTS as usize / 2;

/// Entries of `X-Forwarded-For` and `Forwarded` that are looked at, from the right: more proxies
/// than anybody puts one behind the other.
pub const FORWARDED_ENTRIES: usize = 16;

/// The default of `handshake.max_head_bytes`: nginx and Apache take request lines and headers of
/// up to 8 KiB each by default, and what is longer than that as a whole is nearly always cookies.
pub const HEAD_BYTES: usize = 8_192;

/// Instructions of the program that steers connections to shards: as many as the kernel takes
/// (BPF_MAXINSNS). Some 400 to 1,300 trusted proxies fit, by the length of their prefixes; the
/// connections of further ones are steered like anybody's.
pub const STEERING_INSTRUCTIONS: usize = 4_096;

/// The smallest table of direct descriptors that a shard can work with.
pub const MIN_FILES: u32 = ACCEPTS + 2 * 16;

/// Kernel memory of one shard's rings (queues and buffer descriptors), which counts against
/// RLIMIT_MEMLOCK for users without CAP_IPC_LOCK.
pub const RING_MEMORY_BYTES: u64 = SUBMISSIONS as u64 * 64 + COMPLETIONS as u64 * 16 + 64 * 1024;

/// Messages in a shard's inbox. A publication is one message for any number of subscribers, so
/// this is the number of publications that may wait for a shard.
pub const INBOX: usize = 8_192;

/// Messages that a shard takes from its inbox in one turn, so that a flood of publications
/// leaves room for sockets.
pub const INBOX_PER_TURN: usize = 256;

/// Commands waiting for the coordinator.
pub const COMMANDS: usize = 1_024;

/// Connections that a fan-out, a notice or a drain visits before the loop looks at its ring
/// again: about a millisecond of sends.
pub const VISITS_PER_TURN: usize = 512;

/// Connections from which a turn begins to read, of those that are readable. Each holds a buffer
/// until the next turn, and so many are offered on a quiet shard ([`RECEIVE_BUFFERS_KEPT`]).
pub const RECEIVES_PER_TURN: usize = RECEIVE_BUFFERS_KEPT as usize;

/// Receive buffers that are offered however quiet a shard is: the least that
/// `server.receive_buffers` can be.
pub const RECEIVE_BUFFERS_KEPT: u16 = 16;

/// Completions for which a shard waits when it gathers them: about as many as it handles in the
/// time that it waits for them.
pub const GATHERED: usize = 64;

/// How long the pace of a drain rises from nothing, at most: whoever takes the clients in sees
/// them come within a second and not at once. A short drain has a tenth of its time for it.
pub const DRAIN_RAMP_MS: u64 = 1_000;

/// No client is told to come back sooner than this after its connection was closed.
pub const FIRST_SLOT_MS: u64 = 100;

/// Ends of connections in a drain that are logged one by one, of each kind (rule 9).
pub const DRAIN_SAMPLE: u32 = 10;

/// The longest address that clients can be told to come back to in bytes: it is in every notice,
/// and all notices are queued at once.
pub const RECONNECT_TO_BYTES: usize = 512;

/// The longest time that a drain can be given: a day.
pub const DRAIN_WITHIN_MS: u64 = 24 * 3_600_000;

/// How long completions are handled before timers, inbox and fan-out get their turn.
pub const DISPATCH_NS: u64 = 1_000_000;

/// Operations that a turn starts before it hands them to the kernel, which begins them at once:
/// about a millisecond of its work. A full queue of [`SUBMISSIONS`] is several.
pub const STARTED_PER_TURN: usize = 512;

/// Completions that are handled before the clock is looked at: some microseconds of work.
pub const COMPLETIONS_BETWEEN_LOOKS: usize = 64;

/// Length of a timer tick. Deadlines are met within one tick; all are seconds in practice.
pub const TICK_MS: u64 = 64;

/// Slots of the timer wheel: one turn is 32.8 s, longer deadlines go round again.
pub const WHEEL_SLOTS: usize = 512;

/// Longest name of a channel in bytes (as in the Centrifuge protocol).
pub const MAX_CHANNEL_BYTES: usize = 255;

/// Channels that one connection may ask for in its URL.
pub const MAX_CHANNELS_PER_CONNECTION: usize = 64;

/// Bytes of all names of the channels of one connection together: as many names as it may have, of
/// 64 bytes each, or 16 of the longest.
pub const CHANNEL_NAME_BYTES_PER_CONNECTION: usize = 4_096;

/// A connection that asks for several channels which nobody has yet may take one in so many parts of
/// what is left for channels. So who asks for 64 is refused while there is room for thousands who
/// ask for one.
pub const CHANNELS_PART_OF_ROOM: u64 = 128;

/// Longest body of an admin request in bytes.
pub const MAX_ADMIN_BODY_BYTES: usize = 4 << 20;

/// Admin connections at most: several times what probes, scrapers, operators and the pools of
/// publishing back ends keep open, and 12 MiB if strangers fill all with heads. A further
/// connection takes the place of the one that has been idle longest.
pub const ADMIN_CONNECTIONS: usize = 512;

/// Admin connections of one source at most, so that no source takes the places of all others.
pub const ADMIN_CONNECTIONS_PER_SOURCE: usize = ADMIN_CONNECTIONS * 3 / 4;

/// Admin requests of operators (status, drain, reload) that are worked on at once.
pub const ADMIN_OPERATOR_REQUESTS: usize = 64;

/// Admin requests of programs (publications, metrics) that are worked on at once.
pub const ADMIN_BULK_REQUESTS: usize = 128;

/// How long an admin request waits in line until it is worked on in milliseconds: the worker does
/// as many as there are connections in less, and the command line waits for 5 s.
pub const ADMIN_QUEUE_MS: u64 = 2_000;

/// Connections that wait to be accepted by the admin listener: a burst of
/// [`ADMIN_CONNECTIONS`] several times over. The kernel drops the SYN of a further one, which
/// the client sends again only after a second.
pub const ADMIN_BACKLOG: u32 = 1_024;

/// Admin connections that are accepted in one turn of the event loop. A probe is answered in three
/// turns, and in a flood of connections these many take each other's places in one.
pub const ADMIN_ACCEPTS_PER_TURN: usize = 16;

/// How long the head of an admin request may take in milliseconds, from the accept or from its
/// first byte.
pub const ADMIN_HEAD_MS: u64 = 5_000;

/// How long an admin connection waits for its next request in milliseconds: longer than it
/// announces, so that a client that reuses a connection within the announced time does not meet
/// its end.
pub const ADMIN_IDLE_MS: u64 = 100_000;

/// What `Keep-Alive: timeout` of an admin answer says, in seconds: the idle time of common client
/// pools.
pub const ADMIN_KEEP_ALIVE_SECONDS: u64 = 90;

/// How long the body of an admin request may take in milliseconds: 4 MiB at 3.4 Mbit/s.
pub const ADMIN_BODY_MS: u64 = 10_000;

/// How long an admin answer may take to leave in milliseconds: 1 MiB of metrics at 280 kbit/s.
pub const ADMIN_ANSWER_MS: u64 = 30_000;

/// How long the admin worker may take for an answer in milliseconds. It waits itself at most for
/// the shards and for Redis: [`PUBLISH_PATIENCE_MS`] twice and [`REDIS_REPLY_MS`].
pub const ADMIN_WORK_MS: u64 = 4_500;

/// How long the rest of a request is read and thrown away after the last answer of an admin
/// connection in milliseconds, and how much of it in bytes. Closing with unread bytes makes the
/// kernel send RST, which can destroy the answer before it is read.
pub const ADMIN_LINGER_MS: u64 = 1_000;
/// See [`ADMIN_LINGER_MS`].
pub const ADMIN_LINGER_BYTES: usize = 1 << 20;

/// Bodies and answers of the admin up to this length are bounded by the number of connections
/// alone; longer ones count against [`ADMIN_BODIES_BYTES`] and [`ADMIN_ANSWERS_BYTES`].
pub const ADMIN_SMALL_BYTES: usize = 16 << 10;

/// Bytes of all long admin bodies together, until what they say is done: four of the longest.
pub const ADMIN_BODIES_BYTES: usize = 4 * MAX_ADMIN_BODY_BYTES;

/// Bytes of all long admin answers together that have not left yet.
pub const ADMIN_ANSWERS_BYTES: usize = 8 << 20;

/// How long an admin client is waited for while others need the memory that its body or its
/// answer holds, in milliseconds.
pub const ADMIN_HOLD_MS: u64 = 250;

/// How long an admin request waits for memory that others hold, in milliseconds: several times
/// [`ADMIN_HOLD_MS`], and less than a scraper waits.
pub const ADMIN_ROOM_MS: u64 = 1_500;

/// Bytes of an admin body that are read before the event loop looks at its other connections.
pub const ADMIN_BODY_BYTES_PER_TURN: usize = 64 << 10;

/// Requests without a token (probes, and all that are refused) that one admin connection sends
/// without being slowed down, and the interval of further ones in milliseconds.
pub const ADMIN_OPEN_BURST: u32 = 16;
/// See [`ADMIN_OPEN_BURST`].
pub const ADMIN_OPEN_INTERVAL_MS: u64 = 50;

/// 401s for one source without delay, as an operator who mistypes a token meets them; the interval
/// of further ones, and the longest that one of them is held back, in milliseconds.
pub const ADMIN_UNAUTHORIZED_BURST: u32 = 4;
/// See [`ADMIN_UNAUTHORIZED_BURST`].
pub const ADMIN_UNAUTHORIZED_INTERVAL_MS: u64 = 250;
/// See [`ADMIN_UNAUTHORIZED_BURST`].
pub const ADMIN_UNAUTHORIZED_HELD_MS: u64 = 2_000;

/// Sources whose 401s the admin listener remembers; the one that is quiet longest gives way.
pub const ADMIN_UNAUTHORIZED_SOURCES: usize = 1_024;

/// The interval of log lines about one source of the admin listener, and how many such lines there
/// are in one interval.
pub const ADMIN_LOG_INTERVAL_MS: u64 = 10_000;
/// See [`ADMIN_LOG_INTERVAL_MS`].
pub const ADMIN_LOG_LINES: u32 = 8;

/// How long requests that have begun may go on when the admin listener stops, and how long its
/// threads may take to end, in milliseconds.
pub const ADMIN_STOP_MS: u64 = 500;
/// See [`ADMIN_STOP_MS`].
pub const ADMIN_END_MS: u64 = 3 * ADMIN_STOP_MS;

/// Longest head of an admin request in bytes, and most headers in it.
pub const MAX_ADMIN_HEAD_BYTES: usize = 16 << 10;
/// See [`MAX_ADMIN_HEAD_BYTES`].
pub const MAX_ADMIN_HEADERS: usize = 64;

/// What is read and thrown away of a body that is too long, so that its sender sees the 413
/// and not a reset.
pub const ADMIN_DISCARD_BYTES: usize = 4 * MAX_ADMIN_BODY_BYTES;

/// How long an admin request waits for the coordinator, which answers between two events.
pub const COORDINATOR_PATIENCE_MS: u64 = 2_000;

/// How long a publication is offered to shards whose inbox is full, counted from its arrival.
pub const PUBLISH_PATIENCE_MS: u64 = 1_000;

/// Publications waiting for their turn; more than requests that bring them, because a client that
/// hangs up leaves its publication behind.
pub const PUBLISH_QUEUE: usize = 2 * ADMIN_BULK_REQUESTS;

/// Different channels that one `/api/broadcast` may name.
pub const MAX_PUBLISH_CHANNELS: usize = 1_000;

/// Channels that one `/api/broadcast` may name, repetitions among them: each has an entry in the
/// answer.
pub const MAX_PUBLISH_ENTRIES: usize = 16 * MAX_PUBLISH_CHANNELS;

/// Frames gathered into one send.
pub const MAX_GATHERED_FRAMES: usize = 64;

/// Bytes of replies queued for a client above which nothing more is read from it, and no further
/// message is handled of what has been read, so that a client that sends without reading is slowed
/// down and not stored. Publications are not among them: a client that is behind with those is
/// still heard, its pings and its Close too.
pub const READ_PAUSE_BYTES: usize = 64 << 10;

/// Bytes per connection that the kernel takes beyond what it can send at once (TCP_NOTSENT_LOWAT).
/// More would stand between a client that reads slowly and its pings, pongs and Close, where
/// nothing can pass them; less would wake a shard more often for a client that reads fast.
pub const KERNEL_UNSENT_BYTES: i32 = 64 << 10;

/// Over how long `delivery.min_bytes_per_second` is a mean, in ticks: 10 s. A receiver opens its
/// window by a segment at least, which is 64 KiB on loopback: one that reads 10 kB/s does so every
/// 6.6 s.
pub const PROGRESS_WINDOW_TICKS: u32 = (10_000 / TICK_MS) as u32;

/// How long something waits for a client, at most, until the kernel is asked for the first time how
/// far that has come, in ticks: a second. Nearly everything that waits has gone by then.
pub const FIRST_ASKED_TICKS: u32 = (1_000 / TICK_MS) as u32;

/// How often the kernel is asked how far a client is that still has to take something before its
/// Close, in ticks: a second.
pub const CLOSING_ASKED_TICKS: u32 = (1_000 / TICK_MS) as u32;

/// From how long on what a client has taken says how fast it reads, in ticks: 2 s.
pub const RATE_SEEN_TICKS: u32 = (2_000 / TICK_MS) as u32;

/// Pongs that may wait for one client; of its further pings only the latest is answered. Clients
/// that ping have one ping out, and test suites ten.
pub const PONGS_WAITING: u32 = 16;

/// In how many ticks a client's pings are counted against `server.max_pings_per_second`.
pub const PING_WINDOW_TICKS: u32 = (1_000 / TICK_MS) as u32;

/// Publications that a shard works on at once; more wait in the inbox.
pub const FAN_OUTS: usize = 64;

/// A message to a client that is longer may not have room in its socket and wait there; nearly
/// everything shorter is sent at once.
pub const SEND_AT_ONCE_BYTES: usize = 16 << 10;

/// Clients of one source that do not take what waits for them, above which the source is looked at
/// first when there is too much of that: an office has so many of them, and as many hold little.
pub const WAITING_OF_A_SOURCE: u64 = 4;

/// What holding a message takes beside its bytes, at most: a shard's part of a budget has room for
/// one message of the longest kind and this.
pub const MESSAGE_OVERHEAD_BYTES: u64 = 64 << 10;

/// Refusals of one source in a second that are answered as those of any other. Of one that is
/// refused more often only half of each budget is used, and it is reset where that has none left:
/// it keeps no answers from others, and nobody waits for it. An office whose programs all try
/// again each second is below it.
pub const REFUSALS_OF_A_SOURCE: u64 = 20;

/// Publications in use that are looked at per tick for whether anybody still waits for them.
pub const PUBLICATIONS_LOOKED_AT: usize = 256;

/// Spare send buffers that a shard keeps, and the largest that is worth keeping.
pub const SPARE_BUFFERS: usize = 64;
/// See [`SPARE_BUFFERS`].
pub const SPARE_BUFFER_BYTES: usize = 16 << 10;

/// Refused sources that a shard counts by name: whoever has more than one in 64 of its refusals
/// is among them, and one is found in 512 bytes.
pub const REFUSED_SOURCES: usize = 64;

/// How long an admin request waits for what the shards have to say, in milliseconds. A shard
/// answers in its next turn; one that does not is standing still.
pub const SHARD_PATIENCE_MS: u64 = 500;

/// How long a client has to come back for when a refusal has no bucket to compute it from.
pub const RETRY_AFTER_MS: u64 = 1_000;

/// What the kernel keeps for one idle connection: tcp_sock 2,521, socket inode 862, file 195,
/// dentry 195 and security blobs 56, by the slab list of Linux 6.18 on x86-64; the node of its
/// direct descriptor 32; the poll that is armed on it 256. A new kernel may differ.
pub const KERNEL_BYTES_PER_CONNECTION: u64 = 3_829 + 32 + 256;

/// The memory that one idle connection costs: in the kernel, and 97 bytes of the server's own
/// (`benches/results`); rounded up for what slabs leave unused. What is unread or waits to be sent
/// comes on top, and only while it is there.
pub const BYTES_PER_CONNECTION: u64 = 4_352;

/// A turn of a shard's loop from this length on, in milliseconds, is counted as long: nothing that
/// a shard does in one turn takes that long, so it was held up.
pub const LONG_TURN_MS: u64 = 50;

/// How often the memory, the sockets and the shards are looked at to see how pressed the server
/// is, in milliseconds: at 100,000 new connections a second, 110 MB lie between two looks.
pub const PRESSURE_LOOK_MS: u64 = 250;

/// The same from where the memory is filled so far, in parts of 1000 of its budget: clients that
/// send long messages without end can fill what is left of a small limit in a fraction of a second.
pub const PRESSURE_CLOSE_LOOK_MS: u64 = 50;
/// See [`PRESSURE_CLOSE_LOOK_MS`].
pub const PRESSURE_CLOSE_PER_MILLE: u64 = 600;

/// Shutdown resources at most: each may take a thread and a line of the report.
pub const RESOURCES: usize = 256;

/// How long a resource may take to close unless it says otherwise, in milliseconds (S1.14, S1.18).
pub const RESOURCE_CLOSE_MS: u64 = 5_000;

/// How long background tasks may take together, in milliseconds (S1.6).
pub const BACKGROUND_CLOSE_MS: u64 = 10_000;

/// What is kept of the end of what a hook writes to standard error, in bytes.
pub const HOOK_LAST_WORDS_BYTES: usize = 1_024;

/// What shards have to say of sessions that may wait for the thread that keeps them: as much as a
/// drain of 200,000 connections says at once. Each takes about 100 bytes while it waits.
pub const SESSION_QUEUE: usize = 1 << 18;

/// Questions about sessions in one write to Redis: some 20 milliseconds of its time, so that waiting
/// for its turn on a busy machine is not what takes longest.
pub const SESSION_BATCH: usize = 2_048;

/// How soon it is looked whether another node has let go of a session, in milliseconds; each further
/// look is after twice the pause, up to so many doublings.
pub const SESSION_LOOK_MS: u64 = 20;
/// See [`SESSION_LOOK_MS`].
pub const SESSION_LOOK_DOUBLINGS: u32 = 4;

/// Sessions that are forgotten at one time, so that many do not make a pause.
pub const SESSION_EXPIRIES: usize = 1_024;

/// The longest record of a session in Redis in bytes: as many and as long channel names as a
/// connection may have, each byte written as six.
pub const SESSION_RECORD_BYTES: usize =
    MAX_CHANNELS_PER_CONNECTION * (MAX_CHANNEL_BYTES * 6 + 3) + 128;

/// The longest name of a cluster or a node in characters.
pub const REDIS_NAME_CHARS: usize = 128;

/// How much longer than `shutdown.deadline_ms` the service manager is asked to wait for the end, in
/// milliseconds: the last words and the end of the process on a machine that is busy.
pub const STOP_MARGIN_MS: u64 = 10_000;

/// How often the threads are looked at for the service manager's watchdog at most, in milliseconds:
/// shards come round every tick.
pub const WATCHDOG_LOOK_MIN_MS: u64 = 50;

/// The longest configuration file in bytes: deny and allow lists of half a million blocks.
pub const CONFIG_FILE_BYTES: u64 = 16 << 20;

/// The longest file of a secret in bytes: a secret of 1,024 characters, and what an editor adds.
pub const SECRET_FILE_BYTES: u64 = 4 << 10;

/// The longest shutdown report that is read in bytes: [`RESOURCES`] stages, each with a line of
/// [`HOOK_LAST_WORDS_BYTES`], are a third of it.
pub const REPORT_FILE_BYTES: u64 = 1 << 20;

/// The longest file of `/proc`, `/sys`, a cgroup or a unit that is read in bytes; most are a page.
pub const KERNEL_FILE_BYTES: u64 = 1 << 20;

/// How long a file has to be left alone before it counts as written, in milliseconds: between two
/// writes of a program that copies it there is no such pause.
pub const FILE_SETTLED_MS: u64 = 100;

/// How long a file that is being written is waited for, in milliseconds: half of what whoever asks
/// for a reload waits for the answer.
pub const FILE_SETTLE_PATIENCE_MS: u64 = COORDINATOR_PATIENCE_MS / 2;

/// How often a pipe or a file that is being written is looked at, in milliseconds.
pub const FILE_POLL_MS: u64 = 5;

/// How long a configuration that comes through a pipe may take, in milliseconds: a command that
/// asks a secret store, in less than the time that service managers give a start.
pub const CONFIG_PIPE_MS: u64 = 10_000;

/// How long a file system may take for the report of a shutdown, in milliseconds: a disk that syncs
/// while others write does so in less. One that hangs must not hold up the end.
pub const REPORT_FILE_MS: u64 = 2_000;

/// What it may take in any case, also when the deadline has passed.
pub const REPORT_FILE_LEAST_MS: u64 = 250;
/// Lines of the log that wait for the thread that writes them, and their bytes together: what a
/// thousand connections say at debug level when they all end at once. A reader of the log that
/// stands still costs this much memory and no more.
pub const LOG_LINES: usize = 4_096;
/// See [`LOG_LINES`].
pub const LOG_BYTES: usize = 1 << 20;

/// Places in the queue of the log beside [`LOG_LINES`] for the last lines of the process, which
/// say why it ends: a few of each server in it.
pub const LOG_RESERVED_LINES: usize = 64;

/// How long the end of the process waits for a log that nobody reads, in milliseconds.
pub const LOG_FLUSH_MS: u64 = 200;

/// How long it waits for the thread that writes the log although standard error would take more,
/// in milliseconds: on a busy machine a thread can want for a core for some hundred.
pub const LOG_WRITER_MS: u64 = 1_000;

/// How long the first refusal after a quiet time waits for more before the log counts them in a
/// line, in milliseconds, and how far lines about refusals are apart from then on.
pub const REFUSALS_FIRST_LINE_MS: u64 = 1_000;
/// See [`REFUSALS_FIRST_LINE_MS`].
pub const REFUSALS_LINE_MS: u64 = 10_000;

/// How much later than its deadline a shutdown is ended from outside by the thread that keeps the
/// deadline, in milliseconds: what the coordinator takes, on a machine that is busy, to give up, to
/// wait a bounded time for threads and log, and to say its last words.
pub const OVERDUE_MS: u64 = 1_000;

/// How long a second signal leaves a server whose coordinator may stand still, in milliseconds:
/// what forcing and the hurried stages behind it take together.
pub const SECOND_SIGNAL_MS: u64 = 5_000;

/// Signals that wait for the coordinator: more of them say nothing new.
pub const WAITING_SIGNALS: usize = 16;

/// How long the last line may take to be written, when the deadline has passed, in milliseconds.
pub const LAST_LINE_MS: u64 = 200;

/// How long the end waits for shards that have been told to end, in milliseconds.
pub const END_SHARDS_MS: u64 = 500;

/// How long the end waits for the admin listener to hear that it is to stop, and, once it has, for
/// answers that are being made, in milliseconds.
pub const END_ADMIN_MS: u64 = 1_000;
/// See [`END_ADMIN_MS`].
pub const END_ANSWERS_MS: u64 = 100;

const _: () = {
    assert!(HOOK_LAST_WORDS_BYTES as u64 * RESOURCES as u64 * 3 < REPORT_FILE_BYTES);
    assert!(FILE_SETTLED_MS * 2 < FILE_SETTLE_PATIENCE_MS);
    assert!(BYTES_PER_CONNECTION >= KERNEL_BYTES_PER_CONNECTION + 97);
    assert!(SUBMISSIONS <= 32_768 && COMPLETIONS <= 65_536, "limits of the kernel");
    assert!(COMPLETIONS >= SUBMISSIONS * 4);
    assert!(INBOX_PER_TURN <= INBOX);
    assert!(CHANNEL_NAME_BYTES_PER_CONNECTION >= MAX_CHANNEL_BYTES);
    assert!(CHANNEL_NAME_BYTES_PER_CONNECTION <= MAX_CHANNELS_PER_CONNECTION * MAX_CHANNEL_BYTES);
    assert!(WHEEL_SLOTS.is_power_of_two());
    assert!(MIN_FILES < crate::ring::MAX_SLOTS);
    assert!(ACCEPTS_KEPT < ACCEPTS && ACCEPTS_KEPT < MIN_FILES / 2);
    assert!(REDIS_PUBLICATION_BYTES <= REDIS_PUBLISH_QUEUE_BYTES);
    assert!(ADMIN_OPERATOR_REQUESTS + ADMIN_BULK_REQUESTS < ADMIN_CONNECTIONS, "some can give way");
    assert!(ADMIN_KEEP_ALIVE_SECONDS * 1_000 < ADMIN_IDLE_MS);
    assert!(2 * PUBLISH_PATIENCE_MS + REDIS_REPLY_MS < ADMIN_WORK_MS);
    assert!(COORDINATOR_PATIENCE_MS < ADMIN_WORK_MS);
    assert!(MAX_ADMIN_BODY_BYTES <= ADMIN_BODIES_BYTES);
    assert!(REDIS_CONNECT_MS + REDIS_REPLY_MS < REDIS_LEAVE_MS, "a flush may be under way");
};
