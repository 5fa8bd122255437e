//! `shutdown.hooks`: commands that run at a shutdown.
//!
//! In the file each is a table, `[[shutdown.hooks]]`. In the environment and in flags the list is
//! one JSON text, in which it is also shown.

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment;
use super::rule::{Fault, Hint};
use super::written::shown_name;
use crate::limits::RESOURCES;
use crate::resources::Stage;

/// A command that runs at a shutdown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShutdownHook {
    /// What it is called in logs and in the report; 1 to 64 characters, no other hook of its stage
    /// has it.
    pub name: String,
    /// The program and its arguments; no shell.
    pub command: Vec<String>,
    /// When it runs.
    pub stage: Stage,
    /// How long it may take in milliseconds, 10 to 600,000; `shutdown.resource_timeout_ms` if it is
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Names of variables of the server's environment that it is given besides those that every
    /// hook is given; none that holds a secret of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub environment: Vec<String>,
}

const KEYS: [&str; 5] = ["name", "command", "stage", "timeout_ms", "environment"];
const NAME_CHARS_MAX: usize = 64;
const VARIABLES_MAX: usize = 64;
const TIMEOUT_MS: std::ops::RangeInclusive<u64> = 10..=600_000;

/// What hooks look like, for messages.
pub(super) fn allowed() -> String {
    let stages = Stage::ALL.map(Stage::name).join(", ");
    format!(
        "tables, as in [[shutdown.hooks]] name = \"deregister\" command = [\"/usr/bin/curl\", \
         \"-fsS\", \"http://registry/leave\"] stage = \"before\" timeout_ms = 2000, or outside \
         the file the same as a JSON list; stage is one of {stages} (last if it is left out), \
         timeout_ms is {} to {} (shutdown.resource_timeout_ms if it is left out), environment \
         names variables of the server's that the command is given as well",
        TIMEOUT_MS.start(),
        TIMEOUT_MS.end()
    )
}

/// A hook as it is written, before anything is known of it.
type Written = Vec<(String, serde_json::Value)>;

/// Reads the JSON form. The hint names everything that is wrong in it.
pub(super) fn read_text(text: &str) -> Result<Vec<ShutdownHook>, Hint> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let tables: Vec<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(text).map_err(|error| Some(format!("not a JSON list: {error}")))?;
    let mut wrong = Vec::new();
    let written = tables.into_iter().map(|table| table.into_iter().collect());
    let hooks = read_all(written, |_, name, problem| wrong.push(format!("{name}: {problem}")));
    if wrong.is_empty() { Ok(hooks) } else { Err(Some(wrong.join("; "))) }
}

/// Reads the tables of the file. Each fault has its own place.
pub(super) fn read_toml(written: &Spanned<DeValue<'_>>) -> Result<Vec<ShutdownHook>, Vec<Fault>> {
    let expected = || Fault::whole(Some("[[shutdown.hooks]] is expected here".to_owned()));
    let DeValue::Array(tables) = written.get_ref() else { return Err(vec![expected()]) };
    let (mut places, mut all) = (Vec::new(), Vec::new());
    for table in tables {
        let DeValue::Table(keys) = table.get_ref() else { return Err(vec![expected()]) };
        places.push(table.span().start);
        all.push(of_toml(keys));
    }
    let mut faults = Vec::new();
    let hooks = read_all(all.into_iter(), |index, name, problem| {
        faults.push(Fault::part(places[index], name, problem));
    });
    if faults.is_empty() { Ok(hooks) } else { Err(faults) }
}

fn of_toml(table: &DeTable<'_>) -> Written {
    let json = |value: &DeValue<'_>| match value {
        DeValue::String(text) => serde_json::Value::from(text.as_ref()),
        DeValue::Integer(number) => {
            u64::from_str_radix(number.as_str(), number.radix()).map_or(().into(), Into::into)
        }
        _ => serde_json::Value::Null,
    };
    let value = |value: &DeValue<'_>| match value {
        DeValue::Array(values) => values.iter().map(|value| json(value.get_ref())).collect(),
        value => json(value),
    };
    table.iter().map(|(key, of)| (key.get_ref().to_string(), value(of.get_ref()))).collect()
}

/// Reads each hook; `wrong` is told the position and name of one and what is wrong with it.
fn read_all(
    all: impl Iterator<Item = Written>,
    mut wrong: impl FnMut(usize, &str, String),
) -> Vec<ShutdownHook> {
    let mut hooks: Vec<ShutdownHook> = Vec::new();
    for (index, written) in all.enumerate() {
        match read_one(&written) {
            Ok(hook) => {
                if hooks.iter().any(|other| (&other.name, other.stage) == (&hook.name, hook.stage))
                {
                    wrong(index, &hook.name, "its stage has a hook of this name already".into());
                } else if hooks.len() == RESOURCES {
                    wrong(index, &hook.name, format!("there are {RESOURCES} already"));
                } else {
                    hooks.push(hook);
                }
            }
            Err((name, problem)) => wrong(index, &name, problem),
        }
    }
    hooks
}

/// The hook, or its name as far as it has one and what is wrong.
fn read_one(written: &Written) -> Result<ShutdownHook, (String, String)> {
    let value = |key: &str| written.iter().find(|(name, _)| name == key).map(|(_, value)| value);
    let shown = value("name").and_then(|name| name.as_str()).unwrap_or("a hook").to_owned();
    let wrong = |problem: String| (shown.clone(), problem);
    if let Some((key, _)) = written.iter().find(|(key, _)| !KEYS.contains(&key.as_str())) {
        return Err(wrong(format!("{} is not one of {}", shown_name(key), KEYS.join(", "))));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
    let name = value("name").and_then(|name| name.as_str()).unwrap_or_default();
    if name.trim() != name
        || !(1..=NAME_CHARS_MAX).contains(&name.len())
        || !name.chars().all(plain)
    {
        return Err(wrong(format!(
            "name takes 1 to {NAME_CHARS_MAX} letters, digits, spaces and . _ -"
        )));
    }
    let command = value("command").and_then(texts).unwrap_or_default();
    if command.first().is_none_or(String::is_empty)
        || command.iter().any(|word| word.contains('\0'))
    {
        return Err(wrong("command takes a list of strings, the program first".to_owned()));
    }
    let stage = match value("stage") {
        None => Some(Stage::Last),
        Some(stage) => stage.as_str().and_then(Stage::from_name),
    };
    let stages = Stage::ALL.map(Stage::name).join(", ");
    let stage = stage.ok_or_else(|| wrong(format!("stage is one of {stages}")))?;
    let timeout_ms = value("timeout_ms").map(|ms| ms.as_u64().unwrap_or(0));
    if timeout_ms.is_some_and(|ms| !TIMEOUT_MS.contains(&ms)) {
        let (least, most) = (TIMEOUT_MS.start(), TIMEOUT_MS.end());
        return Err(wrong(format!("timeout_ms takes {least} to {most}")));
    }
    let environment = match value("environment") {
        None => Vec::new(),
        Some(names) => variables(names).map_err(wrong)?,
    };
    Ok(ShutdownHook { name: name.to_owned(), command, stage, timeout_ms, environment })
}

/// Names of variables, none of which may hold a secret.
fn variables(value: &serde_json::Value) -> Result<Vec<String>, String> {
    let is_name = |name: &String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        (1..=NAME_CHARS_MAX).contains(&name.len())
            && name.chars().all(plain)
            && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    let names =
        texts(value).filter(|names| names.len() <= VARIABLES_MAX && names.iter().all(is_name));
    let names = names.ok_or_else(|| {
        format!(
            "environment takes a list of at most {VARIABLES_MAX} names of variables, each of 1 to \
             {NAME_CHARS_MAX} letters, digits and _"
        )
    })?;
    match names.iter().find(|name| environment::is_secret(name)) {
        None => Ok(names),
        Some(name) => Err(format!(
            "environment has {name}, which is a secret of the server's; name a file that the \
             command reads instead"
        )),
    }
}

fn texts(value: &serde_json::Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_hook_needs_a_name_and_a_command_and_is_read_as_it_is_shown() {
        let hooks = read_text(r#"[{"name": "tell", "command": ["true"]}]"#).unwrap();
        let expected = ShutdownHook {
            name: "tell".to_owned(),
            command: vec!["true".to_owned()],
            stage: Stage::Last,
            timeout_ms: None,
            environment: Vec::new(),
        };
        assert_eq!(hooks, [expected]);
        let shown = super::super::value::Value::Hooks(hooks.clone()).to_string();
        assert_eq!(read_text(&shown), Ok(hooks));
        assert_eq!(read_text(" "), Ok(Vec::new()));
        let text = r#"[{"name": "a", "command": ["x"], "environment": ["AWS_REGION", "_x1"]}]"#;
        let hooks = read_text(text).unwrap();
        assert_eq!(hooks[0].environment, ["AWS_REGION", "_x1"]);
        let shown = super::super::value::Value::Hooks(hooks.clone()).to_string();
        assert_eq!(read_text(&shown), Ok(hooks));
    }

    #[test]
    fn everything_that_is_wrong_is_named() {
        for (text, said) in [
            ("[1]", "not a JSON list"),
            (r#"[{"command": ["true"]}]"#, "a hook: name takes 1 to 64"),
            (r#"[{"name": "a", "command": []}]"#, "a: command takes"),
            (r#"[{"name": "a", "command": "true"}]"#, "a: command takes"),
            (r#"[{"name": "a", "command": ["x"], "stage": "end"}]"#, "a: stage is one of before,"),
            (r#"[{"name": "a", "command": ["x"], "timeout_ms": 9}]"#, "a: timeout_ms takes 10 to"),
            (
                r#"[{"name": "a", "command": ["x"], "environment": "HOME"}]"#,
                "a: environment takes a list",
            ),
            (
                r#"[{"name": "a", "command": ["x"], "environment": ["A=b"]}]"#,
                "a: environment takes a list",
            ),
            (
                r#"[{"name": "a", "command": ["x"], "environment": ["1A"]}]"#,
                "a: environment takes a list",
            ),
            (
                r#"[{"name": "a", "command": ["x"], "environment": ["TIDEGATE_ADMIN__TOKEN"]}]"#,
                "a: environment has TIDEGATE_ADMIN__TOKEN, which is a secret",
            ),
            (
                r#"[{"name": "a", "command": ["x"], "environment": ["A", "REDIS_URL"]}]"#,
                "a: environment has REDIS_URL, which is a secret",
            ),
            (r#"[{"name": "a", "command": ["x"], "when": 1}]"#, "a: when is not one of name,"),
            (
                r#"[{"name": "a", "command": ["x"]}, {"name": "a", "command": ["y"]}]"#,
                "a: its stage has a hook of this name",
            ),
        ] {
            let hint = read_text(text).unwrap_err().unwrap();
            assert!(hint.contains(said), "{text}: {hint}");
        }
    }
}
