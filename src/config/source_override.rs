//! `admission.overrides`: limits of their own for the sources of a block of addresses.
//!
//! In the file it is a table for each block. In the environment and in flags it is one text,
//! `BLOCK limit=N limit=N; BLOCK ...`, in which it is also shown.

use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address_block;
use super::rule::{Fault, Hint, Rule, zero_or};
use super::written::shown_name;

/// The overrides by block, IPv4 first.
pub type Overrides = BTreeMap<IpNet, SourceOverride>;

/// The limits of one source in a block. What is not set is as for everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SourceOverride {
    /// As `admission.connections_per_ip_per_minute`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_minute: Option<u64>,
    /// As `admission.connections_per_ip_burst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// As `admission.max_connections_per_ip`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_concurrent: Option<u64>,
}

/// The names of the limits, each with what it takes: the ranges of the keys they stand for.
const LIMITS: [(&str, Rule); 3] = [
    ("connections_per_minute", zero_or("no limit", 1, 60_000_000)),
    ("burst", zero_or("the same as connections_per_minute", 1, 60_000_000)),
    ("max_concurrent", zero_or("no limit", 1, super::table::CONNECTIONS_MAX)),
];

/// What overrides look like, for messages.
pub(super) fn allowed() -> String {
    let limits: Vec<_> =
        LIMITS.iter().map(|(name, rule)| format!("{name} ({})", rule.allowed())).collect();
    format!(
        "tables named by blocks, as in [admission.overrides.\"10.0.0.0/8\"], or outside the file \
         as in \"10.0.0.0/8 burst=100; 2001:db8::/32 max_concurrent=5\"; a block is {}; its \
         limits are {}",
        address_block::FORM,
        limits.join(", ")
    )
}

impl SourceOverride {
    fn limit(&mut self, name: &str) -> Option<(&mut Option<u64>, &'static Rule)> {
        let rule = &LIMITS.iter().find(|(known, _)| *known == name)?.1;
        let limit = match name {
            "connections_per_minute" => &mut self.connections_per_minute,
            "burst" => &mut self.burst,
            _ => &mut self.max_concurrent,
        };
        Some((limit, rule))
    }
}

/// As in the environment.
impl fmt::Display for SourceOverride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = [self.connections_per_minute, self.burst, self.max_concurrent];
        for ((name, _), value) in LIMITS.iter().zip(values) {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

/// Reads the one-line form. The hint names everything that is wrong in it.
pub(super) fn read_text(text: &str) -> Result<Overrides, Hint> {
    let (mut overrides, mut wrong) = (Overrides::new(), Vec::new());
    for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
        let mut words = entry.split_whitespace();
        let block = words.next().unwrap_or_default();
        let limits = read_words(words, &mut |problem| wrong.push(format!("{entry:?}: {problem}")));
        match address_block::read(block) {
            Err(problem) => wrong.push(format!("{block:?}: {problem}")),
            Ok(block) => {
                if overrides.insert(block, limits).is_some() {
                    wrong.push(format!("\"{block}\": it is there twice"));
                }
            }
        }
    }
    if wrong.is_empty() { Ok(overrides) } else { Err(Some(wrong.join("; "))) }
}

fn read_words<'a>(
    words: impl Iterator<Item = &'a str>,
    wrong: &mut dyn FnMut(String),
) -> SourceOverride {
    let mut limits = SourceOverride::default();
    for word in words {
        let Some((name, value)) = word.split_once('=') else {
            wrong(format!("{word:?} is not of the form limit=N"));
            continue;
        };
        let Some((limit, rule)) = limits.limit(name) else {
            wrong(unknown(name));
            continue;
        };
        if limit.is_some() {
            wrong(format!("{name} is there twice"));
        }
        match rule.read_text(value) {
            Ok(super::value::Value::Number(number)) => *limit = Some(number),
            _ => wrong(format!("{name} takes {}", rule.allowed())),
        }
    }
    limits
}

/// Reads the tables of the file. Each fault has its own place.
pub(super) fn read_toml(written: &Spanned<DeValue<'_>>) -> Result<Overrides, Vec<Fault>> {
    let DeValue::Table(tables) = written.get_ref() else {
        return Err(vec![Fault::whole(Some("a table for each block is expected here".to_owned()))]);
    };
    let (mut overrides, mut faults) = (Overrides::new(), Vec::new());
    for (name, limits) in tables {
        let (at, text) = (name.span().start, name.get_ref());
        match (address_block::read(text), limits.get_ref()) {
            (Ok(block), DeValue::Table(limits)) => {
                overrides.insert(block, read_table(text, limits, &mut faults));
            }
            (Ok(_), _) => {
                let hint = "a table with the limits of the block is expected here".to_owned();
                faults.push(Fault::part(at, text, hint));
            }
            (Err(problem), _) => faults.push(Fault::part(at, text, problem)),
        }
    }
    if faults.is_empty() { Ok(overrides) } else { Err(faults) }
}

fn read_table(block: &str, table: &DeTable<'_>, faults: &mut Vec<Fault>) -> SourceOverride {
    let mut limits = SourceOverride::default();
    for (name, value) in table {
        let (at, text) = (name.span().start, name.get_ref());
        let found = format!("{block} {}", shown_name(text));
        let Some((limit, rule)) = limits.limit(text) else {
            faults.push(Fault::part(at, &found, unknown(text)));
            continue;
        };
        match rule.read_toml(value) {
            Ok(super::value::Value::Number(number)) => *limit = Some(number),
            _ => faults.push(Fault::part(at, &found, format!("{text} takes {}", rule.allowed()))),
        }
    }
    limits
}

fn unknown(name: &str) -> String {
    let known = LIMITS.map(|(known, _)| known);
    format!("{} is not one of {}", shown_name(name), known.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_one_line_form_is_read_as_it_is_shown() {
        let text =
            "10.0.0.0/8 connections_per_minute=600 burst=100; 2001:db8::/32 max_concurrent=5";
        let overrides = read_text(text).unwrap();
        assert_eq!(overrides.len(), 2);
        let first = overrides[&"10.0.0.0/8".parse().unwrap()];
        assert_eq!(
            (first.connections_per_minute, first.burst, first.max_concurrent),
            (Some(600), Some(100), None)
        );
        let shown = super::super::value::Value::Overrides(overrides).to_string();
        assert_eq!(shown, format!("[{text}]"));
        assert_eq!(read_text(" ; "), Ok(Overrides::new()));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        for (text, said) in [
            ("10.0.0.1/8 burst=1", "\"10.0.0.1/8\": it has bits set behind its prefix"),
            ("10.0.0.0/8 burst", "\"burst\" is not of the form limit=N"),
            ("10.0.0.0/8 rate=5", "rate is not one of connections_per_minute, burst"),
            ("10.0.0.0/8 burst=60000001", "burst takes 0 (the same as connections_per_minute)"),
            ("10.0.0.0/8 burst=-1", "burst takes"),
            ("10.0.0.0/8 burst=1 burst=2", "burst is there twice"),
            ("10.0.0.0/8 burst=1; 10.0.0.0/8", "\"10.0.0.0/8\": it is there twice"),
            ("burst=1", "\"burst=1\": it is not a block of addresses"),
        ] {
            let hint = read_text(text).unwrap_err().unwrap();
            assert!(hint.contains(said), "{text}: {hint}");
        }
        assert_eq!(read_text("x; y z").unwrap_err().unwrap().matches(": ").count(), 3);
    }
}
