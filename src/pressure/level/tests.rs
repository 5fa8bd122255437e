//! The theorems, and the thresholds one by one.

use proptest::prelude::*;

use super::*;

/// Between two looks.
const LOOK_MS: u64 = 250;

fn memory(used: u64) -> Inputs {
    Inputs { memory: Some(Usage::with_budget(used, 2_000, 1_000)), ..Inputs::default() }
}

fn stall(longest_turn_ms: u64) -> Inputs {
    Inputs { longest_turn_ms, ..Inputs::default() }
}

fn busy(busy_per_mille: u16) -> Inputs {
    Inputs { busy_per_mille, ..Inputs::default() }
}

/// The levels after each look.
fn levels(looks: impl IntoIterator<Item = Inputs>) -> Vec<u8> {
    let mut ladder = Ladder::default();
    let looks = looks.into_iter().enumerate();
    let level = |(index, inputs): (usize, Inputs)| {
        ladder.look(&inputs, Now::from_ms(index as u64 * LOOK_MS));
        ladder.level().number()
    };
    looks.map(level).collect()
}

#[test]
fn shares_fall_to_nobody() {
    let shares = (0..=Level::LAST.0).map(|level| Level(level).share().parts());
    assert_eq!(shares.collect::<Vec<_>>(), SHARES);
    assert!(SHARES.is_sorted_by(|more, less| more > less));
    assert!(!Level(LAST_THAT_ADMITS).share().is_none() && Level::LAST.share().is_none());
}

/// S0.72, S1.67.
#[test]
fn approaching_the_budget_lowers_the_rate_step_by_step() {
    assert_eq!(levels([849, 850, 900, 950, 975, 999].map(memory)), [0, 1, 2, 3, 4, 4]);
}

#[test]
fn at_the_budget_nobody_enters_whatever_was_before() {
    assert_eq!(levels([0, 1_000, 990, 981].map(memory)), [0, 5, 5, 5]);
}

#[test]
fn a_level_is_left_below_where_it_was_reached_and_one_step_a_second() {
    let looks = [1_000].into_iter().chain([979; 9]).map(memory);
    // At 979 the fourth level holds: one second later it is that, and stays.
    assert_eq!(levels(looks), [5, 5, 5, 5, 5, 4, 4, 4, 4, 4]);
    let quiet = levels([1_000].into_iter().chain([0; 25]).map(memory));
    assert_eq!(quiet[5], 4);
    assert_eq!(quiet[9], 3);
    assert_eq!(quiet[20], 1);
    assert_eq!(quiet[21], 0);
}

#[test]
fn a_long_turn_counts_and_never_locks_everybody_out() {
    assert_eq!(levels([49, 50, 60, 100].map(stall)), [0, 1, 1, 2]);
    let long = levels([60_000; 40].map(stall));
    assert_eq!(long[..5], [1, 2, 3, 4, 4]);
    assert_eq!(long.last(), Some(&LAST_THAT_ADMITS));
}

#[test]
fn a_busy_shard_counts_after_a_while_and_never_locks_everybody_out() {
    let levels = levels([1_000; 100].map(busy));
    assert_eq!((levels[7], levels[8], levels[16], levels[32]), (0, 1, 2, 4));
    assert_eq!(levels.last(), Some(&LAST_THAT_ADMITS));
}

#[test]
fn a_shard_that_is_busy_now_and_then_does_not_count() {
    let looks = (0..100).map(|look| busy(if look % 8 == 0 { 800 } else { 1_000 }));
    assert!(levels(looks).iter().all(|level| *level == 0));
}

#[test]
fn tcp_memory_counts_from_where_the_kernel_begins_to_save() {
    let tcp = |used| Inputs {
        tcp: Some(TcpMemory { used, pressure: 600, limit: 1_000 }),
        ..Inputs::default()
    };
    assert_eq!(levels([599, 600, 600, 810, 899, 900].map(tcp)), [0, 1, 1, 2, 3, 5]);
}

#[test]
fn the_cause_is_what_asks_for_most() {
    let mut ladder = Ladder::default();
    assert_eq!(ladder.cause(), None);
    ladder.look(&Inputs { longest_turn_ms: 60, ..memory(900) }, Now::from_ms(0));
    assert_eq!(ladder.cause(), Some(Cause::Memory));
    ladder.look(&stall(60), Now::from_ms(250));
    assert_eq!(ladder.cause(), Some(Cause::Stall));
    for look in 2..20 {
        ladder.look(&stall(0), Now::from_ms(look * LOOK_MS));
    }
    assert_eq!((ladder.level(), ladder.cause()), (Level::NONE, None));
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    let memory = prop_oneof![Just(0), 800_u64..1_100];
    let tcp = prop_oneof![Just(0), 550_u64..1_000];
    let turn = prop_oneof![Just(0), 0_u64..500];
    let busy = prop_oneof![Just(0), 800_u16..1_001, Just(1_000)];
    (memory, tcp, turn, busy).prop_map(|(used, tcp, longest_turn_ms, busy_per_mille)| Inputs {
        memory: Some(Usage::with_budget(used, 2_000, 1_000)),
        tcp: Some(TcpMemory { used: tcp, pressure: 600, limit: 1_000 }),
        longest_turn_ms,
        busy_per_mille,
    })
}

/// As pressed, or more.
fn worse(inputs: Inputs, more: (u64, u64, u64, u16)) -> Inputs {
    let memory = inputs.memory.map(|memory| Usage::with_budget(memory.used + more.0, 2_000, 1_000));
    let tcp = inputs.tcp.map(|tcp| TcpMemory { used: tcp.used + more.1, ..tcp });
    Inputs {
        memory,
        tcp,
        longest_turn_ms: inputs.longest_turn_ms + more.2,
        busy_per_mille: inputs.busy_per_mille + more.3,
    }
}

fn any_more() -> impl Strategy<Value = (u64, u64, u64, u16)> {
    let none_or = |most: u64| prop_oneof![2 => Just(0_u64), 1 => 0..most];
    (none_or(200), none_or(200), none_or(200), prop_oneof![2 => Just(0_u16), 1 => 0_u16..200])
}

proptest! {
    /// Gaps between looks are any; that of both servers are the same.
    #[test]
    fn monotone(
        looks in prop::collection::vec((0_u64..1_500, any_inputs(), any_more()), 1..200),
    ) {
        let (mut one, mut other, mut at_ms) = (Ladder::default(), Ladder::default(), 0);
        for (gap_ms, inputs, more) in looks {
            at_ms += gap_ms;
            one.look(&inputs, Now::from_ms(at_ms));
            other.look(&worse(inputs, more), Now::from_ms(at_ms));
            prop_assert!(one.level() <= other.level(), "{one:?} {other:?}");
        }
    }

    #[test]
    fn changes_are_bounded_in_any_time(
        looks in prop::collection::vec((1_u64..600, any_inputs()), 1..300),
    ) {
        let (mut ladder, mut at_ms) = (Ladder::default(), 0);
        let mut changes = Vec::new();
        for (gap_ms, inputs) in looks {
            at_ms += gap_ms;
            if ladder.look(&inputs, Now::from_ms(at_ms)) {
                changes.push(at_ms);
            }
        }
        for (first, from) in changes.iter().enumerate() {
            for (last, to) in changes.iter().enumerate().skip(first) {
                let count = (last - first + 1) as u64;
                prop_assert!(count <= 2 * (to - from) / CALM_MS + 7, "{changes:?}");
            }
        }
    }

    #[test]
    fn only_memory_stops_admission(
        looks in prop::collection::vec((1_u64..600, 0_u64..100_000, 0_u16..1_001), 1..300),
    ) {
        let (mut ladder, mut at_ms) = (Ladder::default(), 0);
        for (gap_ms, longest_turn_ms, busy_per_mille) in looks {
            at_ms += gap_ms;
            let inputs = Inputs { longest_turn_ms, busy_per_mille, ..memory(999) };
            ladder.look(&inputs, Now::from_ms(at_ms));
            prop_assert!(!ladder.level().share().is_none());
        }
    }

    #[test]
    fn without_pressure_every_level_ends(looks in prop::collection::vec(any_inputs(), 1..100)) {
        let mut ladder = Ladder::default();
        let count = looks.len() as u64;
        for (at, inputs) in looks.into_iter().enumerate() {
            ladder.look(&inputs, Now::from_ms(at as u64 * LOOK_MS));
        }
        let calm_looks = (1 + u64::from(Level::LAST.0)) * CALM_MS / LOOK_MS;
        for at in count..=count + calm_looks {
            ladder.look(&Inputs::default(), Now::from_ms(at * LOOK_MS));
        }
        prop_assert_eq!(ladder.level(), Level::NONE);
        prop_assert_eq!(ladder.cause(), None);
    }
}
