//! Where values come from: the inputs of a load, and the place that each value keeps.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: it is the key's default.
    Default,
    /// In the profile of this name.
    Profile(&'static str),
    /// In the configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// In the environment variable of this name.
    Environment(String),
    /// On the command line, with this flag.
    Flag(String),
}

impl Source {
    /// Which of two sources counts: flags beat the environment, that the file, that a profile.
    pub(super) fn strength(&self) -> u8 {
        match self {
            Source::Default => 0,
            Source::Profile(_) => 1,
            Source::File { .. } => 2,
            Source::Environment(_) => 3,
            Source::Flag(_) => 4,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Profile(name) => write!(f, "profile {name}"),
            Source::File { path, line } => write!(f, "file {}:{line}", path.display()),
            Source::Environment(name) => write!(f, "environment {name}"),
            Source::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Where a resolved value comes from, and what was done to it on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) source: Source,
    /// In words for the operator, if it was changed to fit another key.
    pub(super) note: Option<String>,
    /// The file that holds the value, if the source only names it.
    pub(super) file: Option<PathBuf>,
}

/// For `config show`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        if let Some(file) = &self.file {
            write!(f, ", in {}", file.display())?;
        }
        match &self.note {
            Some(note) => write!(f, ", {note}"),
            None => Ok(()),
        }
    }
}

/// Everything that a load reads. The process's own environment is an input like the others,
/// so that a test gives its own.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The configuration file (`--config`); without it `TIDEGATE_CONFIG` names one, and
    /// without that there is none.
    pub file: Option<PathBuf>,
    /// The profile (`--profile`); without it `TIDEGATE_PROFILE` names one.
    pub profile: Option<String>,
    /// Environment variables, in any order.
    pub environment: Vec<(OsString, OsString)>,
    /// Values given as flags.
    pub flags: Vec<FlagValue>,
}

impl Sources {
    /// The environment of this process, and nothing else yet.
    #[must_use]
    pub fn from_environment() -> Self {
        Sources { environment: std::env::vars_os().collect(), ..Sources::default() }
    }
}

/// A value given on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlagValue {
    /// The flag as written, for messages: `--listen`, `--set`.
    pub flag: String,
    /// The key it sets; of `--set`, whatever the operator wrote.
    pub key: String,
    /// The value as written.
    pub value: String,
}

impl FlagValue {
    /// `flag` sets `key` to `value`.
    pub fn new(
        flag: impl Into<String>,
        key: impl Into<String>,
        value: impl Into<String>,
    ) -> FlagValue {
        FlagValue { flag: flag.into(), key: key.into(), value: value.into() }
    }
}
