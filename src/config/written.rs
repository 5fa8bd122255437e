//! A layer: the values that one source gives, as written, each with its place.
//!
//! Whatever is in a layer obeys its key's rule. What does not is in the layer's errors, where
//! it stays even if a higher layer sets the same key: a wrong line is wrong although
//! something hides it today.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::key::Key;
use super::rule::Hint;
use super::source::{FlagValue, Source};
use super::value::Value;

/// How much of a refused value a message repeats, in characters.
const FOUND_MAX_CHARS: usize = 80;

/// Where to look when no known name is near.
pub(super) const ADVICE: &str = "`tidegate config default` prints those it has";

/// A value that is right, as one source gives it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) value: Value,
    pub(super) source: Source,
    /// The text it was read from, safe to print.
    found: String,
}

/// What one source gives: values by key, and what is wrong in it.
#[derive(Debug, Default)]
pub(super) struct Layer {
    pub(super) values: BTreeMap<&'static str, Written>,
    pub(super) errors: Vec<ConfigError>,
}

impl Layer {
    /// Takes the result of reading `found` at `source`. A second value for a key must say the
    /// same as the first, because nothing in a layer ranks one above the other.
    pub(super) fn take(
        &mut self,
        key: &'static Key,
        source: Source,
        found: String,
        read: Result<Value, Hint>,
    ) {
        let value = match read {
            Ok(value) => value,
            Err(hint) => {
                self.errors.push(ConfigError::BadValue {
                    source,
                    key: key.name,
                    found,
                    hint,
                    allowed: key.allowed(),
                });
                return;
            }
        };
        match self.values.get(key.name) {
            None => {
                self.values.insert(key.name, Written { value, source, found });
            }
            Some(first) if first.value == value => {}
            Some(first) => self.errors.push(ConfigError::Conflict {
                key: key.name,
                one: (first.source.clone(), first.found.clone()),
                other: (source, found),
            }),
        }
    }

    /// The layer of the command line.
    pub(super) fn from_flags(flags: &[FlagValue]) -> Layer {
        let mut layer = Layer::default();
        for flag in flags {
            let source = Source::Flag(flag.flag.clone());
            match Key::find(&flag.key) {
                Some(key) => {
                    let found = printable(key, &flag.value);
                    layer.take(key, source, found, key.rule.read_text(&flag.value));
                }
                None => layer.errors.push(unknown_key(source, &flag.key)),
            }
        }
        layer
    }
}

/// The error for a `section.key` that is not in the table.
pub(super) fn unknown_key(source: Source, name: &str) -> ConfigError {
    let advice = match Key::nearest(name) {
        Some(key) => format!("the nearest known key is {}", key.name),
        None => format!("this version has no such setting; {ADVICE}"),
    };
    ConfigError::UnknownName { source, name: format!("key {}", quiet(name)), advice }
}

/// A value of `key` as a message may repeat it.
pub(super) fn printable(key: &Key, text: &str) -> String {
    if key.is_secret() { "(not shown)".to_owned() } else { quiet(text) }
}

/// Text from outside on one line of bounded length, quoted only if it needs to be.
pub(super) fn quiet(text: &str) -> String {
    let mut short: String = text.chars().take(FOUND_MAX_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    let framed = short.is_empty() || short.starts_with(' ') || short.ends_with(' ');
    if framed || !short.bytes().all(plain) { format!("{short:?}") } else { short }
}
