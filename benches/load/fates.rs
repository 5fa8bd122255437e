//! What became of each attempt, and what the server must have counted if that is true.
//!
//! Invariant: an attempt has exactly one fate, so attempts = the sum of all. A connection that
//! was answered with 101 and then closed with 1013 before anything else was refused.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::fate::{Failure, Step};
use crate::ledger::Ledger;
use crate::server::books::Counted;

/// Attempts by fate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    pub(crate) attempts: u64,
    /// 101, and not closed with 1013 at once.
    pub(crate) admitted: u64,
    /// Admitted and ended, without those that were closed with 1013 at once.
    pub(crate) ended: u64,
    /// Refused with an HTTP status.
    pub(crate) by_status: BTreeMap<u16, u64>,
    /// 101, then Close 1013.
    pub(crate) by_close: u64,
    /// Connected, then reset.
    pub(crate) reset: u64,
    pub(crate) timed_out: u64,
    /// No connection came about.
    pub(crate) not_connected: u64,
    /// Connected, then the end of the stream, another error, or an answer that is none.
    pub(crate) unanswered: u64,
    /// The run ended first.
    pub(crate) unfinished: u64,
}

impl Fates {
    /// From the books, and how many of those admitted there were refused by Close.
    pub(crate) fn of(ledger: &Ledger, by_close: u64) -> Self {
        let mut fates = Self {
            attempts: ledger.attempts,
            admitted: ledger.admitted.saturating_sub(by_close),
            ended: ledger.ended_total().saturating_sub(by_close),
            by_status: ledger.refused.clone(),
            by_close,
            ..Self::default()
        };
        for (failure, count) in &ledger.failed {
            *fates.of_failure(*failure) += count;
        }
        fates
    }

    fn of_failure(&mut self, failure: Failure) -> &mut u64 {
        match failure {
            // The kernel tells of a connect late: a connection that came about and was reset
            // before anybody looked is reported as a connect that failed. Where nobody listens
            // the error is another (ECONNREFUSED).
            Failure::Errno(Step::Connect | Step::Upgrade, libc::ECONNRESET | libc::EPIPE) => {
                &mut self.reset
            }
            Failure::Errno(Step::Socket | Step::Bind | Step::Connect, _) => &mut self.not_connected,
            Failure::TimedOut(_) => &mut self.timed_out,
            Failure::Unfinished(_) => &mut self.unfinished,
            Failure::Errno(Step::Upgrade, _) | Failure::ClosedUnanswered | Failure::BadAnswer => {
                &mut self.unanswered
            }
        }
    }

    /// Refusals of all kinds.
    pub(crate) fn refused(&self) -> u64 {
        self.by_status.values().sum::<u64>() + self.by_close
    }

    pub(crate) fn status(&self, status: u16) -> u64 {
        self.by_status.get(&status).copied().unwrap_or_default()
    }

    /// Every attempt has one fate.
    pub(crate) fn balance(&self) -> bool {
        let without_answer = self.unknown() + self.not_connected;
        self.attempts == self.admitted + self.refused() + without_answer
    }

    /// Attempts that the server may have counted as one thing or the other, or not at all.
    fn unknown(&self) -> u64 {
        self.reset + self.timed_out + self.unanswered + self.unfinished
    }

    /// What the server may have counted as upgraded. A refusal by Close was upgraded first; it is
    /// the server's choice whether that counts.
    fn opened(&self) -> RangeInclusive<u64> {
        self.admitted..=self.admitted + self.by_close + self.unknown()
    }

    /// What the server may have counted as refused by admission. A 403 can be about the address
    /// or about the Origin; other statuses are about the request.
    fn refused_by_admission(&self) -> RangeInclusive<u64> {
        let least = self.status(429) + self.status(503) + self.by_close;
        least..=least + self.status(403) + self.unknown()
    }

    /// What the server may have counted as closed by the end of the books: those whose end was
    /// seen here, and those that it has ended or is about to end.
    fn closed(&self) -> RangeInclusive<u64> {
        self.ended..=*self.opened().end()
    }

    /// Where the server has counted something else.
    pub(crate) fn differences(&self, counted: &Counted) -> Vec<String> {
        let differ = |what: &str, counted: u64, here: RangeInclusive<u64>| {
            let (least, most) = here.clone().into_inner();
            let here_text =
                if least == most { least.to_string() } else { format!("{least} to {most}") };
            (!here.contains(&counted)).then(|| {
                format!("the server has counted {counted} {what}, here it was {here_text}")
            })
        };
        let opened = differ("connections as opened", counted.opened, self.opened());
        let refused = differ("attempts as refused", counted.refused, self.refused_by_admission());
        // Other servers' figures may not have this one, and then it stays at nothing. A server that
        // has ended may have closed more after it was looked at for the last time.
        let known = counted.closed > 0;
        let (least, most) = self.closed().into_inner();
        let least = if counted.ended { 0 } else { least };
        let closed = || differ("connections as closed", counted.closed, least..=most);
        let closed = known.then(closed).flatten();
        opened.into_iter().chain(refused).chain(closed).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fate::{Ending, Fate};

    fn ledger(fates: &[Fate]) -> Ledger {
        let mut ledger = Ledger { attempts: fates.len() as u64, ..Ledger::default() };
        for fate in fates {
            ledger.admitted += u64::from(matches!(fate, Fate::Open | Fate::Ended(_)));
            ledger.settle(*fate);
        }
        ledger
    }

    #[test]
    fn every_end_of_an_attempt_is_one_fate() {
        let by_close = Fate::Ended(Ending::Close(Some(TRY_AGAIN)));
        let ledger = ledger(&[
            Fate::Open,
            Fate::Ended(Ending::Close(Some(1000))),
            by_close,
            Fate::Refused(429),
            Fate::Refused(503),
            Fate::Refused(404),
            Fate::Failed(Failure::Errno(Step::Upgrade, libc::ECONNRESET)),
            Fate::Failed(Failure::Errno(Step::Connect, libc::ECONNRESET)),
            Fate::Failed(Failure::Errno(Step::Connect, libc::ECONNREFUSED)),
            Fate::Failed(Failure::Errno(Step::Socket, libc::ENFILE)),
            Fate::Failed(Failure::TimedOut(Step::Upgrade)),
            Fate::Failed(Failure::TimedOut(Step::Connect)),
            Fate::Failed(Failure::ClosedUnanswered),
            Fate::Failed(Failure::Unfinished(Step::Socket)),
        ]);
        let fates = Fates::of(&ledger, 1);
        assert!(fates.balance(), "{fates:?}");
        assert_eq!((fates.admitted, fates.by_close, fates.refused()), (2, 1, 4));
        assert_eq!((fates.reset, fates.timed_out, fates.not_connected), (2, 2, 2));
        assert_eq!((fates.unanswered, fates.unfinished), (1, 1));
        let lost = Fates { attempts: fates.attempts + 1, ..fates };
        assert!(!lost.balance());
    }

    const TRY_AGAIN: u16 = crate::flood::TRY_AGAIN_LATER;

    fn differences(fates: &Fates, opened: u64, refused: u64) -> usize {
        fates.differences(&Counted { opened, refused, ..Counted::default() }).len()
    }

    #[test]
    fn the_server_cannot_have_closed_fewer_than_ended_here() {
        let fates = Fates { by_close: 0, ended: 4, ..answered() };
        let closed = |closed| {
            let counted = Counted { opened: 10, refused: 80, closed, ..Counted::default() };
            fates.differences(&counted).len()
        };
        assert_eq!([closed(3), closed(4), closed(10), closed(11)], [1, 0, 0, 1]);
    }

    #[test]
    fn a_server_that_has_ended_may_have_closed_more_than_it_said_last() {
        let fates = Fates { by_close: 0, ended: 4, ..answered() };
        let closed = |closed| {
            let ended = true;
            let counted = Counted { opened: 10, refused: 80, closed, ended, ..Counted::default() };
            fates.differences(&counted).len()
        };
        assert_eq!([closed(3), closed(10), closed(11)], [0, 0, 1]);
    }

    fn answered() -> Fates {
        Fates {
            attempts: 100,
            admitted: 10,
            by_status: [(429, 50), (503, 30), (404, 3)].into(),
            by_close: 7,
            ..Fates::default()
        }
    }

    #[test]
    fn without_doubt_the_counts_must_be_the_same() {
        let fates = Fates { by_close: 0, ..answered() };
        assert_eq!(differences(&fates, 10, 80), 0);
        for (opened, refused, wrong) in [(9, 80, 1), (11, 80, 1), (10, 79, 1), (11, 81, 2)] {
            assert_eq!(differences(&fates, opened, refused), wrong, "{opened} {refused}");
        }
    }

    #[test]
    fn a_refusal_by_close_is_refused_whether_or_not_it_counts_as_opened() {
        assert_eq!(differences(&answered(), 10, 87), 0);
        assert_eq!(differences(&answered(), 17, 87), 0);
        assert_eq!(differences(&answered(), 18, 80), 2);
    }

    #[test]
    fn an_attempt_without_an_answer_may_have_been_either() {
        let fates = Fates { reset: 2, timed_out: 1, not_connected: 5, ..answered() };
        assert_eq!(differences(&fates, 10, 90), 0);
        assert_eq!(differences(&fates, 13, 87), 0);
        assert_eq!(differences(&fates, 10, 91), 1, "who did not connect was not refused");
    }
}
