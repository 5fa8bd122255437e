//! `drain-watch`: hold connections through a drain; how and when did each one end?

mod report;
mod unfinished;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tidegate::ring::FileSlot;

pub(crate) use self::report::report;
use self::unfinished::Unfinished;
use crate::arguments::DrainWatch;
use crate::client::{Core, End, Message, Scenario};
use crate::crew::Phase;
use crate::fate::Ending;
use crate::goodbye::{self, Goodbye};
use crate::latency::Timeline;

/// How often deaf connections are looked at, without reading from them.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// How long the last look takes before what is left is read to its end.
const LAST_PROBE: Duration = Duration::from_millis(200);
/// Distinct close reasons that are told apart.
const MAX_REASONS: usize = 32;

/// What a connection is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Role {
    /// Answers what it is asked.
    #[default]
    Normal,
    /// Never reads.
    Stuck,
    /// In the middle of a message when the drain begins.
    Mid,
}

/// What is kept for a connection.
#[derive(Debug, Default)]
pub(crate) struct Watched {
    role: Role,
    noticed: bool,
    bye: bool,
    reconnect_after_ms: Option<u32>,
    unfinished: Option<Box<Unfinished>>,
    replied: bool,
}

/// What was seen of the drain, by one ring or by all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    notices: u64,
    notices_with_reconnect: u64,
    byes: u64,
    answered: u64,
    ended_without_notice: u64,
    stuck: u64,
    stuck_ended: BTreeMap<Ending, u64>,
    mid: u64,
    mid_completed: u64,
    mid_replied: u64,
    others_ended: BTreeMap<Ending, u64>,
    closes: BTreeMap<String, u64>,
    notice_times: Timeline,
    end_times: Timeline,
    /// Not times but `reconnect_after_ms`.
    reconnect_after: Timeline,
    /// End plus `reconnect_after_ms`: when the clients would come back.
    returns: Timeline,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        use crate::ledger::add_counts;
        self.notices += other.notices;
        self.notices_with_reconnect += other.notices_with_reconnect;
        self.byes += other.byes;
        self.answered += other.answered;
        self.ended_without_notice += other.ended_without_notice;
        self.stuck += other.stuck;
        self.mid += other.mid;
        self.mid_completed += other.mid_completed;
        self.mid_replied += other.mid_replied;
        add_counts(&mut self.stuck_ended, &other.stuck_ended);
        add_counts(&mut self.others_ended, &other.others_ended);
        for (reason, count) in &other.closes {
            *self.closes.entry(reason.clone()).or_default() += count;
        }
        self.notice_times.add(&other.notice_times);
        self.end_times.add(&other.end_times);
        self.reconnect_after.add(&other.reconnect_after);
        self.returns.add(&other.returns);
    }
}

/// One ring's watched connections.
pub(crate) struct Watching {
    stuck: u64,
    mid: u64,
    mid_path: String,
    stuck_slots: Vec<FileSlot>,
    probed: Option<Instant>,
    settling_since: Option<Instant>,
    messages: u64,
    seen: Seen,
}

impl Watching {
    pub(crate) fn new(arguments: &DrainWatch) -> Self {
        Self {
            stuck: arguments.stuck,
            mid: arguments.mid_message,
            mid_path: arguments.mid_path.clone(),
            stuck_slots: Vec::new(),
            probed: None,
            settling_since: None,
            messages: 0,
            seen: Seen::default(),
        }
    }

    fn role(&self, index: u64) -> Role {
        if index < self.stuck {
            Role::Stuck
        } else if index < self.stuck + self.mid {
            Role::Mid
        } else {
            Role::Normal
        }
    }

    fn on_notice(&mut self, core: &mut Core<Watched>, slot: FileSlot, after_ms: Option<u32>) {
        let now_ms = core.now_ms();
        let Some((watched, _)) = core.open_state(slot) else { return };
        if std::mem::replace(&mut watched.noticed, true) {
            return;
        }
        watched.reconnect_after_ms = after_ms;
        self.seen.notices += 1;
        self.seen.notice_times.note(now_ms);
        if let Some(after_ms) = after_ms {
            self.seen.notices_with_reconnect += 1;
            self.seen.reconnect_after.note(after_ms.into());
        }
        if let Some(rest) = watched.unfinished.as_mut().and_then(|message| message.take_rest()) {
            self.seen.mid_completed += 1;
            core.send_with(slot, |out| out.extend_from_slice(&rest));
        }
    }
}

impl Scenario for Watching {
    type State = Watched;
    const BUSY: bool = false;

    fn path(&self, index: u64) -> Option<&str> {
        (self.role(index) == Role::Mid).then_some(self.mid_path.as_str())
    }

    fn on_open(&mut self, core: &mut Core<Watched>, slot: FileSlot, _took: Duration) {
        let (key, other_key) = (core.mask_key(), core.mask_key());
        let Some((watched, index)) = core.open_state(slot) else { return };
        watched.role = self.role(index);
        match watched.role {
            Role::Normal => {}
            Role::Stuck => {
                self.seen.stuck += 1;
                self.stuck_slots.push(slot);
                core.make_deaf(slot);
            }
            Role::Mid => {
                self.seen.mid += 1;
                let (message, begin) = Unfinished::new(index, key, other_key);
                watched.unfinished = Some(Box::new(message));
                core.send_with(slot, |out| out.extend_from_slice(&begin));
            }
        }
    }

    fn on_message(&mut self, core: &mut Core<Watched>, slot: FileSlot, message: Message<'_>) {
        self.messages += 1;
        let Message::Text(text) = message else { return };
        match goodbye::parse(text) {
            Some(Goodbye::Notice { reconnect_after_ms, .. }) => {
                self.on_notice(core, slot, reconnect_after_ms);
            }
            Some(Goodbye::Bye) => {
                let Some((watched, _)) = core.open_state(slot) else { return };
                if !std::mem::replace(&mut watched.bye, true) {
                    self.seen.byes += 1;
                }
            }
            None => {
                let Some((watched, _)) = core.open_state(slot) else { return };
                let echo = watched.unfinished.as_ref().is_some_and(|message| message.is(text));
                if echo && !std::mem::replace(&mut watched.replied, true) {
                    self.seen.mid_replied += 1;
                }
            }
        }
    }

    fn on_close_frame(
        &mut self,
        _core: &mut Core<Watched>,
        _slot: FileSlot,
        code: Option<u16>,
        reason: &str,
    ) {
        let code = code.map_or(String::from("no code"), |code| code.to_string());
        let mut text = format!("{code} {reason:?}");
        if self.seen.closes.len() >= MAX_REASONS && !self.seen.closes.contains_key(&text) {
            text = format!("{code} (other reasons)");
        }
        *self.seen.closes.entry(text).or_default() += 1;
    }

    fn on_end(&mut self, core: &mut Core<Watched>, end: End<'_, Watched>) {
        let seen = &mut self.seen;
        seen.answered += u64::from(end.answered);
        if end.state.role == Role::Stuck {
            *seen.stuck_ended.entry(end.ending).or_default() += 1;
        } else {
            *seen.others_ended.entry(end.ending).or_default() += 1;
            seen.ended_without_notice += u64::from(!end.state.noticed);
        }
        // How a deaf connection ended is read when all is over; when it did, is not known.
        if end.state.role == Role::Stuck && self.settling_since.is_some() {
            return;
        }
        let now_ms = core.now_ms();
        seen.end_times.note(now_ms);
        if let Some(after_ms) = end.state.reconnect_after_ms {
            seen.returns.note(now_ms + u64::from(after_ms));
        }
    }

    fn on_phase(&mut self, core: &mut Core<Watched>, phase: Phase) {
        if phase == Phase::Settling {
            self.settling_since = Some(core.now());
            self.stuck_slots.iter().for_each(|slot| core.probe(*slot));
        }
    }

    fn on_turn(&mut self, core: &mut Core<Watched>) -> Duration {
        if self.settling_since.is_some_and(|since| since.elapsed() >= LAST_PROBE) {
            std::mem::take(&mut self.stuck_slots).iter().for_each(|slot| core.discard(*slot));
        }
        let due = self.probed.is_none_or(|at| at.elapsed() >= PROBE_EVERY);
        if due && !self.stuck_slots.is_empty() {
            self.probed = Some(Instant::now());
            self.stuck_slots.retain(|slot| core.open_state(*slot).is_some());
            self.stuck_slots.iter().for_each(|slot| core.probe(*slot));
        }
        Duration::from_millis(50)
    }

    fn messages(&self) -> u64 {
        self.messages
    }
}
