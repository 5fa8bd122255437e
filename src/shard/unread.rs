//! What was received of a client and waits until it has taken the replies to what came before.
//!
//! A chunk of the socket can hold messages whose replies are a thousand times as long. They are
//! handled until [`READ_PAUSE_BYTES`](limits::READ_PAUSE_BYTES) wait for the client; the rest of
//! the chunk stays here as it came, and nothing is read meanwhile.
//!
//! Invariant: nothing is armed for a connection that has bytes here, but for a multishot receive
//! that is being cancelled; what that still brings is put behind them.

use ahash::RandomState;

use super::Shard;
use super::on_receive::{Frames, Listen};
use crate::connection::{InFlight, State};
use crate::environment::Environment;
use crate::limits;
use crate::ring::{FileSlot, Token};
use crate::tables::Map;

/// The bytes of one connection.
#[derive(Debug, Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// The client has ended its side behind them.
    is_last: bool,
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

    fn take(&mut self, token: Token) -> Option<Chunk> {
        self.chunks.remove(&token.slot)
    }
}

impl<E: Environment> Shard<E> {
    /// Keeps what was received until the client has taken what waits for it.
    pub(super) fn keep_unread(&mut self, token: Token, bytes: &[u8]) {
        self.output.hold(bytes.len());
        self.unread.push(token, bytes);
    }

    /// Forgets what waits to be read: the connection is not listened to any more.
    pub(super) fn drop_unread(&mut self, token: Token) {
        if self.unread.has(token)
            && let Some(chunk) = self.unread.take(token)
        {
            self.output.release(chunk.bytes.len());
        }
    }

    /// Reads what waits, as long as the kernel takes the replies; then from the socket again.
    pub(super) fn read_on(&mut self, token: Token) {
        while self.unread.has(token) {
            let Some(connection) = self.connections.get_mut(token) else { return };
            if !matches!(connection.state, State::Open | State::Closing) {
                return self.drop_unread(token);
            }
            if connection.in_flight.has(InFlight::SEND) {
                return; // what that still has to send is not known
            }
            self.read_chunk(token);
        }
        self.listen_again(token, Listen::Idle);
    }

    /// A send of so many bytes of replies goes on: reads on if that, with what waits behind it, is
    /// little enough.
    pub(super) fn read_on_beside(&mut self, token: Token, in_flight: usize) {
        let Some(connection) = self.connections.get_mut(token) else { return };
        if in_flight + connection.held_bytes() <= limits::READ_PAUSE_BYTES {
            self.read_chunk(token);
            self.listen_again(token, Listen::Idle);
        }
    }

    fn read_chunk(&mut self, token: Token) {
        if !self.unread.has(token) {
            return;
        }
        let Some(mut chunk) = self.unread.take(token) else { return };
        self.output.release(chunk.bytes.len());
        self.on_frames(token, Frames::Kept(&mut chunk.bytes));
        if chunk.is_last && !self.unread.end(token) {
            self.on_end_of_stream(token);
        }
    }
}
