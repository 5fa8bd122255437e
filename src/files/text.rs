//! Bytes of a file as text: UTF-8, with or without the byte order mark that some editors put in
//! front of it. UTF-16 is refused by its name.

use std::fmt;

/// Why bytes are not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotText {
    /// They are UTF-16, as Windows writes it.
    Utf16,
    /// They are in an encoding that is not known, or no text; the line of the first such byte,
    /// from 1.
    Unknown(usize),
}

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotText::Utf16 => f.write_str(
                "it is UTF-16; save it as UTF-8, or convert it with: iconv -f UTF-16 -t UTF-8",
            ),
            NotText::Unknown(line) => write!(f, "it is not UTF-8 (line {line})"),
        }
    }
}

/// The text without a byte order mark.
///
/// # Errors
/// They are not UTF-8.
pub fn decode(mut bytes: Vec<u8>) -> Result<String, NotText> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if is_utf16(&bytes) {
        return Err(NotText::Utf16);
    }
    if bytes.starts_with(MARK) {
        bytes.drain(..MARK.len());
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        NotText::Unknown(good.iter().filter(|byte| **byte == b'\n').count() + 1)
    })
}

/// By its byte order mark, or by the NUL in one half of the first character.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..])
        || matches!(bytes, [0, other, ..] | [other, 0, ..] if *other != 0)
}
