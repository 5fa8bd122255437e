//! Sessions of this shard's connections, beside the table of connections.
//!
//! Invariants: a session that was granted is let go of once, before the client is told Close; what
//! is granted to a connection that is gone goes back.

use std::sync::Arc;

use ahash::RandomState;

use crate::channels::registry::Registry;
use crate::coordinator::state::ServerState;
use crate::ring::{FileSlot, Token};
use crate::sessions::directory::Holder;
use crate::sessions::id::SessionId;
use crate::sessions::record::Record;
use crate::tables::{Map, Queue};

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
    shard: usize,
    server: Arc<ServerState>,
    held: Map<FileSlot, Held>,
    /// Those that wait for an answer, each with the tick at which it has waited for long enough.
    waiting: Queue<(u32, Token)>,
}

impl Sessions {
    /// Those of one shard.
    pub(super) fn new(shard: usize, server: Arc<ServerState>, hash: RandomState) -> Self {
        let (held, waiting) = (Map::new(hash), Queue::default());
        Self { shard, server, held, waiting }
    }

    /// The number of the shard.
    pub(super) fn shard(&self) -> usize {
        self.shard
    }

    /// Asks for the session of a connection, which waits for the answer until a tick. False if
    /// nobody can be asked.
    pub(super) fn begin(
        &mut self,
        token: Token,
        id: SessionId,
        channels: Vec<String>,
        until: u32,
    ) -> bool {
        let held = Held { id: id.clone(), before: 0, asked: Some(channels.into()) };
        self.held.insert(token.slot, held);
        self.waiting.push_back((until, token));
        self.server.sessions.attach(id, self.holder(token))
    }

    /// True if the connection waits for the answer.
    pub(super) fn is_awaited(&self, token: Token) -> bool {
        self.held.get(&token.slot).is_some_and(|held| held.asked.is_some())
    }

    /// The next connection that has waited for long enough by this tick.
    pub(super) fn pop_late(&mut self, tick: u32) -> Option<Token> {
        let is_late = |(until, _): &(u32, Token)| tick.wrapping_sub(*until) as i32 >= 0;
        Some(self.waiting.pop_front_if(is_late)?.1)
    }

    /// The connection has its session from now on, whose earlier connections had so many messages.
    /// Gives its id and the channels that the URL asked for.
    pub(super) fn grant(
        &mut self,
        token: Token,
        before: u64,
    ) -> Option<(&SessionId, Box<[String]>)> {
        let held = self.held.get_mut(&token.slot)?;
        held.before = before;
        let asked = held.asked.take()?;
        Some((&held.id, asked))
    }

    /// Messages of the session's earlier connections.
    pub(super) fn messages_before(&self, token: Token) -> u64 {
        self.held.get(&token.slot).map_or(0, |held| held.before)
    }

    /// The session of a connection is free, as it is after so many messages of the connection and
    /// with its subscriptions. What was not granted yet goes back when it comes.
    pub(super) fn let_go(
        &mut self,
        token: Token,
        messages: u32,
        first_subscription: u32,
        registry: &Registry,
    ) {
        let Some(held) = self.held.remove(&token.slot).filter(|held| held.asked.is_none()) else {
            return;
        };
        let record = Record {
            messages: held.before.saturating_add(messages.into()),
            channels: registry.channels_of(first_subscription),
        };
        self.give_back(held.id, token, record);
    }

    /// A session goes back as it is.
    pub(super) fn give_back(&self, id: SessionId, token: Token, record: Record) {
        self.server.sessions.release(id, self.holder(token), record);
    }

    /// Direct descriptors of the connections that have one, or wait for one.
    pub(super) fn slots(&self) -> Vec<FileSlot> {
        self.held.keys().copied().collect()
    }

    fn holder(&self, token: Token) -> Holder {
        Holder { shard: self.shard as u16, token }
    }
}
