//! Memory plan: what the process may have, divided among everything that clients can make it hold.
//!
//! Pure: the configuration and the bytes that may be used in, a [`MemoryPlan`] or [`NoRoom`] out.
//! The bytes are nine tenths of the least limit (cgroup, machine), or `admission.max_memory_bytes`
//! (`pressure/reading`). First comes what the process needs whatever its clients do ([`Use::Process`]).
//! Of the rest connections have a part at most, and the others share what is left by their weights
//! (`WEIGHTS`): none has more than its key says, and what one does not want the others have. Where
//! the limit is not known, every use has what its key says.
//!
//! Invariants, which the tests below prove: the uses together never exceed the bytes that may be
//! used; no use has less than it needs to be of use at all (`floor`); more memory never gives a use
//! less.

use std::fmt;

use crate::channels::registry::CHANNEL_BYTES;
use crate::config::{Config, Key, Preset};
use crate::limits::{self, BYTES_PER_CONNECTION, RECEIVE_BUFFERS_KEPT};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// Code, tables and threads of the process beside its shards: 2 MiB of its own and what of the
/// program's file stays in memory under load, as measured; rounded up.
const PROCESS_BYTES: u64 = 8 * MIB;

/// One shard without a connection: 1 MiB of rings in the kernel and 0.7 MiB of its own, as
/// measured; rounded up.
const SHARD_BYTES: u64 = 2 * MIB;

/// One place in the kernel's table of direct descriptors, in use or not.
const FILE_BYTES: u64 = 16;

/// Longest messages that a shard has in hand at one time: one that is inflated, one that is a reply.
const MESSAGES_IN_HAND: u64 = 2;

/// A connection that is not upgraded: its socket, its entry, its places in the lines of those that
/// wait, the first segment of its request while that is unread.
pub const HALF_OPEN_BYTES: u64 = 5 * KIB;

/// A source in its table, at its emptiest.
pub const SOURCE_BYTES: u64 = 57;

/// As many and as long channels of its own as a connection may have, in each shard's part.
const CHANNELS_OF_A_CONNECTION: u64 = limits::CHANNEL_NAME_BYTES_PER_CONNECTION as u64
    + limits::MAX_CHANNELS_PER_CONNECTION as u64 * CHANNEL_BYTES;

/// The allocator's part: a buffer that grows by doubling leaves as much behind in blocks that
/// nothing fits into. Budgets count what is asked for, and are so much smaller than their share.
const ALLOCATOR_FACTOR: u64 = 2;

/// What memory is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The process and its shards without clients.
    Process,
    /// Connections that are admitted: sockets, polls, entries.
    Connections,
    /// Connections that are accepted and not upgraded, refused ones among them.
    HalfOpen,
    /// Requests and PROXY headers of these, as far as they have come.
    Heads,
    /// Messages from clients that have not arrived completely.
    Unfinished,
    /// Messages to clients that the kernel has not taken.
    Output,
    /// Names of channels and what belongs to each channel.
    Channels,
    /// Sources whose rate is remembered.
    Sources,
    /// Sessions without a connection.
    Sessions,
    /// Receive buffers.
    ReceiveBuffers,
    /// What the kernel holds in sockets that is unread or not acknowledged. No budget bounds it:
    /// near the limit nobody is cut for it.
    SocketData,
}

impl Use {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 11] = [
        Self::Process,
        Self::Connections,
        Self::HalfOpen,
        Self::Heads,
        Self::Unfinished,
        Self::Output,
        Self::Channels,
        Self::Sources,
        Self::Sessions,
        Self::ReceiveBuffers,
        Self::SocketData,
    ];

    /// Position in a table of uses.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics and reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Connections => "connections",
            Self::HalfOpen => "half_open",
            Self::Heads => "heads",
            Self::Unfinished => "unfinished_messages",
            Self::Output => "output",
            Self::Channels => "channels",
            Self::Sources => "sources",
            Self::Sessions => "sessions",
            Self::ReceiveBuffers => "receive_buffers",
            Self::SocketData => "socket_data",
        }
    }

    /// The key that bounds it as well.
    pub const fn key(self) -> Option<&'static str> {
        match self {
            Self::Connections => Some("admission.max_global_connections"),
            Self::HalfOpen => Some("handshake.max_pending"),
            Self::Unfinished => Some("server.max_unfinished_bytes"),
            Self::Output => Some("server.max_total_queued_bytes"),
            Self::Sources => Some("admission.max_tracked_sources"),
            Self::Sessions => Some("sessions.max_memory_bytes"),
            Self::ReceiveBuffers => Some("server.receive_buffers"),
            Self::Process | Self::Heads | Self::Channels | Self::SocketData => None,
        }
    }

    /// Bytes that one of it takes where the key counts pieces and no bytes.
    fn piece(self, inputs: &Inputs) -> u64 {
        match self {
            Self::Connections => BYTES_PER_CONNECTION,
            Self::HalfOpen => HALF_OPEN_BYTES,
            Self::Sources => SOURCE_BYTES,
            Self::ReceiveBuffers => inputs.receive_buffer_bytes * inputs.shards,
            Self::Unfinished | Self::Output => ALLOCATOR_FACTOR,
            _ => 1,
        }
    }
}

/// Parts of 1000 of what the process leaves that connections may have where nobody has said how many
/// there are to be: the default is the aim of the project.
const CONNECTIONS_UNASKED: u64 = 600;

/// The same where somebody has.
const CONNECTIONS_ASKED: u64 = 850;

/// How the others share what connections leave.
const WEIGHTS: [(Use, u64); 9] = [
    (Use::HalfOpen, 40),
    (Use::Heads, 20),
    (Use::Unfinished, 80),
    (Use::Output, 80),
    (Use::Channels, 60),
    (Use::Sources, 20),
    (Use::Sessions, 20),
    (Use::ReceiveBuffers, 20),
    (Use::SocketData, 60),
];

/// Parts of 1000 of what the process leaves that uses without a key have at most. Connections can
/// have a channel each with it.
const UNKEYED: [(Use, u64); 2] = [(Use::Channels, 60), (Use::SocketData, 60)];

/// Parts of 1000 of what the process leaves that floors may take from connections at most.
const FLOORS_MAX: u64 = 600;

/// What the plan depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Inputs {
    shards: u64,
    files: u64,
    max_message_bytes: u64,
    max_head_bytes: u64,
    receive_buffer_bytes: u64,
    /// Parts of 1000 of what the process leaves that connections may have.
    connections_most: u64,
    /// What keys say, in their own units, by [`Use::index`]; `u64::MAX` where there is none.
    configured: [u64; Use::ALL.len()],
}

impl Inputs {
    fn new(config: &Config, shards: usize, files: u32) -> Self {
        let head = config.handshake.max_head_bytes as u64;
        let mut configured = [u64::MAX; Use::ALL.len()];
        for (of, value) in [
            (Use::Connections, config.admission.max_global_connections),
            (Use::HalfOpen, config.handshake.max_pending),
            (Use::Heads, config.handshake.max_pending.saturating_mul(head)),
            (Use::Unfinished, config.server.max_unfinished_bytes),
            (Use::Output, config.server.max_total_queued_bytes),
            (Use::Sources, config.admission.max_tracked_sources),
            (Use::Sessions, config.sessions.max_memory_bytes as u64),
            (Use::ReceiveBuffers, config.server.receive_buffers.into()),
        ] {
            configured[of.index()] = value;
        }
        let unasked = Key::find("admission.max_global_connections").map(|key| key.preset);
        let asked = config.admission.max_global_connections;
        let is_asked = !matches!(unasked, Some(Preset::Number(unasked)) if unasked == asked);
        Self {
            connections_most: if is_asked { CONNECTIONS_ASKED } else { CONNECTIONS_UNASKED },
            shards: shards.max(1) as u64,
            files: files.into(),
            max_message_bytes: config.server.max_message_bytes as u64,
            max_head_bytes: head,
            receive_buffer_bytes: config.server.receive_buffer_bytes.into(),
            configured,
        }
    }

    /// What the process takes whatever its clients do.
    fn process(&self) -> u64 {
        let in_hand = self.max_message_bytes.saturating_mul(MESSAGES_IN_HAND);
        let shard = in_hand.saturating_add(SHARD_BYTES + self.files * FILE_BYTES);
        self.shards.saturating_mul(shard).saturating_add(PROCESS_BYTES)
    }

    /// With an end to the uses that have no key.
    fn bounded(mut self, rest: u64) -> Self {
        for (of, most) in UNKEYED {
            self.configured[of.index()] = part(rest, most).max(floor(of, &self));
        }
        self
    }

    /// What all uses but connections need at least.
    fn floors(&self) -> u64 {
        let floor = |(of, _)| floor(of, self).min(self.wanted(of));
        WEIGHTS.into_iter().map(floor).fold(0, u64::saturating_add)
    }

    /// What a use has if a weight of 1000 is worth `weight` bytes.
    fn part_of(&self, of: Use, share: u64, weight: u64) -> u64 {
        part(weight, share).max(floor(of, self)).min(self.wanted(of))
    }

    /// The bytes that a weight of 1000 can be worth for all parts together to be within `bytes`.
    fn weight_within(&self, bytes: u64) -> u64 {
        let fits = |weight| {
            let parts = WEIGHTS.map(|(of, share)| self.part_of(of, share, weight)).into_iter();
            parts.fold(0, u64::saturating_add) <= bytes
        };
        // Beyond this even the least weight would have everything.
        largest(bytes.saturating_mul(1000).min(u64::MAX >> 1), fits)
    }

    /// Bytes that the key of a use allows.
    fn wanted(&self, of: Use) -> u64 {
        self.configured[of.index()].saturating_mul(of.piece(self))
    }
}

/// What a shard's part of a budget for messages has at least, in bytes: room for one message of the
/// longest kind, because a client meets one shard only.
pub const fn part_floor(max_message_bytes: u64) -> u64 {
    max_message_bytes.saturating_add(limits::MESSAGE_OVERHEAD_BYTES)
}

/// A key whose parts are smaller than one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartTooSmall {
    key: &'static str,
    configured: u64,
    shards: u64,
    max_message_bytes: u64,
}

impl PartTooSmall {
    /// Looks at the keys that are divided among so many shards.
    ///
    /// # Errors
    /// A client that is alone could not send, or be sent, a message that is allowed.
    pub fn check(config: &Config, shards: usize) -> Result<(), Self> {
        let (shards, max_message_bytes) = (shards as u64, config.server.max_message_bytes as u64);
        let least = part_floor(max_message_bytes).saturating_mul(shards);
        let keys = [
            ("server.max_unfinished_bytes", config.server.max_unfinished_bytes),
            ("server.max_total_queued_bytes", config.server.max_total_queued_bytes),
        ];
        match keys.into_iter().find(|(_, configured)| *configured < least) {
            None => Ok(()),
            Some((key, configured)) => Err(Self { key, configured, shards, max_message_bytes }),
        }
    }
}

impl fmt::Display for PartTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, configured, shards, max_message_bytes } = self;
        let least = part_floor(*max_message_bytes).saturating_mul(*shards);
        write!(
            f,
            "{key} = {configured} is divided among {shards} shards, and a part of it does not hold \
             one message of server.max_message_bytes = {max_message_bytes}. Fix: {key} of at least \
             {least}"
        )?;
        let fit = (configured / part_floor(*max_message_bytes)).min(shards - 1);
        if fit > 0 {
            write!(f, "; or server.shards of at most {fit}")?;
        }
        let message = (configured / shards).saturating_sub(limits::MESSAGE_OVERHEAD_BYTES);
        if message > 0 {
            write!(f, "; or server.max_message_bytes of at most {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PartTooSmall {}

/// What a use needs to be of use at all, in bytes: in each part room for one message of the longest
/// kind.
fn floor(of: Use, inputs: &Inputs) -> u64 {
    match of {
        Use::Unfinished | Use::Output => {
            let parts = part_floor(inputs.max_message_bytes).saturating_mul(inputs.shards);
            parts.saturating_mul(ALLOCATOR_FACTOR)
        }
        Use::HalfOpen => 64 * HALF_OPEN_BYTES,
        Use::Heads => 16 * inputs.max_head_bytes,
        Use::Channels => (256 * KIB).max(CHANNELS_OF_A_CONNECTION * inputs.shards),
        Use::SocketData => 256 * KIB,
        Use::Sources => 1_024 * SOURCE_BYTES,
        Use::Sessions => 64 * KIB,
        Use::ReceiveBuffers => {
            let kept = u64::from(RECEIVE_BUFFERS_KEPT);
            kept * inputs.receive_buffer_bytes * inputs.shards
        }
        Use::Process | Use::Connections => 0,
    }
}

/// So many parts of 1000 of a number.
fn part(of: u64, parts: u64) -> u64 {
    (u128::from(of) * u128::from(parts) / 1000) as u64
}

/// What each use may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryPlan {
    available: Option<u64>,
    bytes: [u64; Use::ALL.len()],
    inputs: Inputs,
}

/// The configuration does not fit into the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom {
    available: u64,
    shards: u64,
    max_message_bytes: u64,
    needed: u64,
    /// The most of each with which the other stays as it is; 0 if there is none.
    shards_max: u64,
    message_max: u64,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "memory: server.shards = {} with server.max_message_bytes = {} needs at least {} MiB, \
             and {} MiB may be used (nine tenths of the least limit, or \
             admission.max_memory_bytes). Fix: ",
            self.shards,
            self.max_message_bytes,
            self.needed.div_ceil(MIB),
            self.available / MIB,
        )?;
        if self.shards_max > 0 {
            write!(f, "server.shards of at most {}; or ", self.shards_max)?;
        }
        if self.message_max > 0 {
            write!(f, "server.max_message_bytes of at most {}; or ", self.message_max)?;
        }
        let limit = (self.needed / MIB + 1) * 10 / 9 + 1;
        write!(f, "a memory limit of {limit} MiB (systemd: MemoryMax=, docker run --memory)")
    }
}

impl std::error::Error for NoRoom {}

impl MemoryPlan {
    /// For `shards` whose tables have `files` descriptors each, with `available` bytes that may be
    /// used, if that is known.
    ///
    /// # Errors
    /// The process without clients, and the floors, take more than there is.
    pub fn new(
        config: &Config,
        shards: usize,
        files: u32,
        available: Option<u64>,
    ) -> Result<Self, NoRoom> {
        Self::divide(Inputs::new(config, shards, files), available)
    }

    /// For a machine of which it is not known how much may be used.
    pub fn unbounded(config: &Config, shards: usize) -> Self {
        Self::as_configured(Inputs::new(config, shards, 0))
    }

    /// The same plan with other bytes to use; the former one if it does not fit into those, as what
    /// a process takes without its clients cannot be changed while it runs.
    #[must_use]
    pub fn with_available(self, config: &Config, available: Option<u64>) -> Self {
        let inputs = Inputs::new(config, self.inputs.shards as usize, self.inputs.files as u32);
        // The buffers are mapped, and cannot become more or fewer.
        let inputs = Inputs { receive_buffer_bytes: self.inputs.receive_buffer_bytes, ..inputs };
        Self::divide(inputs, available).unwrap_or(self)
    }

    fn divide(inputs: Inputs, available: Option<u64>) -> Result<Self, NoRoom> {
        let Some(available) = available else { return Ok(Self::as_configured(inputs)) };
        let Some(rest) = Self::rest(&inputs, available) else {
            return Err(NoRoom::new(&inputs, available));
        };
        let inputs = inputs.bounded(rest);
        let mut bytes = Self::as_configured(inputs).bytes;
        let wanted = inputs.wanted(Use::Connections);
        let least = inputs.floors();
        let connections = wanted.min(part(rest, inputs.connections_most)).min(rest - least);
        let mut left = rest - connections;
        let weight = inputs.weight_within(left);
        for (of, share) in WEIGHTS {
            let part = inputs.part_of(of, share, weight);
            bytes[of.index()] = part;
            left -= part;
        }
        // What nobody else wants.
        bytes[Use::Connections.index()] = wanted.min(connections + left);
        Ok(Self { available: Some(available), bytes, inputs })
    }

    fn as_configured(inputs: Inputs) -> Self {
        let mut bytes = Use::ALL.map(|of| inputs.wanted(of));
        bytes[Use::Process.index()] = inputs.process();
        Self { available: None, bytes, inputs }
    }

    /// What the process leaves, if floors leave enough of that to connections.
    fn rest(inputs: &Inputs, available: u64) -> Option<u64> {
        let rest = available.checked_sub(inputs.process())?;
        (inputs.floors() <= part(rest, FLOORS_MAX)).then_some(rest)
    }

    /// Whether so many shards fit.
    fn fits(inputs: &Inputs, available: u64) -> bool {
        Self::rest(inputs, available).is_some()
    }

    /// The most shards that fit, at most `wanted`; 1 if not even that does.
    pub fn shards_that_fit(
        config: &Config,
        wanted: usize,
        files: u32,
        available: Option<u64>,
    ) -> usize {
        let Some(available) = available else { return wanted };
        let fit = |shards: &usize| Self::fits(&Inputs::new(config, *shards, files), available);
        (1..=wanted).rev().find(fit).unwrap_or(1)
    }

    /// What may be used in all, if that is known.
    pub fn available(&self) -> Option<u64> {
        self.available
    }

    /// What a use may have in bytes of memory.
    pub fn bytes(&self, of: Use) -> u64 {
        self.bytes[of.index()]
    }

    /// What a use may have as it is counted, in bytes, without the allocator's part; `None` if
    /// nothing bounds it.
    pub fn budget(&self, of: Use) -> Option<u64> {
        let bytes = match of {
            Use::Unfinished | Use::Output => self.allowed(of),
            _ => self.bytes(of),
        };
        (bytes < u64::MAX).then_some(bytes)
    }

    /// What a use may have in the unit of its key: connections, sources, bytes of messages.
    pub fn allowed(&self, of: Use) -> u64 {
        let pieces = self.bytes(of) / of.piece(&self.inputs).max(1);
        match of {
            // The kernel takes powers of two only.
            Use::ReceiveBuffers => pieces.checked_ilog2().map_or(0, |bits| 1 << bits),
            _ => pieces,
        }
    }

    /// Connections that there is memory for.
    pub fn connections(&self) -> u64 {
        match self.available {
            None => u64::MAX,
            Some(_) => self.allowed(Use::Connections),
        }
    }

    /// The uses whose keys allow more than there is memory for: the key, what it says, and what is
    /// in force.
    pub fn scaled(&self) -> impl Iterator<Item = Scaled> + '_ {
        Use::ALL.into_iter().filter_map(|of| {
            let (key, configured) = (of.key()?, self.inputs.configured[of.index()]);
            let allowed = self.allowed(of);
            // What bounds the number of connections is said by the capacity.
            let is_cut = allowed < configured && of != Use::Connections;
            is_cut.then_some(Scaled { of, key, configured, allowed })
        })
    }
}

/// A key that allows more than there is memory for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scaled {
    /// What it is for.
    pub of: Use,
    /// Its name.
    pub key: &'static str,
    /// What it says.
    pub configured: u64,
    /// What is in force.
    pub allowed: u64,
}

impl fmt::Display for Scaled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, configured, allowed, .. } = self;
        write!(f, "{key} = {configured} is cut to {allowed}")
    }
}

impl NoRoom {
    fn new(inputs: &Inputs, available: u64) -> Self {
        let fits = |inputs: &Inputs| MemoryPlan::fits(inputs, available);
        let with_shards = |shards| fits(&Inputs { shards, ..*inputs });
        let with_message = |max_message_bytes| fits(&Inputs { max_message_bytes, ..*inputs });
        // The least that fits is one above the most that does not.
        let too_little = largest(u64::MAX >> 1, |bytes| !MemoryPlan::fits(inputs, bytes));
        Self {
            available,
            shards: inputs.shards,
            max_message_bytes: inputs.max_message_bytes,
            needed: too_little + 1,
            shards_max: largest(inputs.shards, with_shards),
            message_max: largest(inputs.max_message_bytes, with_message),
        }
    }
}

/// The largest number from 1 up to `most` that fits, where smaller ones fit if one does; 0 if none.
fn largest(most: u64, fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if fits(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

const _: () = assert!(HALF_OPEN_BYTES > limits::KERNEL_BYTES_PER_CONNECTION);

#[cfg(test)]
mod tests;
