//! Who may connect, and at which rate: one shard's own books, as plain values.
//!
//! The order of the checks is fixed: the source's own rate and concurrency ([`ip_bucket`]), which
//! rules can change or deny altogether ([`source_rules`]), then the global rate
//! ([`global_rate`]), then capacity ([`capacity_share`]). An attempt takes from all three or from
//! none, so a connection refused for capacity costs its source nothing.
//!
//! Every time here is `now_ns`: nanoseconds of one monotonic clock, from any origin. No locks
//! and no atomics: a source belongs to one shard, and global limits arrive as shares.
//!
//! Not here: the server's phase and load, which the caller judges first and only
//! counts here ([`Admission::count_refused`]); and when shares and limits change, which come as a
//! [`plan`].

pub mod capacity_share;
pub mod global_rate;
pub mod ip_bucket;
pub mod owner;
pub mod pace;
pub mod plan;
pub mod refusal;
pub mod seats;
pub mod source_address;
pub mod source_rules;
pub mod steering_program;

use ahash::RandomState;

pub use capacity_share::CapacityShare;
pub use global_rate::{GlobalRate, RateShare, RetryAfter};
pub use ip_bucket::{IpBuckets, IpLimits, IpRefusal};
pub use owner::Owners;
pub use pace::Pace;
pub use plan::AdmissionPlan;
pub use refusal::RefusalReason;
pub use seats::Seats;
pub use source_address::{Prefixes, SourceKey};
pub use source_rules::{SourceRules, Treatment};

/// When to try again after a refusal for want of a slot, of this source or of the server, in
/// milliseconds. A slot is free when somebody leaves, which nobody can know: long enough that a
/// crowd waiting for slots is no load, short enough that a free one does not wait long.
pub const SLOT_RETRY_AFTER_MS: u64 = 5_000;

/// The answer to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A place is taken in all books until [`Admission::released`].
    Admitted,
    /// Nothing was taken.
    Refused {
        /// The first check that failed.
        reason: RefusalReason,
        /// When another attempt has a chance, in milliseconds from now; at least 1.
        retry_after_ms: u64,
    },
}

/// The books of one shard.
#[derive(Debug)]
pub struct Admission {
    ip: IpBuckets,
    global: GlobalRate,
    capacity: CapacityShare,
    admitted: u64,
    refused: [u64; RefusalReason::ALL.len()],
}

impl Admission {
    /// Books without entries. `hasher` has to be seeded unpredictably, or attackers can choose
    /// sources that collide.
    pub fn new(
        limits: IpLimits,
        global: GlobalRate,
        capacity: CapacityShare,
        hasher: RandomState,
    ) -> Self {
        Self {
            ip: IpBuckets::new(limits, hasher),
            global,
            capacity,
            admitted: 0,
            refused: [0; RefusalReason::ALL.len()],
        }
    }

    /// Judges and counts one attempt. All checks are made before anything is taken.
    pub fn admit(&mut self, source: SourceKey, now_ns: u64) -> Verdict {
        match self.check(source, now_ns) {
            Ok(()) => {
                self.ip.commit(source, now_ns);
                self.global.commit(now_ns);
                let taken = self.capacity.try_take();
                debug_assert!(taken, "a slot was free a moment ago");
                self.admitted += 1;
                Verdict::Admitted
            }
            Err((reason, retry_after_ms)) => {
                self.count_refused(reason);
                Verdict::Refused { reason, retry_after_ms: retry_after_ms.max(1) }
            }
        }
    }

    fn check(&mut self, source: SourceKey, now_ns: u64) -> Result<(), (RefusalReason, u64)> {
        self.ip.check(source, now_ns).map_err(|refusal| match refusal {
            IpRefusal::Denied => (RefusalReason::Denied, SLOT_RETRY_AFTER_MS),
            IpRefusal::RatePerIp { retry_after_ms } => (RefusalReason::PerIpRate, retry_after_ms),
            IpRefusal::ConcurrentPerIp => (RefusalReason::PerIpConcurrent, SLOT_RETRY_AFTER_MS),
            IpRefusal::TableFull => (RefusalReason::Overload, SLOT_RETRY_AFTER_MS),
        })?;
        self.global.check(now_ns).map_err(|RetryAfter { ms }| (RefusalReason::GlobalRate, ms))?;
        if self.capacity.available() == 0 {
            return Err((RefusalReason::Capacity, SLOT_RETRY_AFTER_MS));
        }
        Ok(())
    }

    /// The connection that [`admit`](Self::admit) let in has ended: its slots are free again.
    /// Its rate stays used.
    pub fn released(&mut self, source: SourceKey, now_ns: u64) {
        self.ip.released(source, now_ns);
        self.capacity.give_back();
    }

    /// Counts an attempt that the caller refused before or after asking here.
    pub fn count_refused(&mut self, reason: RefusalReason) {
        self.refused[reason.index()] += 1;
    }

    /// Attempts admitted since the start.
    pub fn admitted(&self) -> u64 {
        self.admitted
    }

    /// Attempts refused for this reason since the start.
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.refused[reason.index()]
    }

    /// The sources' buckets.
    pub fn ip(&self) -> &IpBuckets {
        &self.ip
    }

    /// The sources' buckets, to sweep them or to change their limits.
    pub fn ip_mut(&mut self) -> &mut IpBuckets {
        &mut self.ip
    }

    /// The share of the global rate, to change it.
    pub fn global_mut(&mut self) -> &mut GlobalRate {
        &mut self.global
    }

    /// The share of the capacity.
    pub fn capacity(&self) -> &CapacityShare {
        &self.capacity
    }

    /// The share of the capacity, to change it, or to move a slot with a connection that moves
    /// to another shard.
    pub fn capacity_mut(&mut self) -> &mut CapacityShare {
        &mut self.capacity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LIMITS: IpLimits =
        IpLimits { connections_per_minute: 60, burst: 60, max_concurrent: 0, max_sources: 1000 };

    fn admission(global_per_second: u32, granted: u32) -> Admission {
        let share = RateShare::of(global_per_second, 1);
        Admission::new(
            LIMITS,
            GlobalRate::new(share, global_per_second),
            CapacityShare::new(granted),
            RandomState::with_seeds(1, 2, 3, 4),
        )
    }

    fn source(n: u8) -> SourceKey {
        Prefixes::default().key([10, 0, 0, n].into())
    }

    fn reason(verdict: Verdict) -> Option<RefusalReason> {
        match verdict {
            Verdict::Admitted => None,
            Verdict::Refused { reason, .. } => Some(reason),
        }
    }

    #[test]
    fn the_checks_come_in_order() {
        let mut books = admission(60, 60);
        for _ in 0..60 {
            assert_eq!(books.admit(source(1), 0), Verdict::Admitted);
        }
        // All three are used up for this source, and two for any other.
        let first = books.admit(source(1), 0);
        assert_eq!(
            first,
            Verdict::Refused { reason: RefusalReason::PerIpRate, retry_after_ms: 1000 }
        );
        assert_eq!(reason(books.admit(source(2), 0)), Some(RefusalReason::GlobalRate));
        assert_eq!(reason(books.admit(source(2), SECOND)), Some(RefusalReason::Capacity));
        assert_eq!((books.admitted(), books.capacity().used()), (60, 60));
        let counted = RefusalReason::ALL.map(|reason| books.refused(reason));
        assert_eq!(counted, [1, 0, 1, 1, 0, 0, 0]);
    }

    #[test]
    fn a_refusal_by_a_later_check_takes_nothing_from_the_earlier_ones() {
        let mut books = admission(100, 0);
        for _ in 0..1000 {
            assert_eq!(reason(books.admit(source(1), 0)), Some(RefusalReason::Capacity));
        }
        assert_eq!(books.ip().len(), 0, "no bucket was opened");
        books.capacity_mut().set_granted(1000);
        let admitted = (0..1000).filter(|_| books.admit(source(1), 0) == Verdict::Admitted).count();
        assert_eq!(admitted, 60);
        let admitted = (0..1000).filter(|_| books.admit(source(2), 0) == Verdict::Admitted).count();
        assert_eq!(admitted, 40, "what is left of the global rate");
    }

    #[test]
    fn a_slot_that_was_given_back_is_admitted_again() {
        let mut books = admission(0, 1);
        assert_eq!(books.admit(source(1), 0), Verdict::Admitted);
        assert_eq!(reason(books.admit(source(2), 0)), Some(RefusalReason::Capacity));
        books.released(source(1), SECOND);
        assert_eq!(books.admit(source(2), SECOND), Verdict::Admitted);
    }
}
