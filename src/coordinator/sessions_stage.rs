//! The stage of a shutdown in which sessions are saved (S2.17): beside the flushing of the shards,
//! under a cap of its own and the overall deadline. It is over before the node is taken out of Redis:
//! until then other nodes wait for what it still has to save. It asks and looks; the thread in
//! `sessions/thread.rs` does it.

use super::report::{StageReport, StageResult};
use super::shutdown::StageCaps;
use crate::clock::{Now, Reading};
use crate::limits::REDIS_LEAVE_MS;
use crate::sessions::desk::{Desk, Flush};

/// The part of the deadline that is kept for taking the node out and ending, at most, in
/// milliseconds.
const KEPT_MS: u64 = 700;

/// What the thread may take to see that its time is over, in milliseconds: it may wait for Redis.
const SLACK_MS: u64 = 200;

/// The stage.
#[derive(Debug, Default)]
pub struct SessionsStage {
    begun: Option<(Now, String)>,
    is_over: bool,
}

impl SessionsStage {
    /// Begins if it has not, and looks; returns the report once, when it is over. Of the shutdown
    /// it is told when that `started`, its `caps`, and whether it `hurries`.
    pub fn look(
        &mut self,
        desk: &Desk,
        at: Reading,
        started: Now,
        caps: &StageCaps,
        hurries: bool,
    ) -> Option<StageReport> {
        if self.is_over {
            return None;
        }
        let now = at.now;
        let cap_ms = if hurries { caps.flush } else { REDIS_LEAVE_MS };
        let end = started.plus_ms(caps.deadline - KEPT_MS.min(caps.deadline / 5));
        let until = |since: Now| since.plus_ms(cap_ms).min(end);
        let (since, started_at) = self.begun.get_or_insert_with(|| {
            desk.order_flush(until(now));
            (now, at.timestamp())
        });
        let result = match desk.flush() {
            Flush::UnderWay if now < until(*since).plus_ms(SLACK_MS) => return None,
            Flush::UnderWay | Flush::TimedOut => StageResult::TimedOut,
            Flush::Skipped => StageResult::Skipped,
            Flush::Done => StageResult::Done,
            Flush::Failed => StageResult::Failed,
        };
        self.is_over = true;
        Some(StageReport {
            name: "sessions".into(),
            started_at: started_at.clone(),
            duration_ms: now.since(*since).as_millis() as u64,
            result,
            detail: None,
        })
    }

    /// Whether nothing more is waited for.
    pub const fn is_over(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn reading(now: Now) -> Reading {
        Reading { now, wall: jiff::Timestamp::UNIX_EPOCH }
    }

    fn result_at(
        flush: Flush,
        now_ms: u64,
        deadline_ms: u64,
        hurries: bool,
    ) -> Option<StageResult> {
        let mut config = Config::default();
        config.shutdown.deadline_ms = deadline_ms;
        let caps = StageCaps::new(&config);
        let desk = Desk::default();
        desk.set_flush(flush);
        let mut stage = SessionsStage::default();
        let (start, now) = (Now::from_ms(1_000), Now::from_ms(1_000 + now_ms));
        let first = stage.look(&desk, reading(start), start, &caps, hurries);
        assert_eq!(stage.is_over(), first.is_some());
        let report = first.or_else(|| stage.look(&desk, reading(now), start, &caps, hurries))?;
        assert!(stage.look(&desk, reading(now), start, &caps, hurries).is_none(), "told twice");
        Some(report.result)
    }

    /// S1.49.
    #[test]
    fn it_ends_with_the_flush_or_with_its_time() {
        for (flush, result) in [
            (Flush::Skipped, StageResult::Skipped),
            (Flush::Done, StageResult::Done),
            (Flush::TimedOut, StageResult::TimedOut),
            (Flush::Failed, StageResult::Failed),
        ] {
            assert_eq!(result_at(flush, 0, 30_000, false), Some(result));
        }
        let late =
            |now_ms, deadline_ms, hurries| result_at(Flush::UnderWay, now_ms, deadline_ms, hurries);
        assert_eq!(late(5_199, 30_000, false), None);
        assert_eq!(late(5_200, 30_000, false), Some(StageResult::TimedOut));
        assert_eq!(late(1_200, 30_000, true), Some(StageResult::TimedOut));
        // Before the overall deadline ends the process.
        assert_eq!(late(1_799, 2_000, false), None);
        assert_eq!(late(1_800, 2_000, false), Some(StageResult::TimedOut));
    }
}
