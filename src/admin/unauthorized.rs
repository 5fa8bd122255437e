//! Requests without the token: they are slowed down by source, counted and logged. Pure.
//!
//! The right token is answered at once whatever else its source sends, so that strangers cannot
//! keep operators out who come from the same address. A wrong one is never answered faster than
//! its source's pace.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::pace::{Pace, Rate};
use crate::admission::SourceKey;
use crate::limits::{
    ADMIN_LOG_INTERVAL_MS, ADMIN_LOG_LINES, ADMIN_UNAUTHORIZED_BURST, ADMIN_UNAUTHORIZED_HELD_MS,
    ADMIN_UNAUTHORIZED_INTERVAL_MS, ADMIN_UNAUTHORIZED_SOURCES,
};

const RATE: Rate = Rate {
    burst: ADMIN_UNAUTHORIZED_BURST,
    interval: Duration::from_millis(ADMIN_UNAUTHORIZED_INTERVAL_MS),
    most: Duration::from_millis(ADMIN_UNAUTHORIZED_HELD_MS),
};

const LOG_INTERVAL: Duration = Duration::from_millis(ADMIN_LOG_INTERVAL_MS);

/// The sources of requests without the token.
#[derive(Debug, Default)]
pub(super) struct Unauthorized {
    sources: HashMap<SourceKey, Source>,
    lines: LogSampler,
}

#[derive(Debug)]
struct Source {
    pace: Pace,
    last: Instant,
    logged: Option<Instant>,
    unlogged: Counts,
}

/// Requests of a source since its last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// With a token that is not the right one.
    pub(super) wrong: u64,
    /// With none.
    pub(super) missing: u64,
}

/// What is done with a request without the token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sentence {
    /// How long its answer is held back.
    pub(super) delay: Duration,
    /// What is to be logged about its source.
    pub(super) line: Option<Counts>,
}

/// Bounds the log lines of all sources together.
#[derive(Debug, Default)]
pub(super) struct LogSampler {
    since: Option<Instant>,
    lines: u32,
}

impl LogSampler {
    /// True if a line may be logged now.
    pub(super) fn may_log(&mut self, most: u32, now: Instant) -> bool {
        let is_over =
            self.since.is_none_or(|since| now.saturating_duration_since(since) >= LOG_INTERVAL);
        if is_over {
            *self = Self { since: Some(now), lines: 0 };
        }
        self.lines += 1;
        self.lines <= most
    }
}

impl Unauthorized {
    /// Records a request of `source` that was refused for its token, or for having none.
    pub(super) fn record(&mut self, source: SourceKey, has_token: bool, now: Instant) -> Sentence {
        if self.sources.len() >= ADMIN_UNAUTHORIZED_SOURCES && !self.sources.contains_key(&source) {
            self.forget_quietest();
        }
        let of_source = self.sources.entry(source).or_insert_with(|| Source {
            pace: Pace::default(),
            last: now,
            logged: None,
            unlogged: Counts::default(),
        });
        of_source.last = now;
        let count =
            if has_token { &mut of_source.unlogged.wrong } else { &mut of_source.unlogged.missing };
        *count += 1;
        let delay = of_source.pace.delay(RATE, now);
        let is_due = of_source
            .logged
            .is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL);
        let line = (is_due && self.lines.may_log(ADMIN_LOG_LINES, now)).then(|| {
            of_source.logged = Some(now);
            std::mem::take(&mut of_source.unlogged)
        });
        Sentence { delay, line }
    }

    fn forget_quietest(&mut self) {
        let quietest = self.sources.iter().min_by_key(|(_, source)| source.last);
        if let Some(quietest) = quietest.map(|(key, _)| *key) {
            self.sources.remove(&quietest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Prefixes;

    fn source(n: u32) -> SourceKey {
        Prefixes::default().key(std::net::Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn guesses_of_one_source_are_slowed_and_others_are_not() {
        let (mut unauthorized, now) = (Unauthorized::default(), Instant::now());
        let mut delay = |of, at| unauthorized.record(source(of), true, at).delay.as_millis();
        assert_eq!([(); 4].map(|()| delay(1, now)), [0; 4]);
        assert_eq!((delay(1, now), delay(1, now), delay(2, now)), (250, 500, 0));
        assert!((0..100).map(|_| delay(1, now)).is_sorted());
        assert_eq!(delay(1, now), u128::from(ADMIN_UNAUTHORIZED_HELD_MS));
        assert_eq!(
            delay(1, now + Duration::from_secs(60)),
            0,
            "nothing is held against it for ever"
        );
    }

    #[test]
    fn a_line_has_what_came_since_the_last_one() {
        let (mut unauthorized, now) = (Unauthorized::default(), Instant::now());
        let first = unauthorized.record(source(1), true, now).line;
        assert_eq!(first, Some(Counts { wrong: 1, missing: 0 }));
        for _ in 0..1_000 {
            assert_eq!(unauthorized.record(source(1), true, now).line, None);
        }
        assert_eq!(unauthorized.record(source(1), false, now).line, None);
        let later = unauthorized.record(source(1), true, now + LOG_INTERVAL).line;
        assert_eq!(later, Some(Counts { wrong: 1_001, missing: 1 }));
    }

    #[test]
    fn many_sources_take_neither_memory_nor_the_log() {
        let (mut unauthorized, now) = (Unauthorized::default(), Instant::now());
        let lines = (0..10_000).filter(|n| {
            let at = now + Duration::from_micros(u64::from(*n));
            unauthorized.record(source(*n), true, at).line.is_some()
        });
        assert_eq!(lines.count(), ADMIN_LOG_LINES as usize);
        assert_eq!(unauthorized.sources.len(), ADMIN_UNAUTHORIZED_SOURCES);
        assert!(unauthorized.sources.contains_key(&source(9_999)));
    }
}
