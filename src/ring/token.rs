//! What travels through the kernel with an operation: kind, place, generation and slot in 64 bits.
//!
//! Invariant: a completion is acted on only if the generation in its token is the one that the
//! slot has now. Slots are also reused only after their last completion, so the generation is
//! the second of two locks.

/// The index of a direct descriptor, and at the same time of its connection. The kernel picks the
/// next free one after the last that it gave or took back, and starts over at the end of its
/// table: where connections come and go, they are spread over all of it in time.
pub type FileSlot = u32;

const SLOT_BITS: u32 = 20;
/// Bits of a generation.
pub const GENERATION_BITS: u32 = 19;
const PLACE_BITS: u32 = 20;

/// Direct descriptors of one ring: the kernel's own limit (`IORING_MAX_FIXED_FILES`, 2^20).
pub const MAX_SLOTS: u32 = 1 << SLOT_BITS;

/// The operation that a completion answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A connection from the listener.
    Accept = 1,
    /// One-shot poll of an idle connection.
    Watch = 2,
    /// Bytes into a provided buffer.
    Receive = 3,
    /// Bytes out.
    Send = 4,
    /// CONNECT with AF_UNSPEC: the connection is reset.
    Cut = 5,
    /// The direct descriptor is closed.
    Close = 6,
    /// Another thread rang the bell.
    Wake = 7,
    /// A new socket (clients only).
    Open = 8,
    /// Its source address (clients only).
    Bind = 9,
    /// Its peer (clients only).
    Connect = 10,
    /// The end of our side of the stream.
    HalfClose = 11,
    /// The end of a lasting receive.
    Calm = 12,
    /// Time.
    Tick = 13,
    /// A descriptor goes to another ring.
    Hand = 14,
    /// A descriptor has come from another ring; `place` is its number, `token` what it was there.
    Handed = 15,
    /// How much of what was sent is not acknowledged.
    Unacknowledged = 16,
}

impl Kind {
    fn from_bits(bits: u64) -> Option<Self> {
        Some(match bits {
            1 => Self::Accept,
            2 => Self::Watch,
            3 => Self::Receive,
            4 => Self::Send,
            5 => Self::Cut,
            6 => Self::Close,
            7 => Self::Wake,
            8 => Self::Open,
            9 => Self::Bind,
            10 => Self::Connect,
            11 => Self::HalfClose,
            12 => Self::Calm,
            13 => Self::Tick,
            14 => Self::Hand,
            15 => Self::Handed,
            16 => Self::Unacknowledged,
            _ => return None,
        })
    }
}

/// Names one life of one direct descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// Direct descriptor and connection, below [`MAX_SLOTS`].
    pub slot: FileSlot,
    /// Counts the lives of the slot, modulo 2^19.
    pub generation: u32,
}

impl Token {
    /// The token of a slot's first life.
    pub const fn new(slot: FileSlot, generation: u32) -> Self {
        Self { slot, generation: generation & ((1 << GENERATION_BITS) - 1) }
    }

    /// The generation that follows `generation`.
    pub const fn next_generation(generation: u32) -> u32 {
        (generation + 1) & ((1 << GENERATION_BITS) - 1)
    }
}

/// The token as the kernel carries it; `place` finds memory owned by the operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct UserData {
    pub(super) kind: Kind,
    pub(super) place: u32,
    pub(super) token: Token,
}

impl UserData {
    pub(super) const NO_PLACE: u32 = (1 << PLACE_BITS) - 1;

    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.place < 1 << PLACE_BITS && self.token.slot < MAX_SLOTS);
        (self.kind as u64) << (PLACE_BITS + GENERATION_BITS + SLOT_BITS)
            | u64::from(self.place) << (GENERATION_BITS + SLOT_BITS)
            | u64::from(self.token.generation) << SLOT_BITS
            | u64::from(self.token.slot)
    }

    pub(super) fn unpack(bits: u64) -> Option<Self> {
        let field = |shift: u32, width: u32| ((bits >> shift) & ((1 << width) - 1)) as u32;
        Some(Self {
            kind: Kind::from_bits(bits >> (PLACE_BITS + GENERATION_BITS + SLOT_BITS))?,
            place: field(GENERATION_BITS + SLOT_BITS, PLACE_BITS),
            token: Token {
                generation: field(SLOT_BITS, GENERATION_BITS),
                slot: field(0, SLOT_BITS),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_survives_the_kernel() {
        for kind in [Kind::Accept, Kind::Send, Kind::Connect, Kind::Handed, Kind::Unacknowledged] {
            for (place, generation, slot) in [
                (0, 0, 0),
                (UserData::NO_PLACE, (1 << GENERATION_BITS) - 1, MAX_SLOTS - 1),
                (5, 77, 123_456),
            ] {
                let data = UserData { kind, place, token: Token { slot, generation } };
                assert_eq!(UserData::unpack(data.pack()), Some(data));
            }
        }
        assert_eq!(UserData::unpack(0), None);
    }

    #[test]
    fn generations_wrap() {
        assert_eq!(Token::next_generation((1 << GENERATION_BITS) - 1), 0);
    }
}
