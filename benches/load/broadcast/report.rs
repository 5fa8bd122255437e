//! What is said about a broadcast, and what makes it a failure.

use serde_json::{Value, json};

use super::publisher::Published;
use super::{Arrivals, Broadcasting};
use crate::arguments::Broadcast;
use crate::crew::Run;
use crate::latency::Latencies;
use crate::ledger::add_counts;
use crate::report::{Report, counts, rounded};
use crate::sequence::Order;

/// The rings' parts, added up.
struct Sum {
    latencies: Latencies,
    arrivals: Vec<Arrivals>,
    order: Order,
    ended_order: Order,
    received: u64,
    slow: u64,
}

fn sum(run: &Run<Broadcasting>) -> Sum {
    let mut sum = Sum {
        latencies: Latencies::new(),
        arrivals: Vec::new(),
        order: Order::default(),
        ended_order: Order::default(),
        received: 0,
        slow: 0,
    };
    for ring in &run.rings {
        let part = &ring.scenario;
        sum.latencies.add(&part.latencies);
        sum.order.merge(&part.order);
        sum.ended_order.merge(&part.ended_order);
        sum.received += part.messages;
        sum.slow += part.slow_count;
        if sum.arrivals.len() < part.arrivals.len() {
            sum.arrivals.resize(part.arrivals.len(), Arrivals::default());
        }
        sum.arrivals.iter_mut().zip(&part.arrivals).for_each(|(all, one)| all.add(one));
    }
    sum
}

/// The result of a run.
pub(crate) fn report(
    arguments: &Broadcast,
    run: &Run<Broadcasting>,
    published: &Published,
) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let sum = sum(run);
    let seconds = run.measured.window.as_secs_f64().max(1e-9);
    let readers = sum.order.connections + sum.order.silent;
    report
        .section("broadcast")
        .put("seconds", rounded(seconds))
        .put("publications", published.count)
        .put("publications_per_second", rounded(published.count as f64 / seconds))
        .put("readers", readers)
        .put("deliveries_wanted", published.count * readers)
        .put("deliveries", sum.received)
        .put("deliveries_per_second", (sum.received as f64 / seconds).round());
    if let Some(cpu) = run.measured.server_cpu {
        let per_delivery = cpu.as_secs_f64() * 1e6 / (sum.received as f64).max(1.0);
        report
            .section("server")
            .put("cpu_percent", rounded(100.0 * cpu.as_secs_f64() / seconds))
            .put("cpu_us_per_delivery", rounded(per_delivery));
    }
    report.section("latency_us").put("since", "due").put_all(sum.latencies.summary_us());
    fan_out(&mut report, &sum.arrivals, readers);
    report
        .section("publisher_us")
        .put("late_p99", published.late.quantile_us(0.99))
        .put("late_max", published.late.quantile_us(1.0))
        .put("answered_p50", published.answered.quantile_us(0.5))
        .put("answered_p99", published.answered.quantile_us(0.99));
    if sum.slow > 0 {
        slow(&mut report, run, sum.slow);
    }
    sequence(&mut report, &sum.order);
    report.generator(&run.measured);
    expectations(arguments, &mut report, run, published, &sum);
    report
}

/// From the time that a publication was due until its first and its last reader had it.
fn fan_out(report: &mut Report, arrivals: &[Arrivals], readers: u64) {
    let (mut first, mut last) = (Latencies::new(), Latencies::new());
    let whole = arrivals.iter().filter(|arrivals| arrivals.count >= readers && readers > 0);
    for arrivals in whole {
        let since_due =
            |at: u64| std::time::Duration::from_micros(at.saturating_sub(arrivals.due_us));
        first.record(since_due(arrivals.first_us));
        last.record(since_due(arrivals.last_us));
    }
    report.section("first_reader_us").put_all(first.summary_us());
    report.section("last_reader_us").put_all(last.summary_us());
}

fn slow(report: &mut Report, run: &Run<Broadcasting>, count: u64) {
    let (mut ended, mut after) = (std::collections::BTreeMap::new(), Latencies::new());
    let mut messages = 0;
    for ring in &run.rings {
        add_counts(&mut ended, &ring.scenario.slow_ended);
        after.add(&ring.scenario.slow_end_after);
        messages += ring.scenario.slow_messages;
    }
    let total: u64 = ended.values().sum();
    let ms = |share| json!((after.quantile_us(share) / 1_000.0).round());
    report
        .section("slow_readers")
        .put("connections", count)
        .put("messages_read", messages)
        .put("ended", total)
        .put("ended_by_reason", counts(&ended))
        .put("still_open", count.saturating_sub(total))
        .put("ended_after_ms_p50", if total > 0 { ms(0.5) } else { Value::Null })
        .put("ended_after_ms_max", if total > 0 { ms(1.0) } else { Value::Null });
}

fn sequence(report: &mut Report, order: &Order) {
    report
        .section("sequence")
        .put("connections", order.connections)
        .put("silent", order.silent)
        .put("missing", order.missing)
        .put("repeated_or_late", order.repeated);
}

fn expectations(
    arguments: &Broadcast,
    report: &mut Report,
    run: &Run<Broadcasting>,
    published: &Published,
    sum: &Sum,
) {
    let ledger = run.ledger();
    if ledger.admitted != arguments.common.connections {
        report.fault(format!(
            "{} admitted, wanted {}",
            ledger.admitted, arguments.common.connections
        ));
    }
    if let Some(why) = &published.failed {
        report.fault(format!("publishing ended before its time: {why}"));
    }
    if published.count == 0 {
        report.fault("nothing was published");
        return;
    }
    if !sum.order.is_perfect() {
        report.fault("not every reader got every publication once and in order (section sequence)");
    }
    let mut ended = std::collections::BTreeMap::new();
    run.rings.iter().for_each(|ring| add_counts(&mut ended, &ring.scenario.others_ended));
    let ended: u64 = ended.values().sum();
    if ended > 0 {
        report.fault(format!("{ended} connections that read ended"));
    }
    let unnumbered: u64 = run.rings.iter().map(|ring| ring.scenario.unnumbered).sum();
    if unnumbered > 0 {
        report.remark(format!("{unnumbered} messages were not publications of this run"));
    }
    let late = published.late.quantile_us(0.99);
    if late > 1e6 / arguments.publish_rate {
        report.remark(format!(
            "the publisher was the bottleneck: it was {:.1} ms behind its schedule at p99",
            late / 1_000.0
        ));
    }
}
