//! Each test's name is a promise about what an operator writes and what comes of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsString;
use std::io::Write;

use super::*;

mod refusals;
mod relations;
mod reload;
mod secrets;
mod source_rules;
mod sources;
mod table;
mod words;

const TOKEN: &str = "0123456789abcdef-not-a-real-one";

fn environment(variables: &[(&str, &str)]) -> Sources {
    let environment =
        variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Sources { environment: environment.collect(), ..Sources::default() }
}

fn set(values: &[(&str, &str)]) -> Sources {
    let flags = values.iter().map(|(key, value)| FlagValue::new("--set", *key, *value));
    Sources { flags: flags.collect(), ..Sources::default() }
}

/// A file that lives as long as the first part of the pair.
fn written(text: &str) -> (tempfile::NamedTempFile, Sources) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    (file, sources)
}

/// The error lines, with the path of a file replaced by `FILE`.
fn errors(sources: Sources) -> Vec<String> {
    let path = sources.file.as_ref().map(|path| path.display().to_string());
    let text = Config::load(sources).expect_err("a refusal").to_string();
    let text = path.map_or(text.clone(), |path| text.replace(&path, "FILE"));
    text.lines().map(str::to_owned).collect()
}

fn shown(config: &Config, key: &str) -> (String, String) {
    let shown = config.shown().into_iter().find(|shown| shown.key == key).expect(key);
    (shown.value.to_string(), shown.source)
}
