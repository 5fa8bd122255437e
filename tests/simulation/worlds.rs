//! The real shards and the real coordinator on a simulated kernel, a thousand worlds of them in each run:
//! completions that come late, short and out of order, every errno that the kernel is known to
//! answer, threads that stand still or die, clients that misbehave, an operator who drains. What
//! was promised is checked after every step and at the end.
//!
//! A failure names its seed and a smaller world that fails as well. SIMULATION_SEED=n runs that
//! seed again, SIMULATION_WORLDS=n sets how many worlds there are from there on, and
//! `scripts/simulate` runs many in release.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::fault::Fault;
use crate::world::{Outcome, Plan, World};
use tracing_subscriber::EnvFilter;

/// Worlds in a run of the tests.
const WORLDS: u64 = 1_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn run(plan: Plan) -> Outcome {
    World::new(plan).run()
}

/// A smaller world that fails too: without some kinds of faults, with fewer clients and shards.
fn shrink(mut plan: Plan) -> Plan {
    let fails = |plan: &Plan| run(plan.clone()).violation.is_some();
    for fault in Fault::ALL {
        let without = Plan { faults: plan.faults.clone().without(fault), ..plan.clone() };
        if fails(&without) {
            plan = without;
        }
    }
    for manner in plan.manners.clone() {
        let manners: Vec<_> =
            plan.manners.iter().copied().filter(|other| *other != manner).collect();
        let fewer = Plan { manners, ..plan.clone() };
        if !fewer.manners.is_empty() && fails(&fewer) {
            plan = fewer;
        }
    }
    while plan.clients > 1 {
        let fewer = Plan { clients: plan.clients - 1, ..plan.clone() };
        if !fails(&fewer) {
            break;
        }
        plan = fewer;
    }
    while plan.shards > 1 {
        let fewer = Plan { shards: plan.shards - 1, ..plan.clone() };
        if !fails(&fewer) {
            break;
        }
        plan = fewer;
    }
    let steps = run(plan.clone()).steps;
    Plan { most_steps: steps, ..plan }
}

#[test]
fn what_is_promised_holds_in_every_world() {
    let first = variable("SIMULATION_SEED").unwrap_or(1);
    let worlds = variable("SIMULATION_WORLDS").unwrap_or(match variable("SIMULATION_SEED") {
        Some(_) => 1,
        None => WORLDS,
    });
    if worlds == 1 {
        // What the server says, with RUST_LOG.
        let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::from_default_env());
        let _ = log.without_time().try_init();
    } else {
        // Panics of shards are caught and reported by the world.
        std::panic::set_hook(Box::new(|_| {}));
    }
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let started = Instant::now();
    let work = || {
        let mut seen = [0_u64; Fault::ALL.len()];
        let (mut steps, mut opened, mut publications) = (0, 0, 0);
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + worlds {
                return (seen, steps, opened, publications, None);
            }
            let outcome = run(Plan::draw(seed));
            for (sum, count) in seen.iter_mut().zip(outcome.faults.seen) {
                *sum += count;
            }
            steps += outcome.steps;
            opened += outcome.opened;
            publications += outcome.publications;
            if let Some(violation) = outcome.violation {
                next.store(first + worlds, Ordering::Relaxed);
                return (seen, steps, opened, publications, Some((seed, violation)));
            }
        }
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let _ = std::panic::take_hook();
    assert_eq!(results.len(), threads, "a world panicked; SIMULATION_SEED=n runs one alone");
    let mut seen = [0_u64; Fault::ALL.len()];
    for (of_thread, ..) in &results {
        seen.iter_mut().zip(of_thread).for_each(|(sum, count)| *sum += count);
    }
    let steps: u64 = results.iter().map(|result| result.1).sum();
    let opened: u64 = results.iter().map(|result| result.2).sum();
    let publications: u64 = results.iter().map(|result| result.3).sum();
    println!(
        "{worlds} worlds in {:.1} s: {steps} steps, {opened} connections, {publications} publications received",
        started.elapsed().as_secs_f64()
    );
    for (fault, count) in Fault::ALL.iter().zip(seen) {
        println!("{fault:?}: {count}");
    }
    let first_failure = results.into_iter().filter_map(|result| result.4).min();
    if let Some((seed, violation)) = first_failure {
        let smaller = shrink(Plan::draw(seed));
        let again = run(smaller.clone());
        panic!(
            "SIMULATION_SEED={seed}: {violation}\na smaller world: {smaller:?}\nits violation: {:?}",
            again.violation
        );
    }
    if worlds >= 10_000 {
        for (fault, count) in Fault::ALL.iter().zip(seen) {
            assert!(count > 0, "{fault:?} was never seen");
        }
        assert!(
            opened > 0 && publications > 0,
            "{opened} connections, {publications} publications"
        );
    }
}
