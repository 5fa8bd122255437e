//! The limits of the whole server as resolved from its configuration, the same value for every
//! shard, and what a shard makes of it.
//!
//! A plan is never changed; a new one takes its place. Not here: when that happens
//! (`coordinator/limits`).

use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;

use super::leases::Chunk;
use super::{Admission, IpLimits, Pace, SourceRules, Treatment};
use crate::config;

/// The limits that are in force from the moment a shard has this.
#[derive(Debug, Clone)]
pub struct AdmissionPlan {
    /// For each source.
    pub limits: IpLimits,
    /// Shared by all shards, which only read it.
    pub rules: Arc<SourceRules>,
    /// How much of the global budgets a shard asks for ahead of need.
    pub chunk: Chunk,
    /// Whether the global rate has a limit.
    pub rate_limited: bool,
    /// How the load of the machine bears on admission.
    pub load: Load,
}

/// What the load of the machine leaves of the rate of admission.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Load {
    /// All of it.
    #[default]
    Light,
    /// A part: who is over that rate is told that the server is overloaded.
    Heavy,
    /// Nothing: nobody enters.
    TooMuch,
}

impl AdmissionPlan {
    /// For each of so many shards, which remember `sources` together. What they may admit together
    /// is the coordinator's budget.
    pub fn new(wanted: &config::Admission, shards: usize, sources: u64, chunk: Chunk) -> Self {
        Self {
            limits: IpLimits {
                connections_per_minute: narrow(wanted.connections_per_ip_per_minute),
                burst: narrow(wanted.connections_per_ip_burst),
                max_concurrent: narrow(wanted.max_connections_per_ip),
                max_sources: sources.div_ceil(shards.max(1) as u64) as usize,
            },
            rules: Arc::new(SourceRules::new(rules(wanted))),
            chunk,
            rate_limited: wanted.global_connections_per_second > 0,
            load: Load::Light,
        }
    }
}

impl Admission {
    /// The books of a shard that begins under this plan. `hasher` as in [`Admission::new`].
    pub fn begin(plan: &AdmissionPlan, hasher: RandomState) -> Self {
        let mut admission = Self::new(plan.limits, hasher);
        admission.apply(plan);
        admission
    }

    /// Changes to this plan. Nobody who is in is thrown out, and what was used stays used.
    pub fn apply(&mut self, plan: &AdmissionPlan) {
        self.ip_mut().set_limits(plan.limits);
        self.ip_mut().set_rules(Arc::clone(&plan.rules));
        self.leases_mut().set(plan.chunk, plan.rate_limited);
        self.load = plan.load;
    }
}

fn rules(wanted: &config::Admission) -> impl Iterator<Item = (IpNet, Treatment)> {
    let denied = wanted.deny.iter().map(|block| (*block, Treatment::Denied));
    let exempt = wanted.allow.iter().map(|block| (*block, Treatment::Exempt));
    let limited = wanted.overrides.iter().map(|(block, limits)| {
        let or = |limit: Option<u64>, general: u64| narrow(limit.unwrap_or(general));
        let pace = Pace::new(
            or(limits.connections_per_minute, wanted.connections_per_ip_per_minute),
            or(limits.burst, wanted.connections_per_ip_burst),
            or(limits.max_concurrent, wanted.max_connections_per_ip),
        );
        (*block, Treatment::Limited(pace))
    });
    denied.chain(exempt).chain(limited)
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::admission::leases::Reply;
    use crate::admission::{Prefixes, RefusalReason, Verdict};
    use crate::config::{Config, FlagValue, Sources};

    fn plan(values: &[(&str, &str)]) -> AdmissionPlan {
        let flags = values
            .iter()
            .map(|(key, value)| FlagValue::new("--set", format!("admission.{key}"), *value));
        let sources = Sources { flags: flags.collect(), ..Sources::default() };
        let config = Config::load(sources).unwrap();
        AdmissionPlan::new(&config.admission, 1, 1_000_000, Chunk::default())
    }

    /// Books with more leased than any test uses.
    fn books(plan: &AdmissionPlan) -> Admission {
        let mut books = Admission::begin(plan, RandomState::with_seeds(1, 2, 3, 4));
        let plenty =
            Reply::Answer { slots: 5000, tokens: 5000, full: false, no_tokens_before_ns: 0 };
        books.leases_mut().hear(plenty, 0);
        books
    }

    fn attempts(books: &mut Admission, ip: [u8; 4], now_ns: u64) -> (usize, Option<RefusalReason>) {
        let source = Prefixes::default().key(ip.into());
        for admitted in 0..500 {
            if let Verdict::Refused { reason, .. } = books.admit(source, now_ns) {
                return (admitted, Some(reason));
            }
        }
        (500, None)
    }

    /// S0.73. What a rule leaves out is as for everybody.
    #[test]
    fn rules_of_every_kind_reach_the_books() {
        let plan = plan(&[
            ("connections_per_ip_per_minute", "30"),
            ("max_connections_per_ip", "20"),
            ("deny", "10.0.0.0/8"),
            ("allow", "10.1.0.0/16"),
            ("overrides", "10.2.0.0/16 max_concurrent=0; 10.2.3.0/24 burst=5"),
        ]);
        let mut books = books(&plan);
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0), (0, Some(RefusalReason::Denied)));
        assert_eq!(attempts(&mut books, [10, 1, 0, 1], 0), (500, None));
        assert_eq!(attempts(&mut books, [10, 2, 0, 1], 0), (30, Some(RefusalReason::PerIpRate)));
        assert_eq!(attempts(&mut books, [10, 2, 3, 1], 0), (5, Some(RefusalReason::PerIpRate)));
        let here = attempts(&mut books, [127, 0, 0, 1], 0);
        assert_eq!(here, (20, Some(RefusalReason::PerIpConcurrent)));
    }

    #[test]
    fn a_new_plan_changes_everything_and_throws_nobody_out() {
        let old = plan(&[("connections_per_ip_per_minute", "100")]);
        let mut books = books(&old);
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0).0, 100);
        let new = plan(&[("connections_per_ip_per_minute", "7"), ("deny", "10.0.0.2/32")]);
        books.apply(&new);
        assert_eq!(books.leases().used(), 100);
        assert_eq!(attempts(&mut books, [10, 0, 0, 2], 0).1, Some(RefusalReason::Denied));
        assert_eq!(attempts(&mut books, [10, 0, 0, 3], 0), (7, Some(RefusalReason::PerIpRate)));
        books.apply(&AdmissionPlan { load: Load::TooMuch, ..old.clone() });
        assert_eq!(attempts(&mut books, [10, 0, 0, 4], 0).1, Some(RefusalReason::Overload));
        books.apply(&old);
        assert_eq!(attempts(&mut books, [10, 0, 0, 2], 0).0, 100);
    }
}
