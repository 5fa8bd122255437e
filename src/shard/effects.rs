//! What a handler wanted done is done here, in its order: its messages first, then the rest.

use super::Shard;
use super::on_close::Goodbye;
use crate::close_reason::CloseReason;
use crate::connection::State;
use crate::environment::Environment;
use crate::handler::Effect;
use crate::ring::{Frame, Token};

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
                self.metrics.subscriptions.set(self.registry.len() as u64);
            }
            Effect::Close(code, reason) => {
                let goodbye = Goodbye { reason: CloseReason::Handler, code, text: &reason };
                self.begin_close(token, &goodbye);
            }
            // Only an upgrade can be refused, and `upgrade` has taken that out.
            Effect::Refuse(_) => {}
        }
    }

    /// The connection is in the channel from now on.
    pub(super) fn subscribe(&mut self, token: Token, name: &str) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.subscriptions =
            self.registry.subscribe(token.slot, connection.subscriptions, name);
        self.metrics.subscriptions.set(self.registry.len() as u64);
    }
}
