//! `tidegate config check` and `tidegate config show`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use tidegate::boot;
use tidegate::config::{Config, ShownValue, Sources};
use tidegate::memory_plan::{MemoryPlan, Use};

use super::options::ServerOptions;
use super::{print, print_json, refused, say};

/// Says everything that is wrong with `file`, or `ok`.
pub(super) fn check(file: PathBuf) -> ExitCode {
    let sources = Sources { file: Some(file), ..Sources::from_environment() };
    match Config::load(sources) {
        Ok(config) => {
            warn(&config);
            print("ok\n")
        }
        Err(errors) => refused(&errors),
    }
}

/// Shows the values in force with the source of each.
pub(super) fn show(options: ServerOptions, as_json: bool) -> ExitCode {
    match Config::load(options.into_sources()) {
        Ok(config) if as_json => print_json(object(&config)),
        Ok(config) => {
            warn(&config);
            print(&(table(&config.shown()) + &memory(&config)))
        }
        Err(errors) => refused(&errors),
    }
}

fn warn(config: &Config) {
    for warning in &config.warnings {
        say(format_args!("warning: {warning}"));
    }
}

/// Three columns: key, value, source. A long value pushes only its own line out of shape.
fn table(values: &[ShownValue]) -> String {
    const VALUE_WIDTH_MAX: usize = 40;
    let rows: Vec<_> = values
        .iter()
        .map(|shown| (shown.key, shown.value.to_string(), shown.source.as_str()))
        .collect();
    let key_width = rows.iter().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let value_widths = rows.iter().map(|(_, value, _)| value.chars().count());
    let value_width = value_widths.filter(|width| *width <= VALUE_WIDTH_MAX).max().unwrap_or(0);
    let mut text = String::new();
    for (key, value, source) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key:key_width$}  {value:value_width$}  {source}");
    }
    text
}

/// What each use of the memory may have, as a server would have it that is started here.
fn memory(config: &Config) -> String {
    let plan = match boot::memory_plan(config) {
        Ok(plan) => plan,
        Err(error) => return format!("\nmemory: no server would start here: {error}\n"),
    };
    let mut text = match plan.available() {
        Some(bytes) => format!("\nmemory: {bytes} bytes may be used by a server started here\n"),
        None => "\nmemory: how much may be used here cannot be read\n".to_owned(),
    };
    for of in Use::ALL {
        let Some(bytes) = plan.budget(of) else { continue };
        let cut = plan.scaled().find(|scaled| scaled.of == of);
        let cut = cut.map(|scaled| format!("  {scaled}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {:20}{bytes:>16}{cut}", of.label());
    }
    text
}

/// `{"available_bytes": ..., "budgets": {USE: BYTES}, "cut": {KEY: {"configured": ..., "allowed": ...}}}`.
fn parts_of_memory(plan: &MemoryPlan) -> serde_json::Value {
    let budget = |of: Use| Some((of.label(), plan.budget(of)?));
    let budgets: BTreeMap<_, _> = Use::ALL.into_iter().filter_map(budget).collect();
    let cut: BTreeMap<_, _> = plan
        .scaled()
        .map(|cut| (cut.key, json!({ "configured": cut.configured, "allowed": cut.allowed })))
        .collect();
    json!({ "available_bytes": plan.available(), "budgets": budgets, "cut": cut })
}

/// `{"values": {KEY: {"value": ..., "source": ...}}, "warnings": [...], "memory": {...}}`.
fn object(config: &Config) -> String {
    let values: BTreeMap<_, _> = config
        .shown()
        .into_iter()
        .map(|shown| (shown.key, json!({ "value": shown.value, "source": shown.source })))
        .collect();
    let memory = match boot::memory_plan(config) {
        Ok(plan) => parts_of_memory(&plan),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let object = json!({ "values": values, "warnings": config.warnings, "memory": memory });
    format!("{object:#}\n")
}
