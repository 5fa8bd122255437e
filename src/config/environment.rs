//! The environment, as written: `TIDEGATE_SECTION__KEY`, and the names of other systems.
//!
//! Everything that starts with `TIDEGATE_` is ours, so an unknown name there is an error. Two
//! families are excepted: the names that choose the other sources, and the variables that
//! Kubernetes puts into every container beside a Service called `tidegate`.

use std::ffi::{OsStr, OsString};

use super::error::ConfigError;
use super::key::{ENVIRONMENT_PREFIX, KEYS, Key};
use super::source::Source;
use super::written::{ADVICE, Layer, printable, shown_name, unquoted};

/// Names the configuration file.
pub(super) const FILE_NAME: &str = "TIDEGATE_CONFIG";

/// Names the profile.
pub(super) const PROFILE_NAME: &str = "TIDEGATE_PROFILE";

/// Reads the variables, which may come in any order. One that is set and empty is not set, whatever
/// it is for: that is what `${NAME:-}` makes of a variable that is missing, and a missing secret
/// must not take away the one in the file. To empty a list or a path that the file sets, a flag
/// does it (`--set server.allowed_origins=`).
pub(super) fn read(environment: &[(OsString, OsString)]) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in in_order(environment) {
        if let Some(found) = find(&name) {
            if !value.is_empty() {
                take(&mut layer, found, name, value);
            }
        } else if name.starts_with(ENVIRONMENT_PREFIX) && !is_excepted(&name, value) {
            layer.errors.push(unknown(name));
        }
    }
    layer
}

/// The value of a variable that names another source; empty counts as not set.
pub(super) fn lookup<'a>(environment: &'a [(OsString, OsString)], name: &str) -> Option<&'a OsStr> {
    let (_, value) = environment.iter().find(|(candidate, _)| candidate == name)?;
    (!value.is_empty()).then_some(value.as_os_str())
}

/// Whether the value of this variable is, for this program, a secret.
pub(super) fn is_secret(name: &str) -> bool {
    find(name).is_some_and(|found| found.key.is_secret())
}

/// Native names first, so that they are the source that is shown when a legacy name says the
/// same; by name within each, so that two starts give the same messages.
fn in_order(environment: &[(OsString, OsString)]) -> Vec<(String, &OsStr)> {
    let mut variables: Vec<_> = environment
        .iter()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.as_os_str()))
        .collect();
    variables.sort_by_key(|(name, _)| (!name.starts_with(ENVIRONMENT_PREFIX), name.clone()));
    variables
}

/// A key with what a value under this name is multiplied by, and the unit if not the key's.
struct Found {
    key: &'static Key,
    factor: u64,
    unit: Option<&'static str>,
}

fn find(name: &str) -> Option<Found> {
    if name.starts_with(ENVIRONMENT_PREFIX) {
        let key = KEYS.iter().find(|key| key.environment_name() == name)?;
        return Some(Found { key, factor: 1, unit: None });
    }
    KEYS.iter().find_map(|key| {
        let legacy = key.legacy.iter().find(|legacy| legacy.name == name)?;
        let unit = (legacy.unit != key.unit).then_some(legacy.unit);
        Some(Found { key, factor: legacy.factor, unit })
    })
}

fn take(layer: &mut Layer, found: Found, name: String, value: &OsStr) {
    let Found { key, factor, unit } = found;
    let text = value.to_string_lossy();
    let mut shown = printable(key, &text);
    if let Some(unit) = unit {
        shown = format!("{shown} {unit}");
    }
    let read = match value.to_str() {
        Some(text) => unquoted(text).and_then(|text| key.rule.read_scaled(text, factor)),
        None => Err(Some("it is not UTF-8".to_owned())),
    };
    layer.take(key, Source::Environment(name), shown, read);
}

fn unknown(name: String) -> ConfigError {
    let path = name.trim_start_matches(ENVIRONMENT_PREFIX).to_ascii_lowercase();
    // One underscore where two belong is the likeliest mistake; both forms are compared.
    let near = Key::nearest(&path.replace("__", "."))
        .or_else(|| Key::nearest(&path.replacen('_', ".", 1)));
    let advice = match near {
        Some(key) => format!("the nearest known name is {}", key.environment_name()),
        None => format!("this version has no such setting; {ADVICE}"),
    };
    ConfigError::UnknownName {
        source: Source::Environment(shown_name(&name)),
        name: "variable".to_owned(),
        advice,
    }
}

fn is_excepted(name: &str, value: &OsStr) -> bool {
    name == FILE_NAME || name == PROFILE_NAME || is_service_link(name, value)
}

/// Kubernetes describes every Service of a namespace in the environment of its containers
/// (`enableServiceLinks`, on by default): for one called `tidegate-admin`,
/// `TIDEGATE_ADMIN_SERVICE_HOST`, `TIDEGATE_ADMIN_SERVICE_PORT[_NAME]`,
/// `TIDEGATE_ADMIN_PORT` (a URL) and `TIDEGATE_ADMIN_PORT_8081_TCP[_ADDR|_PORT|_PROTO]`.
/// None of them has the double underscore of our own names.
fn is_service_link(name: &str, value: &OsStr) -> bool {
    if name.contains("__") {
        return false;
    }
    if name.ends_with("_SERVICE_HOST") || name.contains("_SERVICE_PORT") {
        return true;
    }
    match name.rsplit_once("_PORT") {
        Some((_, "")) => {
            // `..._PORT` is a URL in the first form, and a number in `..._PORT_8081_TCP_PORT`.
            value.to_string_lossy().contains("://") || names_port(name)
        }
        Some(_) => names_port(name),
        None => false,
    }
}

/// Whether the name has a part like `_PORT_8081_TCP`.
fn names_port(name: &str) -> bool {
    name.split("_PORT_").skip(1).any(|rest| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|port| port.parse::<u16>().is_ok());
        number && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
    })
}
