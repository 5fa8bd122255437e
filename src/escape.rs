//! Text from outside, made safe to print: control characters, line breaks, and characters that are
//! invisible or reorder others are replaced by escapes. Pure.
//!
//! | written | for |
//! |---|---|
//! | `\n`, `\r`, `\t` | these three |
//! | `\x1b`, `\x7f` | other control characters of ASCII |
//! | `\u{9b}`, `\u{202e}`, `\u{2028}` | C1, bidirectional controls, line separators, invisible characters |
//! | `\u009b` | the same in JSON |
//!
//! A backslash stays as it is: an escape is for reading, and cannot be told from the same
//! characters written out. Invariant: the output holds no character for which [`is_unsafe`] is
//! true, but the line breaks that [`lines`] keeps.

use std::fmt::{self, Display, Write};

/// Whether a character does something else than being seen where it stands: it moves the cursor,
/// ends a line, reorders its neighbours, or is invisible.
pub const fn is_unsafe(c: char) -> bool {
    matches!(
        c,
        // Cc: C0, DEL, C1.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // Bidirectional marks, embeddings, overrides and isolates; spaces without width, joiners,
        // deprecated format controls.
        | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        // Separators of lines and paragraphs.
        | '\u{2028}' | '\u{2029}'
        // Tags, which are invisible copies of ASCII.
        | '\u{e0000}'..='\u{e007f}'
    )
}

/// The value's text on one line.
pub const fn printable<T: Display>(value: T) -> Printable<T> {
    Printable { value, style: Style::Text }
}

/// The value's text with its line breaks, for output of several lines that was composed here.
pub const fn lines<T: Display>(value: T) -> Printable<T> {
    Printable { value, style: Style::Lines }
}

/// JSON text in which strings have no unsafe characters. What it means is the same.
pub const fn json<T: Display>(value: T) -> Printable<T> {
    Printable { value, style: Style::Json }
}

/// A value whose text is escaped when it is displayed.
#[derive(Clone, Copy, Debug)]
pub struct Printable<T> {
    value: T,
    style: Style,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Text,
    Lines,
    Json,
}

impl<T: Display> Display for Printable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Escaper { out: f, style: self.style }, "{}", self.value)
    }
}

/// A writer that escapes what it is given and hands it on.
pub struct Escaper<'a> {
    out: &'a mut dyn Write,
    style: Style,
}

impl<'a> Escaper<'a> {
    /// Escapes as [`printable`].
    pub fn text(out: &'a mut dyn Write) -> Self {
        Self { out, style: Style::Text }
    }

    /// Escapes as [`json`].
    pub fn json(out: &'a mut dyn Write) -> Self {
        Self { out, style: Style::Json }
    }

    fn escape(&mut self, c: char) -> fmt::Result {
        match (self.style, c) {
            // Outside of a string it separates values; inside it has been escaped already.
            (Style::Lines | Style::Json, '\n') => self.out.write_char(c),
            (Style::Json, '\t' | '\r') => self.out.write_char(c),
            (Style::Json, _) => {
                let mut units = [0; 2];
                let units = c.encode_utf16(&mut units);
                units.iter().try_for_each(|unit| write!(self.out, "\\u{unit:04x}"))
            }
            (_, '\n' | '\r' | '\t') => write!(self.out, "{}", c.escape_default()),
            (_, c) if c.is_ascii() => write!(self.out, "\\x{:02x}", c as u32),
            (_, c) => write!(self.out, "\\u{{{:x}}}", c as u32),
        }
    }
}

impl fmt::Debug for Escaper<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Escaper").field("style", &self.style).finish_non_exhaustive()
    }
}

impl Write for Escaper<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(is_unsafe) {
            let (plain, after) = rest.split_at(at);
            self.out.write_str(plain)?;
            let mut chars = after.chars();
            chars.next().map_or(Ok(()), |c| self.escape(c))?;
            rest = chars.as_str();
        }
        self.out.write_str(rest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use std::ops::RangeInclusive;

    use proptest::char::range;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// Any text, with more of what is unsafe than chance would bring.
    pub(crate) fn any_text() -> impl Strategy<Value = String> {
        let among = |chars: RangeInclusive<char>| range(*chars.start(), *chars.end());
        let c = prop_oneof![
            any::<char>(),
            among('\0'..='\u{ff}'),
            among('\u{1ff0}'..='\u{2070}'),
            among('\u{dfff0}'..='\u{e00ff}'),
        ];
        prop::collection::vec(c, 0..40).prop_map(|chars| chars.into_iter().collect())
    }

    #[test]
    fn what_is_not_a_glyph_is_spelled_out() {
        for (text, shown) in [
            ("plain, \u{e9}\u{4e16} and \u{1f600}: \"quoted\" \\n", None),
            ("one\ntwo\r\n\tthree", Some(r"one\ntwo\r\n\tthree")),
            ("\x1b[2J\x1b]0;title\x07", Some(r"\x1b[2J\x1b]0;title\x07")),
            ("\0\x08\x7f", Some(r"\x00\x08\x7f")),
            ("\u{9b}31m\u{85}", Some(r"\u{9b}31m\u{85}")),
            ("a\u{2028}b\u{2029}c", Some(r"a\u{2028}b\u{2029}c")),
            ("user\u{202e}nimda\u{2066}", Some(r"user\u{202e}nimda\u{2066}")),
            ("a\u{200b}b\u{feff}\u{e0041}", Some(r"a\u{200b}b\u{feff}\u{e0041}")),
        ] {
            assert_eq!(printable(text).to_string(), shown.unwrap_or(text), "{text:?}");
        }
        assert_eq!(lines("one\ntwo\r\x1b").to_string(), "one\ntwo\\r\\x1b");
    }

    #[test]
    fn json_means_the_same_afterwards() {
        let value = Value::from("\u{7f}\u{9b}\u{202e}\u{2028}\u{e0041}\n\x1b\u{1f600}");
        let text = format!("{{\n\t\"a\": {value}\r\n}}");
        let escaped = json(&text).to_string();
        assert!(escaped.contains(r"\u007f\u009b\u202e\u2028\udb40\udc41\n\u001b"), "{escaped}");
        assert!(escaped.starts_with("{\n\t") && escaped.ends_with("\r\n}"));
        let read: Value = serde_json::from_str(&escaped).unwrap();
        assert_eq!(read["a"], value);
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left_and_nothing_else_is_touched(text in any_text()) {
            let shown = printable(&text).to_string();
            prop_assert!(!shown.contains(is_unsafe), "{:?}", shown);
            if !text.contains(is_unsafe) {
                prop_assert_eq!(&shown, &text);
            }
            prop_assert_eq!(printable(&shown).to_string(), shown);
            let kept = lines(&text).to_string();
            prop_assert_eq!(kept.matches('\n').count(), text.matches('\n').count());
            prop_assert!(!kept.contains(|c| c != '\n' && is_unsafe(c)));
        }

        #[test]
        fn unsafe_characters_are_escaped_however_they_are_cut(text in any_text(), at: prop::sample::Index) {
            let cut = text.char_indices().map(|(at, _)| at).nth(at.index(text.chars().count() + 1));
            let (one, other) = text.split_at(cut.unwrap_or(text.len()));
            let mut out = String::new();
            let mut escaper = Escaper::text(&mut out);
            escaper.write_str(one).unwrap();
            escaper.write_str(other).unwrap();
            prop_assert_eq!(out, printable(&text).to_string());
        }

        #[test]
        fn every_json_string_survives(text in any_text()) {
            let value = Value::from(text.as_str());
            let escaped = json(&value).to_string();
            prop_assert!(!escaped.contains(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<Value>(&escaped).unwrap(), value);
        }
    }
}
