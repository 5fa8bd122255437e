//! Connections that are not let in, and how they are told.
//!
//! A refused connection has its request read to the end before it is answered: an answer before
//! that could be destroyed by the reset that closing with unread bytes sends, and only the
//! request says whether a browser asks, which sees nothing of an HTTP answer. How many are
//! answered at all, and how, is `admission/ladder`.
//!
//! Next to nothing is kept of it meanwhile: a request that has not come at once is kept as long as
//! refused connections have room for it (`heads`); then it is only scanned for its end, discarded as it
//! comes, and answered as if no browser had sent it. While the memory is at its limit nothing is waited
//! for at all: what is not there with the first bytes is reset.
//!
//! Invariant: every refused attempt is counted once by its reason, when it is refused; and at
//! most once by what was done with it, when that is done.

use tracing::debug;

use super::Machine;
use super::context::Request;
use crate::admission::ladder::{Place, Share, Step};
use crate::admission::{RefusalReason, Rung};
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::http::refusal::{Refusal, Status};
use crate::http::request::{Head, HeadScanner};
use crate::http::{response, upgrade};
use crate::ring::Frame;
use crate::websocket::close_frame;

const TOO_LATE: Refusal =
    Refusal::new(Status::RequestTimeout, "the request took longer than handshake.timeout_ms");

/// A connection that is refused and will be answered.
#[derive(Debug)]
pub(crate) struct Refused {
    reason: RefusalReason,
    retry_after_ms: u64,
    place: Place,
    share: Share,
    scanner: HeadScanner,
    /// All that has come of its request is kept in `heads`, or nothing has come.
    is_whole: bool,
}

const _: () = assert!(size_of::<Refused>() <= 32, "one for each refused connection that sends");

impl Machine<'_> {
    /// Answers with a refusal and closes. If the request was `read_whole`, at once; otherwise
    /// the rest of it is discarded first, or the answer would be lost with it.
    pub(super) fn refuse(&mut self, refusal: &Refusal, read_whole: bool) {
        self.cx.handshakes.requests.remove(&self.id.slot);
        self.cx.handshakes.heads.forget(self.id.slot);
        let mut bytes = self.cx.spare.take();
        response::refuse(refusal, &mut bytes);
        self.send(Frame::Own(bytes));
        if read_whole {
            self.flush_and_close();
        } else {
            self.flush_and_linger();
        }
    }

    /// Refuses an upgrade, and says so in the log.
    pub(super) fn refuse_upgrade(&mut self, refusal: &Refusal, read_whole: bool) {
        debug!(
            slot = self.id.slot,
            source = %self.connection.source,
            provenance = self.connection.facts.provenance().label(),
            status = refusal.status.code(),
            detail = refusal.detail,
            "upgrade refused"
        );
        self.connection.reason = Some(CloseReason::HandshakeRefused);
        self.refuse(refusal, read_whole);
    }

    /// Counts a refused attempt by its reason.
    pub(super) fn note_refused(&mut self, reason: RefusalReason) {
        self.cx.metrics.admission_refused[reason.index()].add(1);
        let now_ns = self.cx.clock.now.ns();
        self.cx.refusing.most_refused.count(self.connection.source, reason, now_ns);
        debug!(
            slot = self.id.slot,
            source = %self.connection.source,
            port = self.connection.port,
            provenance = self.connection.facts.provenance().label(),
            reason = reason.label(),
            "connection refused"
        );
    }

    /// Tells a connection that it is refused, or resets it if nothing is left to tell it with.
    /// `request` is what has been read of its request; more of it is read if that is needed.
    pub(super) fn turn_away(
        &mut self,
        reason: RefusalReason,
        retry_after_ms: u64,
        request: Vec<u8>,
    ) {
        self.connection.state = State::TurnedAway;
        let now_ns = self.cx.clock.now.ns();
        let share = self.cx.refusing.share_of(self.connection.source, now_ns);
        let place = match self.cx.refusing.ladder.begin(share, now_ns) {
            Step::Answer(place) => place,
            Step::Reset => return self.turn_away_unheard(Rung::Reset),
            Step::Silence => return self.turn_away_unheard(Rung::Silence),
        };
        let mut scanner = HeadScanner::default();
        let scanned = scanner.scan_next(&request, self.cx.settings.max_head_bytes);
        let refused = Refused { reason, retry_after_ms, place, share, scanner, is_whole: true };
        self.cx.handshakes.requests.insert(self.id.slot, Request::Refused(refused));
        self.cx.next.queue_refused = true;
        if !request.is_empty() {
            self.go_on_refusing(scanned, request, true);
        }
    }

    /// More of the request of a connection that is refused.
    pub(super) fn on_bytes_refused(&mut self, bytes: &[u8]) {
        let request = self.cx.handshakes.requests.get_mut(&self.id.slot);
        let Some(Request::Refused(refused)) = request else {
            debug_assert!(false, "a connection that is refused has an entry");
            return;
        };
        let scanned = refused.scanner.scan_next(bytes, self.cx.settings.max_head_bytes);
        let is_whole = refused.is_whole;
        let mut head = self.cx.handshakes.heads.take(self.id.slot).unwrap_or_default();
        if is_whole {
            head.extend_from_slice(bytes);
        }
        self.go_on_refusing(scanned, head, is_whole);
    }

    /// Answers if the request is over, or is none. `head` is what has come of it, if that is the
    /// whole of it.
    fn go_on_refusing(
        &mut self,
        scanned: Result<Head, Refusal>,
        mut head: Vec<u8>,
        is_whole: bool,
    ) {
        match scanned {
            Ok(Head::Incomplete) if self.cx.refusing.is_locked => {
                self.turn_away_unheard(Rung::Reset);
            }
            Ok(Head::Incomplete) => {
                let handshakes = &mut self.cx.handshakes;
                let is_kept = is_whole && handshakes.heads.keep_refused(self.id, head);
                let request = handshakes.requests.get_mut(&self.id.slot);
                if let Some(Request::Refused(refused)) = request {
                    refused.is_whole = is_kept;
                }
                self.cx.next.holds_more = true;
            }
            Ok(Head::Complete { len }) => {
                head.truncate(len);
                self.answer_refused(is_whole.then_some(&head[..]), true);
            }
            Err(_) => self.answer_refused(None, false),
        }
    }

    /// Tells a connection that it is refused. If its request is not `over`, the rest of it is
    /// discarded.
    fn answer_refused(&mut self, head: Option<&[u8]>, over: bool) {
        let request = self.cx.handshakes.requests.remove(&self.id.slot);
        let Some(Request::Refused(refused)) = request else {
            debug_assert!(false, "a connection that is refused has an entry");
            return;
        };
        let rules = &self.cx.settings.upgrade;
        let request = head.and_then(|head| upgrade::parse(head, rules).ok());
        let browser = request.filter(|request| request.origin.is_some());
        // A browser that offered subprotocols hears nothing of a connection without one.
        let protocol = browser.and_then(|request| request.protocol(rules));
        let key = browser.map(|request| request.key);
        let now_ns = self.cx.clock.now.ns();
        let ladder = &mut self.cx.refusing.ladder;
        let rung = ladder.answer(refused.place, key.is_some(), refused.share, now_ns);
        self.cx.metrics.refusals[rung.index()].add(1);
        match (rung, key) {
            (Rung::Reset | Rung::Silence, _) => self.reset_refused(rung),
            (Rung::Close, Some(key)) => {
                let (code, text) = refused.reason.to_close(refused.retry_after_ms);
                let mut bytes = self.cx.spare.take();
                response::switching_protocols(key, protocol, None, &mut bytes);
                close_frame::encode(code, &text, &mut bytes);
                self.connection.reason = Some(CloseReason::AdmissionRefused);
                self.send(Frame::Own(bytes));
                self.flush_and_linger();
            }
            (Rung::Close, None) | (Rung::Http, _) => {
                self.connection.reason = Some(CloseReason::AdmissionRefused);
                let refusal = refused.reason.to_refusal(refused.retry_after_ms);
                self.refuse(&refusal, over || self.cx.refusing.is_locked);
            }
        }
    }

    /// Resets a connection that is refused, without an answer.
    fn turn_away_unheard(&mut self, rung: Rung) {
        self.cx.metrics.refusals[rung.index()].add(1);
        self.reset_refused(rung);
    }

    /// Nobody is accepted for a moment if even a reset was too much.
    fn reset_refused(&mut self, rung: Rung) {
        if rung == Rung::Silence {
            self.cx.refusing.be_silent(self.cx.clock.tick);
        }
        self.reset();
        self.end(CloseReason::AdmissionRefused);
    }

    /// The deadline of a handshake. A client whose request has begun, or the proxy that forwards it,
    /// is told 408 as far as there is budget for it, and then closes by itself. One that has said
    /// nothing is reset without a word, because browsers and probes open connections that they may
    /// never use, and would take a 408 for the answer to their next request.
    pub(super) fn on_handshake_timeout(&mut self) {
        let waits = matches!(self.connection.state, State::Handshake | State::Unadmitted);
        let begun = matches!(
            self.cx.handshakes.requests.get(&self.id.slot),
            Some(Request::Head(_)) if !self.cx.handshakes.heads.get(self.id.slot).trim_ascii_start().is_empty()
        );
        let now_ns = self.cx.clock.now.ns();
        if !(waits && begun && self.cx.refusing.ladder.answer_timeout(now_ns)) {
            return self.end(CloseReason::HandshakeTimeout);
        }
        self.connection.reason = Some(CloseReason::HandshakeTimeout);
        self.cx.handshakes.forget(self.id);
        self.refuse(&TOO_LATE, false);
    }
}
