//! permessage-deflate (RFC 7692), always without context takeover, in both directions: every
//! message is compressed by itself, so between two messages a connection has no compression state
//! at all, and one compressor and one inflater serve all connections of a shard.
//!
//! [`offer`] negotiates, [`inflate`] reads, [`compress`] and [`outgoing`] write. Not here: which frames may have
//! RSV1 (`frame`), and how fragments are gathered (`partial`).

pub mod compress;
pub mod inflate;
#[cfg(test)]
mod naive;
pub mod offer;
pub mod outgoing;

pub use compress::Compressor;
pub use inflate::Inflater;
pub use offer::Agreement;
pub use outgoing::Outgoing;

/// How far back the receiver of our messages can look, as it asked for: 2^9 to 2^15 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Window(u8);

impl Window {
    /// The whole window of DEFLATE.
    pub const FULL: Self = Self(15);

    /// The smallest that the compressor makes. It never looks further back than 250 bytes in it,
    /// so it also serves those who asked for 2^8.
    pub const SMALLEST: Self = Self(9);

    /// The window for a receiver that has `bits`; `None` outside 8 to 15 (RFC 7692 7.1.2.1).
    pub fn of_bits(bits: u8) -> Option<Self> {
        matches!(bits, 8..=15).then(|| Self(bits.max(Self::SMALLEST.0)))
    }

    /// Its exponent, 9 to 15.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether a message of `len` bytes can be compressed with any window and read with this one.
    pub const fn holds(self, len: usize) -> bool {
        match self {
            Self::FULL => true,
            // It may stand for a receiver that has half of it.
            Self::SMALLEST => len <= 1 << 8,
            Self(bits) => len <= 1 << bits,
        }
    }

    /// Three bits for it, which are never 0.
    pub const fn code(self) -> u8 {
        self.0 - 8
    }

    /// The window for three bits; `None` for 0, that is, where nothing was negotiated.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1..=7 => Some(Self(code + 8)),
            _ => None,
        }
    }
}

/// The longest compressed form that is read of a message of at most `max` bytes: what cannot be
/// compressed becomes longer by trying, and must not be refused for it. The fixed code of DEFLATE
/// has nine bits for a byte at most (RFC 1951 section 3.2.6), and a compressor that does worse than
/// that is not one.
pub const fn longest_compressed(max: usize) -> usize {
    max.saturating_add(max / 8).saturating_add(64)
}

#[cfg(test)]
mod tests;
