//! Clients that have lost their connection and come back: when, where, and which try it is.
//!
//! Who comes back, and when, is the scenario's business. Attempts of clients that come back are
//! in a ledger of their own, so that both balance by themselves.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{FileSlot, Operation, Ring};

use super::connection::Stage;
use super::core::{Core, LONGEST_SLEEP};
use crate::ledger::Ledger;
use crate::sources::Sources;
use crate::target::Target;

/// The servers that one run can be sent to; more are told by nobody who means well.
const MAX_DOORS: usize = 64;

/// A server to connect to.
#[derive(Clone)]
pub(crate) struct Door {
    /// What to ask it for.
    pub(crate) target: Arc<Target>,
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Where to connect from.
    pub(crate) sources: Sources,
}

/// Which attempt of a client this is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Visit {
    /// Number of the server in the table of doors.
    pub(crate) door: u16,
    /// Connections that the client has lost before.
    pub(crate) life: u16,
    /// Attempts that have failed since it lost the last.
    pub(crate) tries: u16,
}

/// An attempt that was started and has no socket yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) index: u64,
    pub(super) visit: Visit,
    /// When it was started and when that was due, in microseconds since the run's epoch.
    pub(super) at_us: u64,
    pub(super) due_us: u64,
}

/// A client that comes back later; ordered by when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Return {
    due_us: u64,
    index: u64,
    visit: Visit,
}

/// An attempt to come back that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounced {
    /// Number of the client.
    pub(crate) index: u64,
    /// Which attempt it was.
    pub(crate) visit: Visit,
    /// What the server said about when to try again.
    pub(crate) retry_after_s: Option<u32>,
    /// Refused with this HTTP status.
    pub(crate) status: Option<u16>,
}

/// The clients that are to come back, and where to.
pub(super) struct Returns {
    pub(super) doors: Vec<Door>,
    waiting: BinaryHeap<Reverse<Return>>,
    pub(super) bounced: Vec<Bounced>,
}

impl Returns {
    pub(super) fn new(first: Door) -> Self {
        Self { doors: vec![first], waiting: BinaryHeap::new(), bounced: Vec::new() }
    }
}

impl<C> Core<C> {
    /// The books that an attempt belongs to.
    pub(super) fn book(&mut self, visit: Visit) -> &mut Ledger {
        if visit.life == 0 { &mut self.ledger } else { &mut self.again }
    }

    /// Attempts without an answer, of whatever life.
    pub(super) fn unanswered(&self) -> u64 {
        let (first, again) = (&self.ledger, &self.again);
        first.attempts - first.answered() + again.attempts - again.answered()
    }

    /// True if another connection fits. Those that are being closed still take room, and a table
    /// of descriptors that is full answers without end.
    pub(super) fn has_room(&self) -> bool {
        (self.live() as u64) < self.job.files
    }

    /// A server by its number.
    pub(super) fn door(&self, visit: Visit) -> &Door {
        &self.returns.doors[usize::from(visit.door).min(self.returns.doors.len() - 1)]
    }

    /// The number of a server, which is added if it is new; `None` if there are too many.
    pub(crate) fn add_door(&mut self, door: Door) -> Option<u16> {
        let known = self.returns.doors.iter().position(|known| known.target == door.target);
        if known.is_none() && self.returns.doors.len() >= MAX_DOORS {
            return None;
        }
        let number = known.unwrap_or_else(|| {
            self.returns.doors.push(door);
            self.returns.doors.len() - 1
        });
        u16::try_from(number).ok()
    }

    /// Which attempt of its client a connection is.
    pub(crate) fn visit(&mut self, slot: FileSlot) -> Option<(u64, Visit)> {
        self.table.at(slot).map(|connection| (connection.index, connection.visit))
    }

    /// Client `index` comes back after `wait`.
    pub(crate) fn come_back(&mut self, index: u64, visit: Visit, wait: Duration) {
        let due_us = self.now_us() + wait.as_micros() as u64;
        self.returns.waiting.push(Reverse(Return { due_us, index, visit }));
    }

    /// Clients that are to come back and have no answer yet.
    pub(crate) fn not_yet_back(&self) -> u64 {
        let bounced = self.returns.bounced.len() as u64;
        self.returns.waiting.len() as u64 + bounced + self.again.attempts - self.again.answered()
    }

    /// Notes that an attempt has failed; the scenario says when the next one is made.
    pub(super) fn bounce(&mut self, bounced: Bounced) {
        if bounced.visit.life > 0 && !self.finished {
            self.returns.bounced.push(bounced);
        }
    }

    /// The same for a connection that was never admitted.
    pub(super) fn bounce_slot(
        &mut self,
        slot: FileSlot,
        status: Option<u16>,
        retry_after_s: Option<u32>,
    ) {
        if let Some(connection) = self.table.at(slot)
            && matches!(connection.stage, Stage::Opening(_))
        {
            let (index, visit) = (connection.index, connection.visit);
            self.bounce(Bounced { index, visit, retry_after_s, status });
        }
    }

    /// Starts the attempts of those who are due, and returns how long it is until the next.
    pub(super) fn open_returning(&mut self, now_us: u64) -> Duration {
        while let Some(Reverse(next)) = self.returns.waiting.peek().copied() {
            if next.due_us > now_us {
                return Duration::from_micros(next.due_us - now_us).min(LONGEST_SLEEP);
            }
            if self.unanswered() >= self.job.max_opening || !self.has_room() {
                break;
            }
            self.returns.waiting.pop();
            self.begin(Begun {
                index: next.index,
                visit: next.visit,
                at_us: now_us,
                due_us: next.due_us,
            });
        }
        LONGEST_SLEEP
    }

    /// Asks for a socket.
    pub(super) fn begin(&mut self, begun: Begun) {
        self.book(begun.visit).attempts += 1;
        self.begun.push_back(begun);
        let ipv6 = self.door(begun.visit).address.is_ipv6();
        self.ring.start(Operation::Open { ipv6 });
    }

    /// Makes no attempts for a while: the kernel has no room for sockets.
    pub(super) fn pause_opening(&mut self) {
        self.paused_until = Some(Instant::now() + super::core::PAUSE);
    }
}
