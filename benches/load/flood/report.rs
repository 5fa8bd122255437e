//! What is said about a flood, and what makes it a failure.

use serde_json::json;

use super::{Flooding, RetryAfter};
use crate::crew::Run;
use crate::fates::Fates;
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::report::{Report, counts, rounded};
use crate::server::ServerBooks;

/// Closes the server's books and compares.
pub(crate) fn report(run: &Run<Flooding>, server: ServerBooks) -> Report {
    let ledger = run.ledger();
    let by_close = run.rings.iter().map(|ring| ring.scenario.refused_by_close).sum();
    let fates = Fates::of(&ledger, by_close);
    let counted = server.close(&fates);
    let mut report = Report::default();
    fates_section(&mut report, &fates, &ledger);
    report.check(run, &ledger);
    if !fates.balance() {
        report.fault(format!("attempts are not the sum of their fates: {fates:?}"));
    }
    rates(&mut report, run, &fates);
    refusals(&mut report, run);
    report.section("time_to_101_us").put_all(run.admissions().summary_us());
    report.section("server");
    match counted {
        Ok(Some(counted)) => report.compare(&fates, &counted),
        Ok(None) => report.remark("the server's counters were not compared (--admin)"),
        Err(why) => report.fault(format!("the server's counters cannot be compared: {why}")),
    }
    processor_time(&mut report, run);
    report.generator(&run.measured);
    report
}

fn fates_section(report: &mut Report, fates: &Fates, ledger: &Ledger) {
    let other = fates.by_status.iter().filter(|(status, _)| !matches!(status, 429 | 503));
    report
        .section("ledger")
        .put("attempts", fates.attempts)
        .put("admitted", fates.admitted)
        .put("refused", fates.refused())
        .put("refused_429", fates.status(429))
        .put("refused_503", fates.status(503))
        .put("refused_other_by_status", counts(other))
        .put("refused_by_close_1013", fates.by_close)
        .put("reset", fates.reset)
        .put("timed_out", fates.timed_out)
        .put("not_connected", fates.not_connected)
        .put("unanswered", fates.unanswered)
        .put("unfinished", fates.unfinished)
        .put("open_at_the_end", ledger.open)
        .put("failed_by_cause", counts(&ledger.failed))
        .put("ended_by_reason", counts(&ledger.ended))
        .put("balanced", ledger.balance().is_ok() && fates.balance());
}

fn rates(report: &mut Report, run: &Run<Flooding>, fates: &Fates) {
    let seconds = run.measured.opening.as_secs_f64().max(1e-9);
    let per_second = |count: u64| (count as f64 / seconds).round();
    report
        .section("rate")
        .put("seconds", rounded(seconds))
        .put("attempts_per_second", per_second(fates.attempts))
        .put("admitted_per_second", per_second(fates.admitted))
        .put("refused_per_second", per_second(fates.refused()));
}

fn refusals(report: &mut Report, run: &Run<Flooding>) {
    let (mut latencies, mut retry_after) = (Latencies::new(), RetryAfter::default());
    for ring in &run.rings {
        latencies.add(&ring.scenario.refusals);
        retry_after.add(ring.scenario.retry_after);
    }
    report.section("time_to_refusal_us").put_all(latencies.summary_us());
    report
        .section("retry_after")
        .put("told", retry_after.told)
        .put("untold", retry_after.untold)
        .put("min_s", json!(retry_after.shortest_s))
        .put("max_s", json!(retry_after.longest_s));
}

fn processor_time(report: &mut Report, run: &Run<Flooding>) {
    let Some(cpu) = run.measured.server_cpu else { return };
    let seconds = run.measured.window.as_secs_f64().max(1e-9);
    let attempts = (run.measured.answered as f64).max(1.0);
    report
        .put("cpu_percent", rounded(100.0 * cpu.as_secs_f64() / seconds))
        .put("cpu_us_per_attempt", rounded(cpu.as_secs_f64() * 1e6 / attempts));
}
