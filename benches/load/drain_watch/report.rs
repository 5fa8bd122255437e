//! What is reported of a drain, and what is demanded of it.

use serde_json::{Value, json};

use super::{Seen, Watching};
use crate::arguments::DrainWatch;
use crate::crew::Run;
use crate::fate::Ending;
use crate::ledger::Ledger;
use crate::report::{Report, counts, rounded};

/// More slices than this are shown by the second.
const MAX_SLICES: usize = 100;

/// The result of a run.
pub(crate) fn report(arguments: &DrainWatch, run: &Run<Watching>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let mut seen = Seen::default();
    run.rings.iter().for_each(|ring| seen.add(&ring.scenario.seen));
    report
        .section("drain")
        .put("seconds_watched", rounded(run.measured.window.as_secs_f64()))
        .put("notices", seen.notices)
        .put("byes", seen.byes)
        .put("close_frames", counts(&seen.closes))
        .put("close_answered", seen.answered)
        .put("ended_by_reason", counts(&seen.others_ended))
        .put("ended_without_notice", seen.ended_without_notice);
    if seen.stuck > 0 {
        report.put("stuck", seen.stuck).put("stuck_ended_by_reason", counts(&seen.stuck_ended));
    }
    if seen.mid > 0 {
        report
            .put("mid_message", seen.mid)
            .put("mid_message_completed", seen.mid_completed)
            .put("mid_message_replied", seen.mid_replied);
    }
    times(&mut report, &seen);
    expectations(arguments, &mut report, &ledger, &seen);
    report
}

/// All times count from the first sign of the drain.
fn times(report: &mut Report, seen: &Seen) {
    let first = [seen.notice_times.first_ms(), seen.end_times.first_ms()];
    let Some(origin) = first.into_iter().flatten().min() else { return };
    let since = |ms: Option<u64>| ms.map_or(Value::Null, |ms| json!(ms.saturating_sub(origin)));
    let slices = |timeline: &crate::latency::Timeline, origin: u64| -> Value {
        let mut slices = timeline.slices(origin, 100);
        if slices.len() > MAX_SLICES {
            slices = timeline.slices(origin, 1_000);
        }
        slices.into_iter().map(|(at, count)| json!([at, count])).collect()
    };
    report
        .section("times_ms_from_first_sign")
        .put("first_notice", since(seen.notice_times.first_ms()))
        .put("last_notice", since(seen.notice_times.last_ms()))
        .put("first_end", since(seen.end_times.first_ms()))
        .put("last_end", since(seen.end_times.last_ms()))
        .put("ends_per_slice", slices(&seen.end_times, origin));
    if seen.notices_with_reconnect > 0 {
        report
            .section("reconnect_after_ms")
            .put("connections", seen.notices_with_reconnect)
            .put("min", json!(seen.reconnect_after.first_ms()))
            .put("max", json!(seen.reconnect_after.last_ms()))
            .put("per_slice", slices(&seen.reconnect_after, 0))
            .put("returns_per_slice", slices(&seen.returns, origin));
    }
}

fn expectations(arguments: &DrainWatch, report: &mut Report, ledger: &Ledger, seen: &Seen) {
    if ledger.admitted != arguments.common.connections {
        report.fault(format!(
            "{} admitted, wanted {}",
            ledger.admitted, arguments.common.connections
        ));
    }
    if ledger.open > 0 {
        report.fault(format!("{} connections were still open at the end", ledger.open));
    }
    let unclean: u64 = seen
        .others_ended
        .iter()
        .filter(|(ending, _)| !matches!(ending, Ending::Close(_)))
        .map(|(_, count)| count)
        .sum();
    if unclean > 0 {
        report.fault(format!("{unclean} connections that answer ended without a Close"));
    }
    if seen.mid_completed > seen.mid_replied {
        report.fault(format!(
            "{} messages that were completed after the notice were not answered before the Close",
            seen.mid_completed - seen.mid_replied
        ));
    }
}
