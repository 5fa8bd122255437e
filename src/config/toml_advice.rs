//! What to write instead of a line that is not TOML: those who come from other formats leave out
//! quotation marks, or use those of a word processor.
//!
//! A line may hold a secret, so no advice repeats a value.

use super::key::Key;
use super::rule::Rule;

/// Quotation marks that programs for letters put in the place of straight ones.
const TYPOGRAPHIC: [char; 6] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{00ab}'];

/// Advice about the line at the byte `offset` of `text`, if its mistake is a known one.
pub(super) fn advice(text: &str, offset: usize) -> Option<String> {
    let (before, line) = line_at(text, offset)?;
    if line.contains(TYPOGRAPHIC) {
        return Some("it has typographic quotation marks; TOML has straight ones".to_owned());
    }
    let line = line.trim();
    let Some((name, value)) = line.split_once('=') else { return without_equals_sign(line) };
    let (field, value) = (name.trim(), value.trim());
    if value.starts_with(['"', '\'']) {
        return after_opening_mark(value);
    }
    let section = before.lines().rev().find_map(section);
    let key = section.and_then(|section| Key::find(&format!("{section}.{field}")))?;
    Some(match key.rule {
        Rule::Switch => format!("{} is true or false, in small letters", key.name),
        Rule::Number { .. } | Rule::PowerOfTwo { .. } | Rule::CloseCode | Rule::CloseCodeOr(_) => {
            let unit = if key.unit.is_empty() { "" } else { " in " };
            format!("{} is a number{unit}{}, without anything behind it", key.name, key.unit)
        }
        Rule::Networks | Rule::Origins | Rule::Tokens | Rule::Blocks => format!(
            "{} is a list of texts, each in quotation marks: {field} = [\"...\", \"...\"]",
            key.name
        ),
        Rule::Overrides | Rule::Hooks => return None,
        Rule::Address
        | Rule::LogFormat
        | Rule::ProxyProtocol
        | Rule::HeaderName
        | Rule::Secret { .. }
        | Rule::Path
        | Rule::RedisUrl
        | Rule::Phrase
        | Rule::Name { .. } => {
            format!("{} is a text, which stands in quotation marks: {field} = \"...\"", key.name)
        }
    })
}

/// What is before the line, and the line.
fn line_at(text: &str, offset: usize) -> Option<(&str, &str)> {
    let offset = (0..=offset.min(text.len())).rev().find(|at| text.is_char_boundary(*at))?;
    let start = text[..offset].rfind('\n').map_or(0, |end| end + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    Some((&text[..start], line))
}

fn section(line: &str) -> Option<&str> {
    line.trim().strip_prefix('[')?.split(']').next().map(str::trim)
}

fn without_equals_sign(line: &str) -> Option<String> {
    let is_pair = |mark: char| {
        line.split_once(mark).is_some_and(|(name, _)| {
            let name = name.trim_end();
            Key::sections().iter().any(|section| Key::find(&format!("{section}.{name}")).is_some())
        })
    };
    (is_pair(':') || is_pair(' '))
        .then(|| "between a key and its value TOML has an equals sign: key = value".to_owned())
}

fn after_opening_mark(value: &str) -> Option<String> {
    let mark = value.chars().next()?;
    match value[1..].contains(mark) {
        false => Some("the quotation mark is not closed".to_owned()),
        true if mark == '"' && value.contains('\\') => Some(
            "a backslash means something between \"...\"; between '...' it is a character like any"
                .to_owned(),
        ),
        true => None,
    }
}
