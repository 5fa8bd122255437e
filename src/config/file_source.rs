//! The configuration file on the disk: which one it is, and what of it can be read when.
//!
//! At the start a file may be anything with an end, a pipe of the shell as well. A reload takes
//! only a regular file that is not empty and that nobody is writing: what a reload reads replaces
//! every limit, so what is not there would set limits to their defaults.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment;
use super::error::ConfigError;
use super::file;
use super::source::Sources;
use super::written::Layer;
use crate::files::Kind;
use crate::files::read::{self, NotRead};
use crate::files::text;
use crate::limits::{CONFIG_FILE_BYTES, CONFIG_PIPE_MS};

/// Where the packages and the unit of systemd have the configuration. Commands that ask a running
/// server look there; the server itself reads what it is told to and nothing else.
pub const INSTALLED_FILE: &str = "/etc/tidegate/tidegate.toml";

/// When and for what the sources are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The start of a server.
    Start,
    /// A reload, by a server that runs.
    Reload,
    /// By a command that has no use for secrets and may not be allowed to read them.
    WithoutSecrets,
}

impl Sources {
    /// The file that is read, if there is one.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let in_environment =
            || environment::lookup(&self.environment, environment::FILE_NAME).map(PathBuf::from);
        self.file.clone().or_else(in_environment)
    }

    /// The same sources with [`INSTALLED_FILE`] where they name no file, if it can be read.
    #[must_use]
    pub fn or_installed_file(mut self) -> Self {
        let installed = Path::new(INSTALLED_FILE);
        if self.path().is_none() && read::regular(installed, CONFIG_FILE_BYTES).is_ok() {
            self.file = Some(installed.to_owned());
        }
        self
    }
}

/// The layer of the file.
pub(super) fn layer(
    sources: &Sources,
    occasion: Occasion,
    errors: &mut Vec<ConfigError>,
    warnings: &mut Vec<String>,
) -> Layer {
    let Some(path) = sources.path() else { return Layer::default() };
    match read_text(&path, occasion) {
        Ok(Text { text, kind }) => {
            if kind == Kind::Regular && text.trim().is_empty() {
                warnings.push(format!(
                    "file {}: it is empty, so that it sets nothing; `tidegate config default` \
                     prints what it could hold",
                    path.display()
                ));
            }
            file::read(&path, &text)
        }
        Err(message) => {
            errors.push(ConfigError::BadFile { path, line: None, message });
            Layer::default()
        }
    }
}

struct Text {
    text: String,
    kind: Kind,
}

fn read_text(path: &Path, occasion: Occasion) -> Result<Text, String> {
    let (bytes, kind) = match occasion {
        Occasion::Reload => {
            let bytes = read::settled(path, CONFIG_FILE_BYTES).map_err(unread_again)?;
            (bytes, Kind::Regular)
        }
        Occasion::Start | Occasion::WithoutSecrets => {
            let patience = Duration::from_millis(CONFIG_PIPE_MS);
            read::once(path, CONFIG_FILE_BYTES, patience).map_err(|error| error.to_string())?
        }
    };
    let text = text::decode(bytes).map_err(|error| error.to_string())?;
    if occasion == Occasion::Reload && text.trim().is_empty() {
        return Err("it is empty, which would set every limit to its default; if that is meant, \
                    write a comment line into it"
            .to_owned());
    }
    Ok(Text { text, kind })
}

fn unread_again(error: NotRead) -> String {
    match error {
        NotRead::Kind(_) | NotRead::Descriptor => format!(
            "{error}: it is read at the start only; start the server with --config and a file to \
             be able to change it"
        ),
        NotRead::Unsettled => format!("{error}; ask for the reload when it is finished"),
        _ => error.to_string(),
    }
}
