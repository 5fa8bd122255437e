//! What the previous life of this server wrote when it ended.
//!
//! A process that has ended cannot be scraped, so its report is shown by the next one as
//! `tidegate_last_shutdown_*` (rule 11). It was written by another version perhaps: what is not
//! there, or is something else, is left out, and nothing about it is an error.

use serde_json::Value;

/// The report of the previous shutdown.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct LastShutdown(Value);

impl LastShutdown {
    pub(super) fn new(report: Value) -> Self {
        Self(report)
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

    /// Name, result and duration in milliseconds of each stage.
    pub(super) fn stages(&self) -> impl Iterator<Item = (&str, &str, u64)> {
        let stages = self.0["stages"].as_array().into_iter().flatten();
        stages.filter_map(|stage| {
            let (name, result) = (stage["name"].as_str()?, stage["result"].as_str()?);
            Some((name, result, stage["duration_ms"].as_u64()?))
        })
    }

    /// When it began, in seconds since 1970.
    pub(super) fn started_at(&self) -> Option<f64> {
        let started_at: jiff::Timestamp = self.0["started_at"].as_str()?.parse().ok()?;
        Some(started_at.as_millisecond() as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_of_another_version_shows_what_it_has() {
        let last = LastShutdown::new(json!({
            "duration_ms": 1500, "forced": "no", "exit_code": 0, "new": {},
            "started_at": "2026-01-01T00:00:00.250Z", "outcomes": { "forced": 2, "odd": "x" },
        }));
        assert_eq!(last.duration_seconds(), Some(1.5));
        assert_eq!(last.exit_code(), Some(0));
        assert_eq!((last.forced(), last.connections_at_start()), (None, None));
        assert_eq!(last.started_at(), Some(1_767_225_600.25));
        assert_eq!(last.outcomes().collect::<Vec<_>>(), [("forced", 2)]);
    }

    #[test]
    fn what_is_no_report_shows_nothing() {
        for value in [json!(null), json!([1]), json!("x"), json!({ "started_at": "yesterday" })] {
            let last = LastShutdown::new(value);
            assert_eq!((last.duration_seconds(), last.started_at()), (None, None));
            assert_eq!(last.outcomes().count(), 0);
        }
    }
}
