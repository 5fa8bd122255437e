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

    /// Reads its text, 32 hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok().filter(|text| text.len() == 32)?;
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
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
        assert_eq!(Life::parse(one.to_string().as_bytes()), Some(one));
        for bad in ["", "ab", &"g".repeat(32), &"+".repeat(32), &"a".repeat(33)] {
            assert_eq!(Life::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
