//! What is said about those who came back, and what makes it a failure.

use serde_json::{Value, json};

use super::flatness::{Line, Verdict};
use super::{Reconnecting, Seen};
use crate::arguments::{Manners, Reconnect};
use crate::crew::Run;
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::report::{Report, counts, rounded};

/// The result of a run.
pub(crate) fn report(arguments: &Reconnect, run: &Run<Reconnecting>) -> Report {
    let mut report = Report::default();
    let (first, again) = (run.ledger(), run.again());
    report.common(run, &first);
    report.ledger("ledger_of_those_who_return", &again);
    if let Err(imbalance) = again.balance() {
        report.fault(format!("the ledger of those who return does not balance: {imbalance}"));
    }
    let mut seen = Seen::default();
    let (mut away, mut late) = (Latencies::new(), Latencies::new());
    for ring in &run.rings {
        seen.add(&ring.scenario.seen);
        away.add(&ring.scenario.away);
        late.add(&ring.scenario.late);
    }
    returns(&mut report, arguments, &seen, &again);
    report.section("time_away_us").put_all(away.summary_us());
    report.section("time_to_101_since_due_us").put_all(late.summary_us());
    let (line, due) = line(&mut report, &seen);
    if let Some(cpu) = run.measured.server_cpu {
        report.section("server").put("cpu_seconds", rounded(cpu.as_secs_f64()));
    }
    report.generator(&run.measured);
    expectations(arguments, &mut report, &first, &again, &seen);
    flatness(arguments.expect_flat, &mut report, &line, "those who return");
    flatness(arguments.expect_slots_flat, &mut report, &due, "the slots they were given");
    report
}

fn returns(report: &mut Report, arguments: &Reconnect, seen: &Seen, again: &Ledger) {
    let manners = match arguments.clients {
        Manners::Slots => "slots",
        Manners::Immediate => "immediate",
        Manners::Backoff => "backoff",
    };
    let per_return = again.attempts as f64 / (seen.returned as f64).max(1.0);
    report
        .section("returns")
        .put("clients", manners)
        .put("notices", seen.notices)
        .put("with_a_slot", seen.slots)
        .put("told_where", seen.told_where)
        .put("told_where_unusable", seen.where_unusable)
        .put("lost", seen.lost)
        .put("lost_by_reason", counts(&seen.lost_by_reason))
        .put("lost_without_notice", seen.lost_without_notice)
        .put("returned", seen.returned)
        .put("clients_back", seen.clients_back)
        .put("not_yet_back", seen.pending)
        .put("failed_attempts", seen.bounced)
        .put("refused_by_status", counts(&seen.bounced_by_status))
        .put("attempts_per_return", rounded(per_return))
        .put("most_attempts_of_a_client", seen.most_tries);
}

/// The line of those who return, and the one that their slots make; times count from the first
/// loss.
fn line(report: &mut Report, seen: &Seen) -> (Line, Line) {
    let line = Line::of(&seen.return_times);
    let origin = seen.lost_times.first_ms().unwrap_or_default();
    let since = |ms: Option<u64>| ms.map_or(Value::Null, |ms| json!(ms.saturating_sub(origin)));
    let slices = |timeline: &crate::latency::Timeline| -> Value {
        let slices = timeline.slices(line.first_ms.min(origin), line.width_ms);
        let shift = origin.saturating_sub(line.first_ms.min(origin));
        slices.into_iter().map(|(at, n)| json!([at as i64 - shift as i64, n])).collect()
    };
    let due = Line::of(&seen.due_times);
    report
        .section("line_as_it_was_due")
        .put("verdict", due.verdict().word())
        .put("slice_ms", due.width_ms)
        .put("mean_per_second", due.mean_per_second().round())
        .put("peak_per_second", due.peak_per_second().round())
        .put("peak_to_mean", rounded(due.peak_to_mean()))
        .put("variation", rounded(due.variation()));
    report
        .section("line")
        .put("verdict", line.verdict().word())
        .put("slice_ms", line.width_ms)
        .put("mean_per_second", line.mean_per_second().round())
        .put("peak_per_second", line.peak_per_second().round())
        .put("peak_to_mean", rounded(line.peak_to_mean()))
        .put("variation", rounded(line.variation()))
        .put("first_return_ms", since(seen.return_times.first_ms()))
        .put("last_return_ms", since(seen.return_times.last_ms()))
        .put("last_loss_ms", since(seen.lost_times.last_ms()))
        .put("returns_per_slice", slices(&seen.return_times))
        .put("due_per_slice", slices(&seen.due_times))
        .put("losses_per_slice", slices(&seen.lost_times));
    (line, due)
}

fn flatness(most: Option<f64>, report: &mut Report, line: &Line, what: &str) {
    let Some(most) = most else { return };
    let ratio = line.peak_to_mean();
    if line.verdict() == Verdict::TooShort {
        report.fault(format!("the line of {what} is too short to be called flat"));
    } else if ratio > most {
        report.fault(format!(
            "the busiest {} ms had {ratio:.2} times the mean of {what}, wanted {most}",
            line.width_ms
        ));
    }
}

fn expectations(
    arguments: &Reconnect,
    report: &mut Report,
    first: &Ledger,
    again: &Ledger,
    seen: &Seen,
) {
    let wanted = arguments.common.connections;
    if first.admitted != wanted {
        report.fault(format!("{} admitted at first, wanted {wanted}", first.admitted));
    }
    let kept = first.admitted.saturating_sub(seen.clients_back);
    if seen.pending > 0 {
        report.fault(format!("{} clients were not yet back at the end", seen.pending));
    } else if kept > 0 {
        report.fault(format!("{kept} clients never lost their connection (--timeout)"));
    }
    if seen.lost != again.admitted + seen.pending || seen.returned != again.admitted {
        report.fault(format!(
            "{} connections were lost, but {} clients came back and {} were to come",
            seen.lost, again.admitted, seen.pending
        ));
    }
    if arguments.clients == Manners::Slots && seen.slots < seen.lost {
        report.remark(format!(
            "{} of {} lost connections had been given no slot; those clients came back as with \
             --clients backoff",
            seen.lost - seen.slots.min(seen.lost),
            seen.lost
        ));
    }
}
