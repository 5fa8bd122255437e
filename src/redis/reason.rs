//! Why a flush failed, as a label for metrics and a word for people. A reply that no client
//! expects is a reason like any other.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nobody listens there, the name is unknown, its certificate is not trusted, or the connection
    /// broke.
    Unreachable,
    /// No answer in time.
    TimedOut,
    /// NOAUTH, WRONGPASS, DENIED: user or password are not right.
    Authentication,
    /// NOPERM: the user has not the right to a command, a key or a channel.
    Permission,
    /// READONLY: it is a replica.
    ReadOnly,
    /// OOM: it has no memory left.
    OutOfMemory,
    /// MISCONF: it cannot write its data to disk, and refuses writes for that.
    CannotPersist,
    /// LOADING, BUSY, MASTERDOWN, NOREPLICAS: it will be ready by itself.
    NotReady,
    /// MOVED, CLUSTERDOWN: it is a node of a Redis Cluster.
    Cluster,
    /// It does not know a command: a Sentinel, or one without scripts.
    Unsupported,
    /// It answered what this server does not understand.
    Protocol,
    /// It answered with another error.
    Refused,
    /// What this node publishes there does not come back to it.
    Unheard,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Unreachable,
        Self::TimedOut,
        Self::Authentication,
        Self::Permission,
        Self::ReadOnly,
        Self::OutOfMemory,
        Self::CannotPersist,
        Self::NotReady,
        Self::Cluster,
        Self::Unsupported,
        Self::Protocol,
        Self::Refused,
        Self::Unheard,
    ];

    /// What the client's error means.
    pub fn of(error: &RedisError) -> Self {
        let says = |part: &str| error.detail().is_some_and(|why| why.contains(part));
        match error.code() {
            Some("NOAUTH" | "WRONGPASS" | "DENIED") => return Self::Authentication,
            Some("NOPERM") => return Self::Permission,
            Some("OOM") => return Self::OutOfMemory,
            Some("MISCONF") => return Self::CannotPersist,
            // Who has not said a password may not say that much at once.
            Some("ERR") if says("unauthenticated") => return Self::Authentication,
            // Redis 6, of a command inside a script.
            Some("ERR") if says("user executing the script") => return Self::Permission,
            Some("ERR") if says("unknown command") => return Self::Unsupported,
            Some("BUSY" | "MASTERDOWN" | "NOREPLICAS") => return Self::NotReady,
            _ => {}
        }
        match error.kind() {
            ErrorKind::Io if error.is_timeout() => Self::TimedOut,
            ErrorKind::Io => Self::Unreachable,
            ErrorKind::AuthenticationFailed => Self::Authentication,
            ErrorKind::Parse | ErrorKind::UnexpectedReturnType | ErrorKind::Client => {
                Self::Protocol
            }
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::TryAgain,
            ) => Self::NotReady,
            ErrorKind::Server(
                ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::CrossSlot
                | ServerErrorKind::ClusterDown,
            ) => Self::Cluster,
            _ => Self::Refused,
        }
    }

    /// For metrics and `/health/status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Authentication => "authentication",
            Self::Permission => "permission",
            Self::ReadOnly => "read_only",
            Self::OutOfMemory => "out_of_memory",
            Self::CannotPersist => "cannot_persist",
            Self::NotReady => "not_ready",
            Self::Cluster => "cluster",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol",
            Self::Refused => "refused",
            Self::Unheard => "unheard",
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;

    use super::*;

    fn of_reply(reply: &[u8]) -> Reason {
        let error = match ::redis::parse_redis_value(reply) {
            Ok(value) => value.extract_error().unwrap_err(),
            Err(error) => error,
        };
        Reason::of(&error)
    }

    #[test]
    fn every_reply_has_its_reason() {
        for (reply, reason) in [
            ("-READONLY You can't write against a read only replica.\r\n", Reason::ReadOnly),
            ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", Reason::OutOfMemory),
            ("-NOAUTH Authentication required.\r\n", Reason::Authentication),
            ("-WRONGPASS invalid username-password pair\r\n", Reason::Authentication),
            ("-ERR Protocol error: unauthenticated multibulk length\r\n", Reason::Authentication),
            ("-DENIED Redis is running in protected mode\r\n", Reason::Authentication),
            ("-NOPERM User x has no permissions to run the 'eval' command\r\n", Reason::Permission),
            ("-NOPERM No permissions to access a channel\r\n", Reason::Permission),
            (
                "-ERR The user executing the script can't run this command or subcommand\r\n",
                Reason::Permission,
            ),
            ("-LOADING Redis is loading the dataset in memory\r\n", Reason::NotReady),
            ("-BUSY Redis is busy running a script.\r\n", Reason::NotReady),
            ("-MASTERDOWN Link with MASTER is down\r\n", Reason::NotReady),
            ("-NOREPLICAS Not enough good replicas to write.\r\n", Reason::NotReady),
            ("-MOVED 3999 127.0.0.1:6381\r\n", Reason::Cluster),
            ("-ASK 3999 127.0.0.1:6381\r\n", Reason::Cluster),
            ("-CLUSTERDOWN Hash slot not served\r\n", Reason::Cluster),
            ("-CROSSSLOT Keys in request don't hash to the same slot\r\n", Reason::Cluster),
            (
                "-ERR unknown command 'EVALSHA', with args beginning with: 'x'\r\n",
                Reason::Unsupported,
            ),
            ("-MISCONF Redis is configured to save RDB snapshots\r\n", Reason::CannotPersist),
            ("-WRONGTYPE Operation against a key\r\n", Reason::Refused),
            ("HTTP/1.1 400 Bad Request\r\n\r\n", Reason::Protocol),
            ("\0\0\0\0\r\n", Reason::Protocol),
        ] {
            assert_eq!(of_reply(reply.as_bytes()), reason, "{reply}");
        }
        for (kind, reason) in [
            (io::ErrorKind::WouldBlock, Reason::TimedOut),
            (io::ErrorKind::TimedOut, Reason::TimedOut),
            (io::ErrorKind::ConnectionRefused, Reason::Unreachable),
            (io::ErrorKind::UnexpectedEof, Reason::Unreachable),
        ] {
            assert_eq!(Reason::of(&io::Error::from(kind).into()), reason);
        }
    }
}
