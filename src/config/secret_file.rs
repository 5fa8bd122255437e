//! Secrets from files: what `NAME_file` names is the value of the secret `NAME`.
//!
//! A value in the environment or on the command line is seen by others; a file can be given to the
//! one user who needs it, by systemd, Kubernetes and Docker alike. Every key that is a secret has
//! one beside it (a test checks the table). Of a secret and its file the one that is set in the
//! stronger source counts, as for any key; both in one source are an error.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::error::ConfigError;
use super::key::{KEYS, Key};
use super::value::Value;
use super::written::Written;
use crate::files::{read, text};
use crate::limits::SECRET_FILE_BYTES;

/// What is laid over each other, by key.
type Values = BTreeMap<&'static str, Written>;

/// Each secret with the key that names its file.
pub(super) fn pairs() -> impl Iterator<Item = (&'static Key, &'static Key)> {
    KEYS.iter().filter(|key| key.is_secret()).filter_map(|secret| {
        let file = Key::find(&format!("{}_file", secret.name))?;
        Some((secret, file))
    })
}

/// Reads the files that count, and takes what they hold as the values of their secrets.
pub(super) fn read_all(values: &mut Values, errors: &mut Vec<ConfigError>) {
    for (secret, file) in pairs() {
        let Some((path, named)) = path(values, file) else { continue };
        let refuse = |hint: String| ConfigError::BadValue {
            source: named.source.clone(),
            key: file.name,
            found: path.display().to_string(),
            hint: Some(hint),
            allowed: format!(
                "the path of a regular file with {} in one line, or empty for none",
                secret.name
            ),
        };
        let value = values.get(secret.name).filter(|value| !value.value.is_empty());
        match value.map(|value| value.source.strength().cmp(&named.source.strength())) {
            Some(std::cmp::Ordering::Greater) => continue,
            Some(std::cmp::Ordering::Equal) => {
                errors.push(refuse(format!("{} is set as well; leave one out", secret.name)));
                continue;
            }
            Some(std::cmp::Ordering::Less) | None => {}
        }
        match read_one(secret, &path) {
            Ok(value) => {
                let written = Written::of_file(value, named.source.clone(), path);
                values.insert(secret.name, written);
            }
            Err(hint) => errors.push(refuse(hint)),
        }
    }
}

fn path(values: &Values, file: &Key) -> Option<(PathBuf, Written)> {
    let named = values.get(file.name)?;
    match &named.value {
        Value::Text(path) if !path.is_empty() => Some((PathBuf::from(path), named.clone())),
        _ => None,
    }
}

/// The secret in the file, without the end of its line. What is wrong never repeats it.
fn read_one(secret: &Key, path: &Path) -> Result<Value, String> {
    let bytes = read::regular(path, SECRET_FILE_BYTES).map_err(|error| error.to_string())?;
    let text = text::decode(bytes).map_err(|error| error.to_string())?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.is_empty() {
        return Err("it is empty".to_owned());
    }
    secret.rule.read_text(text).map_err(|hint| {
        let hint = hint.map(|hint| format!(": {hint}")).unwrap_or_default();
        format!("what it holds is not {}{hint}; allowed: {}", secret.name, secret.allowed())
    })
}
