//! The report of the last shutdown, on disk: a process cannot be scraped after it has ended.
//!
//! A disk that hangs holds up neither the start nor the end: both wait for it for a bounded time.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::coordinator::report::ShutdownReport;
use crate::files::read::{self, NotRead};
use crate::files::write::{self, Written};
use crate::files::{self, Kind};
use crate::limits::{REPORT_FILE_BYTES, REPORT_FILE_LEAST_MS, REPORT_FILE_MS};

/// For the server's user and group: the report has what hooks said.
const MODE: u32 = 0o640;

/// Writes the report, whole or not at all where the path allows that, in the time that the
/// deadline leaves.
///
/// # Errors
/// The report is lost: why.
pub(super) fn write(path: &Path, report: &ShutdownReport) -> io::Result<()> {
    let mut text = serde_json::to_vec_pretty(report)?;
    text.push(b'\n');
    let patience = patience(report);
    let (target, give_up) = (path.to_owned(), Instant::now() + patience);
    let work = move || write::write(&target, &text, MODE, give_up);
    // What gives up by itself knows better why.
    let margin = Duration::from_millis(REPORT_FILE_LEAST_MS);
    if files::within("tidegate-report", patience + margin, work)?? == Written::InPlace {
        info!(path = %path.display(), "the report was written in place");
    }
    Ok(())
}

fn patience(report: &ShutdownReport) -> Duration {
    let left_ms = report.deadline_ms.saturating_sub(report.duration_ms);
    Duration::from_millis(left_ms.clamp(REPORT_FILE_LEAST_MS, REPORT_FILE_MS))
}

/// The report that the last life of the server left, if there is one.
pub(super) fn read(path: Option<&Path>) -> Option<serde_json::Value> {
    let path = path?;
    let source = path.to_owned();
    let patience = Duration::from_millis(REPORT_FILE_MS);
    let read = files::within("tidegate-report", patience, move || {
        read::regular(&source, REPORT_FILE_BYTES)
    });
    let text = match read.unwrap_or_else(|error| Err(error.into())) {
        Ok(text) if text.is_empty() => return None,
        Ok(text) => text,
        Err(error) => {
            say_unread(path, &error);
            return None;
        }
    };
    serde_json::from_slice(&text)
        .inspect_err(|error| {
            warn!(path = %path.display(), %error, "the last shutdown's report is not JSON");
        })
        .ok()
}

/// A pipe or a device is written to and keeps nothing; where the next report cannot be written
/// either, that is said while something can be done about it.
fn say_unread(path: &Path, error: &NotRead) {
    match error {
        NotRead::Kind(Kind::Fifo | Kind::CharacterDevice) => {}
        _ if error.is_missing() => {
            let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
            if let Some(directory) = directory.filter(|directory| !directory.is_dir()) {
                warn!(
                    path = %path.display(),
                    "the report of the shutdown cannot be written: there is no directory {0}; \
                     make it with: install -d -m 750 {0}, or change shutdown.report_file",
                    directory.display()
                );
            }
        }
        NotRead::Kind(kind) => warn!(
            path = %path.display(),
            "the report of the shutdown cannot be written: it is {kind}; change \
             shutdown.report_file"
        ),
        _ => warn!(path = %path.display(), %error, "the last shutdown's report cannot be read"),
    }
}
