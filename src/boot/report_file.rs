//! The report of the last shutdown, on disk: a process cannot be scraped after it has ended.

use std::fs;
use std::io;
use std::path::Path;

use tracing::warn;

use crate::coordinator::report::ShutdownReport;

/// Writes the report whole or not at all.
pub(super) fn write(path: &Path, report: &ShutdownReport) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    fs::write(&unfinished, text)?;
    fs::rename(&unfinished, path)
}

/// The report that the last life of the server left, if there is one.
pub(super) fn read(path: Option<&Path>) -> Option<serde_json::Value> {
    let path = path?;
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(path = %path.display(), %error, "the last shutdown's report cannot be read");
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| {
            warn!(path = %path.display(), %error, "the last shutdown's report is not JSON");
        })
        .ok()
}
