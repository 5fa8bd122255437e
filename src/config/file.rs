//! The configuration file, as written: TOML with one table per section.
//!
//! Reading it from the disk is the caller's; this takes its text. Places are lines, found
//! from the byte spans that the parser keeps.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::key::Key;
use super::source::Source;
use super::toml_advice::advice;
use super::written::{Layer, printable, quiet, shown_name, unknown_key};

/// Reads `text`, which came from `path`. A file that is not TOML gives every place where it is
/// not, and no values: what the parser makes of the rest is a guess.
pub(super) fn read(path: &Path, text: &str) -> Layer {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut reading = Reading { path, text, layer: Layer::default() };
    if errors.is_empty() {
        reading.root(root.get_ref());
    }
    for error in &errors {
        let at = error.span().map(|span| span.start);
        let advice = at.and_then(|at| advice(text, at)).map(|advice| format!("; {advice}"));
        let message = error.message().replace('\n', " ");
        reading.layer.errors.push(ConfigError::BadFile {
            path: path.to_owned(),
            line: at.map(|at| reading.line(at)),
            message: format!("this is not TOML: {message}{}", advice.unwrap_or_default()),
        });
    }
    // The parser's tables are sorted by name; a reader goes through the file from the top.
    reading.layer.errors.sort_by_key(line_of);
    // What the parser says about the rest of a line that it did not understand is a guess.
    reading.layer.errors.dedup_by(|next, first| is_guess(first, next));
    reading.layer
}

struct Reading<'a> {
    path: &'a Path,
    text: &'a str,
    layer: Layer,
}

impl Reading<'_> {
    fn root(&mut self, root: &DeTable<'_>) {
        for (name, value) in root {
            let known = Key::sections().contains(&name.get_ref().as_ref());
            match value.get_ref() {
                DeValue::Table(section) if known => self.section(name.get_ref(), section),
                _ if known => self.not_a_section(name),
                DeValue::Table(_) | DeValue::Array(_) => self.unknown_section(name),
                _ => {
                    let error = unknown_key(self.source(name.span().start), name.get_ref());
                    self.layer.errors.push(error);
                }
            }
        }
    }

    fn section(&mut self, section: &str, entries: &DeTable<'_>) {
        for (field, value) in entries {
            let name = format!("{section}.{}", field.get_ref());
            let source = self.source(field.span().start);
            match Key::find(&name) {
                Some(key) => self.value(key, source, value),
                None => self.layer.errors.push(unknown_key(source, &name)),
            }
        }
    }

    fn value(&mut self, key: &'static Key, source: Source, value: &Spanned<DeValue<'_>>) {
        let written = self.text.get(value.span()).unwrap_or_default();
        let written = written.split_whitespace().collect::<Vec<_>>().join(" ");
        let found = printable(key, &written);
        let faults = match key.rule.read_toml(value) {
            Ok(value) => return self.layer.take(key, source, found, Ok(value)),
            Err(faults) => faults,
        };
        for fault in faults {
            let (source, found) = match fault.part {
                Some((at, part)) => (self.source(at), quiet(&part)),
                None => (source.clone(), found.clone()),
            };
            self.layer.take(key, source, found, Err(fault.hint));
        }
    }

    fn not_a_section<S: AsRef<str>>(&mut self, name: &Spanned<S>) {
        let section = name.get_ref().as_ref();
        self.layer.errors.push(ConfigError::BadFile {
            path: self.path.to_owned(),
            line: Some(self.line(name.span().start)),
            message: format!("{section} is a section and has no value; write [{section}]"),
        });
    }

    fn unknown_section<S: AsRef<str>>(&mut self, name: &Spanned<S>) {
        let section = name.get_ref().as_ref();
        let advice = match Key::nearest_section(section) {
            Some(near) => format!("the nearest known section is [{near}]"),
            None => format!("this version has {}", Key::sections().join(", ")),
        };
        self.layer.errors.push(ConfigError::UnknownName {
            source: self.source(name.span().start),
            name: format!("section [{}]", shown_name(section)),
            advice,
        });
    }

    fn source(&self, offset: usize) -> Source {
        Source::File { path: self.path.to_owned(), line: self.line(offset) }
    }

    /// The line of a byte offset, from 1.
    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

fn is_guess(first: &ConfigError, next: &ConfigError) -> bool {
    let is_syntax = |error: &ConfigError| matches!(error, ConfigError::BadFile { message, .. } if message.starts_with("this is not TOML"));
    is_syntax(first) && is_syntax(next) && line_of(first) == line_of(next)
}

fn line_of(error: &ConfigError) -> usize {
    match error {
        ConfigError::BadValue { source: Source::File { line, .. }, .. }
        | ConfigError::UnknownName { source: Source::File { line, .. }, .. }
        | ConfigError::BadFile { line: Some(line), .. } => *line,
        _ => 0,
    }
}
