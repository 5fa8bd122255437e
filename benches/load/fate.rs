//! How a connection can end. Each connection gets exactly one [`Fate`].

use std::fmt;

use tidegate::ring::Errno;

/// The steps before a connection is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Socket,
    Bind,
    Connect,
    Upgrade,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Socket => "socket",
            Self::Bind => "bind",
            Self::Connect => "connect",
            Self::Upgrade => "upgrade",
        })
    }
}

/// Why an attempt got neither 101 nor another HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// The kernel's error and the step it came in.
    Errno(Step, i32),
    /// No answer within the connect timeout.
    TimedOut(Step),
    /// The server closed without an answer.
    ClosedUnanswered,
    /// The answer is not HTTP, or a 101 that does not fit the request.
    BadAnswer,
    /// The run ended first.
    Unfinished(Step),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(step, errno) => write!(f, "{step}: {}", Errno(*errno)),
            Self::TimedOut(step) => write!(f, "{step}: no answer in time"),
            Self::ClosedUnanswered => f.write_str("closed without an answer"),
            Self::BadAnswer => f.write_str("an answer that is not a valid upgrade"),
            Self::Unfinished(step) => write!(f, "{step}: the run ended first"),
        }
    }
}

impl Failure {
    /// What the person at the keyboard can do about it.
    pub(crate) fn remedy(self) -> Option<&'static str> {
        Some(match self {
            Self::Errno(_, libc::EADDRNOTAVAIL) => {
                "the source addresses have no free ports left (or are not this machine's): \
                 lower --per-source or raise --sources, wait for TIME-WAIT to pass, or widen \
                 net.ipv4.ip_local_port_range"
            }
            Self::Errno(Step::Connect, libc::ECONNREFUSED) => {
                "nothing listens there: check address and port, and that the server runs"
            }
            Self::Errno(Step::Socket, libc::ENFILE | libc::EMFILE) => {
                "out of descriptors: raise the hard limit of open files (ulimit -Hn) or use \
                 more rings with --threads"
            }
            Self::Errno(_, libc::ENOBUFS | libc::ENOMEM) => {
                "the kernel is out of socket memory: check net.ipv4.tcp_mem and free memory"
            }
            Self::TimedOut(Step::Connect) => {
                "connects are not answered: the server's backlog is full (net.core.somaxconn) \
                 or a firewall drops them; lower --rate"
            }
            Self::TimedOut(_) => "the server accepts but does not answer: lower --rate",
            _ => return None,
        })
    }
}

/// How an admitted connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Ending {
    /// The peer sent a Close frame, with or without a code.
    Close(Option<u16>),
    /// End of the stream without a Close frame.
    Eof,
    /// End of the stream on a connection of which nothing was read.
    EofUnread,
    /// RST.
    Reset,
    /// Another error of the kernel's.
    Errno(i32),
    /// The server broke the WebSocket protocol.
    Violation,
    /// An echo that differs from what was sent.
    WrongEcho,
}

impl Ending {
    /// What an error of a read or write means.
    pub(crate) fn of_errno(errno: Errno) -> Self {
        match errno.0 {
            libc::ECONNRESET | libc::EPIPE => Self::Reset,
            other => Self::Errno(other),
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Close(Some(code)) => write!(f, "code {code}"),
            Self::Close(None) => f.write_str("close without code"),
            Self::Eof => f.write_str("end of stream without close"),
            Self::EofUnread => f.write_str("end of stream, nothing read"),
            Self::Reset => f.write_str("reset"),
            Self::Errno(errno) => write!(f, "{}", Errno(*errno)),
            Self::Violation => f.write_str("protocol violation by the server"),
            Self::WrongEcho => f.write_str("echo differs"),
        }
    }
}

/// The one final state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Never admitted, and no HTTP status says why.
    Failed(Failure),
    /// Refused with this HTTP status.
    Refused(u16),
    /// Admitted, and open when the run ended.
    Open,
    /// Admitted, and ended before.
    Ended(Ending),
}
