//! `broadcast` and `slow-readers`: one message to many connections. How long until each has it,
//! and what do those who do not read cost the others?
//!
//! Here is what the connections do. Who publishes is in `publisher`, and what is said about all
//! in `report`.

pub(crate) mod publisher;
mod report;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tidegate::ring::FileSlot;

pub(crate) use self::report::report;
use crate::arguments::{Broadcast, Slow};
use crate::client::{Core, End, Message, Scenario};
use crate::crew::Phase;
use crate::fate::Ending;
use crate::latency::Latencies;
use crate::sequence::{Order, Seen, number_in};

/// Publications of which the first and last arrival are kept.
const MOST_KEPT: usize = 1 << 20;
/// Bytes of one receive of a slow reader.
const SIP: f64 = 4_096.0;
/// How often slow readers are looked at, without reading from them.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// What is kept for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Subscriber {
    slow: bool,
    seen: Seen,
}

/// When one publication arrived, over connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Arrivals {
    due_us: u64,
    first_us: u64,
    last_us: u64,
    count: u64,
}

impl Arrivals {
    fn note(&mut self, due_us: u64, now_us: u64) {
        let one = Self { due_us, first_us: now_us, last_us: now_us, count: 1 };
        self.add(&one);
    }

    fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if self.count == 0 {
            *self = *other;
            return;
        }
        self.first_us = self.first_us.min(other.first_us);
        self.last_us = self.last_us.max(other.last_us);
        self.count += other.count;
    }
}

/// One ring's subscribers.
pub(crate) struct Broadcasting {
    slow: Slow,
    published: Arc<AtomicU64>,
    phase: Phase,
    messages: u64,
    unnumbered: u64,
    arrivals: Vec<Arrivals>,
    latencies: Latencies,
    order: Order,
    ended_order: Order,
    /// Slow readers in the order of their next sip.
    sips: VecDeque<(Instant, FileSlot)>,
    slow_slots: Vec<FileSlot>,
    probed: Option<Instant>,
    slow_count: u64,
    slow_messages: u64,
    slow_ended: BTreeMap<Ending, u64>,
    slow_end_after: Latencies,
    others_ended: BTreeMap<Ending, u64>,
    measuring_since: Option<Instant>,
}

impl Broadcasting {
    pub(crate) fn new(arguments: &Broadcast, published: Arc<AtomicU64>) -> Self {
        Self {
            slow: arguments.slow,
            published,
            phase: Phase::Opening,
            messages: 0,
            unnumbered: 0,
            arrivals: Vec::new(),
            latencies: Latencies::new(),
            order: Order::default(),
            ended_order: Order::default(),
            sips: VecDeque::new(),
            slow_slots: Vec::new(),
            probed: None,
            slow_count: 0,
            slow_messages: 0,
            slow_ended: BTreeMap::new(),
            slow_end_after: Latencies::new(),
            others_ended: BTreeMap::new(),
            measuring_since: None,
        }
    }

    /// Time between two sips of a slow reader; `None` if it never reads.
    fn sip_every(&self) -> Option<Duration> {
        let rate = self.slow.slow_bytes_per_second;
        (rate > 0.0).then(|| Duration::from_secs_f64(SIP / rate))
    }

    fn arrived(&mut self, number: u64, due_us: u64, now_us: u64) {
        let Ok(number) = usize::try_from(number) else { return };
        if number >= MOST_KEPT {
            return;
        }
        if number >= self.arrivals.len() {
            self.arrivals.resize(number + 1, Arrivals::default());
        }
        self.arrivals[number].note(due_us, now_us);
    }

    fn sip_and_probe(&mut self, core: &mut Core<Subscriber>) {
        let now = Instant::now();
        while let Some((due, slot)) = self.sips.front().copied() {
            if due > now {
                break;
            }
            self.sips.pop_front();
            if core.open_state(slot).is_some_and(|(subscriber, _)| subscriber.slow) {
                core.sip(slot);
                if let Some(every) = self.sip_every() {
                    self.sips.push_back((now + every, slot));
                }
            }
        }
        let due = self.probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        if due && !self.slow_slots.is_empty() {
            self.probed = Some(now);
            self.slow_slots.retain(|slot| core.open_state(*slot).is_some());
            self.slow_slots.iter().for_each(|slot| core.probe(*slot));
        }
    }
}

impl Scenario for Broadcasting {
    type State = Subscriber;
    const BUSY: bool = false;

    fn on_open(&mut self, core: &mut Core<Subscriber>, slot: FileSlot, _took: Duration) {
        let Some((subscriber, index)) = core.open_state(slot) else { return };
        if index >= self.slow.slow {
            return;
        }
        subscriber.slow = true;
        self.slow_count += 1;
        self.slow_slots.push(slot);
        core.make_deaf(slot);
        if let Some(every) = self.sip_every() {
            self.sips.push_back((Instant::now() + every, slot));
        }
    }

    fn on_message(&mut self, core: &mut Core<Subscriber>, slot: FileSlot, message: Message<'_>) {
        let now_us = core.now_us();
        let Some((subscriber, _)) = core.open_state(slot) else { return };
        let text = match message {
            Message::Text(text) => text,
            Message::Binary(bytes) | Message::Raw(bytes) => {
                std::str::from_utf8(bytes).unwrap_or_default()
            }
        };
        let numbers = number_in(text, "seq").zip(number_in(text, "at_us"));
        let Some((number, due_us)) = numbers else {
            self.unnumbered += 1;
            return;
        };
        if subscriber.slow {
            self.slow_messages += 1;
            return;
        }
        subscriber.seen.note(number);
        self.messages += 1;
        self.latencies.record(Duration::from_micros(now_us.saturating_sub(due_us)));
        self.arrived(number, due_us, now_us);
    }

    fn on_end(&mut self, _core: &mut Core<Subscriber>, end: End<'_, Subscriber>) {
        if end.state.slow {
            *self.slow_ended.entry(end.ending).or_default() += 1;
            if let Some(since) = self.measuring_since {
                self.slow_end_after.record(since.elapsed());
            }
        } else {
            *self.others_ended.entry(end.ending).or_default() += 1;
            self.ended_order.add(&end.state.seen);
        }
    }

    fn on_phase(&mut self, core: &mut Core<Subscriber>, phase: Phase) {
        self.phase = phase;
        if phase == Phase::Measuring {
            self.measuring_since = Some(Instant::now());
        }
        if phase == Phase::Leaving {
            for slot in core.open_slots() {
                if let Some((subscriber, _)) = core.open_state(slot)
                    && !subscriber.slow
                {
                    self.order.add(&subscriber.seen);
                }
            }
        }
    }

    fn on_turn(&mut self, core: &mut Core<Subscriber>) -> Duration {
        if self.phase < Phase::Leaving {
            self.sip_and_probe(core);
        }
        Duration::from_millis(20)
    }

    fn messages(&self) -> u64 {
        self.messages
    }

    /// The window is over and every reader has everything.
    fn is_done(&self, core: &Core<Subscriber>) -> bool {
        let readers = core.ledger.admitted.saturating_sub(self.slow_count);
        let ended: u64 = self.others_ended.values().sum();
        self.phase == Phase::Settling
            && self.messages >= self.published.load(Relaxed) * (readers.saturating_sub(ended))
    }
}
