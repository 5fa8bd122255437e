//! The budgets of the whole server hold whatever the shards do and however late they hear of it:
//! what is granted never exceeds the limit, what is open never exceeds what is granted, the rate
//! holds in every window of time, everybody is answered, and nobody is refused what is free
//! anywhere once everything that was said has been heard.
//!
//! A failure names its seed: `LEASES_SEED=n cargo test --test simulation leases` repeats it, and
//! `LEASES_STEPS=n` makes as many steps from there on.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::books::{Kind, Violation};
use super::mutant::Mutant;
use super::steps::{STEPS, run};

fn variable(name: &str) -> Option<u64> {
    Some(std::env::var(name).ok()?.parse().unwrap())
}

/// What breaks first with this seed.
fn broken(seed: u64, mutant: Mutant) -> Option<Violation> {
    let panicked = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let detail = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        // The budget sees for itself that an account is overdrawn.
        let overdrawn =
            detail.starts_with("a shard gave back") || detail.starts_with("a shard used");
        Violation { kind: if overdrawn { Kind::Books } else { Kind::Panic }, detail }
    };
    catch_unwind(AssertUnwindSafe(|| run(seed, mutant))).map_err(panicked).flatten().err()
}

/// S0.71.
#[test]
fn the_budgets_hold_whatever_happens() {
    let first = variable("LEASES_SEED").unwrap_or(1);
    let steps = variable("LEASES_STEPS").unwrap_or(4_000_000);
    for seed in first..first + steps.div_ceil(STEPS as u64) {
        if let Some(broken) = broken(seed, Mutant::None) {
            panic!("LEASES_SEED={seed} LEASES_STEPS=1: {broken:?}");
        }
    }
}

/// That a broken protocol is noticed, as what it is, within so many worlds.
const WORLDS: u64 = 200;

/// What breaks first in each world; everything that breaks is one of `expected`, and each of these
/// comes.
#[track_caller]
fn breaks(mutant: Mutant, expected: &[Kind]) {
    let kinds: Vec<_> =
        (1..=WORLDS).filter_map(|seed| Some((broken(seed, mutant)?.kind, seed))).collect();
    for (kind, seed) in &kinds {
        assert!(expected.contains(kind), "{mutant:?}: {kind:?} with seed {seed}");
    }
    for kind in expected {
        assert!(kinds.iter().any(|(found, _)| found == kind), "{mutant:?}: never {kind:?}");
    }
}

#[test]
fn a_return_that_counts_twice_is_noticed() {
    breaks(Mutant::ReturnedTwice, &[Kind::Unbacked, Kind::Books]);
}

#[test]
fn a_grant_that_is_forgotten_is_noticed() {
    breaks(Mutant::GrantForgotten, &[Kind::Books]);
}

#[test]
fn a_limit_that_is_not_kept_is_noticed() {
    breaks(Mutant::LimitIgnored, &[Kind::OverLimit, Kind::RefusedSlot]);
}

#[test]
fn a_recall_without_effect_is_noticed() {
    breaks(Mutant::NothingGivenBack, &[Kind::Reserve, Kind::Restless]);
}

#[test]
fn slots_of_a_dead_shard_that_come_back_while_in_use_are_noticed() {
    breaks(Mutant::OrphansDenied, &[Kind::Unbacked]);
}

#[test]
fn slots_of_a_dead_shard_that_never_come_back_are_noticed() {
    breaks(Mutant::OrphansUnsaid, &[Kind::RefusedSlot]);
}

#[test]
fn slots_that_the_dead_held_for_others_and_never_come_back_are_noticed() {
    breaks(Mutant::LossForgotten, &[Kind::RefusedSlot]);
}

#[test]
fn a_refill_that_is_not_told_is_noticed() {
    breaks(Mutant::NoRefill, &[Kind::RefusedSlot, Kind::RefusedToken]);
}

#[test]
fn tokens_that_are_spent_and_given_back_are_noticed() {
    breaks(Mutant::SpentGivenBack, &[Kind::OverRate]);
}

#[test]
fn tokens_that_are_spent_and_never_come_again_are_noticed() {
    breaks(Mutant::SpentUnsaid, &[Kind::RefusedToken]);
}

#[test]
fn an_ask_that_is_lost_is_noticed() {
    breaks(Mutant::AskLost, &[Kind::Undecided]);
}

#[test]
fn an_answer_that_is_lost_is_noticed() {
    breaks(Mutant::AnswerLost, &[Kind::Undecided]);
}

#[test]
fn an_end_that_is_told_twice_is_noticed() {
    breaks(Mutant::EndedTwice, &[Kind::Unbacked]);
}

#[test]
fn an_end_that_is_not_told_is_noticed() {
    breaks(Mutant::EndedUnsaid, &[Kind::RefusedSlot]);
}
