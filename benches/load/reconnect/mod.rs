//! `reconnect`: clients lose their connection and come back. Do they find a place, and do they
//! come in a line or in a heap?
//!
//! Here is what the clients do. How long they wait is in `policy`, what is thought of their line
//! in `flatness`, and what is said about all in `report`.

mod flatness;
mod policy;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use tidegate::ring::FileSlot;

use self::policy::{Known, Policy};
pub(crate) use self::report::report;
use crate::arguments::Reconnect;
use crate::client::{Bounced, Core, Door, End, Message, Scenario, Visit};
use crate::crew::Phase;
use crate::fate::Ending;
use crate::goodbye::{self, Goodbye};
use crate::latency::{Latencies, Timeline};
use crate::ledger::add_counts;
use crate::plan;
use crate::target::Target;

/// Addresses in notices that are told apart, whether they can be used or not.
const MAX_PLACES: usize = 64;

/// What is kept for a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    noticed: bool,
    slot_ms: Option<u32>,
    door: Option<u16>,
}

/// What was seen, by one ring or by all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    notices: u64,
    slots: u64,
    told_where: u64,
    where_unusable: u64,
    /// Connections that were lost, each of which is a return to come.
    lost: u64,
    lost_without_notice: u64,
    lost_by_reason: BTreeMap<Ending, u64>,
    returned: u64,
    /// Clients that have been back at least once.
    clients_back: u64,
    pending: u64,
    bounced: u64,
    bounced_by_status: BTreeMap<u16, u64>,
    most_tries: u16,
    notice_times: Timeline,
    lost_times: Timeline,
    /// When those who lost a connection meant to come back.
    due_times: Timeline,
    return_times: Timeline,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.notices += other.notices;
        self.slots += other.slots;
        self.told_where += other.told_where;
        self.where_unusable += other.where_unusable;
        self.lost += other.lost;
        self.lost_without_notice += other.lost_without_notice;
        add_counts(&mut self.lost_by_reason, &other.lost_by_reason);
        self.returned += other.returned;
        self.clients_back += other.clients_back;
        self.pending += other.pending;
        self.bounced += other.bounced;
        add_counts(&mut self.bounced_by_status, &other.bounced_by_status);
        self.most_tries = self.most_tries.max(other.most_tries);
        self.notice_times.add(&other.notice_times);
        self.lost_times.add(&other.lost_times);
        self.due_times.add(&other.due_times);
        self.return_times.add(&other.return_times);
    }
}

/// One ring's clients.
pub(crate) struct Reconnecting {
    policy: Policy,
    url: Target,
    common: plan::Origins,
    elsewhere: Option<Door>,
    elsewhere_number: u16,
    /// Doors by what notices said, with `None` for what cannot be used.
    places: BTreeMap<String, Option<u16>>,
    /// When each lost connection ended, by client, in milliseconds since the run's epoch.
    lost_at: BTreeMap<u64, u64>,
    phase: Phase,
    messages: u64,
    /// From the end of a connection to the 101 of the next.
    away: Latencies,
    /// From the moment when a client wanted to come back to its 101.
    late: Latencies,
    seen: Seen,
}

impl Reconnecting {
    pub(crate) fn new(arguments: &Reconnect, elsewhere: Option<Door>) -> Self {
        let ms = |time: Duration| time.as_millis() as u64;
        Self {
            policy: Policy {
                manners: arguments.clients,
                base_ms: ms(arguments.backoff_base),
                max_ms: ms(arguments.backoff_max),
            },
            url: arguments.common.url.clone(),
            common: plan::Origins::of(&arguments.common),
            elsewhere,
            elsewhere_number: 0,
            places: BTreeMap::new(),
            lost_at: BTreeMap::new(),
            phase: Phase::Opening,
            messages: 0,
            away: Latencies::new(),
            late: Latencies::new(),
            seen: Seen::default(),
        }
    }

    /// The number of the server that a notice names; `None` if that cannot be used.
    fn place(&mut self, core: &mut Core<Told>, url: &str) -> Option<u16> {
        if let Some(known) = self.places.get(url) {
            return *known;
        }
        if self.places.len() >= MAX_PLACES {
            return None;
        }
        let target = url.parse::<Target>().ok().map(|target| target.or_path_of(&self.url));
        let door = target.and_then(|target| self.common.door(&target).ok());
        let number = door.and_then(|door| core.add_door(door));
        self.places.insert(url.to_owned(), number);
        number
    }

    fn on_notice(
        &mut self,
        core: &mut Core<Told>,
        slot: FileSlot,
        slot_ms: Option<u32>,
        place: Option<&str>,
    ) {
        let door = place.map(|url| self.place(core, url));
        let now_ms = core.now_ms();
        let Some((told, _)) = core.open_state(slot) else { return };
        if std::mem::replace(&mut told.noticed, true) {
            return;
        }
        told.slot_ms = slot_ms;
        told.door = door.flatten();
        self.seen.notices += 1;
        self.seen.slots += u64::from(slot_ms.is_some());
        self.seen.told_where += u64::from(door.is_some());
        self.seen.where_unusable += u64::from(door == Some(None));
        self.seen.notice_times.note(now_ms);
    }

    fn try_again(&mut self, core: &mut Core<Told>, index: u64, visit: Visit, known: Known) {
        if self.phase == Phase::Leaving {
            self.seen.pending += 1;
            return;
        }
        let random = u32::from_le_bytes(core.mask_key());
        let wait_ms = self.policy.wait_ms(known, random.into());
        if known.tries == 0 {
            self.seen.due_times.note(core.now_ms() + wait_ms);
        }
        core.come_back(index, visit, Duration::from_millis(wait_ms));
    }
}

impl Scenario for Reconnecting {
    type State = Told;
    const BUSY: bool = false;

    fn on_open(&mut self, core: &mut Core<Told>, slot: FileSlot, took: Duration) {
        let Some((index, visit)) = core.visit(slot) else { return };
        if visit.life == 0 {
            return;
        }
        let now_ms = core.now_ms();
        self.seen.returned += 1;
        self.seen.clients_back += u64::from(visit.life == 1);
        self.seen.most_tries = self.seen.most_tries.max(visit.tries + 1);
        self.seen.return_times.note(now_ms);
        self.late.record(took);
        if let Some(lost_ms) = self.lost_at.remove(&index) {
            self.away.record(Duration::from_millis(now_ms.saturating_sub(lost_ms)));
        }
    }

    fn on_message(&mut self, core: &mut Core<Told>, slot: FileSlot, message: Message<'_>) {
        self.messages += 1;
        if let Message::Text(text) = message
            && let Some(Goodbye::Notice { reconnect_after_ms, reconnect_to }) = goodbye::parse(text)
        {
            self.on_notice(core, slot, reconnect_after_ms, reconnect_to.as_deref());
        }
    }

    fn on_end(&mut self, core: &mut Core<Told>, end: End<'_, Told>) {
        let now_ms = core.now_ms();
        self.seen.lost += 1;
        self.seen.lost_without_notice += u64::from(!end.state.noticed);
        *self.seen.lost_by_reason.entry(end.ending).or_default() += 1;
        self.seen.lost_times.note(now_ms);
        self.lost_at.insert(end.index, now_ms);
        let visit = Visit {
            door: end.state.door.unwrap_or(self.elsewhere_number),
            life: end.visit.life.saturating_add(1),
            tries: 0,
        };
        let known = Known { slot_ms: end.state.slot_ms, ..Known::default() };
        self.try_again(core, end.index, visit, known);
    }

    fn on_bounced(&mut self, core: &mut Core<Told>, bounced: Bounced) {
        self.seen.bounced += 1;
        if let Some(status) = bounced.status {
            *self.seen.bounced_by_status.entry(status).or_default() += 1;
        }
        let tries = bounced.visit.tries.saturating_add(1);
        self.seen.most_tries = self.seen.most_tries.max(tries);
        let known = Known { slot_ms: None, tries, retry_after_s: bounced.retry_after_s };
        self.try_again(core, bounced.index, Visit { tries, ..bounced.visit }, known);
    }

    fn on_phase(&mut self, core: &mut Core<Told>, phase: Phase) {
        self.phase = phase;
        if phase == Phase::Leaving {
            self.seen.pending = core.not_yet_back();
        }
    }

    fn on_turn(&mut self, core: &mut Core<Told>) -> Duration {
        if let Some(door) = self.elsewhere.take() {
            self.elsewhere_number = core.add_door(door).unwrap_or_default();
        }
        Duration::from_millis(50)
    }

    fn messages(&self) -> u64 {
        self.messages
    }

    /// Every client has lost its connection and has one again.
    fn is_done(&self, core: &Core<Told>) -> bool {
        let first = &core.ledger;
        first.admitted == self.seen.clients_back && core.not_yet_back() == 0
    }
}
