//! The table against a sorted map, and what one step of it costs in buckets moved. Work and not
//! time, which on a busy machine says nothing.

use std::collections::BTreeMap;

use super::*;
use crate::admission::Prefixes;
use crate::tables::segmented::MOST_MOVED;
use proptest::prelude::*;

fn table() -> SourceTable {
    SourceTable::new(RandomState::with_seeds(1, 2, 3, 4))
}

fn source(n: u32) -> SourceKey {
    Prefixes::default().key(std::net::Ipv4Addr::from_bits(n).into())
}

/// Does one step; returns how many buckets it moved.
fn moved(table: &mut SourceTable, step: impl FnOnce(&mut SourceTable)) -> u64 {
    let before = table.buckets.moved;
    step(table);
    table.buckets.moved - before
}

#[track_caller]
fn check_the_books(table: &SourceTable) {
    table.buckets.check_the_books();
}

#[test]
fn no_step_of_growing_to_half_a_million_and_back_moves_more_than_a_segment() {
    const SOURCES: u32 = 500_000;
    let mut table = table();
    let most = (0..SOURCES).map(|n| {
        moved(&mut table, |table| {
            table.find_or_insert(source(n));
        })
    });
    let most = most.max().unwrap_or_default();
    assert!((896..=MOST_MOVED).contains(&most), "{most}");
    check_the_books(&table);
    assert!(table.buckets.segments() > 500);
    assert!(table.buckets.moved < 8 * u64::from(SOURCES), "{} moved in all", table.buckets.moved);

    let most = (0..SOURCES).map(|n| moved(&mut table, |table| table.remove(source(n))));
    let most = most.max().unwrap_or_default();
    assert!((1..=MOST_MOVED).contains(&most), "{most}");
    check_the_books(&table);
}

#[test]
fn at_any_number_of_sources_there_are_two_places_for_each_at_most_and_a_bit() {
    let mut table = table();
    for n in 0..300_000 {
        table.find_or_insert(source(n));
        if n >= 10_000 && n % 1_000 == 0 {
            let places = table.places() as f64 / f64::from(n);
            assert!((1.1..2.45).contains(&places), "{places} places for each of {n}");
        }
    }
}

/// S0.13, S0.61, S3.11.
#[test]
fn what_a_flood_took_is_given_back_by_the_sweep() {
    let mut table = table();
    (0..100_000).for_each(|n| {
        table.find_or_insert(source(n));
    });
    // One in a thousand stays.
    let (mut rounds, mut removed) = (0, 0);
    while rounds < 2 * 100_000 / 64 + 1 {
        let mut sweep = |table: &mut SourceTable| {
            removed +=
                table.sweep(64, |bucket| (bucket.key.to_bits() as u32).is_multiple_of(1_000));
        };
        assert!(moved(&mut table, &mut sweep) <= 64 * MOST_MOVED);
        rounds += 1;
    }
    check_the_books(&table);
    assert_eq!((removed, table.len(), table.buckets.segments()), (99_900, 100, 1));
    table.sweep(1_000, |_| true);
    assert!(table.places() <= 1_024, "{} places", table.places());
    table.sweep(1_000, |_| false);
    table.sweep(1_000, |_| false);
    assert_eq!((table.len(), table.places()), (0, table_of_nothing()));
    (0..100_000).step_by(1_000).for_each(|n| assert!(table.find(source(n)).is_none()));
}

fn table_of_nothing() -> usize {
    table().places()
}

/// The sweep comes by every source that stays in the table while it goes round once.
#[test]
fn a_round_of_the_sweep_looks_at_everybody() {
    let mut table = table();
    (0..20_000).for_each(|n| {
        table.find_or_insert(source(n));
    });
    let places = table.places();
    let mut seen = std::collections::HashSet::new();
    let mut swept = 0;
    while swept < places + 100 {
        table.sweep(100, |bucket| {
            seen.insert(bucket.key);
            true
        });
        swept += 100;
    }
    assert_eq!(seen.len(), 20_000);
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    Remove(u32),
    /// Places, and which sources stay: those that are not a multiple.
    Sweep(usize, u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u32..20_000).prop_map(Step::Insert),
        1 => (0u32..20_000).prop_map(Step::Remove),
        1 => (0usize..3_000, 2u32..9).prop_map(|(places, of)| Step::Sweep(places, of)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Each step is done to so many neighbours that the table splits and merges.
    #[test]
    fn agrees_with_a_sorted_map(steps in prop::collection::vec((step(), 1u32..1_500), 1..60)) {
        let mut table = table();
        let mut map: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, (step, times)) in steps.into_iter().enumerate() {
            match step {
                Step::Insert(first) => for n in first..first + times {
                    table.find_or_insert(source(n)).arrival_ns = number as u64;
                    map.insert(n, number as u64);
                },
                Step::Remove(first) => for n in first..first + times {
                    table.remove(source(n));
                    map.remove(&n);
                },
                Step::Sweep(places, of) => {
                    let mut gone = Vec::new();
                    let removed = table.sweep(places, |bucket| {
                        let n = bucket.key.to_bits() as u32;
                        let stays = !n.is_multiple_of(of);
                        if !stays {
                            gone.push(n);
                        }
                        stays
                    });
                    prop_assert_eq!(removed, gone.len());
                    for n in gone {
                        prop_assert!(map.remove(&n).is_some(), "{} was there", n);
                    }
                }
            }
            check_the_books(&table);
            prop_assert_eq!(table.len(), map.len());
        }
        for n in 0..21_500 {
            let found = table.find(source(n)).map(|bucket| bucket.arrival_ns);
            prop_assert_eq!(found, map.get(&n).copied());
        }
    }
}
