//! One connection: what the server knows of it between two events, in 64 bytes.
//!
//! Pure: no system call, no clock. The shard that owns the connection is the only one to touch
//! it. A connection is idle with a watch in flight and nothing else: no buffer, no heap block.

pub mod deadline;
pub mod outbound;
pub mod pongs;
pub mod progress;

use crate::admission::SourceKey;
use crate::client_address::Provenance;
use crate::close_reason::CloseReason;
use crate::ring::GENERATION_BITS;
use crate::websocket::Partial;
use crate::websocket::deflate::Window;

use outbound::Outbound;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// The slot is not in use.
    #[default]
    Vacant,
    /// Accepted from a trusted proxy, which has not said for whom: not admitted yet.
    Unadmitted,
    /// Whether it is admitted another thread has to say. Nothing is read meanwhile.
    Awaiting,
    /// On its way to another shard.
    Leaving,
    /// Come from another shard; what belongs to it has not come yet.
    Arriving,
    /// Accepted and admitted; its upgrade request has not arrived completely.
    Handshake,
    /// Accepted but not admitted: told so as soon as its first bytes have been read (an answer
    /// before that could be destroyed by the RST that closing with unread bytes sends).
    TurnedAway,
    /// Upgraded.
    Open,
    /// Our Close is on its way or sent; the client's answer is awaited.
    Closing,
    /// The last bytes are on their way; then the descriptor is closed.
    Flushing,
    /// The last bytes are on their way; then our side is closed and what the client still sends
    /// is discarded until it closes too, so that it can read them.
    Lingering,
    /// Being cut or closed: waits for what is still in flight.
    Ending,
}

/// Operations in flight on a connection, one bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InFlight(u8);

impl InFlight {
    /// One-shot poll.
    pub const WATCH: Self = Self(1);
    /// Receive.
    pub const RECEIVE: Self = Self(2);
    /// Send: at most one, or bytes would interleave.
    pub const SEND: Self = Self(4);
    /// Reset.
    pub const CUT: Self = Self(8);
    /// End of our side.
    pub const HALF_CLOSE: Self = Self(16);
    /// Close of the descriptor; always the last.
    pub const CLOSE: Self = Self(32);
    /// The receive in flight lasts: beside `RECEIVE`.
    pub const LASTING: Self = Self(64);
    /// The lasting receive is being ended.
    pub const CALM: Self = Self(128);

    /// True if the operation is in flight.
    pub const fn has(self, operation: Self) -> bool {
        self.0 & operation.0 != 0
    }

    /// Notes that it was started.
    pub const fn begin(&mut self, operation: Self) {
        debug_assert!(!self.has(operation), "started twice");
        self.0 |= operation.0;
    }

    /// Notes that it completed.
    pub const fn end(&mut self, operation: Self) {
        self.0 &= !operation.0;
    }

    /// True if a lasting receive is all that is in flight.
    pub const fn only_listens(self) -> bool {
        self.has(Self::LASTING) && self.0 & !(Self::LASTING.0 | Self::RECEIVE.0 | Self::CALM.0) == 0
    }

    /// True if something is in flight that may never complete unless the peer does something.
    pub const fn waits_for_peer(self) -> bool {
        self.0 & (Self::WATCH.0 | Self::RECEIVE.0 | Self::SEND.0) != 0
    }

    /// True if nothing is in flight.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Yes-or-no facts about a connection, one bit each. Above them three bits say with which window
/// its messages are compressed, if they are, and three where its source was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts(u16);

impl Facts {
    /// It holds a place in the admission budgets.
    pub const ADMITTED: Self = Self(1);
    /// It was upgraded.
    pub const OPENED: Self = Self(2);
    /// It was there when the drain began: its end is an outcome.
    pub const DRAINED: Self = Self(4);
    /// A ping is out and nothing has been heard since.
    pub const AWAITING_PONG: Self = Self(8);
    /// Our Close was answered.
    pub const ACKNOWLEDGED: Self = Self(16);
    /// The server cut it.
    pub const FORCED: Self = Self(32);
    /// Our Close was sent.
    pub const CLOSE_SENT: Self = Self(64);
    /// Its TCP has acknowledged everything that was to be sent to it; its end is awaited.
    pub const CAUGHT_UP: Self = Self(128);

    /// It is another shard's now: only the descriptor is left.
    pub const MOVED: Self = Self(256);

    /// It has a session, or waits for one.
    pub const SESSION: Self = Self(512);

    /// True if the fact holds.
    pub const fn has(self, fact: Self) -> bool {
        self.0 & fact.0 != 0
    }

    /// It holds from now on.
    pub const fn note(&mut self, fact: Self) {
        self.0 |= fact.0;
    }

    /// It does not hold any more.
    pub const fn forget(&mut self, fact: Self) {
        self.0 &= !fact.0;
    }

    /// Where the source was taken from.
    pub fn provenance(self) -> Provenance {
        let index = usize::from(self.0 >> Self::PROVENANCE_SHIFT);
        Provenance::ALL.get(index).copied().unwrap_or_default()
    }

    /// Notes where the source was taken from.
    pub const fn note_provenance(&mut self, provenance: Provenance) {
        let others = self.0 & ((1 << Self::PROVENANCE_SHIFT) - 1);
        self.0 = others | (provenance.index() as u16) << Self::PROVENANCE_SHIFT;
    }

    /// The window that was negotiated; `None` if compression was not.
    pub const fn window(self) -> Option<Window> {
        Window::from_code((self.0 >> Self::WINDOW_SHIFT) as u8 & 0b111)
    }

    /// Notes what was negotiated.
    pub const fn note_window(&mut self, window: Window) {
        self.0 |= (window.code() as u16) << Self::WINDOW_SHIFT;
    }

    const WINDOW_SHIFT: u32 = 10;
    const PROVENANCE_SHIFT: u32 = 13;
}

const _: () = assert!(Provenance::ALL.len() <= 8);

/// No connection, no subscription, no link.
pub const NONE: u32 = u32::MAX;

/// Place of a connection in the timer wheel: a doubly linked list in the entries themselves.
#[derive(Clone, Copy, Debug)]
pub struct TimerLinks {
    /// The tick at which the connection wants to be looked at; meaningless while unlinked.
    pub tick: u32,
    /// The next connection of the same wheel slot.
    pub next: u32,
    /// The one before; [`UNLINKED`] if not in the wheel, [`NONE`] if first.
    pub previous: u32,
}

/// Mark of a connection that is in no wheel slot.
pub const UNLINKED: u32 = u32::MAX - 1;

impl Default for TimerLinks {
    fn default() -> Self {
        Self { tick: 0, next: NONE, previous: UNLINKED }
    }
}

/// Lives of a direct descriptor's index, modulo 2^19; and in the bits above them what there is no
/// other room for. From the 20th bit on twelve are free, for what a connection will have more kinds
/// of: the form of its bytes, what carries them, its protocol, an answer that is awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u32);

impl Life {
    const READABLE: u32 = 1 << GENERATION_BITS;

    /// The first state of this life: nothing is noted.
    pub const fn of_generation(generation: u32) -> Self {
        assert!(generation < 1 << GENERATION_BITS);
        Self(generation)
    }

    /// As in the [`Token`](crate::ring::Token).
    pub const fn generation(self) -> u32 {
        self.0 & (Self::READABLE - 1)
    }

    /// The connection has something to read and waits for its turn to receive.
    pub const fn is_readable(self) -> bool {
        self.0 & Self::READABLE != 0
    }

    /// Notes that it waits, or does so no more.
    pub const fn set_readable(&mut self, is_readable: bool) {
        self.0 = if is_readable { self.0 | Self::READABLE } else { self.0 & !Self::READABLE };
    }
}

/// One connection. The order of the fields is by size, so that none is lost to padding.
#[derive(Debug)]
pub struct Connection {
    /// An unfinished frame or message; absent between messages.
    pub partial: Option<Box<Partial>>,
    /// Frames that wait behind the send in flight, and how far the client has come with what was
    /// sent; absent when it is up to date, as far as is known.
    pub outbound: Option<Box<Outbound>>,
    /// Whose budget it is counted in; the address in the admission table's form. While it is
    /// [`State::Unadmitted`], its peer's.
    pub source: SourceKey,
    /// Its deadline.
    pub timer: TimerLinks,
    /// Which life of its direct descriptor's index this is.
    pub life: Life,
    /// The tick of its accept.
    pub accepted_tick: u32,
    /// The tick at which bytes were last received.
    pub heard_tick: u32,
    /// Data messages received, saturating.
    pub messages: u32,
    /// First of its subscriptions in the registry, or [`NONE`].
    pub subscriptions: u32,
    /// The client's port, for logs.
    pub port: u16,
    /// Where it is in its life.
    pub state: State,
    /// What the kernel is doing for it.
    pub in_flight: InFlight,
    /// See [`Facts`].
    pub facts: Facts,
    /// Which handler serves it.
    pub route: u8,
    /// Why it ended, once that is known.
    pub reason: Option<CloseReason>,
}

/// The whole user-space memory of an idle connection but for its subscriptions and its share of
/// its source's bucket: one cache line.
pub const CONNECTION_BYTES: usize = 64;
const _: () = assert!(size_of::<Connection>() == CONNECTION_BYTES);

impl Default for Connection {
    fn default() -> Self {
        Self {
            partial: None,
            outbound: None,
            source: SourceKey::from_bits(0),
            timer: TimerLinks::default(),
            life: Life::default(),
            accepted_tick: 0,
            heard_tick: 0,
            messages: 0,
            subscriptions: NONE,
            port: 0,
            state: State::Vacant,
            in_flight: InFlight::default(),
            facts: Facts::default(),
            route: 0,
            reason: None,
        }
    }
}

impl Connection {
    /// True if the slot is in use.
    pub fn is_live(&self) -> bool {
        self.state != State::Vacant
    }

    /// True in the middle of a message: one has begun to arrive and is not complete.
    pub fn is_mid_message(&self) -> bool {
        self.partial.as_ref().is_some_and(|partial| partial.mid_message() || partial.mid_frame())
    }

    /// True while the kernel has a send of the connection that has not completed.
    pub fn has_send_in_flight(&self) -> bool {
        self.in_flight.has(InFlight::SEND)
    }

    /// True while something has to go to the client that the kernel has not taken, as far as is
    /// known.
    pub fn has_to_send(&self) -> bool {
        let waits = self.outbound.as_ref().is_some_and(|outbound| !outbound.is_empty());
        waits || self.in_flight.has(InFlight::SEND)
    }

    /// True if an open connection is watched, or has to be, as it takes what it is sent: something
    /// waits for it, or its pong may wait behind what it has not read.
    pub fn is_watched(&self) -> bool {
        self.has_to_send() || self.facts.has(Facts::AWAITING_PONG)
    }

    /// Bytes have come of it: no pong is awaited, and its progress matters only if something waits
    /// for it.
    pub fn hear(&mut self) {
        self.facts.forget(Facts::AWAITING_PONG);
        self.stop_watching();
    }

    /// Forgets the progress of an open connection where that does not matter.
    pub fn stop_watching(&mut self) {
        if self.state == State::Open && !self.is_watched() {
            self.outbound = None;
        }
    }

    /// Memory that what waits behind the send in flight holds for this connection alone: replies,
    /// where publications are shared.
    pub fn held_bytes(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.held_bytes())
    }

    /// Bytes queued behind the send in flight.
    pub fn queued_bytes(&self) -> usize {
        self.outbound.as_ref().map_or(0, |outbound| outbound.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_source_was_taken_from_is_no_fact_and_changes_none() {
        let mut facts = Facts::default();
        facts.note(Facts::CAUGHT_UP);
        for provenance in Provenance::ALL {
            facts.note_provenance(provenance);
            facts.note(Facts::ADMITTED);
            facts.forget(Facts::ADMITTED);
            assert_eq!(facts.provenance(), provenance);
            assert!(facts.has(Facts::CAUGHT_UP) && !facts.has(Facts::ADMITTED));
            assert_eq!(facts.window(), None);
        }
    }

    #[test]
    fn what_was_slow_once_costs_nothing_when_it_has_answered() {
        let watched = || Connection {
            state: State::Open,
            outbound: Some(Box::new(Outbound::new(0))),
            ..Connection::default()
        };
        let mut connection = watched();
        connection.facts.note(Facts::AWAITING_PONG);
        connection.stop_watching();
        assert!(connection.outbound.is_some(), "its pong may wait behind what it has not read");
        connection.hear();
        assert!(connection.outbound.is_none());
        let mut sending = watched();
        sending.in_flight.begin(InFlight::SEND);
        sending.hear();
        assert!(sending.outbound.is_some());
        let mut closing = Connection { state: State::Closing, ..watched() };
        closing.hear();
        assert!(closing.outbound.is_some(), "Close is behind it");
    }

    #[test]
    fn what_is_noted_of_a_life_leaves_its_generation() {
        let mut life = Life::of_generation((1 << GENERATION_BITS) - 1);
        life.set_readable(true);
        assert!(life.is_readable());
        assert_eq!(life.generation(), (1 << GENERATION_BITS) - 1);
        life.set_readable(false);
        assert_eq!(life, Life::of_generation((1 << GENERATION_BITS) - 1));
    }

    #[test]
    fn the_window_is_beside_the_facts() {
        for bits in 9..=15 {
            let mut facts = Facts::default();
            facts.note(Facts::MOVED);
            facts.note_provenance(Provenance::Forwarded);
            let window = Window::of_bits(bits);
            window.into_iter().for_each(|window| facts.note_window(window));
            assert_eq!(facts.window(), window);
            assert_eq!(facts.provenance(), Provenance::Forwarded);
            assert!(facts.has(Facts::MOVED) && !facts.has(Facts::ADMITTED));
        }
    }
}
