//! What a run looked like over time: samples at equal distances, never too many.

use serde_json::{Value, json};

/// More than this are thinned out to half, and then taken half as often.
const MOST: usize = 1_200;

/// The run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    pub(crate) at_ms: u64,
    pub(crate) attempts: u64,
    pub(crate) open: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) ended: u64,
    pub(crate) messages: u64,
    /// Anonymous memory of the server, if its process is known.
    pub(crate) server_bytes: Option<u64>,
}

/// Samples in the order of time.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    every_ms: u64,
    samples: Vec<Sample>,
}

impl Series {
    /// The first distance between two samples.
    pub(crate) fn new(every_ms: u64) -> Self {
        Self { every_ms, samples: Vec::new() }
    }

    /// True if a sample is due.
    pub(crate) fn is_due(&self, at_ms: u64) -> bool {
        self.samples.last().is_none_or(|last| at_ms >= last.at_ms + self.every_ms)
    }

    /// Adds one.
    pub(crate) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
        if self.samples.len() > MOST {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.every_ms *= 2;
        }
    }

    /// One array for each quantity, which is how they are drawn.
    pub(crate) fn columns(&self) -> Value {
        let column = |of: fn(&Sample) -> Value| self.samples.iter().map(of).collect::<Value>();
        json!({
            "seconds": column(|sample| json!(sample.at_ms as f64 / 1_000.0)),
            "attempts": column(|sample| json!(sample.attempts)),
            "open": column(|sample| json!(sample.open)),
            "refused": column(|sample| json!(sample.refused)),
            "failed": column(|sample| json!(sample.failed)),
            "ended": column(|sample| json!(sample.ended)),
            "messages": column(|sample| json!(sample.messages)),
            "server_bytes": column(|sample| json!(sample.server_bytes)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_has_no_more_samples_than_a_short_one() {
        let mut series = Series::new(100);
        let mut taken = 0;
        for at_ms in (0..3_600_000).step_by(20) {
            if series.is_due(at_ms) {
                taken += 1;
                series.add(Sample { at_ms, ..Sample::default() });
            }
        }
        assert!(series.samples.len() <= MOST && taken < 10 * MOST, "{taken}");
        assert!(series.samples.len() > MOST / 4, "{}", series.samples.len());
        assert!(series.samples.is_sorted_by_key(|sample| sample.at_ms));
        let columns = series.columns();
        assert_eq!(columns["open"].as_array().map(Vec::len), Some(series.samples.len()));
    }
}
