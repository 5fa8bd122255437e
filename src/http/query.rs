//! The query of a request as pairs (`application/x-www-form-urlencoded`, WHATWG URL section 5.1),
//! decoded without loss.
//!
//! A percent-encoded byte sequence that is not UTF-8 is an error and is never replaced: with
//! U+FFFD in the place of what was meant, two different names would become one. A percent sign
//! that two hexadecimal digits do not follow stands for itself, as in browsers.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// A name or value that is not UTF-8 once it is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

/// A name or a value as it is written, percent-encoding untouched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Encoded<'a>(&'a [u8]);

/// The pairs of a query in order, without empty ones. A name without `=` has an empty value.
pub fn pairs(query: &str) -> impl Iterator<Item = (Encoded<'_>, Encoded<'_>)> {
    query.as_bytes().split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let end = memchr::memchr(b'=', pair).unwrap_or(pair.len());
        (Encoded(&pair[..end]), Encoded(pair.get(end + 1..).unwrap_or_default()))
    })
}

impl<'a> Encoded<'a> {
    /// The bytes, with `+` for a space and percent-encoding taken off.
    fn bytes(self) -> Cow<'a, [u8]> {
        let spaced: Cow<'a, [u8]> = match memchr::memchr(b'+', self.0) {
            None => Cow::Borrowed(self.0),
            Some(_) => self.0.iter().map(|&byte| if byte == b'+' { b' ' } else { byte }).collect(),
        };
        match spaced {
            Cow::Borrowed(bytes) => percent_decode(bytes).into(),
            Cow::Owned(bytes) => Cow::Owned(percent_decode(&bytes).collect()),
        }
    }

    /// The text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn decode(self) -> Result<Cow<'a, str>, NotUtf8> {
        match self.bytes() {
            Cow::Borrowed(bytes) => {
                std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_| NotUtf8)
            }
            Cow::Owned(bytes) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| NotUtf8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Decoded, with `?` for what is not UTF-8.
    fn decoded(query: &str) -> Vec<(String, String)> {
        let text = |part: Encoded<'_>| part.decode().map_or("?".to_owned(), Cow::into_owned);
        pairs(query).map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn pairs_are_decoded_and_what_is_not_utf_8_is_not_replaced() {
        for (query, expected) in [
            ("", &[][..]),
            ("&&", &[]),
            ("a=b&c=d", &[("a", "b"), ("c", "d")]),
            ("a", &[("a", "")]),
            ("a=b=c", &[("a", "b=c")]),
            ("=b", &[("", "b")]),
            ("a=x+y%20z%2B", &[("a", "x y z+")]),
            ("a=m%C3%BC&%6eame=1", &[("a", "mü"), ("name", "1")]),
            ("a=caf%E9&a=caf%E8", &[("a", "?"), ("a", "?")]),
            ("caf%E9=1", &[("?", "1")]),
            // Cut in a character, overlong, a surrogate, beyond the last code point.
            ("a=%C3&a=%C0%AF", &[("a", "?"), ("a", "?")]),
            ("a=%ED%A0%80&a=%F4%90%80%80", &[("a", "?"), ("a", "?")]),
            ("a=%EF%BF%BD", &[("a", "\u{fffd}")]),
            ("a=100%&a=%zz&a=%4", &[("a", "100%"), ("a", "%zz"), ("a", "%4")]),
            ("a=%00", &[("a", "\0")]),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect();
            assert_eq!(decoded(query), expected, "{query}");
        }
    }

    /// Every byte by its percent-encoding.
    fn encode(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
    }

    proptest! {
        #[test]
        fn two_values_never_become_one(
            one in prop::collection::vec(any::<u8>(), 0..12),
            other in prop::collection::vec(any::<u8>(), 0..12),
        ) {
            let query = format!("a={}&a={}", encode(&one), encode(&other));
            let values: Vec<_> = pairs(&query).map(|(_, value)| value.decode()).collect();
            let expected = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| NotUtf8);
            for (value, bytes) in values.iter().zip([&one, &other]) {
                prop_assert_eq!(value.clone().map(Cow::into_owned), expected(bytes));
            }
        }

        #[test]
        fn what_is_utf_8_is_as_browsers_decode_it(query in "[a-c=&+%0-9A-F\u{e9}]{0,40}") {
            for ((name, value), (name_then, value_then)) in
                pairs(&query).zip(form_urlencoded::parse(query.as_bytes()))
            {
                for (part, then) in [(name, name_then), (value, value_then)] {
                    match part.decode() {
                        Ok(text) => prop_assert_eq!(text, then),
                        Err(NotUtf8) => {
                            let replaced = then.contains(char::REPLACEMENT_CHARACTER);
                            prop_assert!(replaced);
                        }
                    }
                }
            }
            prop_assert_eq!(
                pairs(&query).count(),
                form_urlencoded::parse(query.as_bytes()).count()
            );
        }
    }
}
