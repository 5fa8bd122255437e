//! `flood`: attempts as fast as possible on a server with limits. What became of each, and does
//! the server say the same?
//!
//! Here is what the connections do. What their ends mean is in `crate::fates`, what the server
//! counted in `crate::server`, and what is said about both in `report`.

mod report;

use std::time::{Duration, Instant};

use tidegate::ring::FileSlot;

pub(crate) use self::report::report;
use crate::client::{Core, Message, Scenario};
use crate::crew::Phase;
use crate::latency::Latencies;

/// "Try again later" (the registry of RFC 6455 section 11.7): how a server refuses a browser,
/// which cannot see the status of an answer to an upgrade.
pub(crate) const TRY_AGAIN_LATER: u16 = 1013;

/// What is kept for an admitted connection.
#[derive(Debug, Default)]
pub(crate) struct Entered {
    /// When the attempt began.
    began: Option<Instant>,
    /// A message has come, so a later Close refuses nothing.
    heard: bool,
}

/// What refusals said about coming back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RetryAfter {
    told: u64,
    untold: u64,
    shortest_s: Option<u32>,
    longest_s: Option<u32>,
}

impl RetryAfter {
    fn note(&mut self, seconds: Option<u32>) {
        let Some(seconds) = seconds else {
            self.untold += 1;
            return;
        };
        let told = Some(seconds);
        self.add(Self { told: 1, untold: 0, shortest_s: told, longest_s: told });
    }

    fn add(&mut self, other: Self) {
        self.told += other.told;
        self.untold += other.untold;
        self.shortest_s = self.shortest_s.into_iter().chain(other.shortest_s).min();
        self.longest_s = self.longest_s.max(other.longest_s);
    }
}

/// One ring's attempts.
pub(crate) struct Flooding {
    leave: bool,
    refused_by_close: u64,
    refusals: Latencies,
    retry_after: RetryAfter,
    messages: u64,
}

impl Flooding {
    /// With `leave`, admitted connections end at once.
    pub(crate) fn new(leave: bool) -> Self {
        Self {
            leave,
            refused_by_close: 0,
            refusals: Latencies::new(),
            retry_after: RetryAfter::default(),
            messages: 0,
        }
    }
}

impl Scenario for Flooding {
    type State = Entered;
    const BUSY: bool = false;

    fn on_open(&mut self, core: &mut Core<Entered>, slot: FileSlot, took: Duration) {
        let began = core.now().checked_sub(took);
        if let Some(entered) = core.state(slot) {
            entered.began = began;
        }
        if self.leave {
            core.leave(slot);
        }
    }

    fn on_refused(
        &mut self,
        _core: &mut Core<Entered>,
        took: Duration,
        retry_after_s: Option<u32>,
    ) {
        self.refusals.record(took);
        self.retry_after.note(retry_after_s);
    }

    fn on_message(&mut self, core: &mut Core<Entered>, slot: FileSlot, _message: Message<'_>) {
        self.messages += 1;
        if let Some(entered) = core.state(slot) {
            entered.heard = true;
        }
    }

    fn on_close_frame(
        &mut self,
        core: &mut Core<Entered>,
        slot: FileSlot,
        code: Option<u16>,
        _reason: &str,
    ) {
        let now = core.now();
        let Some(entered) = core.state(slot) else { return };
        if code == Some(TRY_AGAIN_LATER) && !entered.heard {
            self.refused_by_close += 1;
            self.refusals.record(entered.began.map_or(Duration::ZERO, |began| now - began));
        }
    }

    fn on_phase(&mut self, core: &mut Core<Entered>, phase: Phase) {
        if phase == Phase::Settling {
            core.stop_opening();
        }
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_come_back_are_kept_as_a_range() {
        let mut all = RetryAfter::default();
        all.add(RetryAfter::default());
        assert_eq!(all.shortest_s, None, "a ring without refusals says nothing");
        for seconds in [Some(5), None, Some(1)] {
            all.note(seconds);
        }
        let mut other = RetryAfter::default();
        other.note(Some(60));
        all.add(other);
        let expected = RetryAfter { told: 3, untold: 1, shortest_s: Some(1), longest_s: Some(60) };
        assert_eq!(all, expected);
    }
}
