//! The configuration: one table of keys, four places a value may be written, one typed result.
//!
//! A value goes through two stages. *As written*: each source (`file`, `environment`,
//! flags) is read into a layer of values that obey their key's rule, each with the place it
//! was written at. *As resolved*: the layers are laid over each other (flags beat environment
//! beats file beats profile beats default), what depends on another key is filled in, and the
//! result is [`Config`].
//!
//! - `table`: the keys; types, defaults, ranges, environment names and explanations come
//!   from here and nowhere else
//! - `key`, `rule`, `value`, `allowed_origin`, `network`, `address_block`, `source_override`: what
//!   a key is and which values it takes
//! - `source`, `written`, `file`, `environment`: as written; `file_source`: the file on the disk;
//!   `toml_advice`: what to write instead of a line that is not TOML
//! - `secret_file`: secrets that are in files of their own
//! - `resolved`: as resolved, and the checks between keys; `source_prefix`: one of them
//! - `reload`: what a configuration that was read again changes, and what it cannot
//! - `default_file`: the table printed as a commented file
//! - `error`: everything that can be wrong, one line each
//!
//! Not here: what a value does. A key exists only once something obeys it; setting any other
//! is an error, so that a misspelt or future setting is never silently without effect.

mod address_block;
mod allowed_origin;
mod default_file;
mod environment;
mod error;
mod file;
mod file_source;
mod key;
mod key_macro;
mod made;
mod network;
mod reload;
mod resolved;
mod rule;
mod secret_file;
mod shutdown_hook;
mod source;
mod source_override;
mod source_prefix;
mod table;
mod toml_advice;
mod value;
mod written;

pub use error::{ConfigError, ConfigErrors};
pub use file_source::INSTALLED_FILE;
pub use key::{KEYS, Key, LegacyName, Preset};
pub use reload::{Change, ReloadReport};
pub use resolved::ShownValue;
pub use rule::Rule;
pub use shutdown_hook::ShutdownHook;
pub use source::{FlagValue, Source, Sources};
pub use source_override::{Overrides, SourceOverride};
pub use table::{
    Admin, Admission, Config, Debugging, DrainDeploy, DrainEmergency, DrainOperator, DrainScaleIn,
    Handshake, Keepalive, Log, Metrics, Redis, Refusal, Server, Sessions, Shutdown,
};
pub use value::{LogFormat, ProxyProtocol, Secret, Value};
pub use written::shown_name;

#[cfg(test)]
mod tests;
