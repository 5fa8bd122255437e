//! Progress of a client that is sent more than it has taken: what its TCP acknowledges.
//!
//! A queue in user space says nothing of it: the kernel asks for more when a third of its buffer
//! is free, and a pong, or the answer to Close, waits at the client behind everything before it.
//! So while something is outstanding, patience does not run out as long as bytes are acknowledged
//! at [`Floor`] over [`PROGRESS_WINDOW_TICKS`](limits::PROGRESS_WINDOW_TICKS); a client that takes
//! a byte a second does not hold its queue for ever. The kernel is asked (SIOCOUTQ) only when a
//! deadline is due.
//!
//! Pure: the driver asks, and brings the answer to [`Progress::observe`].

use super::deadline::{earlier, is_reached};
use crate::limits::{self, TICK_MS};

/// The least that a client has to take in a second to count as one that reads, in bytes; 0: any
/// progress does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor(pub u64);

impl Floor {
    /// The time for which `bytes` are enough, in ticks, up to the window.
    fn ticks(self, bytes: u64) -> u32 {
        let most = limits::PROGRESS_WINDOW_TICKS;
        if self.0 == 0 {
            return if bytes > 0 { most } else { 0 };
        }
        let ticks = bytes.saturating_mul(1_000) / self.0.saturating_mul(TICK_MS);
        u32::try_from(ticks).map_or(most, |ticks| ticks.min(most))
    }

    /// Whether so many bytes in so many ticks are enough.
    fn is_met(self, bytes: u64, ticks: u32) -> bool {
        let least = self.0.saturating_mul(TICK_MS).saturating_mul(ticks.into());
        bytes > 0 && bytes.saturating_mul(1_000) >= least
    }
}

/// What a deadline means for a client to which something is outstanding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It has time until this tick.
    Later(u32),
    /// The kernel has to be asked how far it has come.
    Ask,
    /// It has not taken enough for as long as it may.
    Stalled,
}

/// How far a client has come, by what was known when the kernel was last asked.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes that the kernel has taken since this began.
    handed: u64,
    /// Of the stream: where the client was at the first answer and at the last. What was
    /// outstanding when this began is not in `handed`, so only differences mean something.
    first: Option<(u64, u32)>,
    acknowledged: u64,
    /// Bytes that were outstanding at the last answer.
    outstanding: u64,
    asked: Option<u32>,
    begun: u32,
    /// What was acknowledged is enough until then; may be in the future by the window.
    enough_until: u32,
}

impl Progress {
    /// Begins at tick `now`, with nothing known.
    pub fn new(now: u32) -> Self {
        Self {
            handed: 0,
            first: None,
            acknowledged: 0,
            outstanding: 0,
            asked: None,
            begun: now,
            enough_until: now,
        }
    }

    /// The kernel has taken so many bytes.
    pub fn hand(&mut self, bytes: usize) {
        self.handed = self.handed.wrapping_add(bytes as u64);
    }

    /// True if the kernel has been asked since this began.
    pub fn is_watched(&self) -> bool {
        self.asked.is_some()
    }

    /// When the kernel was asked last.
    pub fn asked(&self) -> Option<u32> {
        self.asked
    }

    /// Bytes that were outstanding at the last answer.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Patience counts from `tick` at the earliest.
    pub fn begin_patience(&mut self, tick: u32) {
        if is_reached(self.enough_until, tick) {
            self.enough_until = tick;
        }
    }

    /// The tick until which what was acknowledged is enough, `now` at the earliest.
    pub fn enough_until(&self, now: u32) -> u32 {
        if is_reached(self.enough_until, now) { now } else { self.enough_until }
    }

    /// The kernel's answer at tick `now`: so many bytes are outstanding.
    pub fn observe(&mut self, outstanding: u64, now: u32, floor: Floor) {
        let acknowledged = self.handed.wrapping_sub(outstanding);
        if self.first.is_some() {
            let bytes = ahead(acknowledged, self.acknowledged);
            let furthest = now.wrapping_add(limits::PROGRESS_WINDOW_TICKS);
            let enough_until = self.enough_until.wrapping_add(floor.ticks(bytes));
            self.enough_until =
                if is_reached(furthest, enough_until) { furthest } else { enough_until };
            // A window's worth says nothing of a longer time in which nobody has asked.
            let unseen = self.asked.map_or(0, |asked| now.wrapping_sub(asked));
            if unseen > limits::PROGRESS_WINDOW_TICKS && floor.is_met(bytes, unseen) {
                self.begin_patience(now);
            }
        }
        if outstanding == 0 {
            self.begin_patience(now);
        }
        self.first.get_or_insert((acknowledged, now));
        self.acknowledged = acknowledged;
        self.outstanding = outstanding;
        self.asked = Some(now);
    }

    /// The kernel has no answer: nothing is known of any progress.
    pub fn observe_nothing(&mut self, now: u32) {
        self.first.get_or_insert((self.acknowledged, now));
        self.asked = Some(now);
    }

    /// What a deadline of `patience` ticks means at tick `now`.
    pub fn judge(&self, patience: u32, now: u32) -> Judgement {
        let end = self.enough_until.wrapping_add(patience);
        if is_reached(end, now) {
            return match (self.asked, self.first) {
                // One answer says nothing of how far it comes.
                (Some(asked), Some((_, first))) if asked == now && first == now => {
                    Judgement::Later(now.wrapping_add(patience))
                }
                (Some(asked), _) if asked == now => Judgement::Stalled,
                _ => Judgement::Ask,
            };
        }
        if self.is_watched() {
            return Judgement::Later(end);
        }
        // The first answer is what later ones are compared with: soon, but not at once, because
        // nearly everything that waits has gone by then.
        let first = (patience / 4).clamp(1, limits::FIRST_ASKED_TICKS);
        let at = self.begun.wrapping_add(first);
        if is_reached(at, now) { Judgement::Ask } else { Judgement::Later(earlier(at, end, now)) }
    }

    /// How many bytes will be acknowledged in `ticks` at the rate seen so far; `None` while too
    /// little has been seen to know it.
    pub fn expected_in(&self, ticks: u32) -> Option<u64> {
        let (acknowledged, since) = self.first?;
        let seen = self.asked?.wrapping_sub(since);
        if seen < limits::RATE_SEEN_TICKS {
            return None;
        }
        let bytes = ahead(self.acknowledged, acknowledged);
        Some(bytes.saturating_mul(ticks.into()) / u64::from(seen))
    }
}

/// How far `one` position of a stream is ahead of `other`.
fn ahead(one: u64, other: u64) -> u64 {
    let bytes = one.wrapping_sub(other);
    if bytes > u64::MAX / 2 { 0 } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FLOOR: Floor = Floor(1_000);
    const WINDOW: u32 = limits::PROGRESS_WINDOW_TICKS;
    /// Bytes that are a tick's worth at [`FLOOR`].
    const TICK_BYTES: u64 = TICK_MS;

    /// Asks whenever that is due; the answer is by `acknowledged(tick)` of a million bytes. The
    /// tick at which the client counts as stalled, before `end`.
    fn stalled_at(patience: u32, end: u32, acknowledged: impl Fn(u32) -> u64) -> Option<u32> {
        let mut progress = Progress::new(0);
        progress.hand(1_000_000_000);
        let mut now = 0;
        for _ in 0..100_000 {
            match progress.judge(patience, now) {
                Judgement::Later(at) if at >= end => return None,
                Judgement::Later(at) => {
                    assert!(at > now, "time goes on");
                    now = at;
                }
                Judgement::Ask => progress.observe(1_000_000_000 - acknowledged(now), now, FLOOR),
                Judgement::Stalled => return Some(now),
            }
        }
        panic!("asked without end");
    }

    #[test]
    fn a_client_that_takes_nothing_has_its_patience_and_no_more() {
        for patience in [1, 8, 80, 500] {
            assert_eq!(stalled_at(patience, 10_000, |_| 5_000), Some(patience.max(2)));
        }
    }

    #[test]
    fn a_client_that_stops_has_a_window_more_at_most() {
        let stops_at = 1_000;
        let took = |tick: u32| u64::from(tick.min(stops_at)) * 10 * TICK_BYTES;
        let stalled = stalled_at(80, 10_000, took).unwrap_or(u32::MAX);
        assert!((stops_at..=stops_at + 80 + WINDOW).contains(&stalled), "{stalled}");
    }

    #[test]
    fn jumps_of_a_segment_in_six_seconds_are_progress() {
        // 64 KiB each 6.5 s, as a loopback reader of 10 kB/s acknowledges them, from any moment on.
        for offset in [0, 30, 60, 90] {
            let took = |tick: u32| u64::from((tick + offset) / 102) * 65_536;
            assert_eq!(stalled_at(WINDOW, 20_000, took), None, "{offset}");
        }
    }

    /// The kernel is not asked while everything is handed to it and no deadline is due.
    #[test]
    fn what_is_taken_while_nobody_asks_counts() {
        for floor in [FLOOR, Floor(0)] {
            let mut progress = Progress::new(0);
            progress.hand(1_000_000_000);
            progress.observe(1_000_000_000, 10, floor);
            let now = 10 + 3 * WINDOW;
            let taken = 2 * TICK_BYTES * u64::from(3 * WINDOW);
            progress.observe(1_000_000_000 - taken, now, floor);
            assert_eq!(progress.judge(16, now), Judgement::Later(now + 16), "{floor:?}");
            // And what is too little for that time does not.
            progress.observe(1_000_000_000 - taken - 100, now + 3 * WINDOW, FLOOR);
            assert_eq!(progress.judge(16, now + 3 * WINDOW), Judgement::Stalled);
        }
    }

    #[test]
    fn a_byte_a_second_is_not() {
        let stalled = stalled_at(80, 100_000, |tick| u64::from(tick) / 16).unwrap_or(u32::MAX);
        assert!(stalled <= 90, "{stalled}");
        // Anything is, without a floor.
        let mut progress = Progress::new(0);
        progress.observe(100, 1, Floor(0));
        progress.observe(99, 80, Floor(0));
        assert_eq!(progress.judge(80, 80), Judgement::Later(80 + WINDOW));
    }

    #[test]
    fn what_was_outstanding_before_counts_as_it_is_acknowledged() {
        let mut progress = Progress::new(u32::MAX - 10);
        progress.observe(500_000, u32::MAX - 5, FLOOR);
        progress.observe(400_000, 60, FLOOR);
        progress.hand(20_000);
        progress.observe(320_000, 126, FLOOR);
        // 200,000 bytes in 132 ticks.
        assert_eq!(progress.expected_in(132), Some(200_000));
        assert_eq!(progress.outstanding(), 320_000);
    }

    #[test]
    fn without_answers_it_has_its_patience() {
        let mut progress = Progress::new(0);
        progress.observe_nothing(16);
        assert_eq!(progress.judge(80, 16), Judgement::Later(80));
        progress.observe_nothing(80);
        assert_eq!(progress.judge(80, 80), Judgement::Stalled);
    }

    proptest! {
        /// At a steady rate: never stalled above the floor, however coarse the acknowledgements
        /// are below the window; always stalled in time clearly below it.
        #[test]
        fn the_floor_decides(
            patience in 16u32..600,
            grain in 1u32..100,
            per_tick in 0u64..200 * TICK_BYTES,
        ) {
            prop_assume!(grain <= patience);
            let took = |tick: u32| u64::from(tick / grain * grain) * per_tick;
            let stalled = stalled_at(patience, 20_000, took);
            if per_tick >= 2 * TICK_BYTES {
                prop_assert_eq!(stalled, None);
            } else if per_tick <= TICK_BYTES / 4 {
                let stalled = stalled.unwrap_or(u32::MAX);
                prop_assert!(stalled <= 2 * patience + WINDOW, "{}", stalled);
            }
        }
    }
}
