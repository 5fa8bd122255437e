//! `churn`: clients that come and go. Their number stays what it is; who they are does not.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use tidegate::ring::FileSlot;

use crate::arguments::Churn;
use crate::client::{Core, Message, Scenario};
use crate::crew::{Phase, Run};
use crate::latency::Latencies;
use crate::report::{Report, rounded};

/// Longer than this no connection stays, in mean lifetimes.
const LONGEST: f64 = 20.0;

/// What is kept for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visitor {
    /// Number of the attempt, since slots are used again.
    index: u64,
    left: Option<Instant>,
}

/// One ring's clients.
pub(crate) struct Churning {
    lifetime: Duration,
    /// When each connection is to end.
    ends: BinaryHeap<Reverse<(Instant, u64, FileSlot)>>,
    going: bool,
    left: u64,
    closing: Latencies,
    messages: u64,
}

impl Churning {
    pub(crate) fn new(arguments: &Churn) -> Self {
        Self {
            lifetime: arguments.lifetime,
            ends: BinaryHeap::new(),
            going: true,
            left: 0,
            closing: Latencies::new(),
            messages: 0,
        }
    }
}

/// A lifetime: short ones are many, as with people who come and go independently of each other.
fn lifetime(mean: Duration, random: u32) -> Duration {
    let share = (f64::from(random) + 1.0) / (f64::from(u32::MAX) + 1.0);
    mean.mul_f64((-share.ln()).min(LONGEST))
}

impl Scenario for Churning {
    type State = Visitor;
    const BUSY: bool = false;

    fn on_open(&mut self, core: &mut Core<Visitor>, slot: FileSlot, _took: Duration) {
        let stay = lifetime(self.lifetime, u32::from_le_bytes(core.mask_key()));
        let until = core.now() + stay;
        let Some((visitor, index)) = core.open_state(slot) else { return };
        visitor.index = index;
        self.ends.push(Reverse((until, index, slot)));
    }

    fn on_message(&mut self, _core: &mut Core<Visitor>, _slot: FileSlot, _message: Message<'_>) {
        self.messages += 1;
    }

    fn on_close_frame(
        &mut self,
        core: &mut Core<Visitor>,
        slot: FileSlot,
        _code: Option<u16>,
        _reason: &str,
    ) {
        let now = core.now();
        if let Some(left) = core.state(slot).and_then(|visitor| visitor.left) {
            self.closing.record(now.saturating_duration_since(left));
        }
    }

    fn on_phase(&mut self, core: &mut Core<Visitor>, phase: Phase) {
        if phase >= Phase::Settling {
            self.going = false;
            core.stop_opening();
        }
    }

    fn on_turn(&mut self, core: &mut Core<Visitor>) -> Duration {
        let now = Instant::now();
        while let Some(Reverse((until, index, slot))) = self.ends.peek().copied() {
            if !self.going || until > now {
                return until.saturating_duration_since(now).max(Duration::from_millis(1));
            }
            self.ends.pop();
            if let Some((visitor, _)) = core.open_state(slot)
                && visitor.index == index
            {
                visitor.left = Some(now);
                self.left += 1;
                core.leave(slot);
            }
        }
        Duration::from_millis(50)
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

/// What is reported and demanded.
pub(crate) fn report(arguments: &Churn, run: &Run<Churning>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let mut closing = Latencies::new();
    let mut left = 0;
    for ring in &run.rings {
        closing.add(&ring.scenario.closing);
        left += ring.scenario.left;
    }
    let seconds = run.measured.window.as_secs_f64().max(1e-9);
    let per_second = |count: u64| rounded(count as f64 / seconds);
    report
        .section("churn")
        .put("seconds", rounded(seconds))
        .put("wanted_per_second", rounded(per_second_wanted(arguments)))
        .put("came_per_second", per_second(ledger.admitted))
        .put("left_per_second", per_second(left))
        .put("open_at_the_end", ledger.open)
        .put("wanted_open", arguments.common.connections);
    if let Some(cpu) = run.measured.server_cpu {
        let visits = (ledger.admitted as f64).max(1.0);
        report
            .section("server")
            .put("cpu_percent", rounded(100.0 * cpu.as_secs_f64() / seconds))
            .put("cpu_us_per_visit", rounded(cpu.as_secs_f64() * 1e6 / visits));
    }
    report.section("time_to_close_us").put_all(closing.summary_us());
    report.generator(&run.measured);
    if ledger.admitted == 0 {
        report.fault("nobody was admitted");
    }
    if !arguments.allow_refused && ledger.refused_total() + ledger.failed_total() > 0 {
        report.fault(format!(
            "{} attempts were refused and {} failed (--allow-refused if that is expected)",
            ledger.refused_total(),
            ledger.failed_total()
        ));
    }
    report
}

/// Arrivals that keep the number of connections what it is.
pub(crate) fn per_second_wanted(arguments: &Churn) -> f64 {
    arguments.common.connections as f64 / arguments.lifetime.as_secs_f64().max(1e-3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_their_mean_and_an_end() {
        let mean = Duration::from_secs(10);
        let sum: f64 = (0..=u32::MAX)
            .step_by(1 << 16)
            .map(|random| lifetime(mean, random).as_secs_f64())
            .sum();
        let found = sum / 65_536.0;
        assert!((9.5..10.5).contains(&found), "{found}");
        assert!(lifetime(mean, 0) <= mean * 20);
        assert_eq!(lifetime(mean, u32::MAX), Duration::ZERO);
    }
}
