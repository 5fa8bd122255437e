//! The name of a session, chosen by the client or issued. Pure.
//!
//! Whoever knows it can take the session over, so an issued one has 128 random bits.

use std::fmt;
use std::sync::Arc;

/// What a client says to be given one.
pub const NEW: &str = "new";

/// Least and most characters.
pub const CHARS_MIN: usize = 8;
/// See [`CHARS_MIN`].
pub const CHARS_MAX: usize = 64;

/// A valid name. Copies share it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// 8 to 64 of `A-Z a-z 0-9 _ -`; `None` for anything else.
    pub fn new(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let fits = (CHARS_MIN..=CHARS_MAX).contains(&text.len());
        (fits && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    /// From random bits.
    pub fn issue(random: [u8; 16]) -> Self {
        Self(format!("{:032x}", u128::from_be_bytes(random)).into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SessionId {
    /// Enough to tell two apart in a log, and not enough to take one over.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.0[..CHARS_MIN / 2])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_plain_and_of_a_bounded_length() {
        for good in ["12345678", "user-42_A", &"x".repeat(64)] {
            assert_eq!(SessionId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", NEW, "1234567", "with space", "ünïcödé-x", "a:b:c:d:e", "{a}12345\0"] {
            assert_eq!(SessionId::new(bad), None, "{bad}");
        }
        assert_eq!(SessionId::new(&"x".repeat(65)), None);
    }

    #[test]
    fn an_issued_name_is_valid_and_is_not_logged() {
        let id = SessionId::issue([0xab; 16]);
        assert_eq!(SessionId::new(id.as_str()), Some(id.clone()));
        assert_eq!(format!("{id:?}"), "abab…");
    }
}
