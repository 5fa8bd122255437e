//! The books: every attempt, every admission, every fate, counted where they happen and
//! compared at the end.
//!
//! Invariant of a correct run: attempts = admitted + refused + failed, and admitted = open +
//! ended. Attempts and admissions are counted when they happen, fates when a connection is
//! settled, so a connection that is lost or settled twice shows.

use std::collections::BTreeMap;
use std::fmt;

use crate::fate::{Ending, Failure, Fate};

/// Counts of one run, or of one ring's part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Connections that were started.
    pub(crate) attempts: u64,
    /// Those that were answered with 101 (or connected, where there is no WebSocket).
    pub(crate) admitted: u64,
    /// Refusals by HTTP status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Attempts without an HTTP answer, by cause.
    pub(crate) failed: BTreeMap<Failure, u64>,
    /// Admitted and open at the end.
    pub(crate) open: u64,
    /// Admitted and ended, by how.
    pub(crate) ended: BTreeMap<Ending, u64>,
}

/// Books that do not balance: a bug of this tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Imbalance(String);

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Ledger {
    /// Counts the end of one connection.
    pub(crate) fn settle(&mut self, fate: Fate) {
        match fate {
            Fate::Failed(failure) => *self.failed.entry(failure).or_default() += 1,
            Fate::Refused(status) => *self.refused.entry(status).or_default() += 1,
            Fate::Open => self.open += 1,
            Fate::Ended(ending) => *self.ended.entry(ending).or_default() += 1,
        }
    }

    /// Adds another ring's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        self.attempts += other.attempts;
        self.admitted += other.admitted;
        self.open += other.open;
        add_counts(&mut self.refused, &other.refused);
        add_counts(&mut self.failed, &other.failed);
        add_counts(&mut self.ended, &other.ended);
    }

    /// Refusals in all.
    pub(crate) fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Failures in all.
    pub(crate) fn failed_total(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Ended connections in all.
    pub(crate) fn ended_total(&self) -> u64 {
        self.ended.values().sum()
    }

    /// Attempts that have their answer: 101, another status, or a failure.
    pub(crate) fn answered(&self) -> u64 {
        self.admitted + self.refused_total() + self.failed_total()
    }

    /// Checks both sums.
    ///
    /// # Errors
    /// The sum that is wrong, with its terms.
    pub(crate) fn balance(&self) -> Result<(), Imbalance> {
        let (refused, failed) = (self.refused_total(), self.failed_total());
        if self.attempts != self.answered() {
            return Err(Imbalance(format!(
                "{} attempts, but {} admitted + {refused} refused + {failed} failed = {}",
                self.attempts,
                self.admitted,
                self.answered(),
            )));
        }
        let ended = self.ended_total();
        if self.admitted != self.open + ended {
            return Err(Imbalance(format!(
                "{} admitted, but {} open + {ended} ended = {}",
                self.admitted,
                self.open,
                self.open + ended,
            )));
        }
        Ok(())
    }
}

/// Adds the counts of `other`, key by key.
pub(crate) fn add_counts<K: Ord + Copy>(counts: &mut BTreeMap<K, u64>, other: &BTreeMap<K, u64>) {
    for (key, count) in other {
        *counts.entry(*key).or_default() += count;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::fate::Step;

    fn balanced() -> Ledger {
        let mut ledger = Ledger { attempts: 6, admitted: 3, ..Ledger::default() };
        ledger.settle(Fate::Refused(503));
        ledger.settle(Fate::Refused(503));
        ledger.settle(Fate::Failed(Failure::Errno(Step::Connect, libc::ECONNREFUSED)));
        ledger.settle(Fate::Open);
        ledger.settle(Fate::Ended(Ending::Close(Some(1012))));
        ledger.settle(Fate::Ended(Ending::Eof));
        ledger
    }

    #[test]
    fn complete_books_balance() {
        let ledger = balanced();
        assert_eq!(ledger.balance(), Ok(()));
        assert_eq!(ledger.refused[&503], 2);
        assert_eq!(
            (ledger.refused_total(), ledger.failed_total(), ledger.ended_total()),
            (2, 1, 2)
        );
    }

    #[test]
    fn a_lost_connection_shows() {
        let ledger = Ledger { attempts: 7, ..balanced() };
        assert!(ledger.balance().unwrap_err().to_string().contains("7 attempts"));
    }

    #[test]
    fn a_connection_settled_twice_shows() {
        let mut ledger = balanced();
        ledger.settle(Fate::Ended(Ending::Reset));
        assert!(ledger.balance().unwrap_err().to_string().contains("3 admitted"));
    }

    #[test]
    fn parts_add_up() {
        let mut sum = balanced();
        sum.add(&balanced());
        assert_eq!(sum.balance(), Ok(()));
        assert_eq!((sum.attempts, sum.refused[&503], sum.open), (12, 4, 2));
    }
}
