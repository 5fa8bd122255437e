//! What is known about a key, and finding one by name, even by a name that is slightly wrong.
//!
//! The keys themselves are in `table.rs`.

use super::rule::Rule;
use super::value::Value;
use crate::likeness::likeness;

pub use super::table::KEYS;

/// What every native environment name starts with.
pub(super) const ENVIRONMENT_PREFIX: &str = "TIDEGATE_";

/// How alike two names must be, from 0 to 1, for one to be offered for the other. Below this
/// the offer is more often wrong than helpful.
const ALIKE: f64 = 0.7;

/// One setting: everything about it except what it does.
#[derive(Debug)]
pub struct Key {
    /// `section.key`, as in the file, in `--set` and in every message.
    pub name: &'static str,
    /// The value it has when nothing sets it.
    pub preset: Preset,
    /// The values it takes.
    pub rule: Rule,
    /// The unit of the value; empty if it has none.
    pub unit: &'static str,
    /// Environment names of other systems that set it too, each in its own unit.
    pub legacy: &'static [LegacyName],
    /// What it does and why the default is what it is, a line at a time.
    pub about: &'static [&'static str],
}

/// The value of a key that nothing sets.
#[derive(Debug, Clone, Copy)]
pub enum Preset {
    /// A number in the key's unit.
    Number(u64),
    /// On or off.
    Switch(bool),
    /// A text, read by the key's rule.
    Text(&'static str),
}

/// An environment name that other systems use for the same thing.
#[derive(Debug, Clone, Copy)]
pub struct LegacyName {
    /// The name of the variable.
    pub name: &'static str,
    /// What its value is multiplied by to be in the key's unit.
    pub factor: u64,
    /// The unit its value is in.
    pub unit: &'static str,
}

impl Key {
    /// The part of the name before the dot.
    #[must_use]
    pub fn section(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(section, _)| section)
    }

    /// The part of the name after the dot.
    #[must_use]
    pub fn field(&self) -> &'static str {
        self.name.split_once('.').map_or(self.name, |(_, field)| field)
    }

    /// The native environment name: `server.listen` is `TIDEGATE_SERVER__LISTEN`.
    #[must_use]
    pub fn environment_name(&self) -> String {
        let path = self.name.replace('.', "__").to_ascii_uppercase();
        format!("{ENVIRONMENT_PREFIX}{path}")
    }

    /// Whether the value must never be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        matches!(self.rule, Rule::Secret { .. } | Rule::RedisUrl)
    }

    /// The allowed values in words, with their unit.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self.unit {
            "" => self.rule.allowed(),
            unit => format!("{} {unit}", self.rule.allowed()),
        }
    }

    /// The key of this exact name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The position of the key of this exact name in [`KEYS`].
    pub(super) fn position(name: &str) -> Option<usize> {
        KEYS.iter().position(|key| key.name == name)
    }

    /// The key that somebody who wrote `name` most likely meant, if any is near enough. The
    /// right key in the wrong section (or in none) is near.
    pub(super) fn nearest(name: &str) -> Option<&'static Key> {
        let field = name.rsplit('.').next().unwrap_or(name);
        nearest(KEYS.iter(), |key| {
            let elsewhere = likeness(field, key.field()) * 0.95;
            likeness(name, key.name).max(elsewhere)
        })
    }

    /// The names of the sections, in the order of the table.
    pub(super) fn sections() -> Vec<&'static str> {
        let mut sections: Vec<_> = KEYS.iter().map(Key::section).collect();
        sections.dedup();
        sections
    }

    /// The section that somebody who wrote `name` most likely meant, if any is near enough.
    pub(super) fn nearest_section(name: &str) -> Option<&'static str> {
        nearest(Key::sections().into_iter(), |section| likeness(name, section))
    }

    /// The value it has when nothing sets it.
    pub(super) fn preset_value(&self) -> Value {
        match self.preset {
            Preset::Number(number) => Value::Number(number),
            Preset::Switch(on) => Value::Switch(on),
            Preset::Text(text) => self.rule.read_text(text).unwrap_or_else(|_| {
                unreachable!("the default of {} does not obey its rule", self.name)
            }),
        }
    }
}

/// The first of the most alike, if it is alike at all.
fn nearest<T: Copy>(candidates: impl Iterator<Item = T>, measure: impl Fn(T) -> f64) -> Option<T> {
    let mut best = None;
    let mut most = ALIKE;
    for candidate in candidates {
        let alike = measure(candidate);
        if alike > most {
            most = alike;
            best = Some(candidate);
        }
    }
    best
}
