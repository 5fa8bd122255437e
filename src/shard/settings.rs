//! What a shard needs of the configuration, in its own units.

use std::time::Duration;

use crate::admission::{LadderRates, Prefixes};
use crate::client_address::TrustedProxies;
use crate::client_address::forwarded::ForwardedHeader;
use crate::config::{Config, ProxyProtocol};
use crate::connection::deadline::Deadlines;
use crate::connection::progress::Floor;
use crate::http::origin::{AllowedOrigins, InvalidOrigin};
use crate::http::upgrade::UpgradeRules;
use crate::limits;
use crate::memory_plan::{self, MemoryPlan, Use};

/// How long what a refused or failed client still sends is discarded, so that it can read our
/// last bytes before the connection is gone.
const LINGER_MS: u64 = 1_000;

/// Beside the bytes of two heads, what keeping them takes.
const HEAD_OVERHEAD: u64 = 4 << 10;

/// A busy connection that has been quiet for so long gets the watch of an idle one again.
const CALM_MS: u64 = 5_000;

/// Settings of a shard.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time limits of connections.
    pub deadlines: Deadlines,
    /// Largest message from a client in bytes.
    pub max_message_bytes: usize,
    /// Most bytes that wait for one client.
    pub max_queued_bytes: usize,
    /// A shard's part of what may be held for all clients that do not read, in bytes.
    pub max_output_bytes: u64,
    /// A shard's part of what may be held of unfinished messages, in bytes.
    pub max_unfinished_bytes: u64,
    /// A shard's part of what channels may take, in bytes.
    pub max_channel_bytes: u64,
    /// A shard's part of what may be kept of requests and PROXY headers, in bytes.
    pub max_head_bytes_kept: u64,
    /// Pings of one client in a second; 0: any number.
    pub max_pings_per_second: u32,
    /// Bytes of a receive buffer: a receive that fills one has left something behind.
    pub receive_buffer_bytes: usize,
    /// How long a busy shard lets completions gather.
    pub gather: Duration,
    /// How much of an address makes a source.
    pub prefixes: Prefixes,
    /// Who may say for whom it connects.
    pub trusted_proxies: TrustedProxies,
    /// The header in which such a proxy does so.
    pub forwarded_header: ForwardedHeader,
    /// The longest head of a request in bytes.
    pub max_head_bytes: usize,
    /// Whether such a proxy does so in a PROXY header.
    pub proxy_protocol: ProxyProtocol,
    /// Connections that may be accepted and not upgraded.
    pub half_open: usize,
    /// How many refusals of which kind there may be in a second, on all shards.
    pub refusal_rates: LadderRates,
    /// How long a connection waits for its session, in ticks.
    pub session_patience: u32,
    /// How many shards there are.
    pub shards: usize,
    /// Replies and publications from this length on are compressed for those who negotiated it.
    pub compression_threshold: usize,
    /// What an upgrade request must be like.
    pub upgrade: UpgradeRules,
}

impl Settings {
    /// From the configuration and what the memory leaves of it, for one of so many shards.
    ///
    /// # Errors
    /// An origin that is not one; the configuration has checked them before.
    pub fn new(config: &Config, memory: &MemoryPlan, shards: usize) -> Result<Self, InvalidOrigin> {
        let ticks = Deadlines::ticks;
        let one_message = memory_plan::part_floor(config.server.max_message_bytes as u64);
        let two_heads = 2 * config.handshake.max_head_bytes as u64 + HEAD_OVERHEAD;
        let ping_interval = match config.keepalive.ping_interval_ms {
            0 => 0,
            ms => ticks(ms),
        };
        Ok(Self {
            deadlines: Deadlines {
                handshake: ticks(config.handshake.timeout_ms),
                ping_interval,
                pong_timeout: ticks(config.keepalive.timeout_ms),
                close: ticks(config.shutdown.close_timeout_ms),
                write: ticks(config.server.write_timeout_ms),
                floor: Floor(config.delivery.min_bytes_per_second),
                message: match config.server.message_timeout_ms {
                    0 => 0,
                    ms => ticks(ms),
                },
                linger: ticks(LINGER_MS),
                calm: ticks(CALM_MS),
            },
            compression_threshold: config.server.compression_threshold_bytes,
            max_message_bytes: config.server.max_message_bytes,
            max_queued_bytes: config.server.max_queued_bytes,
            max_output_bytes: part(memory.allowed(Use::Output), shards).max(one_message),
            max_unfinished_bytes: part(memory.allowed(Use::Unfinished), shards).max(one_message),
            max_channel_bytes: part(memory.bytes(Use::Channels), shards),
            max_head_bytes_kept: part(memory.bytes(Use::Heads), shards).max(two_heads),
            max_pings_per_second: config.server.max_pings_per_second,
            receive_buffer_bytes: config.server.receive_buffer_bytes as usize,
            gather: Duration::from_micros(config.server.gather_us),
            prefixes: config.admission.prefixes(),
            trusted_proxies: TrustedProxies::new(&config.server.trusted_proxies),
            forwarded_header: ForwardedHeader::named(&config.server.forwarded_header),
            max_head_bytes: config.handshake.max_head_bytes,
            proxy_protocol: config.server.proxy_protocol,
            half_open: half_open(memory.allowed(Use::HalfOpen), shards),
            refusal_rates: LadderRates {
                close: config.refusal.close_per_second,
                http: config.refusal.http_per_second,
                reset: config.refusal.reset_per_second,
            },
            // The thread that keeps sessions answers in that time if it can.
            session_patience: ticks(config.sessions.resume_timeout_ms) + 2,
            shards,
            upgrade: UpgradeRules {
                allowed_origins: AllowedOrigins::new(&config.server.allowed_origins)?,
                subprotocols: config.server.subprotocols.clone(),
                compression: config.server.compression,
            },
        })
    }
}

impl Settings {
    /// What holding one message of the longest kind takes, at most.
    pub(super) fn one_message_bytes(&self) -> u64 {
        memory_plan::part_floor(self.max_message_bytes as u64)
    }
}

/// A shard's part of a budget of the whole server.
fn part(server: u64, shards: usize) -> u64 {
    server.div_ceil(shards.max(1) as u64)
}

/// A shard's part of the server's half-open connections: at least what one turn can accept.
fn half_open(server: u64, shards: usize) -> usize {
    usize::try_from(part(server, shards)).unwrap_or(usize::MAX).max(limits::ACCEPTS as usize)
}
