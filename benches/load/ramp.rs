//! `ramp`: attempts at a rate that rises. Up to which rate are all admitted in time?

use std::time::Duration;

use serde_json::{Value, json};
use tidegate::ring::FileSlot;

use crate::arguments::Ramp;
use crate::client::{Core, Message, Scenario};
use crate::crew::Run;
use crate::latency::Latencies;
use crate::pace::Pace;
use crate::report::{Report, rounded};

/// Steps that a ramp is told in.
const STEPS: u64 = 40;
/// This share of a step's attempts must be admitted for the rate to count as kept.
const KEPT: f64 = 0.99;

/// What became of the attempts that were due in one step.
#[derive(Clone, Debug)]
struct Step {
    refused: u64,
    admitted: Latencies,
}

/// One ring's attempts.
pub(crate) struct Ramping {
    step: Duration,
    steps: Vec<Step>,
    messages: u64,
}

impl Ramping {
    pub(crate) fn new(arguments: &Ramp) -> Self {
        let none = Step { refused: 0, admitted: Latencies::new() };
        Self { step: step(arguments), steps: vec![none; STEPS as usize], messages: 0 }
    }

    /// The step in which an attempt was due that was answered now, after `took`.
    fn step_of(&mut self, since_first: Duration, took: Duration) -> Option<&mut Step> {
        let due = since_first.saturating_sub(took);
        let number = (due.as_micros() / self.step.as_micros().max(1)) as usize;
        let last = self.steps.len() - 1;
        self.steps.get_mut(number.min(last))
    }
}

fn step(arguments: &Ramp) -> Duration {
    arguments.over / STEPS as u32
}

/// The rate over time.
pub(crate) fn pace(arguments: &Ramp) -> Pace {
    Pace::Rising { from: arguments.from, to: arguments.to, over_s: arguments.over.as_secs_f64() }
}

/// Attempts that the ramp has room for, if there are no more than `most`.
pub(crate) fn attempts(arguments: &Ramp) -> u64 {
    let all = pace(arguments).due(arguments.over.as_secs_f64()).unwrap_or(u64::MAX);
    all.saturating_sub(1).clamp(1, arguments.common.connections)
}

impl Scenario for Ramping {
    type State = ();
    const BUSY: bool = false;

    fn on_open(&mut self, core: &mut Core<()>, _slot: FileSlot, took: Duration) {
        let since_first = core.since_first();
        if let Some(step) = self.step_of(since_first, took) {
            step.admitted.record(took);
        }
    }

    fn on_refused(&mut self, core: &mut Core<()>, took: Duration, _retry_after_s: Option<u32>) {
        let since_first = core.since_first();
        if let Some(step) = self.step_of(since_first, took) {
            step.refused += 1;
        }
    }

    fn on_message(&mut self, _core: &mut Core<()>, _slot: FileSlot, _message: Message<'_>) {
        self.messages += 1;
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

/// What is reported and demanded.
pub(crate) fn report(arguments: &Ramp, run: &Run<Ramping>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let mut steps = Ramping::new(arguments).steps;
    for ring in &run.rings {
        for (sum, step) in steps.iter_mut().zip(&ring.scenario.steps) {
            sum.refused += step.refused;
            sum.admitted.add(&step.admitted);
        }
    }
    let limit_us = arguments.p99_limit.as_secs_f64() * 1e6;
    let (mut rows, mut kept_per_second, mut keeps) = (Vec::new(), 0.0, true);
    let mut admitted_so_far = 0;
    let pace = pace(arguments);
    let due = |at: Duration| {
        pace.due(at.as_secs_f64()).unwrap_or_default().saturating_sub(1).min(ledger.attempts)
    };
    for (number, step) in (0..).zip(&steps) {
        let width = self::step(arguments);
        let (from, until) = (width * number, width * (number + 1));
        let attempts = due(until).saturating_sub(due(from));
        if attempts == 0 {
            continue;
        }
        let per_second = attempts as f64 / width.as_secs_f64();
        let admitted = step.admitted.count();
        let p99 = step.admitted.quantile_us(0.99);
        admitted_so_far += admitted;
        // An attempt at the border of two steps may be counted in either.
        let enough = KEPT * due(until) as f64 - 2.0;
        keeps &= admitted_so_far as f64 >= enough && p99 <= limit_us;
        if keeps {
            kept_per_second = per_second;
        }
        rows.push(json!({
            "from_s": rounded(from.as_secs_f64()),
            "attempts_per_second": per_second.round(),
            "admitted": admitted,
            "refused": step.refused,
            "other": attempts.saturating_sub(admitted + step.refused),
            "p50_us": step.admitted.quantile_us(0.5),
            "p99_us": p99,
        }));
    }
    report
        .section("ramp")
        .put("from_per_second", arguments.from)
        .put("to_per_second", arguments.to)
        .put("kept_per_second", f64::round(kept_per_second))
        .put("p99_limit_us", limit_us)
        .put("steps", Value::Array(rows));
    report.generator(&run.measured);
    if let Some(wanted) = arguments.expect_per_second
        && kept_per_second < wanted
    {
        report.fault(format!("kept {kept_per_second:.0} per second, wanted {wanted}"));
    }
    report
}
