//! The name of one run of one process: random, so no other run has it.

use std::fmt;

use ahash::RandomState;

/// 128 random bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Life(u128);

impl Life {
    /// Its length.
    pub const BYTES: usize = 16;

    /// A new name.
    pub fn draw() -> Self {
        let (one, other) = (RandomState::new(), RandomState::new());
        Self(u128::from(one.hash_one(0)) << 64 | u128::from(other.hash_one(1)))
    }

    /// As it travels.
    pub const fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0.to_be_bytes()
    }

    /// As it arrives.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same_and_each_survives_the_way() {
        let (one, other) = (Life::draw(), Life::draw());
        assert_ne!(one, other);
        assert_eq!(Life::from_bytes(one.to_bytes()), one);
        assert_eq!(Life::from_bytes([0xab; 16]).to_string(), "ab".repeat(16));
    }
}
