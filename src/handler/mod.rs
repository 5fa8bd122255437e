//! What the server does for a client once its bytes are messages: one trait, values in
//! ([`Inbound`]), effects out ([`Effects`]).
//!
//! A handler belongs to one shard and is called on its thread; it must not block. It never sees
//! a socket: what it wants done it notes in the effects, which the shard applies when it
//! returns.

pub mod echo;
pub mod plain;
mod routes;

pub(crate) use routes::Routes;
pub use routes::ShardRoutes;

use crate::http::refusal::Refusal;
use crate::sessions::id::SessionId;
use crate::websocket::Data;
use crate::websocket::deflate::{Outgoing, Window};

/// Serves the connections of one path on one shard.
pub trait Handler {
    /// Takes one event of a connection and notes what should be done.
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects);
}

/// An event of a connection.
#[derive(Debug)]
pub enum Inbound<'a> {
    /// A client asks to be upgraded on the handler's path. Unless the handler refuses, it is;
    /// effects are applied after the answer.
    Opening {
        /// The query of the request, without the question mark; empty if there is none.
        query: &'a str,
    },
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
}

/// What a handler wants done.
#[derive(Debug)]
pub enum Effect {
    /// Do not upgrade; only meaningful for [`Inbound::Opening`].
    Refuse(Refusal),
    /// Receive publications of a channel.
    Subscribe(String),
    /// Go on with a session, or begin a new one: receive publications of these channels and of its
    /// own. Only meaningful for [`Inbound::Opening`].
    Session {
        /// Which; a new one is issued if there is none.
        id: Option<SessionId>,
        /// What the client asks for besides.
        channels: Vec<String>,
    },
    /// Receive them no more.
    Unsubscribe(String),
    /// Close with a code of RFC 6455 7.4 and a reason of at most 123 bytes.
    Close(u16, String),
}

/// Collects the effects of a handler's calls in order. Messages to the connection itself are
/// encoded at once into one buffer, so that several replies leave in one send.
#[derive(Debug, Default)]
pub struct Effects {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: u32,
    pub(crate) list: Vec<Effect>,
    pub(crate) outgoing: Outgoing,
    /// What the connection that is served negotiated; set by the shard before every call.
    pub(crate) window: Option<Window>,
}

impl Effects {
    /// Sends a text message to the connection.
    pub fn text(&mut self, text: &str) {
        self.message(Data::Text, text.as_bytes());
    }

    /// Sends a binary message to the connection.
    pub fn binary(&mut self, bytes: &[u8]) {
        self.message(Data::Binary, bytes);
    }

    fn message(&mut self, kind: Data, message: &[u8]) {
        self.messages += 1;
        self.outgoing.encode(kind, message, self.window, &mut self.bytes);
    }

    /// Anything else.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes the refusal out, if there is one, and then everything else with it.
    pub(crate) fn take_refusal(&mut self) -> Option<Refusal> {
        let refusal = self.list.iter().find_map(|effect| match effect {
            Effect::Refuse(refusal) => Some(*refusal),
            _ => None,
        })?;
        self.forget();
        Some(refusal)
    }

    /// Drops everything that was noted.
    pub(crate) fn forget(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.list.clear();
    }

    /// True if there is nothing to apply.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.list.is_empty()
    }
}
