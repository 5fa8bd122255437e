//! The difference between the configuration in force and the one that was read again.
//!
//! What can change at run time is the section `admission` but for what makes a source, what takes
//! its value from there, and the admin token where there was one. Everything else keeps the value
//! that the server was started with and is named.

use std::fmt;

use serde::Serialize;

use super::key::{KEYS, Key};
use super::resolved::mask;
use super::table::Config;
use super::value::Value;

/// Keys of the section `admission` that cannot change: what is counted is counted by source, and
/// the kernel steers by source.
const FIXED: [&str; 2] = ["admission.ipv4_prefix_bits", "admission.ipv6_prefix_bits"];

/// How much of a value a log line shows, in characters.
const SHOWN_MAX_CHARS: usize = 200;

/// A key whose value became another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key's name.
    pub key: &'static str,
    /// The value before.
    pub from: Value,
    /// The value now.
    pub to: Value,
}

/// For the log: one line of bounded length.
impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} to {}", self.key, short(&self.from), short(&self.to))
    }
}

/// What came of reading the configuration again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReloadReport {
    /// In force now.
    pub changed: Vec<Change>,
    /// Not in force before the server is started again, by key.
    pub needs_restart: Vec<&'static str>,
    /// As [`Config::warnings`], of what was read.
    pub warnings: Vec<String>,
}

impl Config {
    /// This configuration with what `read` says about keys that can change at run time.
    #[must_use]
    pub fn reloaded(&self, read: &Config) -> (Config, ReloadReport) {
        let mut report = ReloadReport { warnings: read.warnings.clone(), ..Default::default() };
        let (mut values, mut origins) = (self.values(), self.origins.clone());
        for (at, to) in read.values().into_iter().enumerate() {
            let key = &KEYS[at];
            let differs = values[at] != to;
            if self.changes_at_run_time(key, read) {
                origins[at] = read.origins[at].clone();
                let from = std::mem::replace(&mut values[at], to.clone());
                if differs {
                    let (from, to) = (mask(key, from), mask(key, to));
                    report.changed.push(Change { key: key.name, from, to });
                }
            } else if differs && !(self.is_derived(key.name) && read.is_derived(key.name)) {
                report.needs_restart.push(key.name);
            }
        }
        let mut config = Config::from_values(values, origins);
        config.warnings.clone_from(&self.warnings);
        // The blocks fit what was read, which may say otherwise what a source is.
        let unfit = config.blocks_within_a_source();
        if let Some(block) = unfit.first() {
            let more = match unfit.len() - 1 {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            report.warnings.push(format!("until a restart {block}{more}"));
        }
        (config, report)
    }

    fn changes_at_run_time(&self, key: &Key, read: &Config) -> bool {
        // The pace at which clients come back, unless it is set by itself, is the global rate.
        let follows = key.name == "shutdown.reconnect_per_second"
            && self.is_derived(key.name)
            && read.is_derived(key.name);
        // A token can become another. Whether there is one was decided with admin.listen.
        let rotates = matches!(key.name, "admin.token" | "admin.token_file")
            && self.admin.token.is_some()
            && read.admin.token.is_some();
        key.section() == "admission" && !FIXED.contains(&key.name) || follows || rotates
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN_MAX_CHARS {
        return text;
    }
    let start: String = text.chars().take(SHOWN_MAX_CHARS).collect();
    let entries = match value {
        Value::List(texts) => texts.len(),
        Value::Blocks(blocks) => blocks.len(),
        Value::Overrides(overrides) => overrides.len(),
        Value::Hooks(hooks) => hooks.len(),
        _ => 1,
    };
    format!("{start}... ({entries} in all)")
}
