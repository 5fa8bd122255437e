//! From nothing to admitted: socket, bind, connect, upgrade; each step one completion.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate::ring::{Errno, FileSlot, Operation, Ring, Token};

use super::connection::{Connection, Stage};
use super::core::{Core, LONGEST_SLEEP};
use super::returning::{Begun, Bounced, Visit};
use super::{Client, Scenario, upgrade};
use crate::fate::{Failure, Fate, Step};

impl<C: Default> Core<C> {
    /// Starts the attempts that are due, and returns how long it is until the next one.
    pub(super) fn open_due(&mut self) -> Duration {
        if self.finished {
            return LONGEST_SLEEP;
        }
        let now = Instant::now();
        if let Some(until) = self.paused_until {
            if now < until {
                return until - now;
            }
            self.paused_until = None;
        }
        let now_us = now.duration_since(self.job.epoch).as_micros() as u64;
        self.open_returning(now_us).min(self.open_new(now))
    }

    /// The first attempts of clients.
    fn open_new(&mut self, now: Instant) -> Duration {
        if self.next_index >= self.job.connections {
            return LONGEST_SLEEP;
        }
        let began = *self.began.get_or_insert(now);
        let elapsed = now.duration_since(began);
        let since_epoch_us = |at: Instant| at.duration_since(self.job.epoch).as_micros() as u64;
        let (began_us, now_us) = (since_epoch_us(began), since_epoch_us(now));
        let (pace, connections) = (self.job.pace, self.job.connections);
        let due = pace.due(elapsed.as_secs_f64()).unwrap_or(connections).min(connections);
        let mut unanswered = self.unanswered();
        while self.next_index < due && unanswered < self.job.max_opening && self.has_room() {
            let at = pace.at(self.next_index);
            let due_us = at.map_or(now_us, |at| began_us + at.as_micros() as u64);
            let index = self.job.first_index + self.next_index;
            self.begin(Begun { index, visit: Visit::default(), at_us: now_us, due_us });
            self.next_index += 1;
            unanswered += 1;
        }
        match pace.at(self.next_index) {
            Some(at) if self.next_index >= due => at.saturating_sub(elapsed).min(LONGEST_SLEEP),
            _ => LONGEST_SLEEP,
        }
    }

    fn connect(&mut self, token: Token) {
        if let Some(connection) = self.table.named(token) {
            connection.stage = Stage::Opening(Step::Connect);
            connection.sending = true;
            let visit = connection.visit;
            let address = self.door(visit).address;
            self.ring.start(Operation::Connect(token, address));
        }
    }
}

impl<S: Scenario> Client<S> {
    pub(super) fn on_opened(&mut self, result: Result<FileSlot, Errno>) {
        let core = &mut self.core;
        let Some(begun) = core.begun.pop_front() else { return };
        let Begun { index, visit, .. } = begun;
        let slot = match result {
            Ok(slot) => slot,
            Err(Errno(errno)) => {
                if !core.finished {
                    let fate = Fate::Failed(Failure::Errno(Step::Socket, errno));
                    core.book(visit).settle(fate);
                    core.bounce(Bounced { index, visit, retry_after_s: None, status: None });
                    core.pause_opening();
                }
                return;
            }
        };
        let token = core.table.insert(slot, Connection::new(index, visit, begun.due_us));
        if core.finished {
            if let Some(connection) = core.table.at(slot) {
                connection.settled = true;
            }
            return core.end(slot);
        }
        let timeout_us = core.job.connect_timeout.as_micros() as u64;
        core.deadlines.push_back((begun.at_us + timeout_us, token));
        match core.door(visit).sources.of(index) {
            Some(source) => {
                if let Some(connection) = core.table.at(slot) {
                    connection.sending = true;
                }
                core.ring.start(Operation::Bind(token, source));
            }
            None => core.connect(token),
        }
    }

    pub(super) fn on_bound(&mut self, token: Token, result: Result<(), Errno>) {
        if !self.core.step_done(token) {
            return;
        }
        match result {
            Ok(()) => self.core.connect(token),
            Err(Errno(errno)) => self.core.fail(token.slot, Failure::Errno(Step::Bind, errno)),
        }
    }

    pub(super) fn on_connected(&mut self, token: Token, result: Result<(), Errno>) {
        if !self.core.step_done(token) {
            return;
        }
        match result {
            Err(Errno(errno)) => {
                self.core.fail(token.slot, Failure::Errno(Step::Connect, errno));
            }
            Ok(()) if self.core.job.raw => {
                self.admit(token.slot);
                self.read_on(token.slot);
            }
            Ok(()) => self.ask(token.slot),
        }
    }

    /// Sends the upgrade request and waits for the answer.
    fn ask(&mut self, slot: FileSlot) {
        let Some(connection) = self.core.table.at(slot) else { return };
        connection.stage = Stage::Opening(Step::Upgrade);
        let (index, visit) = (connection.index, connection.visit);
        let path = self.scenario.path(index);
        let target = Arc::clone(&self.core.door(visit).target);
        let manner = self.core.job.manner.clone();
        let mut key = String::new();
        self.core.send_with(slot, |out| {
            key = upgrade::ask(&target, path.unwrap_or(&target.path), &manner, index, out);
        });
        let connection = self.core.table.at(slot);
        if let Some(opening) = connection.and_then(|connection| connection.opening.as_mut()) {
            opening.key = key;
        }
        self.core.arm_receive(slot, true);
    }

    /// A part of the answer has arrived. Returns the bytes behind it once it is complete.
    pub(super) fn on_answer(&mut self, slot: FileSlot, bytes: &[u8]) -> Option<Vec<u8>> {
        let connection = self.core.table.at(slot)?;
        let opening = connection.opening.as_mut()?;
        opening.answer.extend_from_slice(bytes);
        match upgrade::read(&opening.answer, &opening.key) {
            upgrade::Answer::Incomplete => None,
            upgrade::Answer::Bad => {
                self.core.fail(slot, Failure::BadAnswer);
                None
            }
            upgrade::Answer::Refused { status, retry_after_s } => {
                let due_us = opening.due_us;
                let took = Duration::from_micros(self.core.now_us().saturating_sub(due_us));
                self.scenario.on_refused(&mut self.core, took, retry_after_s);
                self.core.settle(slot, Fate::Refused(status));
                self.core.bounce_slot(slot, Some(status), retry_after_s);
                self.core.end(slot);
                None
            }
            upgrade::Answer::Admitted(end) => {
                let rest = opening.answer.split_off(end);
                self.admit(slot);
                Some(rest)
            }
        }
    }

    fn admit(&mut self, slot: FileSlot) {
        let now_us = self.core.now_us();
        let Some(connection) = self.core.table.at(slot) else { return };
        connection.stage = Stage::Open;
        let visit = connection.visit;
        let due_us = connection.opening.take().map_or(now_us, |opening| opening.due_us);
        let took = Duration::from_micros(now_us.saturating_sub(due_us));
        if visit.life == 0 {
            self.core.admissions.record(took);
        }
        self.core.book(visit).admitted += 1;
        self.scenario.on_open(&mut self.core, slot, took);
    }

    /// Gives up on attempts that have waited too long.
    pub(super) fn expire_openings(&mut self) {
        let now_us = self.core.now_us();
        while let Some((_, token)) = self.core.deadlines.pop_front_if(|(due, _)| *due <= now_us) {
            let stage = self.core.table.named(token).map(|connection| connection.stage);
            if let Some(Stage::Opening(step)) = stage {
                self.core.fail(token.slot, Failure::TimedOut(step));
            }
        }
    }
}
