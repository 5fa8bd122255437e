//! Why a connection ended: the only door through which one does.
//!
//! Whose doing it was, the close code that the peer is told, the metric label and the log level
//! all follow from the variant.

/// Why a connection that had been accepted came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client sent Close first.
    PeerClosed,
    /// The client ended the stream without Close (RFC 6455 7.1.5: code 1006).
    PeerGone,
    /// The connection broke: RST, time-out in the network.
    Reset,
    /// No complete upgrade request within `handshake.timeout_ms`, counted from accept.
    HandshakeTimeout,
    /// Too many connections were in their handshake (`handshake.max_pending`), or too few
    /// descriptors were left for new ones, and this one had been longest in it.
    HandshakeEvicted,
    /// More was kept of requests and PROXY headers than their part of the memory allows, and of this
    /// one, which had not been upgraded, for longest.
    HeadEvicted,
    /// The upgrade request was refused: malformed, wrong path, origin, version.
    HandshakeRefused,
    /// Admission refused the connection (counted by its own reasons as well).
    AdmissionRefused,
    /// Nothing was heard for `keepalive.ping_interval_ms` and then `keepalive.timeout_ms`.
    KeepaliveTimeout,
    /// The client broke the protocol (1002).
    ProtocolError,
    /// The client sent text that is not UTF-8 (1007).
    InvalidPayload,
    /// The client's message is longer than `server.max_message_bytes` (1009).
    MessageTooBig,
    /// The client did not read: its queue passed `server.max_queued_bytes`, all queues together
    /// `server.max_total_queued_bytes`, or no byte went out for `server.write_timeout_ms`.
    SlowConsumer,
    /// A message that had begun did not end within `server.message_timeout_ms` (1008).
    MessageTimeout,
    /// More was unfinished of messages than `server.max_unfinished_bytes` allows, and this
    /// client's had been so for longest (1008).
    UnfinishedEvicted,
    /// More pings than `server.max_pings_per_second` (1008).
    PingFlood,
    /// The handler ended the connection.
    Handler,
    /// A handler subscribed it to a channel that nobody has yet, and there was no room for one more
    /// (1013).
    ChannelsFull,
    /// A newer connection has its session (4001).
    SessionTaken,
    /// The server drained.
    Shutdown,
    /// The shard that held it died.
    ShardFailed,
}

impl CloseReason {
    /// All variants, in the order of [`Self::index`].
    pub const ALL: [Self; 21] = [
        Self::PeerClosed,
        Self::PeerGone,
        Self::Reset,
        Self::HandshakeTimeout,
        Self::HandshakeEvicted,
        Self::HeadEvicted,
        Self::HandshakeRefused,
        Self::AdmissionRefused,
        Self::KeepaliveTimeout,
        Self::ProtocolError,
        Self::InvalidPayload,
        Self::MessageTooBig,
        Self::SlowConsumer,
        Self::MessageTimeout,
        Self::UnfinishedEvicted,
        Self::PingFlood,
        Self::Handler,
        Self::ChannelsFull,
        Self::SessionTaken,
        Self::Shutdown,
        Self::ShardFailed,
    ];

    /// Position in tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The `reason` label of `tidegate_connections_closed_total`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::PeerGone => "peer_gone",
            Self::Reset => "reset",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::HandshakeEvicted => "handshake_evicted",
            Self::HeadEvicted => "head_evicted",
            Self::HandshakeRefused => "handshake_refused",
            Self::AdmissionRefused => "admission_refused",
            Self::KeepaliveTimeout => "keepalive_timeout",
            Self::ProtocolError => "protocol_error",
            Self::InvalidPayload => "invalid_payload",
            Self::MessageTooBig => "message_too_big",
            Self::SlowConsumer => "slow_consumer",
            Self::MessageTimeout => "message_timeout",
            Self::UnfinishedEvicted => "unfinished_evicted",
            Self::PingFlood => "ping_flood",
            Self::Handler => "handler",
            Self::ChannelsFull => "channels_full",
            Self::SessionTaken => "session_taken",
            Self::Shutdown => "shutdown",
            Self::ShardFailed => "shard_failed",
        }
    }

    /// What the peer is told when the server begins the close; `None` where there is nobody to
    /// tell or the code depends on the settings.
    pub const fn close_code(self) -> Option<u16> {
        match self {
            Self::ProtocolError => Some(1002),
            Self::InvalidPayload => Some(1007),
            Self::SlowConsumer
            | Self::MessageTimeout
            | Self::UnfinishedEvicted
            | Self::PingFlood => Some(1008),
            Self::MessageTooBig => Some(1009),
            _ => None,
        }
    }
}

/// What became of a connection that was open when a drain began: exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainOutcome {
    /// The client left before it was told to: its Close or end of stream came first.
    PeerClosed,
    /// Our Close was sent and the client answered it.
    CloseAcknowledged,
    /// Our Close was sent and the client ended the stream without answering it.
    CloseSent,
    /// The connection broke.
    Reset,
    /// Cut by the server: no answer, or no way to send, by the deadline.
    Forced,
    /// Still in its handshake when the drain began, and refused.
    RefusedLate,
    /// Still there when the drain was cancelled, and told that the server stays.
    Stayed,
}

impl DrainOutcome {
    /// All variants, in the order of [`Self::index`].
    pub const ALL: [Self; 7] = [
        Self::PeerClosed,
        Self::CloseAcknowledged,
        Self::CloseSent,
        Self::Reset,
        Self::Forced,
        Self::RefusedLate,
        Self::Stayed,
    ];

    /// Position in tables of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The `outcome` label of `tidegate_drain_outcomes_total` and the key in the report.
    pub const fn label(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer_closed",
            Self::CloseAcknowledged => "close_acknowledged",
            Self::CloseSent => "close_sent",
            Self::Reset => "reset",
            Self::Forced => "forced",
            Self::RefusedLate => "refused_late",
            Self::Stayed => "stayed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_in_order() {
        for (index, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        for (index, outcome) in DrainOutcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index(), index);
        }
    }
}
