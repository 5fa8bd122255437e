//! What a handler wanted done is done here, in its order: its messages first, then the rest.

use super::Shard;
use super::on_close::Goodbye;
use crate::channels::ChannelRefusal;
use crate::channels::registry::NoRoom;
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::environment::Environment;
use crate::handler::Effect;
use crate::http::refusal::Refusal;
use crate::limits::CHANNEL_NAME_BYTES_PER_CONNECTION;
use crate::ring::{Frame, Token};

/// The close code for want of something that may be there later (IANA registry of close codes).
const TRY_AGAIN_LATER: u16 = 1013;

impl<E: Environment> Shard<E> {
    pub(super) fn apply_effects(&mut self, token: Token) {
        if self.effects.is_empty() {
            return;
        }
        let spare = self.spare_buffer();
        let bytes = std::mem::replace(&mut self.effects.bytes, spare);
        self.metrics.messages_sent.add(u64::from(std::mem::take(&mut self.effects.messages)));
        if !bytes.is_empty() {
            self.send(token, Frame::Own(bytes));
        }
        let mut list = std::mem::take(&mut self.effects.list);
        for effect in list.drain(..) {
            self.apply(token, effect);
        }
        self.effects.list = list;
    }

    fn apply(&mut self, token: Token, effect: Effect) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if connection.state != State::Open {
            return;
        }
        match effect {
            Effect::Subscribe(name) => self.subscribe(token, &name),
            Effect::Session { id, channels } => self.begin_session(token, id, channels),
            Effect::Unsubscribe(name) => {
                connection.subscriptions =
                    self.registry.unsubscribe(connection.subscriptions, &name);
                self.count_subscriptions();
            }
            Effect::Close(code, reason) => {
                let goodbye = Goodbye { reason: CloseReason::Handler, code, text: &reason };
                self.begin_close(token, &goodbye);
            }
            // Only an upgrade can be refused, and `upgrade` has taken that out.
            Effect::Refuse(_) => {}
        }
    }

    /// The connection is in the channel from now on, or ends because there is no room for that: it
    /// would wait for publications that never come.
    pub(super) fn subscribe(&mut self, token: Token, name: &str) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        match self.registry.subscribe(token.slot, connection.subscriptions, name) {
            Ok(first) => connection.subscriptions = first,
            Err(NoRoom) => {
                self.count_refused_channels(ChannelRefusal::NoRoom);
                let reason = CloseReason::ChannelsFull;
                let text = "no room for another channel";
                self.begin_close(token, &Goodbye { reason, code: TRY_AGAIN_LATER, text });
            }
        }
        self.count_subscriptions();
    }

    pub(super) fn count_subscriptions(&self) {
        self.metrics.subscriptions.set(self.registry.len() as u64);
        self.metrics.channel_bytes.set(self.registry.bytes());
    }

    pub(super) fn count_refused_channels(&self, refusal: ChannelRefusal) {
        self.metrics.channels_refused[refusal.index()].add(1);
    }

    /// Whether the channels that a connection asks for in its request are too much: their names for
    /// one connection, or those that nobody has yet for the server.
    pub(super) fn judge_channels(&self) -> Result<(), Refusal> {
        let asked = || {
            self.effects.list.iter().flat_map(|effect| match effect {
                Effect::Subscribe(name) => std::slice::from_ref(name),
                Effect::Session { channels, .. } => channels,
                _ => &[],
            })
        };
        let bytes: usize = asked().map(String::len).sum();
        let refusal = if bytes > CHANNEL_NAME_BYTES_PER_CONNECTION {
            ChannelRefusal::Names
        } else if self.registry.room(asked().map(String::as_str)).is_err() {
            ChannelRefusal::NoRoom
        } else {
            return Ok(());
        };
        self.count_refused_channels(refusal);
        Err(refusal.to_refusal())
    }
}
