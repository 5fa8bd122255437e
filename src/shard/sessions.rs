//! Sessions of this shard's connections: asked for, resumed, and let go of.
//!
//! What belongs to a session is beside the table of connections, so that a connection without one
//! pays nothing. A connection is open while the answer is awaited, and subscribed to nothing, so
//! that the session is the first thing it hears of. Invariants: a session that was granted is let go
//! of once, before the client is told Close; what is granted to a connection that is gone goes back.

use std::io;
use std::sync::Arc;

use ahash::RandomState;
use serde_json::{Value, json};
use tracing::debug;

use super::Shard;
use super::on_close::Goodbye;
use crate::channels::ChannelRefusal;
use crate::close_reason::CloseReason;
use crate::connection::{Facts, State};
use crate::coordinator::state::ServerState;
use crate::environment::Environment;
use crate::limits::{CHANNEL_NAME_BYTES_PER_CONNECTION, MAX_CHANNELS_PER_CONNECTION};
use crate::ring::{FileSlot, Frame, Token};
use crate::sessions::directory::Holder;
use crate::sessions::id::SessionId;
use crate::sessions::keeper::{Found, Order, Shortfall};
use crate::sessions::record::Record;
use crate::tables::{Map, Queue};
use crate::websocket::{Data, OpCode, frame};

/// The close code of a connection whose session another one has.
pub(super) const TAKEN_CODE: u16 = 4001;

/// One session.
#[derive(Debug)]
struct Held {
    id: SessionId,
    /// Messages of its earlier connections.
    before: u64,
    /// The channels that the URL asked for; absent once the session is granted.
    asked: Option<Box<[String]>>,
}

/// What a session takes here, besides what the table leaves empty.
const HELD_BYTES: usize = size_of::<(FileSlot, Held)>();
const _: () = assert!(HELD_BYTES == 48);

/// The sessions of one shard.
#[derive(Debug)]
pub(super) struct Sessions {
    server: Arc<ServerState>,
    held: Map<FileSlot, Held>,
    /// Those that wait for an answer, each with the tick at which it has waited for long enough.
    waiting: Queue<(u32, Token)>,
}

impl Sessions {
    pub(super) fn new(server: Arc<ServerState>, hash: RandomState) -> Self {
        Self { server, held: Map::new(hash), waiting: Queue::default() }
    }
}

impl<E: Environment> Shard<E> {
    fn issue_session(&mut self) -> io::Result<SessionId> {
        let mut bytes = [0; 16];
        self.environment.fill_random(&mut bytes)?;
        Ok(SessionId::issue(bytes))
    }

    /// A connection that has been upgraded asks for a session, or for a new one.
    pub(super) fn begin_session(
        &mut self,
        token: Token,
        id: Option<SessionId>,
        channels: Vec<String>,
    ) {
        let id = match id.map_or_else(|| self.issue_session(), Ok) {
            Ok(id) => id,
            Err(error) => {
                debug!(%error, "no random bytes, so no session");
                return channels.iter().for_each(|name| self.subscribe(token, name));
            }
        };
        let Some(connection) = self.connections.get_mut(token) else { return };
        connection.facts.note(Facts::SESSION);
        let held = Held { id: id.clone(), before: 0, asked: Some(channels.into()) };
        self.sessions.held.insert(token.slot, held);
        let until = self.tick.wrapping_add(self.settings.session_patience);
        self.sessions.waiting.push_back((until, token));
        let holder = self.holder(token);
        if !self.sessions.server.sessions.attach(id, holder) {
            self.grant(token, Found { record: None, shortfall: Some(Shortfall::Busy) });
        }
    }

    pub(super) fn on_session_order(&mut self, order: Order) {
        match order {
            Order::LetGo { holder } => self.close_for_newer(holder.token),
            Order::Attached { holder, found, .. }
                if found.shortfall == Some(Shortfall::Superseded) =>
            {
                self.close_for_newer(holder.token);
            }
            Order::Attached { id, holder, found } => match self.held(holder.token) {
                Some(Held { asked: Some(_), .. }) => self.grant(holder.token, found),
                // Told that its session is new: what there was is older than what it has.
                Some(_) => {}
                None => {
                    let record = found.record.unwrap_or_default();
                    self.sessions.server.sessions.release(id, holder, record);
                }
            },
        }
    }

    /// Whoever has waited for long enough has a new session. Meant for every tick.
    pub(super) fn give_up_on_sessions(&mut self) {
        let tick = self.tick;
        let is_late = |(until, _): &(u32, Token)| tick.wrapping_sub(*until) as i32 >= 0;
        while let Some((_, token)) = self.sessions.waiting.pop_front_if(is_late) {
            if let Some(Held { asked: Some(_), .. }) = self.held(token) {
                self.grant(token, Found { record: None, shortfall: Some(Shortfall::TimedOut) });
            }
        }
    }

    /// The connection goes on where the session left off, and is told so.
    fn grant(&mut self, token: Token, found: Found) {
        let is_open = self.connections.get_mut(token).is_some_and(|c| c.state == State::Open);
        let Some(held) = self.held(token).filter(|_| is_open) else { return };
        let resumed = found.record.is_some();
        let Record { messages, channels } = found.record.unwrap_or_default();
        held.before = messages;
        let mut names: Vec<Arc<str>> = Vec::new();
        let (id, asked) = (held.id.clone(), held.asked.take().unwrap_or_default());
        let mut bytes = 0;
        for name in asked.into_iter().map(Arc::from).chain(channels) {
            let fits = names.len() < MAX_CHANNELS_PER_CONNECTION
                && bytes + name.len() <= CHANNEL_NAME_BYTES_PER_CONNECTION;
            if fits && !names.contains(&name) {
                bytes += name.len();
                names.push(name);
            }
        }
        if self.registry.room(names.iter().map(AsRef::as_ref)).is_err() {
            // Channels that are there cost nothing, and the client is told which it has.
            self.count_refused_channels(ChannelRefusal::NoRoom);
            names.retain(|name| self.registry.has(name));
        }
        let mut told = json!({
            "type": "session",
            "id": id.as_str(),
            "resumed": resumed,
            "messages": messages,
            "channels": names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        });
        if let Some(shortfall) = found.shortfall {
            told["reason"] = Value::from(shortfall.label());
        }
        names.iter().for_each(|name| self.subscribe(token, name));
        let mut bytes = self.spare_buffer();
        frame::encode(OpCode::Data(Data::Text), told.to_string().as_bytes(), &mut bytes);
        self.metrics.messages_sent.add(1);
        self.send(token, Frame::Own(bytes));
    }

    fn close_for_newer(&mut self, token: Token) {
        if self.held(token).is_none() {
            return;
        }
        let goodbye = Goodbye {
            reason: CloseReason::SessionTaken,
            code: TAKEN_CODE,
            text: "session taken over by a newer connection",
        };
        self.begin_close(token, &goodbye);
    }

    /// The connection sends nothing more that counts: its session is free. Done once.
    pub(super) fn let_go_of_session(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if !connection.facts.has(Facts::SESSION) {
            return;
        }
        connection.facts.forget(Facts::SESSION);
        let (messages, first) = (connection.messages, connection.subscriptions);
        let Some(held) = self.sessions.held.remove(&token.slot) else { return };
        if held.asked.is_some() {
            return; // the answer is on its way, and goes back
        }
        let record = Record {
            messages: held.before.saturating_add(messages.into()),
            channels: self.registry.channels_of(first),
        };
        let holder = self.holder(token);
        self.sessions.server.sessions.release(held.id, holder, record);
    }

    /// The shard ends with connections that are left.
    pub(super) fn let_go_of_all_sessions(&mut self) {
        let slots: Vec<_> = self.sessions.held.keys().copied().collect();
        for slot in slots {
            if let Some(token) = self.connections.token(slot) {
                self.let_go_of_session(token);
            }
        }
    }

    /// Messages of a connection, and of those before it of the same session.
    pub(super) fn messages_of(&mut self, token: Token) -> u64 {
        let before = self.held(token).map_or(0, |held| held.before);
        let own = self.connections.get_mut(token).map_or(0, |c| c.messages);
        before.saturating_add(own.into())
    }

    fn held(&mut self, token: Token) -> Option<&mut Held> {
        let connection = self.connections.get_mut(token)?;
        connection.facts.has(Facts::SESSION).then_some(())?;
        self.sessions.held.get_mut(&token.slot)
    }

    fn holder(&self, token: Token) -> Holder {
        Holder { shard: self.index as u16, token }
    }
}
