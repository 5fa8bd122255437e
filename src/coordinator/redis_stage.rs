//! The stage of a shutdown in which the node is taken out of Redis: beside the flushing of the
//! shards, under a cap of its own (S1.14) and the overall deadline. It asks and looks; the thread
//! in `redis/flush.rs` does it.

use super::report::{StageReport, StageResult};
use super::shutdown::StageCaps;
use crate::clock::{Now, Reading};
use crate::limits::REDIS_LEAVE_MS;
use crate::redis::board::{Board, Departure};

/// The part of the deadline that is kept for ending, at most, in milliseconds: a few looks of the
/// coordinator.
const KEPT_MS: u64 = 200;

/// The stage.
#[derive(Debug, Default)]
pub struct RedisStage {
    begun: Option<(Now, String)>,
    is_over: bool,
}

impl RedisStage {
    /// Begins if it has not, and looks; returns the report once, when it is over. Of the shutdown
    /// it is told when that `started`, its `caps`, and whether it `hurries`: one that was forced
    /// does not wait for Redis longer than for anything else.
    pub fn look(
        &mut self,
        board: &Board,
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
        let end = started.plus_ms(caps.deadline - KEPT_MS.min(caps.deadline / 10));
        let until = |since: Now| since.plus_ms(cap_ms).min(end);
        let (since, started_at) = self.begun.get_or_insert_with(|| {
            board.leave(until(now));
            (now, at.timestamp())
        });
        let result = match board.departure() {
            Departure::UnderWay if now < until(*since) => return None,
            Departure::UnderWay | Departure::TimedOut => StageResult::TimedOut,
            Departure::Skipped => StageResult::Skipped,
            Departure::Done => StageResult::Done,
            Departure::Failed => StageResult::Failed,
        };
        self.is_over = true;
        Some(StageReport {
            name: "redis".into(),
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

    fn result_at(departure: Departure, now_ms: u64, deadline_ms: u64) -> Option<StageResult> {
        result_in(departure, now_ms, deadline_ms, false)
    }

    fn result_in(
        departure: Departure,
        now_ms: u64,
        deadline_ms: u64,
        hurries: bool,
    ) -> Option<StageResult> {
        let mut config = Config::default();
        config.shutdown.deadline_ms = deadline_ms;
        let caps = StageCaps::new(&config);
        let board = Board::default();
        board.set_departure(departure);
        let mut stage = RedisStage::default();
        let (start, now) = (Now::from_ms(1_000), Now::from_ms(1_000 + now_ms));
        let mut look = |now| {
            let report = stage.look(&board, reading(now), start, &caps, hurries);
            (report, stage.is_over())
        };
        let (first, is_over) = look(start);
        assert_eq!(is_over, first.is_some());
        let report = first.or_else(|| look(now).0)?;
        assert!(look(now).0.is_none(), "told twice");
        Some(report.result)
    }

    /// S1.14, S1.49.
    #[test]
    fn it_ends_with_the_departure_or_with_its_time() {
        for (departure, result) in [
            (Departure::Skipped, StageResult::Skipped),
            (Departure::Done, StageResult::Done),
            (Departure::Failed, StageResult::Failed),
            (Departure::TimedOut, StageResult::TimedOut),
        ] {
            assert_eq!(result_at(departure, 0, 30_000), Some(result));
        }
        assert_eq!(result_at(Departure::UnderWay, 4_999, 30_000), None);
        assert_eq!(result_at(Departure::UnderWay, 5_000, 30_000), Some(StageResult::TimedOut));
        // Before the overall deadline ends the process.
        assert_eq!(result_at(Departure::UnderWay, 1_799, 2_000), None);
        assert_eq!(result_at(Departure::UnderWay, 1_800, 2_000), Some(StageResult::TimedOut));
        assert_eq!(result_at(Departure::UnderWay, 9, 10), Some(StageResult::TimedOut));
    }

    #[test]
    fn a_forced_shutdown_does_not_wait_long_for_redis() {
        assert_eq!(result_in(Departure::UnderWay, 999, 30_000, true), None);
        let late = result_in(Departure::UnderWay, 1_000, 30_000, true);
        assert_eq!(late, Some(StageResult::TimedOut));
    }
}
