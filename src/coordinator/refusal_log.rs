//! When the log has a line about refused connections, and what it counts: a line for each would be
//! a second flood, none at all hides the first. Pure.
//!
//! The first refusal after a quiet time waits a second for more; from then on there is a line each
//! ten seconds as long as there is something to count. Every refusal is in exactly one line.

use crate::clock::Now;
use crate::limits::{REFUSALS_FIRST_LINE_MS, REFUSALS_LINE_MS};
use crate::metrics::REFUSAL_LABELS;

/// Refusals by reason, in the order of [`REFUSAL_LABELS`].
pub(crate) type Refusals = [u64; REFUSAL_LABELS.len()];

/// What the log has been told.
#[derive(Debug, Default)]
pub(super) struct RefusalLog {
    told: Refusals,
    told_at: Option<Now>,
    /// Since when there is something to tell.
    since: Option<Now>,
}

/// What a line counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) counts: Refusals,
    /// The time in which they came, in milliseconds.
    pub(super) within_ms: u64,
}

impl Line {
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }
}

impl RefusalLog {
    /// A line if one is due; `refused` is counted from the start.
    pub(super) fn look(&mut self, refused: Refusals, now: Now) -> Option<Line> {
        if refused == self.told {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let first = since.plus_ms(REFUSALS_FIRST_LINE_MS);
        let next = self.told_at.map_or(first, |at| at.plus_ms(REFUSALS_LINE_MS).max(first));
        if now >= next { self.rest(refused, now) } else { None }
    }

    /// A line about all that is not told yet.
    pub(super) fn rest(&mut self, refused: Refusals, now: Now) -> Option<Line> {
        let counts = std::array::from_fn(|at| refused[at].saturating_sub(self.told[at]));
        let since = self.since.take().unwrap_or(now);
        if counts == Refusals::default() {
            return None;
        }
        (self.told, self.told_at) = (refused, Some(now));
        Some(Line { counts, within_ms: now.since(since).as_millis() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(count: u64) -> Refusals {
        let mut refused = Refusals::default();
        refused[2] = count;
        refused
    }

    #[test]
    fn a_flood_is_a_line_each_ten_seconds_and_every_refusal_is_in_one() {
        let (mut log, mut lines) = (RefusalLog::default(), Vec::new());
        // A thousand a second for a minute, looked at ten times a second; then nobody more.
        for step in 1..=900 {
            let count = refused(100 * step.min(600));
            lines.extend(log.look(count, Now::from_ms(step * 100)));
        }
        assert!((7..=8).contains(&lines.len()), "{lines:?}");
        assert_eq!(lines.iter().map(Line::total).sum::<u64>(), 60_000);
        assert_eq!(lines[0].within_ms, REFUSALS_FIRST_LINE_MS);
    }

    #[test]
    fn a_single_one_is_told_after_a_second_and_a_quiet_time_begins_anew() {
        let mut log = RefusalLog::default();
        assert_eq!(log.look(refused(0), Now::from_ms(0)), None);
        assert_eq!(log.look(refused(1), Now::from_ms(5_000)), None);
        let line = log.look(refused(3), Now::from_ms(6_000));
        assert_eq!(line.map(|line| (line.total(), line.within_ms)), Some((3, 1_000)));
        assert_eq!(log.look(refused(3), Now::from_ms(60_000)), None);
        assert_eq!(log.look(refused(4), Now::from_ms(70_000)), None);
        assert_eq!(log.look(refused(4), Now::from_ms(71_000)).map(|line| line.total()), Some(1));
    }

    #[test]
    fn the_end_tells_what_is_left() {
        let mut log = RefusalLog::default();
        assert_eq!(log.look(refused(7), Now::from_ms(100)), None);
        assert_eq!(log.rest(refused(8), Now::from_ms(200)).map(|line| line.total()), Some(8));
        assert_eq!(log.rest(refused(8), Now::from_ms(200)), None);
    }
}
