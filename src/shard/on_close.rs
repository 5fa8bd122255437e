//! A connection ends: by a Close handshake, by the end of its stream, or cut.
//!
//! A descriptor is closed only when nothing else is in flight on it; closing with a request
//! armed would send nothing. What is still in flight when a connection must go is completed by
//! a reset (CONNECT with AF_UNSPEC), never by a cancel.

use tracing::debug;

use super::Shard;
use super::on_receive::Listen;
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::connection::{Connection, Facts, InFlight, State};
use crate::environment::Environment;
use crate::limits::TICK_MS;
use crate::ring::{Errno, Frame, Operation, Ring, Token};
use crate::websocket::{Violation, close_frame};

/// A Close from our side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goodbye<'a> {
    pub(super) reason: CloseReason,
    pub(super) code: u16,
    /// At most 123 bytes.
    pub(super) text: &'a str,
}

impl<E: Environment> Shard<E> {
    /// Begins the Close handshake from our side.
    pub(super) fn begin_close(&mut self, token: Token, goodbye: &Goodbye<'_>) {
        let nothing = self.spare_buffer();
        self.begin_close_after(nothing, token, goodbye);
    }

    /// The same, with these frames before the Close.
    pub(super) fn begin_close_after(
        &mut self,
        last_words: Vec<u8>,
        token: Token,
        goodbye: &Goodbye<'_>,
    ) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state != State::Open {
            return;
        }
        connection.state = State::Closing;
        connection.reason = Some(goodbye.reason);
        connection.facts.note(Facts::CLOSE_SENT);
        self.let_go_of_session(token);
        self.send_close_after(last_words, token, goodbye.code, goodbye.text);
        self.await_end(token);
    }

    /// The client broke the protocol: it is told, and what it still sends is discarded
    /// (RFC 6455 7.1.7).
    pub(super) fn fail(&mut self, token: Token, violation: Violation) {
        debug!(slot = token.slot, %violation, "protocol violation");
        let code = violation.close_code().into();
        let reason = match code {
            1007 => CloseReason::InvalidPayload,
            1009 => CloseReason::MessageTooBig,
            _ => CloseReason::ProtocolError,
        };
        self.fail_for(token, reason, violation.reason());
    }

    /// The client is told what was wrong, which is one of the reasons that have a code of their
    /// own, and what it still sends is discarded.
    pub(super) fn fail_for(&mut self, token: Token, reason: CloseReason, text: &str) {
        self.drop_unfinished(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        match connection.state {
            State::Open => {}
            State::Closing => return self.end_quietly(token),
            _ => return,
        }
        connection.reason = Some(reason);
        connection.facts.note(Facts::CLOSE_SENT);
        debug_assert!(reason.close_code().is_some());
        self.send_close(token, reason.close_code().unwrap_or(1008), text);
        self.flush_and_linger(token);
    }

    /// The client does not read: what waits for it is dropped, it is told should it wake up,
    /// and cut should it not.
    pub(super) fn give_up_on_reader(&mut self, token: Token) {
        let reason = CloseReason::SlowConsumer;
        self.begin_close(token, &Goodbye { reason, code: 1008, text: "slow consumer" });
        self.leave_only_close(token);
    }

    fn send_close(&mut self, token: Token, code: u16, text: &str) {
        let nothing = self.spare_buffer();
        self.send_close_after(nothing, token, code, text);
    }

    fn send_close_after(&mut self, mut bytes: Vec<u8>, token: Token, code: u16, text: &str) {
        close_frame::encode(code, text, &mut bytes);
        self.send(token, Frame::Own(bytes));
    }

    /// Closes as soon as everything queued has gone out.
    pub(super) fn flush_and_close(&mut self, token: Token) {
        self.let_go_of_session(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !connection.in_flight.has(InFlight::SEND) {
            return self.end_quietly(token);
        }
        connection.state = State::Flushing;
        self.await_end(token);
    }

    /// As [`Self::flush_and_close`], but lets the client read everything first: our side is
    /// ended, and what the client still sends is discarded until it ends its side too.
    pub(super) fn flush_and_linger(&mut self, token: Token) {
        self.let_go_of_session(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.state = State::Lingering;
        if !connection.in_flight.has(InFlight::SEND) {
            return self.end_quietly(token);
        }
        self.await_end(token);
    }

    pub(super) fn on_half_closed(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::HALF_CLOSE);
        match connection.state {
            State::Ending => self.close_if_quiet(token),
            _ => self.listen_again(token, Listen::Idle),
        }
    }

    /// Ends the connection now, for this reason unless it has one already.
    pub(super) fn end(&mut self, token: Token, reason: CloseReason) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.reason.get_or_insert(reason);
        }
        self.end_quietly(token);
    }

    /// The server's own cut: an outcome of its own.
    pub(super) fn cut(&mut self, token: Token, reason: CloseReason) {
        if let Some(connection) = self.connections.get_mut(token) {
            connection.facts.note(Facts::FORCED);
        }
        self.end(token, reason);
    }

    /// Ends the connection now; its reason is known.
    pub(super) fn end_quietly(&mut self, token: Token) {
        self.let_go_of_session(token);
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state == State::Ending {
            return;
        }
        connection.state = State::Ending;
        if !connection.facts.has(Facts::OPENED) {
            self.half_open.left();
        }
        let subscriptions =
            std::mem::replace(&mut connection.subscriptions, crate::connection::NONE);
        let in_flight = connection.in_flight;
        if in_flight.only_listens() && !connection.facts.has(Facts::FORCED) {
            self.calm(token); // a reset could destroy what has just been sent
        } else if in_flight.waits_for_peer() {
            self.reset(token);
        }
        self.drop_unfinished(token);
        self.drop_unread(token);
        self.note_taken(token);
        self.registry.leave(subscriptions);
        self.count_subscriptions();
        self.before_upgrade.remove(&token.slot);
        self.unadmitted.remove(&token.slot);
        self.heads.forget(token.slot);
        self.timers.clear(&mut self.connections, token.slot);
        self.drop_queue(token);
        self.close_if_quiet(token);
    }

    /// Sends RST, which completes whatever is in flight.
    pub(super) fn reset(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !connection.in_flight.has(InFlight::CUT) {
            connection.in_flight.begin(InFlight::CUT);
            self.ring.start(Operation::Cut(token));
        }
    }

    pub(super) fn on_cut(&mut self, token: Token, result: Result<(), Errno>) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.in_flight.end(InFlight::CUT);
        if let Err(errno) = result {
            // What is still armed may never complete. Its generation is over after the close,
            // so a late completion is dropped at dispatch.
            debug!(slot = token.slot, error = %errno, "cut failed");
            connection.in_flight = InFlight::default();
        }
        self.close_if_quiet(token);
    }

    /// Closes the descriptor of an ending connection once nothing is in flight on it.
    pub(super) fn close_if_quiet(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state == State::Ending && connection.in_flight.is_empty() {
            connection.in_flight.begin(InFlight::CLOSE);
            self.ring.start(Operation::Close(token));
        }
    }

    /// The slot is free: budgets are given back and the end is counted.
    pub(super) fn on_closed(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        let facts = connection.facts;
        let source = connection.source;
        let reason = connection.reason.unwrap_or(CloseReason::Reset);
        let accepted_ms = u64::from(connection.accepted_tick) * TICK_MS;
        let age_ms = u64::from(self.tick.wrapping_sub(connection.accepted_tick)) * TICK_MS;
        let outcome = facts.has(Facts::DRAINED).then(|| outcome(connection, reason));
        let metrics = &self.metrics;
        if facts.has(Facts::MOVED) {
            self.connections.end_life(token.slot);
            return self.resume_accepting(true);
        }
        if facts.has(Facts::OPENED) {
            metrics.connections.set(metrics.connections.get().saturating_sub(1));
            metrics.closed[reason.index()].add(1);
            if facts.window().is_some() {
                metrics.compressing.set(metrics.compressing.get().saturating_sub(1));
            }
            metrics.connection_ms.add(age_ms);
            metrics.open_since_ms.set(metrics.open_since_ms.get().saturating_sub(accepted_ms));
        } else {
            metrics.handshaking.set(metrics.handshaking.get().saturating_sub(1));
            metrics.handshakes_ended[reason.index()].add(1);
        }
        debug!(
            slot = token.slot,
            %source,
            provenance = facts.provenance().label(),
            reason = reason.label(),
            "connection closed"
        );
        if facts.has(Facts::ADMITTED) {
            self.release(source);
        }
        self.connections.end_life(token.slot);
        if let Some(outcome) = outcome {
            self.say_left(source, outcome);
            self.on_drained(outcome);
        }
        self.resume_accepting(true);
    }

    fn drop_queue(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if let Some(queue) = connection.outbound.take() {
            self.output.release(queue.held_bytes());
            self.count_queued(queue.bytes(), 0);
        }
    }
}

/// What became of a connection that was there when the drain began.
pub(super) fn outcome(connection: &Connection, reason: CloseReason) -> DrainOutcome {
    let facts = connection.facts;
    if !facts.has(Facts::OPENED) {
        return DrainOutcome::RefusedLate;
    }
    if facts.has(Facts::ACKNOWLEDGED) {
        return DrainOutcome::CloseAcknowledged;
    }
    if facts.has(Facts::FORCED) {
        return DrainOutcome::Forced;
    }
    match reason {
        CloseReason::Reset => DrainOutcome::Reset,
        _ if facts.has(Facts::CLOSE_SENT) => DrainOutcome::CloseSent,
        _ => DrainOutcome::PeerClosed,
    }
}
