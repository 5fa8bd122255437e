//! Is the line of those who return flat? Counts per slice of time in, a judgement out.

use crate::latency::Timeline;

/// Widths of a slice, from fine to coarse.
const WIDTHS_MS: [u64; 4] = [10, 100, 1_000, 10_000];
/// So many in a slice on average, or chance alone would make it look uneven.
const ENOUGH: u64 = 50;
/// Slices at most: what a person looks at.
const MOST_SLICES: u64 = 120;
/// Up to this many times the mean is flat, as far as chance lets one see it.
const FLAT: f64 = 1.25;
/// Above this many times the mean is a burst.
const BURST: f64 = 3.0;

/// The line, in slices of equal width without holes, and what is thought of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) width_ms: u64,
    /// From the slice of the first to that of the last.
    pub(super) counts: Vec<u64>,
    /// When the first slice begins, in the time of the events.
    pub(super) first_ms: u64,
}

/// What is thought of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nobody, or all within one slice: nothing to judge.
    TooShort,
    Flat,
    Uneven,
    Burst,
}

impl Verdict {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::TooShort => "too short to judge",
            Self::Flat => "flat",
            Self::Uneven => "uneven",
            Self::Burst => "burst",
        }
    }
}

impl Line {
    /// In slices as fine as the events allow.
    pub(super) fn of(events: &Timeline) -> Self {
        let (Some(first), Some(last)) = (events.first_ms(), events.last_ms()) else {
            return Self { width_ms: WIDTHS_MS[2], counts: Vec::new(), first_ms: 0 };
        };
        let fits = |width: &u64| {
            let slices = (last - first) / width + 1;
            slices <= MOST_SLICES && events.count() / slices >= ENOUGH
        };
        // A burst within a moment is a burst, however few slices there are.
        let width_ms = WIDTHS_MS.into_iter().find(fits).unwrap_or(WIDTHS_MS[2]);
        let first_ms = first / width_ms * width_ms;
        let mut counts = vec![0; ((last - first_ms) / width_ms + 1) as usize];
        for (at, count) in events.slices(first_ms, width_ms) {
            if let Some(slice) = counts.get_mut((at / width_ms) as usize) {
                *slice += count;
            }
        }
        Self { width_ms, counts, first_ms }
    }

    /// Slices that are complete: the first and the last are cut by chance.
    fn whole(&self) -> &[u64] {
        match self.counts.len() {
            0..=2 => &[],
            len => &self.counts[1..len - 1],
        }
    }

    /// Mean per slice, of those that are whole.
    fn mean(&self) -> f64 {
        let whole = self.whole();
        whole.iter().sum::<u64>() as f64 / (whole.len() as f64).max(1.0)
    }

    /// Per second.
    pub(super) fn mean_per_second(&self) -> f64 {
        self.mean() * 1_000.0 / self.width_ms as f64
    }

    /// Most in any slice, per second; the ones at the ends count too.
    pub(super) fn peak_per_second(&self) -> f64 {
        self.counts.iter().copied().max().unwrap_or_default() as f64 * 1_000.0
            / self.width_ms as f64
    }

    /// The busiest slice against the mean.
    pub(super) fn peak_to_mean(&self) -> f64 {
        match self.mean() {
            mean if mean > 0.0 => {
                self.counts.iter().copied().max().unwrap_or_default() as f64 / mean
            }
            _ => 1.0,
        }
    }

    /// Standard deviation against the mean, of whole slices.
    pub(super) fn variation(&self) -> f64 {
        let (mean, whole) = (self.mean(), self.whole());
        if mean <= 0.0 {
            return 0.0;
        }
        let squares: f64 = whole.iter().map(|count| (*count as f64 - mean).powi(2)).sum();
        (squares / whole.len() as f64).sqrt() / mean
    }

    /// What chance makes of a flat line with so few in a slice: three standard deviations.
    fn chance(&self) -> f64 {
        3.0 / self.mean().max(1.0).sqrt()
    }

    /// Judges the line by its busiest slice.
    pub(super) fn verdict(&self) -> Verdict {
        if self.whole().is_empty() {
            return Verdict::TooShort;
        }
        let peak = self.peak_to_mean();
        if peak <= FLAT.max(1.0 + self.chance()) {
            Verdict::Flat
        } else if peak <= BURST {
            Verdict::Uneven
        } else {
            Verdict::Burst
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(events: impl IntoIterator<Item = u64>) -> Line {
        let mut timeline = Timeline::default();
        events.into_iter().for_each(|at| timeline.note(at));
        Line::of(&timeline)
    }

    #[test]
    fn slots_one_behind_the_other_are_flat() {
        let line = line((0..20_000).map(|client| 5_000 + client));
        assert_eq!((line.verdict(), line.width_ms), (Verdict::Flat, 1_000));
        assert_eq!((line.mean_per_second(), line.counts.len()), (1_000.0, 20));
        assert!(line.variation() < 0.01);
    }

    #[test]
    fn everybody_at_once_and_a_few_behind_is_a_burst() {
        let line =
            line((0..20_000).map(|client| if client < 15_000 { client / 100 } else { client }));
        assert_eq!(line.verdict(), Verdict::Burst, "{line:?}");
    }

    #[test]
    fn a_line_with_a_hole_and_a_heap_behind_it_is_not_flat() {
        let heap = |client: u64| if (8_000..10_000).contains(&client) { 10_000 } else { client };
        let line = line((0..20_000).map(heap));
        assert_eq!(line.verdict(), Verdict::Uneven, "{line:?}");
        assert!(line.counts.contains(&0));
    }

    #[test]
    fn nobody_and_a_moment_are_no_line() {
        assert_eq!(line([]).verdict(), Verdict::TooShort);
        let moment = line(std::iter::repeat_n(77, 1_000));
        assert_eq!(moment.verdict(), Verdict::TooShort);
        assert_eq!(moment.peak_per_second(), 100_000.0, "which is still a peak");
    }

    #[test]
    fn chance_is_no_burst() {
        // Uniformly random arrivals: 200 a second.
        let mut state = 1_u64;
        let random = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 30_000
        };
        assert_eq!(line((0..6_000).map(random)).verdict(), Verdict::Flat);
    }
}
