//! A layer: the values that one source gives, as written, each with its place.
//!
//! Whatever is in a layer obeys its key's rule. What does not is in the layer's errors, where
//! it stays even if a higher layer sets the same key: a wrong line is wrong although
//! something hides it today.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::ConfigError;
use super::key::Key;
use super::rule::{Hint, Rule};
use super::source::{FlagValue, Source};
use super::value::Value;

/// How much of a refused value a message repeats, in characters.
const FOUND_MAX_CHARS: usize = 80;

/// What stands in a message for what must not be in it.
const NOT_SHOWN: &str = "(not shown)";

/// The longest word of a name that is repeated although nobody knows it.
const WORD_MAX_CHARS: usize = 14;

/// Why a value in quotation marks is refused.
pub(super) const QUOTED: &str = "it is in quotation marks, which are a part of it here: docker \
     --env-file and the like keep them; leave them out";

/// Where to look when no known name is near.
pub(super) const ADVICE: &str = "`tidegate config default` prints those it has";

/// A value that is right, as one source gives it.
#[derive(Debug, Clone)]
pub(super) struct Written {
    pub(super) value: Value,
    pub(super) source: Source,
    /// The text it was read from, safe to print.
    found: String,
    /// The file that holds the value, if the source only names it.
    pub(super) file: Option<PathBuf>,
}

impl Written {
    /// A secret that `file` holds, which `source` names.
    pub(super) fn of_file(value: Value, source: Source, file: PathBuf) -> Self {
        Self { value, source, found: NOT_SHOWN.to_owned(), file: Some(file) }
    }
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
                self.values.insert(key.name, Written { value, source, found, file: None });
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
                    let read = unquoted(&flag.value).and_then(|text| key.rule.read_text(text));
                    layer.take(key, source, found, read);
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
    ConfigError::UnknownName { source, name: format!("key {}", shown_name(name)), advice }
}

/// A value of `key` as a message may repeat it. Hooks have arguments, and those may be passwords.
pub(super) fn printable(key: &Key, text: &str) -> String {
    if key.is_secret() || key.rule == Rule::Hooks { NOT_SHOWN.to_owned() } else { quiet(text) }
}

/// A name that nobody knows as a message may repeat it: whoever puts a secret where a name belongs
/// does not want to find it in a log. It is repeated if it is near a known one, or made of words.
#[must_use]
pub fn shown_name(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    let path = lower.strip_prefix("tidegate_").unwrap_or(&lower);
    let is_name = path.len() <= FOUND_MAX_CHARS && path.split(['.', '_']).all(is_word);
    let is_near = || name.len() <= FOUND_MAX_CHARS && Key::nearest(path).is_some();
    if is_name || is_near() {
        return quiet(name);
    }
    format!("({} characters, not shown)", name.chars().count())
}

/// Letters, fewer than the shortest secret has, and up to two digits. `__` has an empty one.
fn is_word(word: &str) -> bool {
    let letters = word.bytes().filter(u8::is_ascii_lowercase).count();
    letters <= WORD_MAX_CHARS && word.len() - letters <= 2 && {
        word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    }
}

/// Text of the environment or a flag, unless it is in quotation marks: a shell takes them away,
/// and most files of variables do not.
pub(super) fn unquoted(text: &str) -> Result<&str, Hint> {
    if is_quoted(text) { Err(Some(QUOTED.to_owned())) } else { Ok(text) }
}

/// Whether a text begins and ends with the same quotation mark.
pub(super) fn is_quoted(text: &str) -> bool {
    let inside = |mark| text.strip_prefix(mark).is_some_and(|rest| rest.ends_with(mark));
    inside('"') || inside('\'')
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
