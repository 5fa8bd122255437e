//! Validation of text that arrives in pieces.
//!
//! A piece may end in the middle of a character. Those bytes, at most three, are kept here until
//! the rest arrives; everything before them is handed on as valid text at once. A sequence that
//! no further byte can make valid is refused at its first such byte (an overlong form, a
//! surrogate or a value above U+10FFFF already at its second byte), as the strict variants of
//! Autobahn's section 6.4 ask.

/// The text is not UTF-8, and no further bytes can make it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidUtf8;

/// The beginning of a character whose remaining bytes have not arrived yet.
///
/// Invariant: `bytes[..len]` is a proper prefix of some character's encoding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unfinished {
    bytes: [u8; 3],
    len: u8,
}

impl Unfinished {
    /// True between characters: text may end here.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Appends to `text` what `piece` completes, and keeps what it leaves open. The work is
    /// linear in `piece`, whatever its size.
    ///
    /// # Errors
    /// The first byte that cannot be part of valid text lies in `piece`. `text` then holds the
    /// valid text before it.
    pub fn push(&mut self, piece: &[u8], text: &mut String) -> Result<(), InvalidUtf8> {
        let rest = if self.is_empty() { piece } else { self.complete(piece, text)? };
        match simdutf8::compat::from_utf8(rest) {
            Ok(valid) => text.push_str(valid),
            Err(error) => {
                let (valid, open) = rest.split_at(error.valid_up_to());
                text.push_str(simdutf8::basic::from_utf8(valid).map_err(|_| InvalidUtf8)?);
                if error.error_len().is_some() {
                    return Err(InvalidUtf8);
                }
                self.keep(open);
            }
        }
        Ok(())
    }

    /// Gives bytes of `piece` to the open character until it is complete or `piece` is used up,
    /// and returns what is left of `piece`.
    fn complete<'a>(
        &mut self,
        piece: &'a [u8],
        text: &mut String,
    ) -> Result<&'a [u8], InvalidUtf8> {
        let mut character = [0; 4];
        let start = usize::from(self.len);
        character[..start].copy_from_slice(&self.bytes[..start]);
        for (used, &byte) in piece.iter().enumerate() {
            let len = start + used + 1;
            character[len - 1] = byte;
            match std::str::from_utf8(&character[..len]) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.len = 0;
                    return Ok(&piece[used + 1..]);
                }
                Err(error) if error.error_len().is_some() => return Err(InvalidUtf8),
                Err(_) => self.keep(&character[..len]),
            }
        }
        Ok(&[])
    }

    fn keep(&mut self, open: &[u8]) {
        debug_assert!(open.len() <= 3, "four bytes are a character or an error");
        self.bytes[..open.len()].copy_from_slice(open);
        self.len = open.len() as u8;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// Feeds byte by byte; the index of the byte that was refused, if one was.
    fn refused_at(bytes: &[u8]) -> Option<usize> {
        let (mut open, mut text) = (Unfinished::default(), String::new());
        (0..bytes.len()).find(|&i| open.push(&bytes[i..=i], &mut text).is_err())
    }

    #[test]
    fn refuses_at_the_first_byte_that_cannot_be_mended() {
        let cases: [(&str, &[u8], Option<usize>); 14] = [
            ("above U+10FFFF", b"\xf4\x90\x80\x80", Some(1)),
            ("surrogate", b"\xed\xa0\x80", Some(1)),
            ("last surrogate", b"\xed\xbf\xbf", Some(1)),
            ("overlong of two", b"\xc0\xaf", Some(0)),
            ("overlong of three", b"\xe0\x80\xaf", Some(1)),
            ("overlong of four", b"\xf0\x8f\xbf\xbf", Some(1)),
            ("five bytes", b"\xf8\x88\x80\x80\x80", Some(0)),
            ("lone continuation", b"a\x80", Some(1)),
            ("third byte bad", b"\xe2\x82x", Some(2)),
            ("fourth byte bad", b"\xf0\x9f\x98x", Some(3)),
            ("autobahn 6.4.1", b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90", Some(12)),
            ("largest", "\u{10ffff}".as_bytes(), None),
            ("before the surrogates", "\u{d7ff}".as_bytes(), None),
            ("prefix only", b"\xf0\x9f\x98", None),
        ];
        for (name, bytes, expected) in cases {
            assert_eq!(refused_at(bytes), expected, "{name}");
        }
    }

    fn text_or_noise() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<char>(), 0..40)
                .prop_map(|chars| chars.into_iter().collect::<String>().into_bytes()),
            prop::collection::vec(any::<u8>(), 0..20),
            (
                prop::collection::vec(any::<char>(), 0..40),
                any::<u8>(),
                any::<prop::sample::Index>()
            )
                .prop_map(|(chars, byte, at)| {
                    let mut bytes = chars.into_iter().collect::<String>().into_bytes();
                    let at = at.index(bytes.len() + 1);
                    bytes.insert(at, byte);
                    bytes
                }),
        ]
    }

    proptest! {
        #[test]
        fn any_split_agrees_with_std(
            bytes in text_or_noise(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let (mut open, mut text) = (Unfinished::default(), String::new());
            let pushed =
                cuts.windows(2).try_for_each(|w| open.push(&bytes[w[0]..w[1]], &mut text));
            match std::str::from_utf8(&bytes) {
                Ok(valid) => {
                    prop_assert!(pushed.is_ok() && open.is_empty());
                    prop_assert_eq!(valid, text);
                }
                Err(error) if error.error_len().is_none() => {
                    prop_assert!(pushed.is_ok() && !open.is_empty());
                }
                Err(error) => {
                    prop_assert!(pushed.is_err());
                    prop_assert_eq!(text.as_bytes(), &bytes[..error.valid_up_to()]);
                }
            }
        }
    }
}
