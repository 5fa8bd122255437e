//! A connection ends: by a Close handshake, by the end of its stream, or reset.
//!
//! A descriptor is closed only when nothing else is in flight on it; closing with a request
//! armed would send nothing. What is still in flight when a connection must go is completed by
//! a reset (CONNECT with AF_UNSPEC), never by a cancel.

use tracing::debug;

use super::Machine;
use super::context::{Action, Timer};
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::connection::deadline;
use crate::connection::{Connection, Facts, InFlight, NONE, State};
use crate::limits::TICK_MS;
use crate::ring::{Errno, Frame};
use crate::websocket::{Violation, close_frame};

/// A Close from our side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Goodbye<'a> {
    pub(super) reason: CloseReason,
    pub(super) code: u16,
    /// At most 123 bytes.
    pub(super) text: &'a str,
}

impl Machine<'_> {
    /// Begins the Close handshake from our side.
    pub(super) fn begin_close(&mut self, goodbye: &Goodbye<'_>) {
        let nothing = self.cx.spare.take();
        self.begin_close_after(nothing, goodbye);
    }

    /// Begins the Close handshake from our side, with these frames before the Close.
    pub(super) fn begin_close_after(&mut self, last_words: Vec<u8>, goodbye: &Goodbye<'_>) {
        if self.connection.state != State::Open {
            return;
        }
        self.connection.state = State::Closing;
        self.connection.reason = Some(goodbye.reason);
        self.connection.facts.note(Facts::CLOSE_SENT);
        self.let_go_of_session();
        self.send_close_after(last_words, goodbye.code, goodbye.text);
        self.await_end();
    }

    /// The client broke the protocol: it is told, and what it still sends is discarded
    /// (RFC 6455 7.1.7).
    pub(super) fn fail(&mut self, violation: Violation) {
        debug!(slot = self.id.slot, %violation, "protocol violation");
        let code = violation.close_code().into();
        let reason = match code {
            1007 => CloseReason::InvalidPayload,
            1009 => CloseReason::MessageTooBig,
            _ => CloseReason::ProtocolError,
        };
        self.fail_for(reason, violation.reason());
    }

    /// The client is told what was wrong, which is one of the reasons that have a code of their
    /// own, and what it still sends is discarded.
    pub(super) fn fail_for(&mut self, reason: CloseReason, text: &str) {
        self.drop_unfinished();
        match self.connection.state {
            State::Open => {}
            State::Closing => return self.end_quietly(),
            State::Vacant
            | State::Unadmitted
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Handshake
            | State::TurnedAway
            | State::Flushing
            | State::Lingering
            | State::Ending => return,
        }
        self.connection.reason = Some(reason);
        self.connection.facts.note(Facts::CLOSE_SENT);
        debug_assert!(reason.close_code().is_some());
        let nothing = self.cx.spare.take();
        self.send_close_after(nothing, reason.close_code().unwrap_or(1008), text);
        self.flush_and_linger();
    }

    /// The client does not read: what waits for it is dropped, it is told should it wake up,
    /// and reset should it not.
    pub(super) fn give_up_on_reader(&mut self) {
        let reason = CloseReason::SlowConsumer;
        self.begin_close(&Goodbye { reason, code: 1008, text: "slow consumer" });
        self.leave_only_close();
    }

    /// Drops the messages that wait before Close; the one that has begun is finished.
    pub(super) fn leave_only_close(&mut self) {
        debug_assert!(self.connection.facts.has(Facts::CLOSE_SENT), "Close is the last that waits");
        if self.connection.outbound.is_some() {
            self.change_queue(|queue| queue.drop_all_but_close());
        }
    }

    fn send_close_after(&mut self, mut bytes: Vec<u8>, code: u16, text: &str) {
        close_frame::encode(code, text, &mut bytes);
        self.send(Frame::Own(bytes));
    }

    /// The client's end is awaited from now on.
    fn await_end(&mut self) {
        let limits = self.deadlines();
        let ticks = deadline::first_look(self.connection, self.cx.clock.tick, &limits);
        self.set_timer_in(ticks);
    }

    /// Closes as soon as everything queued has gone out.
    pub(super) fn flush_and_close(&mut self) {
        self.let_go_of_session();
        if !self.connection.in_flight.has(InFlight::SEND) {
            return self.end_quietly();
        }
        self.connection.state = State::Flushing;
        self.await_end();
    }

    /// Lingering close: the client can read everything first. Our side is ended (half-close), and what
    /// the client still sends is discarded until it ends its side too.
    pub(super) fn flush_and_linger(&mut self) {
        self.let_go_of_session();
        self.connection.state = State::Lingering;
        if !self.connection.in_flight.has(InFlight::SEND) {
            return self.end_quietly();
        }
        self.await_end();
    }

    /// Ends the connection now, for this reason unless it has one already.
    pub(super) fn end(&mut self, reason: CloseReason) {
        self.connection.reason.get_or_insert(reason);
        self.end_quietly();
    }

    /// The server's own reset: an outcome of its own.
    pub(super) fn cut(&mut self, reason: CloseReason) {
        self.connection.facts.note(Facts::FORCED);
        self.end(reason);
    }

    /// Ends the connection now; its reason is known.
    pub(super) fn end_quietly(&mut self) {
        self.let_go_of_session();
        if self.connection.state == State::Ending {
            return;
        }
        self.connection.state = State::Ending;
        if !self.connection.facts.has(Facts::OPENED) {
            self.cx.handshakes.half_open.left();
        }
        let in_flight = self.connection.in_flight;
        if in_flight.only_listens() && !self.connection.facts.has(Facts::FORCED) {
            self.cancel_receive(); // a reset could destroy what has just been sent
        } else if in_flight.waits_for_peer() {
            self.reset();
        }
        self.drop_unfinished();
        self.drop_unread();
        self.note_taken();
        self.drop_queue();
        let subscriptions = std::mem::replace(&mut self.connection.subscriptions, NONE);
        self.cx.registry.leave(subscriptions);
        self.count_subscriptions();
        self.cx.handshakes.forget(self.id);
        self.cx.next.timer = Timer::Clear;
    }

    /// Sends RST, which completes whatever is in flight.
    pub(super) fn reset(&mut self) {
        if !self.connection.in_flight.has(InFlight::CUT) {
            self.connection.in_flight.begin(InFlight::CUT);
            self.cx.next.reset = true;
        }
    }

    pub(super) fn on_reset(&mut self, result: Result<(), Errno>) {
        self.connection.in_flight.end(InFlight::CUT);
        if let Err(errno) = result {
            // What is still armed may never complete. Its generation is over after the close,
            // so a late completion is dropped at dispatch.
            debug!(slot = self.id.slot, error = %errno, "reset failed");
            self.connection.in_flight = InFlight::default();
        }
    }

    /// Cancels the multishot receive of a client that has gone quiet or does not read.
    pub(super) fn cancel_receive(&mut self) {
        let in_flight = &mut self.connection.in_flight;
        if in_flight.has(InFlight::LASTING) && !in_flight.has(InFlight::CALM) {
            in_flight.begin(InFlight::CALM);
            self.cx.next.cancel_receive = true;
        }
    }

    /// Closes the descriptor of an ending connection once nothing is in flight on it.
    pub(super) fn close_if_quiet(&mut self) {
        if self.connection.state == State::Ending && self.connection.in_flight.is_empty() {
            self.connection.in_flight.begin(InFlight::CLOSE);
            self.cx.next.close = true;
        }
    }

    /// The descriptor is free: the end is counted, and its budgets are given back.
    pub(super) fn on_closed(&mut self) {
        let facts = self.connection.facts;
        let source = self.connection.source;
        let reason = self.connection.reason.unwrap_or(CloseReason::Reset);
        self.cx.next.ended = true;
        if facts.has(Facts::MOVED) {
            let moved = Action::Ended { source, admitted: false, outcome: None };
            return self.cx.actions.push((self.id, moved));
        }
        let accepted_tick = self.connection.accepted_tick;
        let accepted_ms = u64::from(accepted_tick) * TICK_MS;
        let age_ms = u64::from(self.cx.clock.tick.wrapping_sub(accepted_tick)) * TICK_MS;
        let metrics = &self.cx.metrics;
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
            slot = self.id.slot,
            %source,
            provenance = facts.provenance().label(),
            reason = reason.label(),
            "connection closed"
        );
        let outcome = facts.has(Facts::DRAINED).then(|| outcome(self.connection, reason));
        let ended = Action::Ended { source, admitted: facts.has(Facts::ADMITTED), outcome };
        self.cx.actions.push((self.id, ended));
    }

    /// Forgets what the client has sent of a message.
    pub(super) fn drop_unfinished(&mut self) {
        if self.connection.partial.take().is_some() {
            let unfinished = &mut self.cx.budgets.unfinished;
            unfinished.remove(self.id.slot);
            self.cx.metrics.unfinished_bytes.set(unfinished.held());
        }
    }

    /// Forgets what waits to be read: the connection is not listened to any more.
    pub(super) fn drop_unread(&mut self) {
        if let Some(kept) = self.cx.unread.take(self.id) {
            self.cx.budgets.output.release(kept.bytes.len());
        }
    }

    fn drop_queue(&mut self) {
        if let Some(queue) = self.connection.outbound.take() {
            self.cx.budgets.output.release(queue.held_bytes());
            self.count_queued(queue.bytes(), 0);
        }
    }

    /// Shows what the registry holds.
    pub(super) fn count_subscriptions(&self) {
        let (metrics, registry) = (&self.cx.metrics, &self.cx.registry);
        metrics.subscriptions.set(registry.len() as u64);
        metrics.channel_bytes.set(registry.bytes());
    }

    /// The connection sends nothing more that counts: its session is free. Done once.
    pub(super) fn let_go_of_session(&mut self) {
        if self.connection.facts.has(Facts::SESSION) {
            self.connection.facts.forget(Facts::SESSION);
            let (messages, first) = (self.connection.messages, self.connection.subscriptions);
            self.cx.sessions.let_go(self.id, messages, first, &self.cx.registry);
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
