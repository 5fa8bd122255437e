//! The query of a request: what it is decoded to is what a naive decoder finds, and what that finds
//! not to be UTF-8 is an error.

use tidegate::http::query::{NotUtf8, pairs};

/// The query, which a request target has in ASCII.
pub fn run(input: &[u8]) {
    let query: String = input.iter().map(|byte| char::from(byte & 0x7f)).collect();
    let naive = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (text(name), text(value))
    });
    let found = pairs(&query).map(|(name, value)| {
        let text = |part: Result<std::borrow::Cow<'_, str>, NotUtf8>| part.ok().map(String::from);
        (text(name.decode()), text(value.decode()))
    });
    assert!(naive.eq(found), "{query}");
}

fn text(encoded: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = encoded.as_bytes();
    while let [byte, after @ ..] = rest {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let hex = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, hex.map(|hex| u8::from_str_radix(hex, 16))) {
            (b'%', Some(Ok(decoded))) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = after;
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}
