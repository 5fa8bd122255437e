//! What the previous life of this server wrote when it ended.
//!
//! A process that has ended cannot be scraped, so the report is read at the next start and
//! shown as `tidegate_last_shutdown_*` (rule 11). It was written by another version perhaps, or
//! half: what is not there is left out, and nothing about it is an error.

use std::io;
use std::path::Path;

use serde_json::Value;

/// The report of the previous shutdown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastShutdown(Value);

/// Longest report that is read: a hundred times what one takes.
const LONGEST_BYTES: u64 = 1 << 20;

impl LastShutdown {
    /// Reads `shutdown.report_file`. `None` if there is none yet.
    ///
    /// # Errors
    /// The file cannot be read, is larger than 1 MiB, or is not a JSON object.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        match std::fs::metadata(path) {
            Ok(file) if file.len() > LONGEST_BYTES => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "larger than 1 MiB"));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        Self::from_json(&std::fs::read(path)?).map(Some)
    }

    /// Reads the text of a report.
    ///
    /// # Errors
    /// It is not a JSON object.
    pub fn from_json(text: &[u8]) -> io::Result<Self> {
        let report: Value = serde_json::from_slice(text)?;
        if report.is_object() {
            return Ok(Self(report));
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a JSON object"))
    }

    /// The report as it was written.
    pub(super) fn report(&self) -> &Value {
        &self.0
    }

    pub(super) fn duration_seconds(&self) -> Option<f64> {
        self.0["duration_ms"].as_u64().map(|ms| ms as f64 / 1000.0)
    }

    pub(super) fn connections_at_start(&self) -> Option<u64> {
        self.0["connections_at_start"].as_u64()
    }

    pub(super) fn forced(&self) -> Option<bool> {
        self.0["forced"].as_bool()
    }

    pub(super) fn exit_code(&self) -> Option<u64> {
        self.0["exit_code"].as_u64()
    }

    /// Name and count of each outcome.
    pub(super) fn outcomes(&self) -> impl Iterator<Item = (&str, u64)> {
        let outcomes = self.0["outcomes"].as_object().into_iter().flatten();
        outcomes.filter_map(|(name, count)| Some((name.as_str(), count.as_u64()?)))
    }

    /// When it began, in seconds since 1970.
    pub(super) fn started_at(&self) -> Option<f64> {
        let started_at: jiff::Timestamp = self.0["started_at"].as_str()?.parse().ok()?;
        Some(started_at.as_millisecond() as f64 / 1000.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_version_shows_what_it_has() {
        let text = br#"{"duration_ms":1500,"forced":"no","exit_code":0,"new":{},
            "started_at":"2026-01-01T00:00:00.250Z","outcomes":{"forced":2,"odd":"x"}}"#;
        let Ok(last) = LastShutdown::from_json(text) else { panic!("an object") };
        assert_eq!(last.duration_seconds(), Some(1.5));
        assert_eq!(last.exit_code(), Some(0));
        assert_eq!((last.forced(), last.connections_at_start()), (None, None));
        assert_eq!(last.started_at(), Some(1_767_225_600.25));
        assert_eq!(last.outcomes().collect::<Vec<_>>(), [("forced", 2)]);
    }

    #[test]
    fn what_is_no_report_is_an_error_and_a_missing_file_is_none() {
        for text in ["", "[]", "1", "{\"a\":", "null"] {
            assert!(LastShutdown::from_json(text.as_bytes()).is_err(), "{text}");
        }
        assert!(LastShutdown::read(Path::new("/nonexistent/report.json")).unwrap().is_none());
        assert!(LastShutdown::read(Path::new("/proc")).is_err());
    }
}
