//! `hold`: open connections, keep them, and look at what they receive.

use tidegate::ring::FileSlot;

use crate::arguments::Hold;
use crate::client::{Core, End, Message, Scenario};
use crate::crew::{Phase, Run};
use crate::report::Report;
use crate::sequence::{Order, Seen, number_in};

/// What is kept for a held connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    received: u32,
    seen: Seen,
}

/// Messages per connection, over connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Received {
    connections: u64,
    total: u64,
    fewest: u64,
    most: u64,
}

impl Received {
    fn add(&mut self, other: Self) {
        if other.connections == 0 {
            return;
        }
        self.fewest = match self.connections {
            0 => other.fewest,
            _ => self.fewest.min(other.fewest),
        };
        self.connections += other.connections;
        self.total += other.total;
        self.most = self.most.max(other.most);
    }

    fn add_one(&mut self, count: u32) {
        let count = u64::from(count);
        self.add(Self { connections: 1, total: count, fewest: count, most: count });
    }
}

/// One ring's held connections.
pub(crate) struct Holding {
    key: Option<String>,
    messages: u64,
    unnumbered: u64,
    open: Received,
    ended: Received,
    open_order: Order,
    ended_order: Order,
}

impl Holding {
    pub(crate) fn new(arguments: &Hold) -> Self {
        Self {
            key: arguments.check_sequence.clone(),
            messages: 0,
            unnumbered: 0,
            open: Received::default(),
            ended: Received::default(),
            open_order: Order::default(),
            ended_order: Order::default(),
        }
    }
}

impl Scenario for Holding {
    type State = Held;
    const BUSY: bool = false;

    fn on_message(&mut self, core: &mut Core<Held>, slot: FileSlot, message: Message<'_>) {
        let Some((held, _)) = core.open_state(slot) else { return };
        self.messages += 1;
        held.received += 1;
        let Some(key) = &self.key else { return };
        match message {
            Message::Text(text) => match number_in(text, key) {
                Some(number) => held.seen.note(number),
                None => self.unnumbered += 1,
            },
            Message::Binary(_) | Message::Raw(_) => self.unnumbered += 1,
        }
    }

    fn on_end(&mut self, _core: &mut Core<Held>, end: End<'_, Held>) {
        self.ended.add_one(end.state.received);
        self.ended_order.add(&end.state.seen);
    }

    fn on_phase(&mut self, core: &mut Core<Held>, phase: Phase) {
        if phase == Phase::Leaving {
            for slot in core.open_slots() {
                if let Some((held, _)) = core.open_state(slot) {
                    self.open.add_one(held.received);
                    self.open_order.add(&held.seen);
                }
            }
        }
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

/// What is reported and demanded.
pub(crate) fn report(arguments: &Hold, run: &Run<Holding>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let (mut open, mut ended) = (Received::default(), Received::default());
    let (mut order, mut ended_order) = (Order::default(), Order::default());
    let (mut unnumbered, mut pings) = (0, 0);
    for ring in &run.rings {
        open.add(ring.scenario.open);
        ended.add(ring.scenario.ended);
        order.merge(&ring.scenario.open_order);
        ended_order.merge(&ring.scenario.ended_order);
        unnumbered += ring.scenario.unnumbered;
        pings += ring.pings;
    }
    report
        .section("held")
        .put("seconds", crate::report::rounded(run.measured.window.as_secs_f64()))
        .put("messages", open.total + ended.total)
        .put("messages_per_open_connection_min", open.fewest)
        .put("messages_per_open_connection_max", open.most)
        .put("messages_at_ended_connections", ended.total)
        .put("pings_answered", pings);
    report.generator(&run.measured);
    if arguments.check_sequence.is_some() {
        sequence(&mut report, &order, &ended_order, unnumbered);
    }
    expectations(arguments, &mut report, &ledger, &open);
    report
}

fn sequence(report: &mut Report, order: &Order, ended: &Order, unnumbered: u64) {
    let range = |range: Option<(u64, u64)>| {
        range.map_or(serde_json::Value::Null, |(low, high)| serde_json::json!([low, high]))
    };
    report
        .section("sequence")
        .put("connections", order.connections)
        .put("silent", order.silent)
        .put("missing", order.missing + ended.missing)
        .put("repeated_or_late", order.repeated + ended.repeated)
        .put("first_min_max", range(order.first))
        .put("last_min_max", range(order.last))
        .put("unnumbered_messages", unnumbered);
    if !order.is_perfect() {
        report.fault(
            "not every open connection got the same numbers, each once, in order (section \
             sequence)",
        );
    } else if ended.missing + ended.repeated > 0 {
        report.fault("connections that ended had gaps or repetitions before they ended");
    }
}

fn expectations(
    arguments: &Hold,
    report: &mut Report,
    ledger: &crate::ledger::Ledger,
    open: &Received,
) {
    let wanted = arguments.expect_admitted.unwrap_or(arguments.common.connections);
    if ledger.admitted != wanted {
        report.fault(format!("{} admitted, wanted {wanted}", ledger.admitted));
    }
    if !arguments.allow_closed && ledger.ended_total() > 0 {
        report.fault(format!(
            "{} connections ended while held (--allow-closed if that is expected)",
            ledger.ended_total()
        ));
    }
    if let Some(messages) = arguments.expect_messages
        && (open.fewest != messages || open.most != messages)
    {
        report.fault(format!(
            "open connections received {} to {} messages, wanted {messages} each",
            open.fewest, open.most
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewest_and_most_over_rings_without_the_empty_ones() {
        let mut sum = Received::default();
        let mut ring = Received::default();
        ring.add_one(5);
        ring.add_one(3);
        sum.add(Received::default());
        sum.add(ring);
        sum.add(Received::default());
        assert_eq!(sum, Received { connections: 2, total: 8, fewest: 3, most: 5 });
    }
}
