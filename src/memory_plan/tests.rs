//! The plan over small and large memories.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn config(shards: usize, message: usize) -> Config {
    let mut config = Config::default();
    config.server.shards = shards;
    config.server.max_message_bytes = message;
    config
}

fn plan(shards: usize, mebibytes: u64) -> Result<MemoryPlan, NoRoom> {
    let available = mebibytes * MIB / 10 * 9;
    MemoryPlan::new(&config(shards, 1 << 20), shards, 20_000, Some(available))
}

fn sum(plan: &MemoryPlan) -> u64 {
    Use::ALL.map(|of| plan.bytes(of)).iter().sum()
}

#[test]
fn small_containers_have_a_part_for_everything() {
    for mebibytes in [64, 128, 256, 512] {
        let plan = plan(2, mebibytes).unwrap();
        assert!(sum(&plan) <= plan.available().unwrap());
        let allowed = |of| plan.allowed(of);
        assert!(allowed(Use::Unfinished) > 1 << 20, "one message and more");
        assert!(allowed(Use::Connections) * BYTES_PER_CONNECTION >= mebibytes * MIB / 4);
        assert!(allowed(Use::HalfOpen) >= 200);
    }
    let smallest = plan(2, 64).unwrap();
    assert!((4_000..10_000).contains(&smallest.allowed(Use::Connections)), "{smallest:?}");
}

#[test]
fn connections_that_somebody_asked_for_come_first_and_what_they_leave_is_shared() {
    let mut config = config(2, 1 << 20);
    let mut of = |connections| {
        config.admission.max_global_connections = connections;
        MemoryPlan::new(&config, 2, 20_000, Some(1_080 * MIB)).unwrap()
    };
    assert_eq!(of(200_000).allowed(Use::Connections), 200_000);
    let few = of(1_000);
    assert_eq!(few.allowed(Use::Connections), 1_000);
    assert!(few.allowed(Use::Unfinished) > 2 * of(200_000).allowed(Use::Unfinished), "{few:?}");
    let part = of(9_000_000).bytes(Use::Connections) as f64 / 1_080e6 / 1.048_576;
    assert!((0.8..0.85).contains(&part), "{part}");
}

#[test]
fn a_large_machine_has_what_its_keys_say() {
    let plan = plan(8, 64 << 10).unwrap();
    assert_eq!(plan.scaled().count(), 0);
    assert_eq!(plan.allowed(Use::Unfinished), 256 << 20);
    assert_eq!(plan.allowed(Use::Output), 1 << 30);
    assert_eq!(plan.allowed(Use::ReceiveBuffers), 512);
    assert_eq!(plan.allowed(Use::Connections), 10_000_000);
}

#[test]
fn without_a_limit_every_key_holds() {
    let plan = MemoryPlan::new(&config(4, 1 << 20), 4, 20_000, None).unwrap();
    assert_eq!(plan.scaled().count(), 0);
    assert_eq!(plan.allowed(Use::HalfOpen), 65_536);
    assert_eq!(plan.allowed(Use::Connections), 10_000_000);
}

#[test]
fn what_is_cut_is_named_with_its_key() {
    let lines: Vec<_> = plan(2, 256).unwrap().scaled().map(|scaled| scaled.to_string()).collect();
    let of = |key: &str| lines.iter().find(|line| line.starts_with(key));
    let line = of("server.max_unfinished_bytes").unwrap();
    assert!(line.starts_with("server.max_unfinished_bytes = 268435456 is cut to "), "{line}");
    assert!(of("admission.max_tracked_sources").is_some(), "{lines:?}");
    assert!(of("admission.max_global_connections").is_none(), "{lines:?}");
}

#[test]
fn what_does_not_fit_is_refused_with_what_would() {
    let error = plan(64, 64).unwrap_err();
    let line = error.to_string();
    assert!(line.contains("server.shards = 64 with server.max_message_bytes = 1048576"), "{line}");
    assert!(line.contains("57 MiB may be used"), "{line}");
    assert!(error.shards_max >= 2, "{line}");
    assert!(plan(error.shards_max as usize, 64).is_ok());
    assert!(plan(error.shards_max as usize + 1, 64).is_err());

    let available = Some(230 * MIB);
    let long = config(2, 256 << 20);
    let error = MemoryPlan::new(&long, 2, 20_000, available).unwrap_err();
    let fits = error.message_max as usize;
    assert!(fits > 1 << 20, "{error}");
    assert!(MemoryPlan::new(&config(2, fits), 2, 20_000, available).is_ok());
    assert!(MemoryPlan::new(&config(2, fits + 1), 2, 20_000, available).is_err());
}

#[test]
fn each_part_of_a_budget_holds_one_message_or_the_keys_are_named() {
    let mut config = config(4, 1 << 20);
    config.server.max_unfinished_bytes = 4 * part_floor(1 << 20);
    assert_eq!(PartTooSmall::check(&config, 4), Ok(()));
    let line = PartTooSmall::check(&config, 5).unwrap_err().to_string();
    for word in [
        "server.max_unfinished_bytes = 4456448 is divided among 5 shards",
        "server.max_message_bytes = 1048576",
        "server.max_unfinished_bytes of at least 5570560",
        "server.shards of at most 4",
        "server.max_message_bytes of at most 825753",
    ] {
        assert!(line.contains(word), "{line}");
    }
    config.server.max_message_bytes = 825_753;
    assert_eq!(PartTooSmall::check(&config, 5), Ok(()));
    config.server.max_total_queued_bytes = 100_000;
    let line = PartTooSmall::check(&config, 5).unwrap_err().to_string();
    assert!(line.contains("server.max_total_queued_bytes of at least 4456445"), "{line}");
    assert!(!line.contains("; or"), "nothing else would do: {line}");
    for shards in [1, 8, 64] {
        let plan = MemoryPlan::new(&config, shards, 20_000, Some(64 << 30)).unwrap();
        for of in [Use::Unfinished, Use::Output] {
            let wanted = plan.inputs.wanted(of) / ALLOCATOR_FACTOR;
            assert!(plan.allowed(of) >= (part_floor(825_753) * shards as u64).min(wanted));
        }
    }
}

#[test]
fn as_many_shards_are_made_as_fit() {
    let config = config(0, 1 << 20);
    let fit = |wanted, mebibytes: u64| {
        MemoryPlan::shards_that_fit(&config, wanted, 20_000, Some(mebibytes * MIB / 10 * 9))
    };
    assert_eq!(fit(2, 64), 2);
    assert!((2..64).contains(&fit(64, 64)));
    assert_eq!(fit(64, 4 << 10), 64);
    assert_eq!(fit(8, 1), 1);
    assert_eq!(MemoryPlan::shards_that_fit(&config, 64, 20_000, None), 64);
}

#[test]
fn other_bytes_make_another_plan_and_too_few_leave_it() {
    let config = config(2, 1 << 20);
    let before = MemoryPlan::new(&config, 2, 20_000, Some(500 * MIB)).unwrap();
    let after = before.with_available(&config, Some(200 * MIB));
    assert_eq!(after, MemoryPlan::new(&config, 2, 20_000, Some(200 * MIB)).unwrap());
    assert_eq!(after.with_available(&config, Some(MIB)), after);
}

proptest! {
    #[test]
    fn the_uses_together_never_exceed_what_there_is(
        shards in 1_usize..200,
        files in 100_u32..1_000_000,
        message in 1_usize..(64 << 20),
        kibibytes in 1_u64..(64 << 20),
        queued in 1_u64..(1 << 40),
        unfinished in 1_u64..(1 << 40),
    ) {
        let mut config = config(shards, message);
        config.server.max_total_queued_bytes = queued;
        config.server.max_unfinished_bytes = unfinished;
        let available = kibibytes * KIB;
        match MemoryPlan::new(&config, shards, files, Some(available)) {
            Ok(plan) => {
                prop_assert!(sum(&plan) <= available);
                let rest = available - plan.bytes(Use::Process);
                prop_assert!(plan.bytes(Use::Connections) >= (rest * 2 / 5).min(
                    plan.inputs.wanted(Use::Connections)));
                for (of, _) in WEIGHTS {
                    let least = floor(of, &plan.inputs).min(plan.inputs.wanted(of));
                    prop_assert!(plan.bytes(of) >= least, "{:?}", of);
                }
                let more = MemoryPlan::new(&config, shards, files, Some(available + MIB)).unwrap();
                for of in Use::ALL {
                    prop_assert!(more.bytes(of) >= plan.bytes(of), "{:?}", of);
                }
            }
            Err(error) => {
                prop_assert!(error.needed > available);
                prop_assert!(error.shards_max < shards as u64);
                prop_assert!(error.message_max < message as u64);
            }
        }
    }

    #[test]
    fn the_limit_that_is_advised_is_enough(shards in 1_usize..64, message in 1_usize..(16 << 20)) {
        let config = config(shards, message);
        let error = MemoryPlan::new(&config, shards, 20_000, Some(0)).unwrap_err();
        prop_assert!(MemoryPlan::new(&config, shards, 20_000, Some(error.needed)).is_ok());
    }
}
