//! Those who are not let in: who they are, and how they are told.
//!
//! A refused connection has its request read to the end before it is answered: an answer before
//! that could be destroyed by the reset that closing with unread bytes sends, and only the
//! request says whether a browser asks, which sees nothing of an HTTP answer. How many are
//! answered at all, and how, is `admission/ladder`.
//!
//! Next to nothing is kept of it meanwhile: a request that has not come at once is kept as long as
//! refused ones have room for it (`heads`); then it is only scanned for its end, discarded as it comes,
//! and answered as if no browser had sent it. While the memory is at its limit nothing is waited for
//! at all: what is not there with the first bytes is reset.
//!
//! Invariant: every refused attempt is counted once by its reason, when it is refused; and at
//! most once by what was done with it, when that is done.

use ahash::RandomState;

use super::Shard;
use super::on_receive::BeforeUpgrade;
use super::settings::Settings;
use crate::admission::ladder::{Place, Share, Step};
use crate::admission::{HeavyHitters, Ladder, RefusalReason, RefusalShares, Rung};
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::connection::deadline::is_reached;
use crate::environment::Environment;
use crate::http::refusal::{Refusal, Status};
use crate::http::request::{Head, HeadScanner};
use crate::http::{response, upgrade};
use crate::ring::{Frame, Received, Ring, Token};
use crate::websocket::close_frame;

/// How long nobody is accepted when all ways to refuse are used up: 64 to 128 ms. The budgets
/// refill meanwhile, and who is in the backlog is accepted afterwards.
const SILENCE_TICKS: u32 = 2;

const TOO_LATE: Refusal =
    Refusal::new(Status::RequestTimeout, "the request took longer than handshake.timeout_ms");

/// What a shard keeps for refusing.
#[derive(Debug)]
pub(super) struct Refusing {
    /// The sources that were refused most.
    pub(super) most_refused: HeavyHitters,
    ladder: Ladder,
    shares: RefusalShares,
    /// Nobody is accepted before this tick.
    silent_until: Option<u32>,
}

/// A connection that is refused and will be answered.
#[derive(Debug)]
pub(super) struct TurnedAway {
    reason: RefusalReason,
    retry_after_ms: u64,
    place: Place,
    share: Share,
    scanner: HeadScanner,
    /// All that has come of its request is kept in `heads`, or nothing has come.
    is_whole: bool,
}

const _: () = assert!(size_of::<TurnedAway>() <= 32, "one for each refused connection that sends");

impl Refusing {
    pub(super) fn new(settings: &Settings, hash: RandomState) -> Self {
        Self {
            most_refused: HeavyHitters::default(),
            ladder: Ladder::new(settings.refusal_rates, settings.shards),
            shares: RefusalShares::new(hash),
            silent_until: None,
        }
    }

    /// See [`Ladder::answer_unidentified`].
    pub(super) fn answers_unidentified(&mut self, now_ns: u64) -> bool {
        self.ladder.answer_unidentified(now_ns)
    }
}

impl<E: Environment> Shard<E> {
    /// Nobody is accepted for a moment.
    pub(super) fn is_silent(&self) -> bool {
        self.refusing.silent_until.is_some_and(|until| !is_reached(until, self.tick))
    }

    /// Tells a connection that it is refused, or resets it if nothing is left to tell it with.
    /// `request` is what has been read of its request; more of it is read if that is needed.
    pub(super) fn turn_away(
        &mut self,
        token: Token,
        reason: RefusalReason,
        retry_after_ms: u64,
        request: &[u8],
    ) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.state = State::TurnedAway;
        let is_above = self.refusing.shares.count(connection.source, self.now.ns());
        let share = if is_above { Share::Above } else { Share::Within };
        let place = match self.refusing.ladder.begin(share, self.now.ns()) {
            Step::Answer(place) => place,
            Step::Reset => return self.turn_away_unheard(token, Rung::Reset),
            Step::Silence => return self.turn_away_unheard(token, Rung::Silence),
        };
        let mut scanner = HeadScanner::default();
        let scanned = scanner.scan_next(request, self.settings.max_head_bytes);
        let away = TurnedAway { reason, retry_after_ms, place, share, scanner, is_whole: true };
        self.before_upgrade.insert(token.slot, BeforeUpgrade::TurnedAway(away));
        self.queue_refused(token);
        if !request.is_empty() {
            self.go_on_refusing(token, scanned, request.to_vec(), true);
        }
    }

    /// The same for a connection from which nothing has been read, and on which nothing waits.
    pub(super) fn turn_away_unread(
        &mut self,
        token: Token,
        reason: RefusalReason,
        retry_after_ms: u64,
    ) {
        self.turn_away(token, reason, retry_after_ms, &[]);
        let connection = self.connections.get_mut(token);
        if connection.is_some_and(|connection| connection.state == State::TurnedAway) {
            self.listen_for_request(token);
        }
    }

    /// More of the request of a connection that is refused.
    pub(super) fn on_bytes_turned_away(&mut self, token: Token, received: &Received) {
        let Some(BeforeUpgrade::TurnedAway(away)) = self.before_upgrade.get_mut(&token.slot) else {
            return;
        };
        let bytes = self.ring.bytes(received);
        let scanned = away.scanner.scan_next(bytes, self.settings.max_head_bytes);
        let is_whole = away.is_whole;
        let mut head = self.heads.take(token.slot).unwrap_or_default();
        if is_whole {
            head.extend_from_slice(bytes);
        }
        self.go_on_refusing(token, scanned, head, is_whole);
    }

    /// Answers if the request is over, or is none. `head` is what has come of it, if that is the
    /// whole of it.
    fn go_on_refusing(
        &mut self,
        token: Token,
        scanned: Result<Head, Refusal>,
        mut head: Vec<u8>,
        is_whole: bool,
    ) {
        match scanned {
            Ok(Head::Incomplete) if self.admission.is_locked() => {
                self.turn_away_unheard(token, Rung::Reset);
            }
            Ok(Head::Incomplete) => {
                let is_kept = is_whole && self.heads.keep_refused(token, head);
                let away = self.before_upgrade.get_mut(&token.slot);
                if let Some(BeforeUpgrade::TurnedAway(away)) = away {
                    away.is_whole = is_kept;
                }
            }
            Ok(Head::Complete { len }) => {
                head.truncate(len);
                self.answer_turned_away(token, is_whole.then_some(&head[..]), true);
            }
            Err(_) => self.answer_turned_away(token, None, false),
        }
    }

    /// Tells a connection that it is refused. If its request is not `over`, the rest of it is
    /// discarded.
    fn answer_turned_away(&mut self, token: Token, head: Option<&[u8]>, over: bool) {
        let Some(BeforeUpgrade::TurnedAway(away)) = self.before_upgrade.remove(&token.slot) else {
            return;
        };
        let request = head.and_then(|head| upgrade::parse(head, &self.settings.upgrade).ok());
        let browser = request.filter(|request| request.origin.is_some());
        // A browser that offered subprotocols hears nothing of a connection without one.
        let protocol = browser.and_then(|request| request.protocol(&self.settings.upgrade));
        let key = browser.map(|request| request.key);
        let rung =
            self.refusing.ladder.answer(away.place, key.is_some(), away.share, self.now.ns());
        match (rung, key) {
            (Rung::Reset | Rung::Silence, _) => return self.turn_away_unheard(token, rung),
            (Rung::Close, Some(key)) => {
                let (code, text) = away.reason.to_close(away.retry_after_ms);
                let mut bytes = self.spare_buffer();
                response::switching_protocols(key, protocol, None, &mut bytes);
                close_frame::encode(code, &text, &mut bytes);
                self.note_turned_away(token);
                self.send(token, Frame::Own(bytes));
                self.flush_and_linger(token);
            }
            _ => {
                self.note_turned_away(token);
                let refusal = away.reason.to_refusal(away.retry_after_ms);
                self.refuse(token, &refusal, over || self.admission.is_locked());
            }
        }
        self.metrics.refusals[rung.index()].add(1);
    }

    /// The deadline of a handshake. A client whose request has begun, or the proxy that forwards it,
    /// is told 408 as far as there is budget for it, and then closes by itself. One that has said
    /// nothing is cut without a word, because browsers and probes open connections that they may
    /// never use, and would take a 408 for the answer to their next request.
    pub(super) fn on_handshake_timeout(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let waits = matches!(connection.state, State::Handshake | State::Unadmitted);
        let begun = matches!(
            self.before_upgrade.get(&token.slot),
            Some(BeforeUpgrade::Head(_)) if !self.heads.get(token.slot).trim_ascii_start().is_empty()
        );
        if !(waits && begun && self.refusing.ladder.answer_timeout(self.now.ns())) {
            return self.end(token, CloseReason::HandshakeTimeout);
        }
        connection.reason = Some(CloseReason::HandshakeTimeout);
        self.unadmitted.remove(&token.slot);
        self.refuse(token, &TOO_LATE, false);
    }

    /// Resets a connection that is refused, and is silent afterwards if that was too much too.
    fn turn_away_unheard(&mut self, token: Token, rung: Rung) {
        self.metrics.refusals[rung.index()].add(1);
        if rung == Rung::Silence {
            self.refusing.silent_until = Some(self.tick.wrapping_add(SILENCE_TICKS));
        }
        self.reset(token);
        self.end(token, CloseReason::AdmissionRefused);
    }

    fn note_turned_away(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        debug_assert!(connection.state == State::TurnedAway);
        connection.reason = Some(CloseReason::AdmissionRefused);
    }
}
