//! What a drain means for one connection: the notice with its slot, bye and Close, the end; or that
//! the server stays after all.

use serde_json::json;

use super::ending::{Goodbye, outcome};
use super::{Machine, Reply};
use crate::admission::{RefusalReason, Rung, Verdict};
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::connection::{Facts, State};
use crate::limits;
use crate::ring::Frame;
use crate::websocket::{Data, OpCode, frame};

/// `server.shutdown`: why, and when and where to come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice<'a> {
    pub(crate) reason: &'a str,
    pub(crate) reconnect_after_ms: u64,
    pub(crate) reconnect_to: Option<&'a str>,
}

impl Machine<'_> {
    /// The server begins to refuse: whoever is not upgraded is told so. A connection that is not
    /// admitted is none of the drain's; one that is has been counted by it.
    pub(super) fn on_refusing_begins(&mut self) {
        let (reason, retry_after_ms) = (RefusalReason::Draining, limits::RETRY_AFTER_MS);
        match self.connection.state {
            State::Unadmitted => {
                self.cx.handshakes.forget(self.id);
                self.note_refused(reason);
                self.cx.metrics.refusals[Rung::Http.index()].add(1);
                self.connection.reason = Some(CloseReason::AdmissionRefused);
                self.refuse(&reason.to_refusal(retry_after_ms), false);
            }
            State::Awaiting => {
                self.on_verdict(Verdict::Refused { reason, retry_after_ms }, None);
            }
            State::Handshake => {
                self.connection.reason = Some(CloseReason::HandshakeRefused);
                self.refuse(&reason.to_refusal(retry_after_ms), false);
            }
            State::Vacant
            | State::Leaving
            | State::Arriving
            | State::TurnedAway
            | State::Open
            | State::Closing
            | State::Flushing
            | State::Lingering
            | State::Ending => {}
        }
    }

    fn is_drained_and_open(&self) -> bool {
        self.connection.state == State::Open && self.connection.facts.has(Facts::DRAINED)
    }

    pub(super) fn on_notice(&mut self, notice: Notice<'_>) -> Reply {
        if !self.is_drained_and_open() {
            return Reply::Passed;
        }
        let mut bytes = self.cx.spare.take();
        self.write_notice(notice, &mut bytes);
        self.send(Frame::Own(bytes));
        Reply::Done
    }

    /// Bye and Close, and before them the notice if it has not been sent: one send and one segment,
    /// where each more is a fifth of what it costs to let a connection go.
    pub(super) fn on_goodbye(
        &mut self,
        notice: Option<Notice<'_>>,
        close_code: u16,
        patient: bool,
    ) -> Reply {
        if !self.is_drained_and_open() {
            return Reply::Passed;
        }
        if patient && self.connection.is_mid_message() {
            return Reply::Later;
        }
        let mut last_words = self.cx.spare.take();
        if let Some(notice) = notice {
            self.write_notice(notice, &mut last_words);
        }
        self.write_bye(&mut last_words);
        let (reason, text) = (CloseReason::Shutdown, "server shutdown");
        self.begin_close_after(last_words, &Goodbye { reason, code: close_code, text });
        Reply::Done
    }

    /// What a client of the drain has not been sent by now is dropped, but for its Close.
    pub(super) fn on_only_close(&mut self) {
        let facts = self.connection.facts;
        let waits = matches!(self.connection.state, State::Closing | State::Flushing);
        if waits && facts.has(Facts::DRAINED) && facts.has(Facts::CLOSE_SENT) {
            self.leave_only_close();
        }
    }

    pub(super) fn on_drain_cut(&mut self) {
        if self.connection.facts.has(Facts::DRAINED) {
            self.cut(CloseReason::Shutdown);
        }
    }

    /// The server stays, and so may the client; it hears so if it has heard the notice.
    pub(super) fn on_drain_cancelled(&mut self, noticed: bool) -> Reply {
        if !self.is_drained_and_open() {
            return Reply::Passed;
        }
        self.connection.facts.forget(Facts::DRAINED);
        if noticed {
            let mut bytes = self.cx.spare.take();
            self.write_text(r#"{"type":"server.shutdown_cancelled"}"#, &mut bytes);
            self.send(Frame::Own(bytes));
        }
        Reply::Settled(DrainOutcome::Stayed)
    }

    /// Counted as it is now, without waiting for its end.
    pub(super) fn on_drain_settled(&mut self) -> Reply {
        if !self.connection.facts.has(Facts::DRAINED) {
            return Reply::Passed;
        }
        self.connection.facts.forget(Facts::DRAINED);
        let reason = self.connection.reason.unwrap_or(CloseReason::Shutdown);
        Reply::Settled(match self.connection.state {
            State::Open => DrainOutcome::Stayed,
            State::Vacant
            | State::Unadmitted
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Handshake
            | State::TurnedAway
            | State::Closing
            | State::Flushing
            | State::Lingering
            | State::Ending => outcome(self.connection, reason),
        })
    }

    /// `server.shutdown`, with the time to come back (D22).
    fn write_notice(&self, notice: Notice<'_>, out: &mut Vec<u8>) {
        let mut text = json!({
            "type": "server.shutdown",
            "reason": notice.reason,
            "reconnect_after_ms": notice.reconnect_after_ms,
        });
        if let Some(address) = notice.reconnect_to {
            text["reconnect_to"] = address.into();
        }
        self.write_text(&text.to_string(), out);
    }

    /// The last message before Close (S2.15).
    fn write_bye(&mut self, out: &mut Vec<u8>) {
        let own = u64::from(self.connection.messages);
        let has_session = self.connection.facts.has(Facts::SESSION);
        let before = if has_session { self.cx.sessions.messages_before(self.id) } else { 0 };
        let count = before.saturating_add(own);
        let bye = json!({
            "bye": true,
            "total": count,
            "message": "Server is shutting down gracefully",
        });
        self.write_text(&bye.to_string(), out);
        self.cx.shutdown.log.bye(self.connection.source, count);
    }

    fn write_text(&self, text: &str, out: &mut Vec<u8>) {
        frame::encode(OpCode::Data(Data::Text), text.as_bytes(), out);
        self.cx.metrics.messages_sent.add(1);
    }
}
