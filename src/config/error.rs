//! Everything that can be wrong with a configuration, one line each.
//!
//! All of it is collected before anything is said: an operator corrects a file once, not once
//! per mistake. A secret never gets in here; whoever makes an error masks it.

use std::fmt;
use std::path::PathBuf;

use super::source::Source;
use crate::escape::printable;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// A key has a value it does not take.
    BadValue {
        /// Where it is written.
        source: Source,
        /// The key.
        key: &'static str,
        /// The value as written, with its unit if the name it was written under has its own.
        found: String,
        /// What is wrong with it, where the range alone does not say.
        hint: Option<String>,
        /// The allowed values with their unit.
        allowed: String,
    },
    /// A name that no key has.
    UnknownName {
        /// Where it is written.
        source: Source,
        /// The name as written.
        name: String,
        /// The nearest known name, or where to look.
        advice: String,
    },
    /// Two names of one key say different things in the same layer.
    Conflict {
        /// The key.
        key: &'static str,
        /// One place and what it says.
        one: (Source, String),
        /// The other.
        other: (Source, String),
    },
    /// The file cannot be read, or is not TOML.
    BadFile {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1, if it could be read at all.
        line: Option<usize>,
        /// Why.
        message: String,
    },
    /// Values that are right by themselves do not go together.
    Contradiction {
        /// The keys involved.
        keys: &'static [&'static str],
        /// What does not go together, and what to do.
        message: String,
    },
}

impl ConfigError {
    /// Whether the error is about the value of `key`, so that what it resolves to is unknown.
    pub(super) fn concerns(&self, name: &str) -> bool {
        match self {
            ConfigError::BadValue { key, .. } | ConfigError::Conflict { key, .. } => *key == name,
            ConfigError::Contradiction { keys, .. } => keys.contains(&name),
            ConfigError::UnknownName { .. } | ConfigError::BadFile { .. } => false,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::BadValue { source, key, found, hint, allowed } => {
                write!(f, "{source}: {key} = {found} is refused")?;
                if let Some(hint) = hint {
                    write!(f, " ({hint})")?;
                }
                write!(f, "; allowed: {allowed}")
            }
            ConfigError::UnknownName { source, name, advice } => {
                write!(f, "{source}: unknown {name}; {advice}")
            }
            ConfigError::Conflict { key, one, other } => write!(
                f,
                "{}: {key} = {}, but {} says {}; set one of them, or both alike",
                one.0, one.1, other.0, other.1
            ),
            ConfigError::BadFile { path, line: Some(line), message } => {
                write!(f, "file {}:{line}: {message}", path.display())
            }
            ConfigError::BadFile { path, line: None, message } => {
                write!(f, "file {}: {message}", path.display())
            }
            ConfigError::Contradiction { message, .. } => f.write_str(message),
        }
    }
}

/// Every reason why a configuration is refused; never empty. Its `Display` form is one line
/// for each, whatever is in names and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<ConfigError>);

impl ConfigErrors {
    /// The errors in the order in which a reader meets them: file, environment, flags, and
    /// what lies between keys.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            printable(error).fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_file_is_called() {
        let path = PathBuf::from("a\n\u{1b}[31mb\u{202e}");
        let error = |line| ConfigError::BadFile { path: path.clone(), line, message: "m\n".into() };
        let errors = ConfigErrors(vec![error(None), error(Some(3))]);
        assert_eq!(
            errors.to_string(),
            "file a\\n\\x1b[31mb\\u{202e}: m\\n\nfile a\\n\\x1b[31mb\\u{202e}:3: m\\n"
        );
    }
}
