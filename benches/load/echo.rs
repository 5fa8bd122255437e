//! `echo`: every message must come back byte by byte; how long it takes and what it costs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tidegate::ring::FileSlot;

use crate::arguments::{Echo, Kind};
use crate::client::{Core, Message, Scenario};
use crate::crew::{Phase, Run};
use crate::fate::Ending;
use crate::latency::Latencies;
use crate::payload::Payloads;
use crate::report::{Report, rounded};

/// What is kept for a connection.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    sent: u64,
    received: u64,
    /// When each message in flight was due (on a schedule) or sent.
    flying: VecDeque<Instant>,
    /// When messages that wait for an echo were due.
    waiting: VecDeque<Instant>,
    /// Bytes of the present echo that have arrived (plain TCP).
    offset: usize,
}

/// A fixed schedule: message `n` is due at `began + n / rate`, on connection `n` modulo all.
struct Schedule {
    began: Instant,
    next: u64,
    rate: f64,
}

impl Schedule {
    fn due(&self) -> Instant {
        self.began + Duration::from_secs_f64(self.next as f64 / self.rate)
    }
}

/// One ring's echo connections.
pub(crate) struct Echoing {
    raw: bool,
    kind: Kind,
    in_flight: usize,
    rate: Option<f64>,
    payloads: Payloads,
    phase: Phase,
    slots: Vec<FileSlot>,
    schedule: Option<Schedule>,
    messages: u64,
    latencies: Latencies,
    lateness: Latencies,
}

impl Echoing {
    /// `rate` is this ring's share of the messages per second.
    pub(crate) fn new(arguments: &Echo, rate: Option<f64>) -> Self {
        Self {
            raw: arguments.raw,
            kind: arguments.kind,
            in_flight: arguments.in_flight as usize,
            rate,
            payloads: Payloads::new(arguments.payload as usize),
            phase: Phase::Opening,
            slots: Vec::new(),
            schedule: None,
            messages: 0,
            latencies: Latencies::new(),
            lateness: Latencies::new(),
        }
    }

    fn begin_load(&mut self, core: &mut Core<Flow>) {
        self.slots = core.open_slots();
        if let Some(rate) = self.rate {
            self.schedule = Some(Schedule { began: Instant::now(), next: 0, rate });
            return;
        }
        for slot in self.slots.clone() {
            for _ in 0..self.in_flight {
                self.send(core, slot, Instant::now());
            }
        }
    }

    fn send(&mut self, core: &mut Core<Flow>, slot: FileSlot, since: Instant) {
        let Some((flow, index)) = core.open_state(slot) else { return };
        flow.flying.push_back(since);
        let message = self.payloads.message(index, flow.sent);
        flow.sent += 1;
        match self.kind {
            _ if self.raw => core.send_with(slot, |out| out.extend_from_slice(message)),
            Kind::Binary => core.send_binary(slot, message),
            Kind::Text => core.send_text(slot, message),
        }
    }

    /// Sends what the schedule says; returns how long it is until the next message.
    fn send_due(&mut self, core: &mut Core<Flow>) -> Option<Duration> {
        let schedule = self.schedule.as_ref()?;
        let mut due = schedule.due();
        let mut now = Instant::now();
        while due <= now && !self.slots.is_empty() {
            let schedule = self.schedule.as_mut()?;
            let slot = self.slots[(schedule.next % self.slots.len() as u64) as usize];
            schedule.next += 1;
            let next_due = schedule.due();
            let in_flight = self.in_flight;
            if let Some((flow, _)) = core.open_state(slot) {
                if flow.flying.len() < in_flight {
                    self.lateness.record(now - due);
                    self.send(core, slot, due);
                } else {
                    flow.waiting.push_back(due);
                }
            }
            due = next_due;
            now = Instant::now();
        }
        Some(due.saturating_duration_since(now))
    }

    fn on_echo(&mut self, core: &mut Core<Flow>, slot: FileSlot) {
        let now = core.now();
        let Some((flow, _)) = core.open_state(slot) else { return };
        flow.received += 1;
        self.messages += 1;
        let since = flow.flying.pop_front();
        let waiting = flow.waiting.pop_front();
        if let Some(since) = since
            && self.phase == Phase::Measuring
        {
            self.latencies.record(now.saturating_duration_since(since));
        }
        if self.phase > Phase::Measuring {
            return;
        }
        match (self.rate, waiting) {
            (None, _) => self.send(core, slot, Instant::now()),
            (Some(_), Some(due)) => self.send(core, slot, due),
            (Some(_), None) => {}
        }
    }

    /// Plain TCP has no message borders: the stream is compared piece by piece.
    fn on_stream(&mut self, core: &mut Core<Flow>, slot: FileSlot, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some((flow, index)) = core.open_state(slot) else { return };
            let expected = self.payloads.message(index, flow.received);
            let rest = &expected[flow.offset..];
            let take = rest.len().min(bytes.len());
            if flow.flying.is_empty() || rest[..take] != bytes[..take] {
                return core.give_up(slot, Ending::WrongEcho);
            }
            flow.offset += take;
            bytes = &bytes[take..];
            if flow.offset == expected.len() {
                flow.offset = 0;
                self.on_echo(core, slot);
            }
        }
    }
}

impl Scenario for Echoing {
    type State = Flow;
    const BUSY: bool = true;

    fn on_message(&mut self, core: &mut Core<Flow>, slot: FileSlot, message: Message<'_>) {
        let bytes = match (message, self.kind) {
            (Message::Raw(bytes), _) => return self.on_stream(core, slot, bytes),
            (Message::Text(text), Kind::Text) => text.as_bytes(),
            (Message::Binary(bytes), Kind::Binary) => bytes,
            _ => return core.give_up(slot, Ending::WrongEcho),
        };
        let Some((flow, index)) = core.open_state(slot) else { return };
        if flow.flying.is_empty() || self.payloads.message(index, flow.received) != bytes {
            return core.give_up(slot, Ending::WrongEcho);
        }
        self.on_echo(core, slot);
    }

    fn on_phase(&mut self, core: &mut Core<Flow>, phase: Phase) {
        let idle = self.phase == Phase::Opening;
        self.phase = phase;
        match phase {
            Phase::Warming | Phase::Measuring if idle => self.begin_load(core),
            Phase::Settling | Phase::Leaving => self.schedule = None,
            _ => {}
        }
        if phase == Phase::Measuring {
            self.lateness = Latencies::new();
        }
    }

    fn on_turn(&mut self, core: &mut Core<Flow>) -> Duration {
        self.send_due(core).unwrap_or(Duration::from_millis(20))
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}

/// Bytes of a message on the wire, from client to server and back.
fn wire_bytes(payload: u64, raw: bool) -> (u64, u64) {
    let header = match payload {
        0..126 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    if raw { (payload, payload) } else { (header + 4 + payload, header + payload) }
}

/// What is reported and demanded.
pub(crate) fn report(arguments: &Echo, run: &Run<Echoing>) -> Report {
    let mut report = Report::default();
    let ledger = run.ledger();
    report.common(run, &ledger);
    let measured = &run.measured;
    let seconds = measured.window.as_secs_f64().max(1e-9);
    let (out, back) = wire_bytes(arguments.payload.into(), arguments.raw);
    report
        .section("echo")
        .put("seconds", rounded(seconds))
        .put("messages", measured.messages)
        .put("messages_per_second", (measured.messages as f64 / seconds).round())
        .put("payload_bytes", arguments.payload)
        .put("wire_bytes_to_server", out)
        .put("wire_bytes_from_server", back);
    let per_message =
        |cpu: Duration| rounded(cpu.as_secs_f64() * 1e6 / (measured.messages as f64).max(1.0));
    if let Some(cpu) = measured.server_cpu {
        report
            .section("server")
            .put("cpu_percent", rounded(100.0 * cpu.as_secs_f64() / seconds))
            .put("cpu_us_per_message", per_message(cpu));
    }
    let (mut latencies, mut lateness) = (Latencies::new(), Latencies::new());
    for ring in &run.rings {
        latencies.add(&ring.scenario.latencies);
        lateness.add(&ring.scenario.lateness);
    }
    let since = if arguments.rate.is_some() { "due" } else { "sent" };
    report.section("latency_us").put("since", since).put_all(latencies.summary_us());
    report.generator(measured);
    report.put("cpu_us_per_message", per_message(measured.threads_cpu.iter().sum()));
    if arguments.rate.is_some() {
        report.put("late_us_p99", lateness.quantile_us(0.99));
        report.put("late_us_max", lateness.quantile_us(1.0));
    }
    expectations(arguments, run, &mut report, &ledger);
    report
}

fn expectations(
    arguments: &Echo,
    run: &Run<Echoing>,
    report: &mut Report,
    ledger: &crate::ledger::Ledger,
) {
    if ledger.admitted != arguments.common.connections {
        report.fault(format!(
            "{} admitted, wanted {}",
            ledger.admitted, arguments.common.connections
        ));
    }
    if let Some(count) = ledger.ended.get(&Ending::WrongEcho) {
        report.fault(format!("{count} connections got an echo that differs from what they sent"));
    }
    if ledger.ended_total() > 0 {
        report.fault(format!("{} connections ended during the test", ledger.ended_total()));
    }
    if run.measured.messages == 0 {
        report.fault("no echo arrived in the window: does the server echo on this path?");
    }
    if arguments.common.server_pid.is_some() && run.measured.server_cpu.is_none() {
        report.fault("no CPU time of the server: is --server-pid right, and did it stay alive?");
    }
    if let Some(rate) = arguments.rate {
        let wanted = rate * run.measured.window.as_secs_f64();
        if (run.measured.messages as f64) < 0.98 * wanted {
            report.remark(format!(
                "only {} of {wanted:.0} scheduled messages came back in the window",
                run.measured.messages
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_on_the_wire_are_explicit() {
        assert_eq!(wire_bytes(64, false), (70, 66));
        assert_eq!(wire_bytes(126, false), (134, 130));
        assert_eq!(wire_bytes(65_536, false), (65_550, 65_546));
        assert_eq!(wire_bytes(70, true), (70, 70));
    }

    #[test]
    fn a_schedule_does_not_wait_for_anybody() {
        let began = Instant::now();
        let schedule = Schedule { began, next: 150, rate: 100.0 };
        assert_eq!(schedule.due() - began, Duration::from_millis(1_500));
    }
}
