//! The session of a connection: begun, granted, taken over.
//!
//! What belongs to a session is beside the table of connections, so that a connection without one
//! pays nothing. A connection is open while the answer is awaited, and subscribed to nothing, so
//! that the session is the first thing it hears of.

use std::sync::Arc;

use serde_json::{Value, json};
use tracing::debug;

use super::ending::Goodbye;
use super::{Machine, Reply};
use crate::channels::ChannelRefusal;
use crate::channels::registry::NoRoom;
use crate::close_reason::CloseReason;
use crate::connection::{Facts, State};
use crate::handler::Effect;
use crate::http::refusal::Refusal;
use crate::limits::{CHANNEL_NAME_BYTES_PER_CONNECTION, MAX_CHANNELS_PER_CONNECTION};
use crate::ring::Frame;
use crate::sessions::id::SessionId;
use crate::sessions::keeper::{Found, Shortfall};
use crate::sessions::record::Record;
use crate::shard::sessions::TAKEN_CODE;
use crate::websocket::{Data, OpCode, frame};

/// The close code for want of something that may be there later (IANA registry of close codes).
const TRY_AGAIN_LATER: u16 = 1013;

impl Machine<'_> {
    /// A connection that has been upgraded asks for a session, or for a new one.
    pub(super) fn begin_session(&mut self, id: Option<SessionId>, channels: Vec<String>) -> Reply {
        if self.connection.state != State::Open {
            return Reply::Passed;
        }
        let Some(id) = id else {
            debug!("no random bytes, so no session");
            channels.iter().for_each(|name| self.subscribe(name));
            return Reply::Done;
        };
        self.connection.facts.note(Facts::SESSION);
        let tick = self.cx.clock.tick;
        let until = tick.wrapping_add(self.cx.settings.session_patience);
        if !self.cx.sessions.begin(self.id, id, channels, until) {
            self.grant(Found { record: None, shortfall: Some(Shortfall::Busy) });
        }
        Reply::Done
    }

    /// The answer. It goes back if the connection has let go of its session.
    pub(super) fn on_session_attached(&mut self, found: Found) -> Reply {
        if !self.connection.facts.has(Facts::SESSION) {
            return Reply::Passed;
        }
        if self.cx.sessions.is_awaited(self.id) {
            self.grant(found);
        }
        // Else told that its session is new: what there was is older than what it has.
        Reply::Done
    }

    pub(super) fn on_session_late(&mut self) {
        if self.connection.facts.has(Facts::SESSION) && self.cx.sessions.is_awaited(self.id) {
            self.grant(Found { record: None, shortfall: Some(Shortfall::TimedOut) });
        }
    }

    /// The connection goes on where the session left off, and is told so.
    fn grant(&mut self, found: Found) {
        debug_assert!(self.connection.state == State::Open, "a session is let go of before Close");
        let resumed = found.record.is_some();
        let Record { messages, channels } = found.record.unwrap_or_default();
        let Some((id, asked)) = self.cx.sessions.grant(self.id, messages) else {
            debug_assert!(false, "only a session that is awaited is granted");
            return;
        };
        let id = id.as_str().to_owned();
        let mut names: Vec<Arc<str>> = Vec::new();
        let mut bytes = 0;
        for name in asked.into_iter().map(Arc::from).chain(channels) {
            let fits = names.len() < MAX_CHANNELS_PER_CONNECTION
                && bytes + name.len() <= CHANNEL_NAME_BYTES_PER_CONNECTION;
            if fits && !names.contains(&name) {
                bytes += name.len();
                names.push(name);
            }
        }
        if self.cx.registry.room(names.iter().map(AsRef::as_ref)).is_err() {
            // Channels that are there cost nothing, and the client is told which it has.
            self.count_refused_channels(ChannelRefusal::NoRoom);
            names.retain(|name| self.cx.registry.has(name));
        }
        let mut told = json!({
            "type": "session",
            "id": id,
            "resumed": resumed,
            "messages": messages,
            "channels": names.iter().map(AsRef::as_ref).collect::<Vec<&str>>(),
        });
        if let Some(shortfall) = found.shortfall {
            told["reason"] = Value::from(shortfall.label());
        }
        names.iter().for_each(|name| self.subscribe(name));
        let mut bytes = self.cx.spare.take();
        frame::encode(OpCode::Data(Data::Text), told.to_string().as_bytes(), &mut bytes);
        self.cx.metrics.messages_sent.add(1);
        self.send(Frame::Own(bytes));
    }

    /// A newer connection has the session.
    pub(super) fn on_session_taken(&mut self) {
        if self.connection.facts.has(Facts::SESSION) {
            self.begin_close(&Goodbye {
                reason: CloseReason::SessionTaken,
                code: TAKEN_CODE,
                text: "session taken over by a newer connection",
            });
        }
    }

    /// The connection is in the channel from now on, or ends because there is no room for that: it
    /// would wait for publications that never come.
    pub(super) fn subscribe(&mut self, name: &str) {
        let first = self.connection.subscriptions;
        match self.cx.registry.subscribe(self.id.slot, first, name) {
            Ok(first) => self.connection.subscriptions = first,
            Err(NoRoom) => {
                self.count_refused_channels(ChannelRefusal::NoRoom);
                let reason = CloseReason::ChannelsFull;
                let text = "no room for another channel";
                self.begin_close(&Goodbye { reason, code: TRY_AGAIN_LATER, text });
            }
        }
        self.count_subscriptions();
    }

    fn count_refused_channels(&self, refusal: ChannelRefusal) {
        self.cx.metrics.channels_refused[refusal.index()].add(1);
    }

    /// Whether the channels that a connection asks for in its request are too much: their names for
    /// one connection, or those that nobody has yet for the server.
    pub(super) fn judge_channels(&self) -> Result<(), Refusal> {
        let asked = || {
            self.cx.serving.effects.list.iter().flat_map(|effect| match effect {
                Effect::Subscribe(name) => std::slice::from_ref(name),
                Effect::Session { channels, .. } => channels,
                Effect::Refuse(_) | Effect::Unsubscribe(_) | Effect::Close(..) => &[],
            })
        };
        let bytes: usize = asked().map(String::len).sum();
        let refusal = if bytes > CHANNEL_NAME_BYTES_PER_CONNECTION {
            ChannelRefusal::Names
        } else if self.cx.registry.room(asked().map(String::as_str)).is_err() {
            ChannelRefusal::NoRoom
        } else {
            return Ok(());
        };
        self.count_refused_channels(refusal);
        Err(refusal.to_refusal())
    }
}
