//! How connections end, and how their descriptors are given back.
//!
//! A descriptor is closed when nothing is in flight on it. A lasting receive is called off; what
//! else is in flight is ended by a reset, because closing alone would send nothing while a watch
//! holds the socket.

use tidegate::ring::{Errno, FileSlot, Operation, Ring, SendBatch, Token};
use tidegate::websocket::{Control, OpCode, close_frame, frame};

use super::connection::Stage;
use super::core::Core;
use super::{Client, End, Scenario};
use crate::fate::{Ending, Failure, Fate, Step};

impl<C> Core<C> {
    /// Enters the fate of a connection into the books, once.
    pub(super) fn settle(&mut self, slot: FileSlot, fate: Fate) {
        if let Some(connection) = self.table.at(slot)
            && !connection.settled
        {
            connection.settled = true;
            let visit = connection.visit;
            self.book(visit).settle(fate);
        }
    }

    fn is_settled(&mut self, slot: FileSlot) -> bool {
        self.table.at(slot).is_none_or(|connection| connection.settled)
    }

    /// An attempt has failed.
    pub(super) fn fail(&mut self, slot: FileSlot, failure: Failure) {
        self.settle(slot, Fate::Failed(failure));
        self.bounce_slot(slot, None, None);
        self.end(slot);
    }

    /// Nothing more is read or sent; the descriptor is closed as soon as that is possible.
    pub(super) fn end(&mut self, slot: FileSlot) {
        let token = self.table.token(slot);
        let Some(connection) = self.table.at(slot) else { return };
        if connection.stage == Stage::Ending {
            return;
        }
        connection.stage = Stage::Ending;
        connection.opening = None;
        connection.partial = None;
        connection.outbox = Vec::new();
        if connection.is_quiet() {
            self.ring.start(Operation::Close(token));
        } else if connection.lasting && !connection.sending {
            // Only a receive is in flight: it is called off, so that the peer sees FIN.
            self.ring.start(Operation::Calm(token));
        } else {
            connection.cutting = true;
            self.ring.start(Operation::Cut(token));
        }
    }

    /// Something that was in flight on an ending connection has completed.
    pub(super) fn close_when_quiet(&mut self, slot: FileSlot) {
        let token = self.table.token(slot);
        if let Some(connection) = self.table.at(slot)
            && connection.is_quiet()
        {
            self.ring.start(Operation::Close(token));
        }
    }

    pub(super) fn on_closed(&mut self, token: Token) {
        if self.table.named(token).is_some() {
            self.table.remove(token.slot);
        }
    }

    /// A step of the opening has completed; false if the attempt was given up meanwhile.
    pub(super) fn step_done(&mut self, token: Token) -> bool {
        let Some(connection) = self.table.named(token) else { return false };
        connection.sending = false;
        if connection.stage == Stage::Ending {
            self.close_when_quiet(token.slot);
            return false;
        }
        true
    }

    /// Closes the books: attempts without an answer have failed, what is open is open. With
    /// `politely` the open connections are then ended by a closing handshake.
    pub(crate) fn finish(&mut self, politely: bool) {
        self.finished = true;
        for at in 0..self.begun.len() {
            let visit = self.begun[at].visit;
            self.book(visit).settle(Fate::Failed(Failure::Unfinished(Step::Socket)));
        }
        for slot in 0..self.table.slots() {
            match self.table.at(slot).map(|connection| (connection.stage, connection.deaf)) {
                Some((Stage::Opening(step), _)) => self.fail(slot, Failure::Unfinished(step)),
                Some((Stage::Open, deaf)) => {
                    self.settle(slot, Fate::Open);
                    if politely && !deaf && !self.job.raw {
                        self.leave(slot);
                    } else {
                        self.end(slot);
                    }
                }
                // Its Close has not been answered yet; how it ends is not known.
                Some((Stage::Leaving, _)) => self.settle(slot, Fate::Open),
                _ => {}
            }
        }
    }

    /// Begins the closing handshake; the peer's Close ends the connection.
    pub(crate) fn leave(&mut self, slot: FileSlot) {
        let key = self.mask_key();
        if let Some(connection) = self.table.at(slot) {
            connection.stage = Stage::Leaving;
        }
        self.send_with(slot, |out| close_frame::encode_masked(1000, "", key, out));
    }

    /// Cuts an open connection and counts how it ended.
    pub(crate) fn give_up(&mut self, slot: FileSlot, ending: Ending) {
        self.settle(slot, Fate::Ended(ending));
        self.end(slot);
    }
}

impl<S: Scenario> Client<S> {
    /// The peer's Close.
    pub(super) fn on_close(&mut self, slot: FileSlot, code: Option<u16>, reason: &str) {
        match self.core.table.at(slot).map(|connection| connection.stage) {
            Some(Stage::Open) => {}
            Some(Stage::Leaving) => {
                if !self.core.is_settled(slot) {
                    self.scenario.on_close_frame(&mut self.core, slot, code, reason);
                    self.core.settle(slot, Fate::Ended(Ending::Close(code)));
                }
                return self.core.end(slot);
            }
            _ => return,
        }
        self.scenario.on_close_frame(&mut self.core, slot, code, reason);
        self.core.settle(slot, Fate::Ended(Ending::Close(code)));
        if let Some(connection) = self.core.table.at(slot) {
            connection.stage = Stage::Answering;
            connection.answered_code = code;
        }
        let key = self.core.mask_key();
        self.core.send_with(slot, |out| match code {
            Some(code) => close_frame::encode_masked(code, "", key, out),
            None => frame::encode_masked(OpCode::Control(Control::Close), &[], key, out),
        });
    }

    pub(super) fn on_sent(
        &mut self,
        token: Token,
        result: Result<usize, Errno>,
        mut batch: SendBatch,
    ) {
        let slot = token.slot;
        if !self.core.step_done(token) {
            return self.core.recycle(batch);
        }
        let Some(connection) = self.core.table.at(slot) else { return };
        match result {
            Ok(sent) => {
                batch.advance(sent);
                if batch.remaining() > 0 {
                    connection.sending = true;
                    return self.core.ring.start(Operation::Send(token, batch));
                }
                let answered = connection.stage == Stage::Answering && connection.outbox.is_empty();
                let code = connection.answered_code;
                self.core.recycle(batch);
                if answered {
                    self.conclude(slot, Ending::Close(code), true);
                } else {
                    self.core.flush(slot);
                }
            }
            // What the peer sent before it reset the connection can still be read, and reading
            // tells how it ended. Where nothing is read, this is the end.
            Err(_) if connection.reading => {}
            Err(errno) => match connection.stage {
                Stage::Answering => {
                    let code = connection.answered_code;
                    self.conclude(slot, Ending::Close(code), false);
                }
                _ => self.on_error(slot, errno),
            },
        }
    }

    pub(super) fn on_cut(&mut self, token: Token) {
        if let Some(connection) = self.core.table.named(token) {
            connection.cutting = false;
            self.core.close_when_quiet(token.slot);
        }
    }

    pub(super) fn on_end_of_stream(&mut self, slot: FileSlot) {
        match self.core.table.at(slot).map(|connection| connection.stage) {
            Some(Stage::Opening(_)) => self.core.fail(slot, Failure::ClosedUnanswered),
            _ if self.core.table.at(slot).is_some_and(|connection| connection.discarding) => {
                self.conclude(slot, Ending::EofUnread, false);
            }
            _ => self.conclude(slot, Ending::Eof, false),
        }
    }

    pub(super) fn on_error(&mut self, slot: FileSlot, errno: Errno) {
        match self.core.table.at(slot).map(|connection| connection.stage) {
            Some(Stage::Opening(step)) => self.core.fail(slot, Failure::Errno(step, errno.0)),
            _ => self.conclude(slot, Ending::of_errno(errno), false),
        }
    }

    /// An admitted connection is over.
    pub(super) fn conclude(&mut self, slot: FileSlot, ending: Ending, answered: bool) {
        let Some(connection) = self.core.table.at(slot) else { return };
        let counted = matches!(connection.stage, Stage::Open | Stage::Answering);
        let state = std::mem::take(&mut connection.state);
        let (index, visit) = (connection.index, connection.visit);
        self.core.settle(slot, Fate::Ended(ending));
        if counted {
            let end = End { index, visit, state: &state, ending, answered };
            self.scenario.on_end(&mut self.core, end);
        }
        self.core.end(slot);
    }
}
