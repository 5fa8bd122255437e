//! How fast connections end, seen over the last second. Pure.

use std::collections::VecDeque;

use crate::clock::Now;

/// The time over which the rate is taken, in milliseconds.
const WINDOW_MS: u64 = 1_000;
/// How often what there is is noted, in milliseconds.
const STEP_MS: u64 = 50;

/// The number of ends at some moments of the last second.
#[derive(Debug, Default)]
pub struct Progress {
    noted: VecDeque<(Now, u64)>,
    logged: Option<Now>,
}

impl Progress {
    /// So many have ended so far.
    pub fn note(&mut self, done: u64, now: Now) {
        let due = self.noted.back().is_none_or(|(at, _)| now >= at.plus_ms(STEP_MS));
        if !due {
            return;
        }
        self.noted.push_back((now, done));
        // One that is older than the window stays, to count from.
        while self.noted.get(1).is_some_and(|(at, _)| now >= at.plus_ms(WINDOW_MS)) {
            self.noted.pop_front();
        }
    }

    /// Ends in the last second.
    pub fn per_second(&self, done: u64, now: Now) -> u64 {
        let Some((since, before)) = self.noted.front() else { return 0 };
        let elapsed_ms = (now.since(*since).as_millis() as u64).max(WINDOW_MS);
        done.saturating_sub(*before) * 1_000 / elapsed_ms
    }

    /// True once in a second: then the progress is worth a line.
    pub fn is_worth_a_line(&mut self, now: Now) -> bool {
        let due = self.logged.is_none_or(|at| now >= at.plus_ms(1_000));
        if due {
            self.logged = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second() {
        let mut progress = Progress::default();
        assert_eq!(progress.per_second(5, Now::from_ms(0)), 0);
        for step in 0..200 {
            progress.note(step, Now::from_ms(step * 20)); // 50 a second
        }
        let rate = progress.per_second(199, Now::from_ms(3_980));
        assert!((49..=51).contains(&rate), "{rate}");
        for step in 200..300 {
            progress.note(200, Now::from_ms(step * 20));
        }
        assert_eq!(progress.per_second(200, Now::from_ms(5_980)), 0, "it stands still");
        assert!(progress.noted.len() < 30);
    }

    #[test]
    fn a_line_a_second() {
        let mut progress = Progress::default();
        let lines = (0..250).filter(|step| progress.is_worth_a_line(Now::from_ms(step * 20)));
        assert_eq!(lines.count(), 5);
    }
}
