//! Frames are decoded in place, and the connection's handler is called once for each message. What
//! the handler wants done is done afterwards, in its order: its messages first, then the rest.

use super::Machine;
use super::context::Action;
use super::ending::Goodbye;
use crate::close_reason::CloseReason;
use crate::connection::pongs::Pongs;
use crate::connection::{Facts, State};
use crate::handler::{Effect, Inbound};
use crate::limits;
use crate::ring::Frame;
use crate::shard::fan_out::Publication;
use crate::shard::heavy::Work;
use crate::websocket::frame::{self, Role};
use crate::websocket::{Control, Event, Incoming, OpCode, Rules, Violation, close_frame};

/// What a chunk of frames led to, beside the effects.
enum Ended {
    No,
    /// The replies are as many as may wait; the rest of the chunk is kept.
    Paused,
    Closed {
        code: Option<u16>,
    },
    Violated(Violation),
}

impl Machine<'_> {
    /// Decodes a chunk of frames.
    pub(super) fn on_frames(&mut self, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let connection = &mut *self.connection;
        let serving = &mut self.cx.serving;
        let is_open = connection.state == State::Open;
        connection.hear();
        // Pongs go before the messages that wait.
        let pass = connection.has_to_send();
        let mut passing = Vec::new();
        let room = limits::READ_PAUSE_BYTES.saturating_sub(connection.held_bytes());
        let max_message_bytes = self.cx.settings.max_message_bytes;
        let rules = Rules { role: Role::Server, max_message_bytes };
        let handler = &mut serving.routes[usize::from(connection.route)].1;
        let effects = &mut serving.effects;
        let window = connection.facts.window();
        effects.window = window;
        let unfinished = connection.partial.as_ref().map_or(0, |partial| partial.held_bytes());
        let mut pongs = Pongs::new(connection.outbound.as_ref().map_or(0, |queue| queue.pongs));
        let mut incoming = Incoming::new(bytes, &mut connection.partial, rules);
        if window.is_some() {
            incoming = incoming.inflating(&mut serving.inflater);
        }
        let mut messages = 0;
        let mut work = Work::default();
        let ended = loop {
            let event = match incoming.next() {
                Ok(None) => break Ended::No,
                Err(violation) => break Ended::Violated(violation),
                Ok(Some(event)) => event,
            };
            if window.is_some() {
                work.add(event.message_bytes());
            }
            match event {
                Event::Close { code, .. } => break Ended::Closed { code },
                Event::Pong(_) => {}
                // After our own Close nothing more may be sent (RFC 6455 5.5.1).
                Event::Ping(_) | Event::Text(_) | Event::Binary(_) if !is_open => {}
                Event::Ping(payload) => {
                    pongs.answer(payload, if pass { &mut passing } else { &mut effects.bytes });
                }
                Event::Text(text) => {
                    messages += 1;
                    handler.receive(Inbound::Text(text), effects);
                }
                Event::Binary(bytes) => {
                    messages += 1;
                    handler.receive(Inbound::Binary(bytes), effects);
                }
            }
            if effects.bytes.len() > room || work.is_enough() {
                break Ended::Paused;
            }
        };
        let rest = match ended {
            Ended::Paused => incoming.rest().to_vec(),
            Ended::No | Ended::Closed { .. } | Ended::Violated(_) => Vec::new(),
        };
        connection.messages = connection.messages.saturating_add(messages);
        self.cx.metrics.messages_received.add(u64::from(messages));
        if window.is_some() {
            self.count_compression();
        }
        if work.is_heavy() || (work.is_enough() && !rest.is_empty()) {
            self.cx.metrics.heavy_reads.add(1);
            self.cx.metrics.heavy_ns.add(work.cost_ns());
            self.cx.heavy.push(self.id, work, self.cx.clock.now.ns());
        }
        self.apply_effects();
        self.send_pongs(&pongs, passing);
        if !rest.is_empty() {
            self.keep_unread(&rest);
        }
        self.note_unfinished(unfinished);
        self.cx.next.holds_more = true;
        if self.cx.budgets.pings.are_too_many(self.id, pongs.pings()) {
            self.fail_for(CloseReason::PingFlood, "too many pings");
        }
        match ended {
            Ended::No | Ended::Paused => {}
            Ended::Closed { code } => self.on_peer_close(code),
            Ended::Violated(violation) => self.fail(violation),
        }
    }

    /// Keeps what was received until the client has taken what waits for it.
    pub(super) fn keep_unread(&mut self, bytes: &[u8]) {
        self.cx.budgets.output.hold(bytes.len());
        self.cx.unread.push(self.id, bytes);
    }

    /// The pongs of a chunk that are not among its replies: those before messages that wait, and
    /// that for its latest ping, if that has none yet.
    fn send_pongs(&mut self, pongs: &Pongs, passing: Vec<u8>) {
        if !passing.is_empty() {
            self.send_control(Frame::Own(passing));
        }
        if let Some(pong) = pongs.latest() {
            self.send_latest_pong(Frame::Own(pong));
        }
        if let Some(queue) = &mut self.connection.outbound {
            queue.pongs += pongs.answered();
        }
    }

    /// What was inflated and compressed for the connection.
    pub(super) fn count_compression(&mut self) {
        let serving = &mut self.cx.serving;
        let inflated = std::mem::take(&mut serving.inflater.messages);
        let compressed = std::mem::take(&mut serving.effects.outgoing.compressed);
        self.cx.metrics.messages_inflated.add(inflated);
        self.cx.metrics.replies_compressed.add(compressed);
    }

    /// After bytes of the client: what it holds of its message now, where it held `before`.
    fn note_unfinished(&mut self, before: usize) {
        let (mut after, mut begins) = (0, false);
        if let Some(partial) = &mut self.connection.partial {
            after = partial.held_bytes();
            begins = partial.begun_tick.is_none();
            partial.begun_tick.get_or_insert(self.cx.clock.tick);
        }
        if before == 0 && after == 0 {
            return;
        }
        let unfinished = &mut self.cx.budgets.unfinished;
        unfinished.set(self.id.slot, self.connection.source, after, begins);
        self.cx.metrics.unfinished_bytes.set(unfinished.held());
        let is_limited = self.cx.settings.deadlines.message > 0;
        if begins && is_limited && self.connection.state == State::Open {
            self.set_open_timer();
        }
    }

    fn on_peer_close(&mut self, code: Option<u16>) {
        self.drop_unfinished();
        match self.connection.state {
            State::Closing => {
                self.connection.facts.note(Facts::ACKNOWLEDGED);
                self.flush_and_close();
            }
            State::Open => {
                self.connection.reason = Some(CloseReason::PeerClosed);
                let mut bytes = self.cx.spare.take();
                match code {
                    Some(code) => close_frame::encode(code, "", &mut bytes),
                    None => frame::encode(OpCode::Control(Control::Close), &[], &mut bytes),
                }
                self.send(Frame::Own(bytes));
                self.flush_and_close();
            }
            // What came before its Close has ended the connection.
            State::Vacant
            | State::Unadmitted
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Handshake
            | State::TurnedAway
            | State::Flushing
            | State::Lingering
            | State::Ending => {}
        }
    }

    /// Does what the handler has noted.
    pub(super) fn apply_effects(&mut self) {
        let effects = &mut self.cx.serving.effects;
        if effects.is_empty() {
            return;
        }
        let bytes = std::mem::replace(&mut effects.bytes, self.cx.spare.take());
        self.cx.metrics.messages_sent.add(u64::from(std::mem::take(&mut effects.messages)));
        let mut list = std::mem::take(&mut effects.list);
        if !bytes.is_empty() {
            self.send(Frame::Own(bytes));
        }
        for effect in list.drain(..) {
            if self.connection.state == State::Open {
                self.apply(effect);
            }
        }
        self.cx.serving.effects.list = list;
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Subscribe(name) => self.subscribe(&name),
            Effect::Session { id, channels } => {
                self.cx.actions.push((self.id, Action::BeginSession { id, channels }));
            }
            Effect::Unsubscribe(name) => {
                let registry = &mut self.cx.registry;
                self.connection.subscriptions =
                    registry.unsubscribe(self.connection.subscriptions, &name);
                self.count_subscriptions();
            }
            Effect::Close(code, reason) => {
                self.begin_close(&Goodbye { reason: CloseReason::Handler, code, text: &reason });
            }
            // Only an upgrade can be refused, and `upgrade` has taken that out.
            Effect::Refuse(_) => {}
        }
    }

    /// Queues a publication, unless the connection is leaving.
    pub(super) fn on_publication(&mut self, publication: &mut Publication) {
        if self.connection.state != State::Open {
            return;
        }
        let window = self.connection.facts.window();
        let outgoing = &mut self.cx.serving.effects.outgoing;
        let frame = publication.for_window(window, outgoing, &self.cx.metrics);
        let queued = self.connection.queued_bytes();
        let limit = self.cx.settings.max_queued_bytes;
        let is_sending = self.connection.has_send_in_flight();
        if is_sending && queued + frame.len() > limit && queued > 0 {
            return self.give_up_on_reader();
        }
        self.cx.metrics.messages_sent.add(1);
        self.cx.next.holds_more = true;
        self.send(Frame::Shared(std::rc::Rc::clone(frame)));
    }

    /// Of all messages that are not complete this one is the oldest, and they are too much.
    pub(super) fn on_evict_unfinished(&mut self) {
        let text = "too much is unfinished of all messages";
        self.fail_for(CloseReason::UnfinishedEvicted, text);
    }
}
