//! Latencies in HDR histograms, in nanoseconds, and counts of events per slice of time.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// Longest latency that is told apart: 120 s. Longer ones count as that.
const LONGEST_NS: u64 = 120_000_000_000;

/// A histogram with three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Option<Histogram<u64>>);

impl Latencies {
    /// Empty.
    pub(crate) fn new() -> Self {
        // The bounds are constants that the library accepts (the test creates one).
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).ok())
    }

    /// Records one.
    pub(crate) fn record(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record((latency.as_nanos() as u64).clamp(1, LONGEST_NS));
        }
    }

    /// Adds another ring's.
    pub(crate) fn add(&mut self, other: &Self) {
        if let (Some(histogram), Some(other)) = (&mut self.0, &other.0) {
            // Fails only for values out of bounds, and the bounds are the same.
            let _ = histogram.add(other);
        }
    }

    /// How many were recorded.
    pub(crate) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// The latency that `share` (0 to 1) of all do not exceed, in microseconds.
    pub(crate) fn quantile_us(&self, share: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| {
            let ns = histogram.value_at_quantile(share).min(histogram.max());
            (ns as f64 / 100.0).round() / 10.0
        })
    }

    /// The usual quantiles in microseconds, in order, by name.
    pub(crate) fn summary_us(&self) -> Vec<(&'static str, Value)> {
        let at = |share| json!(self.quantile_us(share));
        vec![
            ("count", json!(self.count())),
            ("p50", at(0.5)),
            ("p90", at(0.9)),
            ("p99", at(0.99)),
            ("p99.9", at(0.999)),
            ("max", at(1.0)),
        ]
    }
}

/// How many events fell into each slice of time, counted from an origin chosen at the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timeline(BTreeMap<u64, u64>);

impl Timeline {
    /// The width in which events are kept, in milliseconds.
    const GRAIN_MS: u64 = 10;

    /// Notes one event.
    pub(crate) fn note(&mut self, at_ms: u64) {
        *self.0.entry(at_ms / Self::GRAIN_MS).or_default() += 1;
    }

    /// All events.
    pub(crate) fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds another ring's events.
    pub(crate) fn add(&mut self, other: &Self) {
        crate::ledger::add_counts(&mut self.0, &other.0);
    }

    /// When the first event happened, to 10 ms.
    pub(crate) fn first_ms(&self) -> Option<u64> {
        self.0.keys().next().map(|slice| slice * Self::GRAIN_MS)
    }

    /// When the last event happened, to 10 ms.
    pub(crate) fn last_ms(&self) -> Option<u64> {
        self.0.keys().next_back().map(|slice| slice * Self::GRAIN_MS)
    }

    /// Events per slice of `width_ms` from `origin_ms` on, as (start, count), empty slices left
    /// out. Events before the origin are counted in the first slice.
    pub(crate) fn slices(&self, origin_ms: u64, width_ms: u64) -> Vec<(u64, u64)> {
        let mut slices = BTreeMap::<u64, u64>::new();
        for (slice, count) in &self.0 {
            let at = (slice * Self::GRAIN_MS).saturating_sub(origin_ms);
            *slices.entry(at / width_ms * width_ms).or_default() += count;
        }
        slices.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_come_back_in_microseconds() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantile_us(0.5), 0.0, "nothing recorded");
        for us in 1..=1000 {
            latencies.record(Duration::from_micros(us));
        }
        let mut sum = Latencies::new();
        sum.add(&latencies);
        sum.add(&latencies);
        assert_eq!(sum.count(), 2000);
        assert!((sum.quantile_us(0.5) - 500.0).abs() < 2.0, "{}", sum.quantile_us(0.5));
        assert!((sum.quantile_us(1.0) - 1000.0).abs() < 2.0);
    }

    #[test]
    fn what_is_too_long_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(10_000));
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.count(), 2);
        assert!(latencies.quantile_us(1.0) >= 119e6);
    }

    #[test]
    fn events_are_counted_per_slice_from_the_origin() {
        let mut timeline = Timeline::default();
        for at in [1_000, 1_009, 1_150, 2_005] {
            timeline.note(at);
        }
        assert_eq!((timeline.first_ms(), timeline.last_ms()), (Some(1_000), Some(2_000)));
        assert_eq!(timeline.slices(1_000, 100), [(0, 2), (100, 1), (1_000, 1)]);
        assert_eq!(timeline.slices(1_000, 1_000), [(0, 3), (1_000, 1)]);
        assert_eq!(timeline.slices(1_100, 1_000), [(0, 4)]);
    }
}
