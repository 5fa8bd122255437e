//! Who may connect, and at which rate: the books of one shard, as plain values.
//!
//! A source belongs to one shard, its owner ([`owner`]), which keeps the books of all its
//! connections, also of those that another shard holds ([`abroad`]). The order of the checks is
//! fixed: the source's own rate and concurrency ([`ip_bucket`]), which rules can change or deny
//! altogether ([`source_rules`]), then the global rate, then capacity, which are leased from the
//! coordinator ([`leases`]). An attempt takes from all three or from none, so a connection
//! refused for capacity costs its source nothing.
//!
//! Every time here is `now_ns`: nanoseconds of one monotonic clock, from any origin. No locks
//! and no atomics.
//!
//! Not here: the server's phase, which the caller judges first; and when limits change, which
//! come as a [`plan`].

pub mod abroad;
pub mod heavy_hitters;
pub mod ip_bucket;
pub mod ladder;
pub mod leases;
pub mod owner;
pub mod pace;
pub mod plan;
pub mod refusal;
pub mod refusal_shares;
pub mod seats;
pub mod source_address;
pub mod source_rules;
pub mod steering_program;

use ahash::RandomState;

pub use abroad::Abroad;
pub use heavy_hitters::{HeavyHitters, RefusedSource};
pub use ip_bucket::{IpBuckets, IpLimits, IpRefusal};
pub use ladder::{Ladder, LadderRates, Rung};
pub use leases::{Leases, Room};
pub use owner::Owners;
pub use pace::Pace;
pub use plan::{AdmissionPlan, Load};
pub use refusal::RefusalReason;
pub use refusal_shares::RefusalShares;
pub use seats::Seats;
pub use source_address::{Prefixes, SourceKey};
pub use source_rules::{SourceRules, Treatment};

/// When to try again after a refusal for want of a slot, of this source or of the server, in
/// milliseconds. A slot is free when somebody leaves, which nobody can know: long enough that a
/// crowd waiting for slots is no load, short enough that a free one does not wait long.
pub const SLOT_RETRY_AFTER_MS: u64 = 5_000;

const NS_PER_MS: u64 = 1_000_000;

/// The answer to one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A place is taken in all books until [`Admission::released`].
    Admitted,
    /// Nothing was taken: the lease is empty, and whether there is more the coordinator has to
    /// say. Ask again when it has.
    Deferred,
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
    leases: Leases,
    load: Load,
    withholding: Withholding,
}

/// A share of what could be admitted that is not, spread evenly.
#[derive(Debug, Clone, Copy, Default)]
struct Withholding {
    parts: u64,
    owed: u64,
}

impl Withholding {
    /// Parts of the whole.
    const WHOLE: u64 = 1_024;

    /// Whether the next one is refused.
    fn takes_next(&mut self) -> bool {
        self.owed += self.parts;
        let takes = self.owed >= Self::WHOLE;
        if takes {
            self.owed -= Self::WHOLE;
        }
        takes
    }
}

impl Admission {
    /// Books without entries and with nothing leased. `hasher` has to be seeded unpredictably,
    /// or attackers can choose sources that collide.
    pub fn new(limits: IpLimits, hasher: RandomState) -> Self {
        Self {
            ip: IpBuckets::new(limits, hasher),
            leases: Leases::default(),
            load: Load::Light,
            withholding: Withholding::default(),
        }
    }

    /// Judges one attempt. All checks are made before anything is taken.
    pub fn admit(&mut self, source: SourceKey, now_ns: u64) -> Verdict {
        match self.check(source, now_ns) {
            Ok(Room::Yes) if self.withholding.takes_next() => Verdict::Refused {
                reason: RefusalReason::Overload,
                retry_after_ms: SLOT_RETRY_AFTER_MS,
            },
            Ok(Room::Yes) => {
                self.ip.commit(source, now_ns);
                self.leases.take();
                Verdict::Admitted
            }
            Ok(_) => Verdict::Deferred,
            Err((reason, retry_after_ms)) => {
                Verdict::Refused { reason, retry_after_ms: retry_after_ms.max(1) }
            }
        }
    }

    fn check(&mut self, source: SourceKey, now_ns: u64) -> Result<Room, (RefusalReason, u64)> {
        self.ip.check(source, now_ns).map_err(|refusal| match refusal {
            IpRefusal::Denied => (RefusalReason::Denied, SLOT_RETRY_AFTER_MS),
            IpRefusal::RatePerIp { retry_after_ms } => (RefusalReason::PerIpRate, retry_after_ms),
            IpRefusal::ConcurrentPerIp => (RefusalReason::PerIpConcurrent, SLOT_RETRY_AFTER_MS),
            IpRefusal::TableFull => (RefusalReason::Overload, SLOT_RETRY_AFTER_MS),
        })?;
        if self.load == Load::TooMuch {
            return Err((RefusalReason::Overload, SLOT_RETRY_AFTER_MS));
        }
        match self.leases.room(now_ns) {
            Room::NoTokens { wait_ns } => {
                let reason = match self.load {
                    Load::Light => RefusalReason::GlobalRate,
                    Load::Heavy | Load::TooMuch => RefusalReason::Overload,
                };
                Err((reason, wait_ns.div_ceil(NS_PER_MS)))
            }
            Room::Full => Err((RefusalReason::Capacity, SLOT_RETRY_AFTER_MS)),
            room => Ok(room),
        }
    }

    /// Whether nobody enters because the memory is at its limit.
    pub fn is_locked(&self) -> bool {
        self.load == Load::TooMuch
    }

    /// From now on so many of 1024 attempts that could be admitted are refused, because this shard is
    /// pressed and others are not.
    pub fn withhold(&mut self, parts: u64) {
        self.withholding.parts = parts.min(Withholding::WHOLE);
    }

    /// The connection that [`admit`](Self::admit) let in has ended: its slots are free again.
    /// Its rate stays used.
    pub fn released(&mut self, source: SourceKey, now_ns: u64) {
        self.ip.released(source, now_ns);
        self.leases.release(1);
    }

    /// The sources' buckets.
    pub fn ip(&self) -> &IpBuckets {
        &self.ip
    }

    /// The sources' buckets, to sweep them or to change their limits.
    pub fn ip_mut(&mut self) -> &mut IpBuckets {
        &mut self.ip
    }

    /// What this shard may admit.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// What this shard may admit, to talk about it with the coordinator.
    pub fn leases_mut(&mut self) -> &mut Leases {
        &mut self.leases
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use leases::{Chunk, Reply};

    const SECOND: u64 = 1_000_000_000;
    const LIMITS: IpLimits =
        IpLimits { connections_per_minute: 60, burst: 60, max_concurrent: 0, max_sources: 1000 };

    /// With a limited rate; nothing is leased yet.
    fn admission() -> Admission {
        let mut books = Admission::new(LIMITS, RandomState::with_seeds(1, 2, 3, 4));
        books.leases_mut().set(Chunk::default(), true);
        books
    }

    fn lease(books: &mut Admission, slots: u32, tokens: u32) {
        let no_tokens_before_ns = if tokens == 0 { SECOND } else { 0 };
        let full = slots == 0;
        books.leases_mut().hear(Reply::Answer { slots, tokens, full, no_tokens_before_ns }, 0);
    }

    fn source(n: u8) -> SourceKey {
        Prefixes::default().key([10, 0, 0, n].into())
    }

    fn reason(verdict: Verdict) -> Option<RefusalReason> {
        match verdict {
            Verdict::Refused { reason, .. } => Some(reason),
            _ => None,
        }
    }

    /// S0.9, S0.15.
    #[test]
    fn the_checks_come_in_order() {
        let mut books = admission();
        lease(&mut books, 60, 60);
        for _ in 0..60 {
            assert_eq!(books.admit(source(1), 0), Verdict::Admitted);
        }
        // All three are used up for this source, and two for any other.
        lease(&mut books, 0, 0);
        let first = books.admit(source(1), 0);
        assert_eq!(
            first,
            Verdict::Refused { reason: RefusalReason::PerIpRate, retry_after_ms: 1000 }
        );
        assert_eq!(reason(books.admit(source(2), 0)), Some(RefusalReason::GlobalRate));
        assert_eq!(reason(books.admit(source(2), SECOND)), Some(RefusalReason::Capacity));
        assert_eq!(books.leases().used(), 60);
    }

    #[test]
    fn an_attempt_that_is_not_admitted_takes_nothing() {
        let mut books = admission();
        for _ in 0..1000 {
            assert_eq!(books.admit(source(1), 0), Verdict::Deferred);
        }
        assert_eq!(books.ip().len(), 0, "no bucket was opened");
        lease(&mut books, 1000, 100);
        let admitted = (0..1000).filter(|_| books.admit(source(1), 0) == Verdict::Admitted).count();
        assert_eq!(admitted, 60);
        let admitted = (0..1000).filter(|_| books.admit(source(2), 0) == Verdict::Admitted).count();
        assert_eq!(admitted, 40, "what is left of the tokens");
    }

    #[test]
    fn a_shard_that_is_pressed_admits_its_share_evenly_and_the_rest_costs_nothing() {
        let mut books = admission();
        lease(&mut books, 1_000, 1_000);
        books.withhold(1_024 - 128);
        let verdicts: Vec<_> = (0..80).map(|n| books.admit(source(n), 0)).collect();
        let is_let_in = |verdict: &&Verdict| **verdict == Verdict::Admitted;
        for some in verdicts.chunks(8) {
            assert_eq!(some.iter().filter(is_let_in).count(), 1, "{some:?}");
        }
        let refused = verdicts.iter().filter_map(|verdict| reason(*verdict));
        assert!(refused.into_iter().all(|reason| reason == RefusalReason::Overload));
        assert_eq!((books.leases().used(), books.ip().len()), (10, 10));
        books.withhold(0);
        assert_eq!(books.admit(source(100), 0), Verdict::Admitted);
    }

    #[test]
    fn a_slot_that_was_given_back_is_admitted_again() {
        let mut books = admission();
        lease(&mut books, 1, 5);
        assert_eq!(books.admit(source(1), 0), Verdict::Admitted);
        assert_eq!(books.admit(source(2), 0), Verdict::Deferred);
        books.released(source(1), SECOND);
        assert_eq!(books.admit(source(2), SECOND), Verdict::Admitted);
    }
}
