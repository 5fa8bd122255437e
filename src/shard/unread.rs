//! What was received of a client and waits until it has taken the replies to what came before.
//!
//! A chunk of the socket can hold messages whose replies are a thousand times as long. They are
//! handled until [`READ_PAUSE_BYTES`](crate::limits::READ_PAUSE_BYTES) wait for the client; the rest of
//! the chunk stays here as it came, and nothing is read meanwhile.
//!
//! Invariant: nothing is armed for a connection that has bytes here, but for a multishot receive
//! that is being cancelled; what that still brings is put behind them.

use ahash::RandomState;

use crate::ring::{FileSlot, Token};
use crate::tables::Map;

/// The bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// The client has ended its side behind them.
    pub(super) is_last: bool,
}

/// The bytes of all connections of a shard that have any.
#[derive(Debug)]
pub(super) struct Unread {
    chunks: Map<FileSlot, Chunk>,
}

impl Unread {
    pub(super) fn new(hash: RandomState) -> Self {
        Self { chunks: Map::new(hash) }
    }

    /// True if bytes of the connection wait.
    pub(super) fn has(&self, token: Token) -> bool {
        !self.chunks.is_empty() && self.chunks.contains_key(&token.slot)
    }

    /// The client has ended its side; true if that waits too, behind what it sent before.
    pub(super) fn end(&mut self, token: Token) -> bool {
        let chunk = self.chunks.get_mut(&token.slot);
        chunk.map(|chunk| chunk.is_last = true).is_some()
    }

    /// Puts bytes behind those that wait.
    pub(super) fn push(&mut self, token: Token, bytes: &[u8]) {
        let chunk = self.chunks.get_or_insert_with(token.slot, Chunk::default);
        chunk.bytes.extend_from_slice(bytes);
    }

    /// Takes them out.
    pub(super) fn take(&mut self, token: Token) -> Option<Chunk> {
        if self.chunks.is_empty() {
            return None;
        }
        self.chunks.remove(&token.slot)
    }
}
