//! Bytes from the server: the answer to the upgrade, then frames, then what they mean.

use tidegate::ring::{Errno, FileSlot, Received, Ring, Token};
use tidegate::websocket::frame::Role;
use tidegate::websocket::{Event, Incoming, Rules};

use super::connection::Stage;
use super::{Client, Message, Scenario};
use crate::fate::Ending;

/// What this client accepts from a server.
const RULES: Rules = Rules { role: Role::Client, max_message_bytes: 64 << 20 };

impl<S: Scenario> Client<S> {
    pub(super) fn on_readable(&mut self, token: Token) {
        let Some(connection) = self.core.table.named(token) else { return };
        connection.reading = false;
        match connection.stage {
            Stage::Ending => self.core.close_when_quiet(token.slot),
            _ => self.core.arm_receive(token.slot, false),
        }
    }

    pub(super) fn on_received(
        &mut self,
        token: Token,
        result: Result<Option<Received>, Errno>,
        lasts: bool,
    ) {
        let slot = token.slot;
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let result = result.map(|received| {
            received.map(|received| {
                bytes.extend_from_slice(self.core.ring.bytes(&received));
                self.core.ring.give_back(received);
            })
        });
        if let Some(connection) = self.core.table.named(token) {
            connection.reading = lasts;
            connection.lasting = lasts;
            match (connection.stage, result) {
                (Stage::Ending, _) => self.core.close_when_quiet(slot),
                (_, Ok(Some(()))) => {
                    self.on_bytes(slot, &mut bytes);
                    self.read_on(slot);
                }
                (_, Ok(None)) => self.on_end_of_stream(slot),
                (_, Err(Errno(libc::EAGAIN))) => self.read_on(slot),
                (_, Err(Errno(libc::ENOBUFS))) => {
                    connection.reading = true;
                    self.core.starve(token);
                }
                (_, Err(errno)) => self.on_error(slot, errno),
            }
        }
        self.scratch = bytes;
    }

    /// Arms what fits the connection's pace.
    pub(super) fn read_on(&mut self, slot: FileSlot) {
        match self.core.table.at(slot).map(|connection| connection.stage) {
            Some(Stage::Opening(_)) => self.core.arm_receive(slot, true),
            Some(Stage::Open | Stage::Leaving) if S::BUSY => self.core.arm_lasting(slot),
            Some(Stage::Open | Stage::Leaving) => self.core.arm_watch(slot),
            Some(Stage::Answering | Stage::Ending) | None => {}
        }
    }

    fn on_bytes(&mut self, slot: FileSlot, bytes: &mut [u8]) {
        if self.core.table.at(slot).is_some_and(|connection| connection.discarding) {
            return;
        }
        match self.core.table.at(slot).map(|connection| connection.stage) {
            Some(Stage::Opening(_)) => {
                if let Some(mut rest) = self.on_answer(slot, bytes) {
                    self.on_frames(slot, &mut rest);
                }
            }
            Some(Stage::Open) if self.core.job.raw => {
                self.scenario.on_message(&mut self.core, slot, Message::Raw(bytes));
            }
            Some(Stage::Open | Stage::Leaving) => self.on_frames(slot, bytes),
            Some(Stage::Answering | Stage::Ending) | None => {}
        }
    }

    fn on_frames(&mut self, slot: FileSlot, bytes: &mut [u8]) {
        let Some(connection) = self.core.table.at(slot) else { return };
        let mut partial = connection.partial.take();
        let mut incoming = Incoming::new(bytes, &mut partial, RULES);
        let fine = loop {
            let message = match incoming.next() {
                Ok(None) => break true,
                Err(_) => break false,
                Ok(Some(Event::Text(text))) => Message::Text(text),
                Ok(Some(Event::Binary(bytes))) => Message::Binary(bytes),
                Ok(Some(Event::Ping(payload))) => {
                    self.core.send_pong(slot, payload);
                    continue;
                }
                Ok(Some(Event::Pong(_))) => continue,
                Ok(Some(Event::Close { code, reason })) => {
                    self.on_close(slot, code, reason);
                    break true;
                }
            };
            match self.core.table.at(slot).map(|connection| connection.stage) {
                Some(Stage::Open) => self.scenario.on_message(&mut self.core, slot, message),
                Some(Stage::Leaving) => {}
                _ => break true,
            }
        };
        if !fine {
            self.conclude(slot, Ending::Violation, false);
        } else if let Some(connection) = self.core.table.at(slot) {
            connection.partial = partial;
        }
    }
}
