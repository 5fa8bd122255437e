//! The limits of the whole server as resolved from its configuration, the same value for every
//! shard, and what a shard makes of it.
//!
//! A plan is never changed; a new one takes its place. Not here: when that happens
//! (`coordinator/limits`).

use std::sync::Arc;

use ahash::RandomState;
use ipnet::IpNet;

use super::{
    Admission, CapacityShare, GlobalRate, IpLimits, Pace, RateShare, Seats, SourceRules, Treatment,
};
use crate::config;

/// The limits that are in force from the moment a shard has this.
#[derive(Debug, Clone)]
pub struct AdmissionPlan {
    /// For each source, on each shard by itself.
    pub limits: IpLimits,
    /// Shared by all shards, which only read it.
    pub rules: Arc<SourceRules>,
    /// Each shard's part of the global rate.
    pub rate: Option<RateShare>,
    /// Connections that a shard may hold, by shard.
    pub granted: Vec<u32>,
}

impl AdmissionPlan {
    /// For shards that hold nothing yet, or no more than their shares.
    pub fn new(wanted: &config::Admission, seats: Seats) -> Self {
        let shards = seats.shards.max(1);
        Self {
            limits: IpLimits {
                connections_per_minute: narrow(wanted.connections_per_ip_per_minute),
                burst: narrow(wanted.connections_per_ip_burst),
                max_concurrent: narrow(wanted.max_connections_per_ip),
                max_sources: wanted.max_tracked_sources.div_ceil(shards as u64) as usize,
            },
            rules: Arc::new(SourceRules::new(rules(wanted))),
            rate: RateShare::of(
                narrow(wanted.global_connections_per_second),
                narrow(shards as u64),
            ),
            granted: seats.shares(wanted.max_global_connections),
        }
    }

    /// What a shard may hold.
    pub fn granted_to(&self, shard: usize) -> u32 {
        self.granted.get(shard).copied().unwrap_or_default()
    }

    /// Connections that a shard may admit at once after a quiet time: a second's worth.
    fn burst(&self) -> u32 {
        self.rate.map_or(0, RateShare::per_second)
    }
}

impl Admission {
    /// The books of a shard that begins under this plan. `hasher` as in [`Admission::new`].
    pub fn begin(plan: &AdmissionPlan, shard: usize, hasher: RandomState) -> Self {
        let global = GlobalRate::new(plan.rate, plan.burst());
        let capacity = CapacityShare::new(plan.granted_to(shard));
        let mut admission = Self::new(plan.limits, global, capacity, hasher);
        admission.ip_mut().set_rules(Arc::clone(&plan.rules));
        admission
    }

    /// Changes to this plan. Nobody who is in is thrown out, and what was used stays used.
    pub fn apply(&mut self, plan: &AdmissionPlan, shard: usize, now_ns: u64) {
        self.ip_mut().set_limits(plan.limits);
        self.ip_mut().set_rules(Arc::clone(&plan.rules));
        self.global_mut().set_rate(plan.rate, plan.burst(), now_ns);
        self.capacity_mut().set_granted(plan.granted_to(shard));
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
    use crate::admission::{Prefixes, RefusalReason, Verdict};
    use crate::config::{Config, FlagValue, Sources};

    const SEATS: Seats = Seats { shards: 1, per_shard: 1000 };

    fn plan(values: &[(&str, &str)]) -> AdmissionPlan {
        let flags = values
            .iter()
            .map(|(key, value)| FlagValue::new("--set", format!("admission.{key}"), *value));
        let sources = Sources { flags: flags.collect(), ..Sources::default() };
        AdmissionPlan::new(&Config::load(sources).unwrap().admission, SEATS)
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
        let mut books = Admission::begin(&plan, 0, RandomState::with_seeds(1, 2, 3, 4));
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0), (0, Some(RefusalReason::Denied)));
        assert_eq!(attempts(&mut books, [10, 1, 0, 1], 0), (500, None));
        assert_eq!(attempts(&mut books, [10, 2, 0, 1], 0), (30, Some(RefusalReason::PerIpRate)));
        assert_eq!(attempts(&mut books, [10, 2, 3, 1], 0), (5, Some(RefusalReason::PerIpRate)));
        let here = attempts(&mut books, [127, 0, 0, 1], 0);
        assert_eq!(here, (20, Some(RefusalReason::PerIpConcurrent)));
        assert_eq!(books.refused(RefusalReason::Denied), 1);
    }

    #[test]
    fn an_exempt_source_is_held_to_the_limits_of_the_server() {
        let full = plan(&[("allow", "0.0.0.0/0"), ("max_global_connections", "7")]);
        let mut books = Admission::begin(&full, 0, RandomState::with_seeds(1, 2, 3, 4));
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0), (7, Some(RefusalReason::Capacity)));
        let slow = plan(&[("allow", "0.0.0.0/0"), ("global_connections_per_second", "3")]);
        let mut books = Admission::begin(&slow, 0, RandomState::with_seeds(1, 2, 3, 4));
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0), (3, Some(RefusalReason::GlobalRate)));
    }

    #[test]
    fn a_new_plan_changes_everything_and_throws_nobody_out() {
        let old = plan(&[("connections_per_ip_per_minute", "100")]);
        let mut books = Admission::begin(&old, 0, RandomState::with_seeds(1, 2, 3, 4));
        assert_eq!(attempts(&mut books, [10, 0, 0, 1], 0).0, 100);
        let new = plan(&[("max_global_connections", "50"), ("deny", "10.0.0.2/32")]);
        books.apply(&new, 0, 0);
        assert_eq!(books.capacity().used(), 100);
        assert_eq!(attempts(&mut books, [10, 0, 0, 2], 0).1, Some(RefusalReason::Denied));
        assert_eq!(attempts(&mut books, [10, 0, 0, 3], 0).1, Some(RefusalReason::Capacity));
        books.apply(&old, 0, 0);
        assert_eq!(attempts(&mut books, [10, 0, 0, 2], 0).0, 100);
    }
}
