//! Why a connection is not subscribed to what it asks for.

use crate::http::refusal::{Refusal, Status};
use crate::limits::CHANNEL_NAME_BYTES_PER_CONNECTION;

/// The limit that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelRefusal {
    /// The names of its channels are too long together.
    Names,
    /// There is no room for channels that nobody has yet.
    NoRoom,
}

/// When there may be room again, in seconds: when others have left, which nobody can know.
const RETRY_AFTER_S: u32 = 5;

impl ChannelRefusal {
    /// All variants, in the order of [`index`](Self::index).
    pub const ALL: [Self; 2] = [Self::Names, Self::NoRoom];

    /// Position in a table of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The value of the metric's `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Names => "names_of_connection",
            Self::NoRoom => "no_room",
        }
    }

    /// What a client is told that asks for it in its request.
    pub const fn to_refusal(self) -> Refusal {
        const { assert!(CHANNEL_NAME_BYTES_PER_CONNECTION == 4_096) };
        match self {
            Self::Names => Refusal::bad_request(
                "query parameter channel: at most 4096 bytes of names per connection",
            )
            .because(self.label(), None),
            Self::NoRoom => Refusal::new(
                Status::ServiceUnavailable,
                "no room for so many channels that nobody has yet; fewer may go",
            )
            .because(self.label(), None)
            .retry_after(RETRY_AFTER_S),
        }
    }
}
