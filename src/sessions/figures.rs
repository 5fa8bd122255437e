//! What is counted of sessions.

use super::keeper::Shortfall;

/// Why a record was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A newer connection has the session.
    Superseded,
    /// `sessions.max_memory_bytes` was full.
    NoRoom,
    /// Redis was not available until it expired.
    Expired,
    /// The keeper had too much to do.
    QueueFull,
    /// Redis has something else under its name.
    Refused,
    /// The process ended before it was in Redis.
    NotInTime,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Superseded,
        Self::NoRoom,
        Self::Expired,
        Self::QueueFull,
        Self::Refused,
        Self::NotInTime,
    ];

    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Superseded => "superseded",
            Self::NoRoom => "no_room",
            Self::Expired => "expired",
            Self::QueueFull => "queue_full",
            Self::Refused => "refused",
            Self::NotInTime => "not_in_time",
        }
    }
}

/// The counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Sessions that connections hold now.
    pub held: u64,
    /// Records in memory now, and what they take.
    pub in_memory: u64,
    /// See `in_memory`.
    pub in_memory_bytes: u64,
    /// Attached to a session that was not known.
    pub started: u64,
    /// Attached to one of which a record was found.
    pub resumed: u64,
    /// Those of both that may have lost something, by [`Shortfall`].
    pub shortfalls: [u64; Shortfall::ALL.len()],
    /// Records written to Redis.
    pub saved: u64,
    /// Records kept in memory, without Redis.
    pub kept: u64,
    /// Of these, those for which nobody came back in time.
    pub expired: u64,
    /// Records that were lost, by [`Loss`].
    pub lost: [u64; Loss::ALL.len()],
}

impl Figures {
    pub(super) fn note_attached(&mut self, resumed: bool, shortfall: Option<Shortfall>) {
        match resumed {
            true => self.resumed += 1,
            false => self.started += 1,
        }
        if let Some(shortfall) = shortfall {
            self.shortfalls[shortfall as usize] += 1;
        }
    }

    pub(super) fn lose(&mut self, loss: Loss, count: u64) {
        self.lost[loss as usize] += count;
    }
}
