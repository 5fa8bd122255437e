//! Behaviour of the buckets, against the clock and against a model that counts tokens.

use std::collections::HashMap;

use super::*;
use crate::admission::Prefixes;
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const LIMITS: IpLimits =
    IpLimits { connections_per_minute: 60, burst: 60, max_concurrent: 0, max_sources: 1000 };

fn buckets(limits: IpLimits) -> IpBuckets {
    IpBuckets::new(limits, RandomState::with_seeds(1, 2, 3, 4))
}

fn source(n: u32) -> SourceKey {
    Prefixes::default().key(std::net::Ipv4Addr::from_bits(n).into())
}

/// How many of `attempts` are admitted.
fn admitted(buckets: &mut IpBuckets, n: u32, attempts: u32, now_ns: u64) -> u32 {
    (0..attempts).map(|_| u32::from(buckets.admit(source(n), now_ns).is_ok())).sum()
}

/// S0.10, S0.32.
#[test]
fn sixty_a_minute_is_sixty_at_once_and_then_one_each_second() {
    let mut buckets = buckets(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 1000, 0), 60);
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::RatePerIp { retry_after_ms: 1000 }));
    assert_eq!(admitted(&mut buckets, 1, 10, SECOND - 1), 0);
    for second in 1..=100 {
        assert_eq!(admitted(&mut buckets, 1, 10, second * SECOND), 1, "second {second}");
    }
    assert_eq!(admitted(&mut buckets, 2, 100, 0), 60, "sources do not share");
    assert_eq!(admitted(&mut buckets, 1, 100, 1000 * SECOND), 60, "quiet refills the burst");
}

#[test]
fn refused_attempts_do_not_lengthen_the_wait() {
    let mut buckets = buckets(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 100_000, 0), 60);
    assert_eq!(admitted(&mut buckets, 1, 100_000, SECOND - 1), 0);
    assert_eq!(admitted(&mut buckets, 1, 1, SECOND), 1);
}

#[test]
fn bursts_of_none_and_one() {
    for burst in [0, 1] {
        let mut buckets = buckets(IpLimits { burst, ..LIMITS });
        assert_eq!(admitted(&mut buckets, 1, 10, 0), 1);
        assert_eq!(admitted(&mut buckets, 1, 10, SECOND - 1), 0);
        assert_eq!(admitted(&mut buckets, 1, 10, SECOND), 1);
    }
}

#[test]
fn no_rate_limit() {
    let mut buckets = buckets(IpLimits { connections_per_minute: 0, ..LIMITS });
    assert_eq!(admitted(&mut buckets, 1, 100_000, 0), 100_000);
    assert_eq!(buckets.limited_sources(0), 0);
}

#[test]
fn a_rate_that_does_not_divide_a_minute_is_never_exceeded() {
    let mut buckets = buckets(IpLimits { connections_per_minute: 7, burst: 1, ..LIMITS });
    let total: u32 =
        (0..60_000u64).map(|tenth| admitted(&mut buckets, 1, 1, tenth * SECOND / 10)).sum();
    assert!((690..=700).contains(&total), "{total} in 100 minutes");
}

#[test]
fn concurrent_connections_are_limited_and_given_back() {
    let mut buckets = buckets(IpLimits { max_concurrent: 3, ..LIMITS });
    assert_eq!(admitted(&mut buckets, 1, 10, 0), 3);
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::ConcurrentPerIp));
    assert_eq!((buckets.limited_sources(0), buckets.concurrent(source(1))), (1, 3));
    buckets.released(source(1), 0);
    assert_eq!(buckets.limited_sources(0), 0);
    assert_eq!(admitted(&mut buckets, 1, 10, 0), 1);
}

#[test]
fn coming_and_going_does_not_refill_the_burst() {
    let mut buckets = buckets(LIMITS);
    let mut total = 0;
    for _ in 0..1000 {
        if buckets.admit(source(1), 0).is_ok() {
            total += 1;
            buckets.released(source(1), 0);
        }
        buckets.expire(0, usize::MAX);
    }
    assert_eq!((total, buckets.len()), (60, 1));
}

/// S0.33.
#[test]
fn a_bucket_is_kept_for_its_refill_time() {
    let mut buckets = buckets(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 60, 0), 60);
    (0..60).for_each(|_| buckets.released(source(1), SECOND));
    assert_eq!(buckets.expire(60 * SECOND - 1, usize::MAX), 0);
    assert_eq!(buckets.expire(60 * SECOND, usize::MAX), 1);
    assert!(buckets.is_empty());

    assert_eq!(admitted(&mut buckets, 2, 1, 100 * SECOND), 1);
    assert_eq!(buckets.expire(1000 * SECOND, usize::MAX), 0, "its connection is open");
    buckets.released(source(2), 1000 * SECOND);
    assert!(buckets.is_empty(), "nothing to remember at its last close");
}

/// S0.33, S0.61.
#[test]
fn expiry_keeps_to_its_budget_and_comes_round() {
    let mut buckets = buckets(LIMITS);
    for n in 0..1000 {
        assert_eq!(admitted(&mut buckets, n, 1, 0), 1);
        buckets.released(source(n), 0);
    }
    let ticks = buckets.places().div_ceil(16);
    let mut removed = 0;
    for _ in 0..ticks {
        let now = buckets.expire(SECOND, 16);
        assert!(now <= 16);
        removed += now;
    }
    assert_eq!((removed, buckets.len()), (1000, 0));
}

#[test]
fn a_full_table_refuses_new_sources_until_old_ones_expire() {
    let mut buckets = buckets(IpLimits { max_sources: 100, ..LIMITS });
    (0..100).for_each(|n| assert_eq!(admitted(&mut buckets, n, 1, 0), 1));
    assert_eq!(buckets.admit(source(100), 0), Err(IpRefusal::TableFull));
    assert_eq!(buckets.admit(source(99), 0), Ok(()), "a known source is served");
    (0..99).for_each(|n| buckets.released(source(n), 0));
    assert_eq!(buckets.admit(source(100), SECOND - 1), Err(IpRefusal::TableFull));
    assert_eq!(buckets.admit(source(100), SECOND), Ok(()));
    assert!(buckets.len() < 100);
}

#[test]
fn the_table_grows_with_its_sources() {
    let mut buckets = buckets(IpLimits { max_sources: 1_000_000, ..LIMITS });
    assert!(buckets.places() <= 16, "nothing for sources that may never come");
    (0..1000).for_each(|n| assert_eq!(admitted(&mut buckets, n, 1, 0), 1));
    assert!((1000..=2048).contains(&buckets.places()));
}

/// S0.53.
#[test]
fn limited_sources_are_counted_at_once_and_forgotten_by_the_round() {
    let mut buckets = buckets(LIMITS);
    (0..10).for_each(|n| assert_eq!(admitted(&mut buckets, n, 59, 0), 59));
    assert_eq!(buckets.limited_sources(0), 0);
    (0..10).for_each(|n| assert_eq!(admitted(&mut buckets, n, 1, 0), 1));
    assert_eq!(buckets.limited_sources(0), 10, "the next attempt would be refused");
    buckets.expire(SECOND, usize::MAX);
    assert_eq!(buckets.limited_sources(SECOND), 0);
}

#[test]
fn limited_sources_are_not_counted_beyond_their_time_although_nobody_looks_at_them() {
    const STEP: u64 = SECOND / 20;
    let mut buckets = buckets(LIMITS);
    for n in 0..10 {
        assert_eq!(admitted(&mut buckets, n, 60, u64::from(n) * STEP), 60);
    }
    for n in 0..10 {
        let recovered_ns = SECOND + n * STEP + recovery::SLOT_NS;
        assert_eq!(buckets.limited_sources(recovered_ns), 9 - n as usize, "{n}");
    }
}

#[test]
fn new_limits_hold_at_once() {
    let mut buckets = buckets(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 100, 0), 60);
    buckets.set_limits(IpLimits { connections_per_minute: 600, burst: 10, ..LIMITS });
    assert_eq!(admitted(&mut buckets, 1, 100, 0), 0);
    assert_eq!(
        buckets.admit(source(1), 0),
        Err(IpRefusal::RatePerIp { retry_after_ms: 100 }),
        "it does not wait a minute for a limit that is gone"
    );
    assert_eq!(admitted(&mut buckets, 1, 100, SECOND / 10 - 1), 0);
    assert_eq!(admitted(&mut buckets, 1, 100, SECOND / 10), 1);
    buckets.set_limits(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 100, SECOND / 10), 59, "one second of the burst is used");
    buckets.set_limits(IpLimits { max_concurrent: 5, ..LIMITS });
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::ConcurrentPerIp));
}

/// Tokens of one source, refilled continuously; units of a connection's nanoseconds.
#[derive(Default)]
struct Model {
    used_ns: u64,
    at_ns: u64,
    concurrent: u32,
}

proptest! {
    #[test]
    fn agrees_with_counting_tokens(
        per_minute in 1u32..600,
        burst in 0u32..20,
        max_concurrent in 0u32..8,
        steps in prop::collection::vec((0u32..4, 0u32..5, 0u64..2 * SECOND), 1..300),
    ) {
        let limits = IpLimits {
            connections_per_minute: per_minute, burst, max_concurrent, max_sources: 1000,
        };
        let interval = (60 * SECOND).div_ceil(u64::from(per_minute));
        let mut buckets = buckets(limits);
        let mut models: HashMap<u32, Model> = HashMap::new();
        let mut now = 0;
        for (n, action, gap) in steps {
            now += gap;
            let model = models.entry(n).or_default();
            model.used_ns = model.used_ns.saturating_sub(now - model.at_ns);
            model.at_ns = now;
            match action {
                0 if model.concurrent > 0 => {
                    buckets.released(source(n), now);
                    model.concurrent -= 1;
                }
                1 => {
                    buckets.expire(now, 100);
                }
                _ => {
                    let has_slot = max_concurrent == 0 || model.concurrent < max_concurrent;
                    let has_token = model.used_ns + interval <= interval * u64::from(burst.max(1));
                    let outcome = buckets.admit(source(n), now);
                    prop_assert_eq!(outcome.is_ok(), has_slot && has_token, "{:?}", outcome);
                    if outcome.is_ok() {
                        model.used_ns += interval;
                        model.concurrent += 1;
                    }
                }
            }
            prop_assert_eq!(buckets.concurrent(source(n)), models[&n].concurrent);
        }
        buckets.expire(now, usize::MAX);
        let limited = models.values_mut().filter(|model| {
            let used_ns = model.used_ns.saturating_sub(now - model.at_ns);
            (max_concurrent > 0 && model.concurrent >= max_concurrent)
                || used_ns + interval > interval * u64::from(burst.max(1))
        });
        prop_assert_eq!(buckets.limited_sources(now), limited.count());
    }
}

fn rules(written: &[(&str, Treatment)]) -> Arc<SourceRules> {
    let parse = |(block, treatment): &(&str, Treatment)| {
        (block.parse().unwrap_or_else(|_| panic!("{block}")), *treatment)
    };
    Arc::new(SourceRules::new(written.iter().map(parse)))
}

/// S0.73.
#[test]
fn a_source_has_the_limits_of_its_rule() {
    let mut buckets = buckets(IpLimits { max_sources: 3, ..LIMITS });
    buckets.set_rules(rules(&[
        ("0.0.0.1/32", Treatment::Denied),
        ("0.0.0.2/32", Treatment::Exempt),
        ("0.0.0.3/32", Treatment::Limited(Pace::new(600, 100, 0))),
        ("0.0.0.4/32", Treatment::Limited(Pace::new(0, 0, 7))),
    ]));
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::Denied));
    assert_eq!(admitted(&mut buckets, 3, 1000, 0), 100);
    assert_eq!(admitted(&mut buckets, 3, 1000, SECOND), 10);
    assert_eq!(admitted(&mut buckets, 4, 1000, 0), 7);
    assert_eq!(admitted(&mut buckets, 5, 1000, 0), 60, "no rule names it");
    assert_eq!(buckets.admit(source(6), 0), Err(IpRefusal::TableFull));
    assert_eq!(admitted(&mut buckets, 2, 1000, 0), 1000, "not even by a full table");
    (0..1000).for_each(|_| buckets.released(source(2), SECOND));
    assert_eq!((buckets.len(), buckets.concurrent(source(2))), (3, 0), "it left nothing behind");
}

#[test]
fn new_rules_hold_at_once_for_old_buckets() {
    let mut buckets = buckets(LIMITS);
    assert_eq!(admitted(&mut buckets, 1, 100, 0), 60);
    buckets.set_rules(rules(&[("0.0.0.0/24", Treatment::Exempt)]));
    assert_eq!(admitted(&mut buckets, 1, 100, 0), 100);
    assert_eq!(buckets.limited_sources(0), 0);
    buckets.set_rules(rules(&[("0.0.0.0/24", Treatment::Denied)]));
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::Denied));
    buckets.set_rules(rules(&[("0.0.0.0/24", Treatment::Limited(Pace::new(60, 60, 160)))]));
    assert_eq!(buckets.admit(source(1), 0), Err(IpRefusal::ConcurrentPerIp));
    // Whoever was let in is counted, under whatever rule: nothing is released twice.
    (0..160).for_each(|_| buckets.released(source(1), SECOND));
    buckets.expire(60 * SECOND, usize::MAX);
    assert_eq!((buckets.len(), buckets.limited_sources(60 * SECOND)), (0, 0));
}
