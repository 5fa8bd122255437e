//! The table of a shard's connections, indexed by direct descriptor.
//!
//! Never shrinks. The kernel looks for a free descriptor after the last one that it gave or took
//! back, so this grows up to the size of its table as connections come and go, also if there are
//! never many at once.
//! Invariant: a slot is vacant exactly when its last completion has been taken.

use crate::chunks::Chunks;
use crate::connection::{Connection, Life, State};
use crate::ring::{FileSlot, Token};

/// The connections of one shard.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    slots: Chunks<Connection>,
    live: usize,
}

impl Connections {
    /// Slots in use.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Slots that may be in use are below this.
    pub(crate) fn end(&self) -> FileSlot {
        self.slots.len()
    }

    /// The connection in `slot`, in use or not.
    pub(crate) fn slot(&self, slot: FileSlot) -> Option<&Connection> {
        self.slots.get(slot)
    }

    /// The same, to change it.
    pub(crate) fn slot_mut(&mut self, slot: FileSlot) -> Option<&mut Connection> {
        self.slots.get_mut(slot)
    }

    /// The connection that `token` names, if that life of the slot is still going on.
    #[inline]
    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Connection> {
        self.slot_mut(token.slot).filter(|connection| {
            connection.is_live() && connection.life.generation() == token.generation
        })
    }

    /// The token of the life that goes on in `slot`, if any.
    pub(crate) fn token(&self, slot: FileSlot) -> Option<Token> {
        let connection = self.slot(slot)?;
        connection.is_live().then(|| Token::new(slot, connection.life.generation()))
    }

    /// Begins a new life of `slot` in `state`.
    pub(crate) fn begin(&mut self, slot: FileSlot, state: State) -> (Token, &mut Connection) {
        while self.end() <= slot {
            self.slots.push(Connection::default());
        }
        let connection = &mut self.slots[slot];
        debug_assert!(!connection.is_live(), "the kernel gave a descriptor that is in use");
        let generation = Token::next_generation(connection.life.generation());
        let life = Life::of_generation(generation);
        *connection = Connection { life, state, ..Connection::default() };
        self.live += 1;
        (Token::new(slot, generation), connection)
    }

    /// Ends the life of `slot`; the generation stays behind.
    pub(crate) fn end_life(&mut self, slot: FileSlot) {
        if let Some(connection) = self.slot_mut(slot).filter(|connection| connection.is_live()) {
            let life = Life::of_generation(connection.life.generation());
            *connection = Connection { life, ..Connection::default() };
            self.live -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_an_earlier_life_finds_nothing() {
        let mut connections = Connections::default();
        let (first, _) = connections.begin(5_000, State::Handshake);
        assert_eq!(connections.token(5_000), Some(first));
        connections.end_life(5_000);
        assert!(connections.get_mut(first).is_none());
        let (second, _) = connections.begin(5_000, State::Handshake);
        assert_ne!(first, second);
        assert!(connections.get_mut(first).is_none());
        assert!(connections.get_mut(second).is_some());
        assert_eq!((connections.live(), connections.end()), (1, 5_001));
    }
}
