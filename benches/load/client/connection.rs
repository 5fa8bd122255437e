//! One connection as this tool sees it, and the table of all of a ring's.
//!
//! Invariant: a slot is vacated only when its close has completed, and a close is started only
//! when nothing else is in flight on the slot, so no completion can meet a stranger.

use tidegate::ring::{FileSlot, Token};
use tidegate::websocket::Partial;

use super::returning::Visit;
use crate::fate::Step;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Not yet admitted.
    Opening(Step),
    /// Admitted.
    Open,
    /// The peer has sent Close; our answer is on its way.
    Answering,
    /// We have sent Close and wait for the peer's.
    Leaving,
    /// Over; waiting for what is in flight, then for the close.
    Ending,
}

/// What is needed until the upgrade is answered, and not after.
#[derive(Debug)]
pub(crate) struct Opening {
    /// When the attempt was due, in microseconds since the run's epoch.
    pub(crate) due_us: u64,
    /// The key of the request.
    pub(crate) key: String,
    /// The part of the answer that has arrived.
    pub(crate) answer: Vec<u8>,
}

/// One connection. Small when idle: no buffer, no heap block.
pub(crate) struct Connection<C> {
    /// Number of the client over all rings.
    pub(crate) index: u64,
    /// Which of its attempts this is.
    pub(crate) visit: Visit,
    /// Where it is in its life.
    pub(crate) stage: Stage,
    /// A watch or a receive is in flight.
    pub(crate) reading: bool,
    /// What is in flight is a lasting receive.
    pub(crate) lasting: bool,
    /// A bind, a connect or a send is in flight.
    pub(crate) sending: bool,
    /// A reset was started.
    pub(crate) cutting: bool,
    /// Never read from.
    pub(crate) deaf: bool,
    /// What arrives is thrown away; only the end counts.
    pub(crate) discarding: bool,
    /// Its fate is in the books.
    pub(crate) settled: bool,
    /// The code in the peer's Close.
    pub(crate) answered_code: Option<u16>,
    /// The rest of a frame or message that has begun to arrive.
    pub(crate) partial: Option<Box<Partial>>,
    /// Bytes that wait for the send in flight.
    pub(crate) outbox: Vec<u8>,
    /// Until the upgrade is answered.
    pub(crate) opening: Option<Box<Opening>>,
    /// What the scenario keeps.
    pub(crate) state: C,
}

impl<C: Default> Connection<C> {
    /// An attempt that has its socket.
    pub(crate) fn new(index: u64, visit: Visit, due_us: u64) -> Self {
        let opening = Opening { due_us, key: String::new(), answer: Vec::new() };
        Self {
            index,
            visit,
            stage: Stage::Opening(Step::Bind),
            reading: false,
            lasting: false,
            sending: false,
            cutting: false,
            deaf: false,
            discarding: false,
            settled: false,
            answered_code: None,
            partial: None,
            outbox: Vec::new(),
            opening: Some(Box::new(opening)),
            state: C::default(),
        }
    }
}

impl<C> Connection<C> {
    /// True when nothing is in flight, so that the descriptor may be closed.
    pub(crate) fn is_quiet(&self) -> bool {
        !(self.reading || self.sending || self.cutting)
    }
}

struct Slot<C> {
    generation: u32,
    connection: Option<Connection<C>>,
}

/// The connections of a ring by direct descriptor.
pub(crate) struct Table<C> {
    slots: Vec<Slot<C>>,
    live: usize,
}

impl<C> Table<C> {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), live: 0 }
    }

    /// Connections in the table.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// Slots that were ever used: every connection's slot is below.
    pub(crate) fn slots(&self) -> FileSlot {
        self.slots.len() as FileSlot
    }

    /// Puts a connection into the slot that the kernel chose.
    pub(crate) fn insert(&mut self, slot: FileSlot, connection: Connection<C>) -> Token {
        let at = slot as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, || Slot { generation: 0, connection: None });
        }
        let place = &mut self.slots[at];
        assert!(place.connection.is_none(), "the kernel chose a slot that is in use");
        place.connection = Some(connection);
        self.live += 1;
        Token::new(slot, place.generation)
    }

    /// The token of a slot's present life.
    pub(crate) fn token(&self, slot: FileSlot) -> Token {
        Token::new(slot, self.slots.get(slot as usize).map_or(0, |slot| slot.generation))
    }

    /// The connection that a completion names, unless that life is over.
    pub(crate) fn named(&mut self, token: Token) -> Option<&mut Connection<C>> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        slot.connection.as_mut().filter(|_| slot.generation == token.generation)
    }

    /// The connection in a slot.
    pub(crate) fn at(&mut self, slot: FileSlot) -> Option<&mut Connection<C>> {
        self.slots.get_mut(slot as usize)?.connection.as_mut()
    }

    /// Vacates a slot.
    pub(crate) fn remove(&mut self, slot: FileSlot) -> Option<Connection<C>> {
        let slot = self.slots.get_mut(slot as usize)?;
        let connection = slot.connection.take()?;
        slot.generation = Token::next_generation(slot.generation);
        self.live -= 1;
        Some(connection)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_of_an_earlier_life_names_nobody() {
        let mut table = Table::<u8>::new();
        let first = table.insert(3, Connection::new(0, Visit::default(), 0));
        assert_eq!((table.live(), table.slots()), (1, 4));
        assert!(table.named(first).is_some());
        assert_eq!(table.remove(3).unwrap().index, 0);
        let second = table.insert(3, Connection::new(1, Visit::default(), 0));
        assert!(table.named(first).is_none());
        assert_eq!(table.named(second).unwrap().index, 1);
        assert_eq!(table.token(3), second);
    }

    #[test]
    fn an_idle_connection_is_small() {
        // Bookkeeping of a million idle connections must not crowd out what is measured.
        assert!(size_of::<Connection<()>>() <= 72, "{}", size_of::<Connection<()>>());
    }
}
