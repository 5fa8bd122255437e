//! Bytes arrive: the head of a request, or frames. They are read in place in the ring's buffer;
//! only what must wait for more bytes is copied.
//!
//! A chunk of the socket can hold messages whose replies are a thousand times as long. They are
//! handled until [`READ_PAUSE_BYTES`](limits::READ_PAUSE_BYTES) wait for the client; the rest of
//! the chunk is kept ([`Unread`](crate::shard::unread::Unread)), and nothing is received meanwhile.

use super::Machine;
use super::context::Receive;
use crate::close_reason::CloseReason;
use crate::connection::{InFlight, State};
use crate::limits;
use crate::ring::Errno;

/// A client that is heard again within this many ticks (about a second) ...
const BUSY_TICKS: u32 = 16;

/// ... and has sent at least this many messages is busy: a multishot receive is armed for it
/// instead of a poll, which saves two operations per message and costs 600 bytes of kernel
/// memory until the client has been quiet for some seconds.
const BUSY_MESSAGES: u32 = 4;

/// How to wait for the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listen {
    /// The buffer was filled, or the poll says so: more waits already.
    More,
    /// They will come soon.
    Busy,
    /// They may come some time.
    Idle,
    /// A request follows at once, or is there: a receive costs one operation, a poll would cost
    /// three.
    Request,
}

impl Machine<'_> {
    pub(super) fn on_readable(&mut self, result: Result<(), Errno>) {
        self.connection.in_flight.end(InFlight::WATCH);
        match (self.connection.state, result) {
            (State::Ending, _) => {}
            (_, Ok(())) => self.queue_readable(),
            (_, Err(_)) => self.end(CloseReason::Reset),
        }
    }

    /// Receives as soon as it is its turn, so that a burst does not make the shard keep a buffer
    /// for each.
    fn queue_readable(&mut self) {
        self.connection.life.set_readable(true);
        self.cx.next.queue_readable = true;
    }

    pub(super) fn on_receive_turn(&mut self) {
        self.connection.life.set_readable(false);
        self.listen = Listen::More;
    }

    pub(super) fn on_received(&mut self, bytes: &mut [u8], lasts: bool) {
        self.end_receive(lasts);
        self.listen = self.listen_for(bytes.len());
        match self.connection.state {
            State::Unadmitted => self.on_bytes_unadmitted(bytes),
            State::Handshake => self.on_head(bytes),
            State::TurnedAway => self.on_bytes_refused(bytes),
            State::Open | State::Closing => self.on_received_frames(bytes),
            // Discarded: the client is told, or has been told, that the connection ends.
            State::Flushing | State::Lingering | State::Ending => {}
            State::Vacant | State::Awaiting | State::Leaving | State::Arriving => {
                debug_assert!(false, "received in {:?}", self.connection.state);
            }
        }
    }

    fn end_receive(&mut self, lasts: bool) {
        if !lasts {
            self.connection.in_flight.end(InFlight::RECEIVE);
            self.connection.in_flight.end(InFlight::LASTING);
        }
    }

    /// The client has ended its side. That waits, too, behind what it sent before.
    pub(super) fn on_no_more(&mut self, lasts: bool) {
        self.end_receive(lasts);
        if self.connection.state != State::Ending && !self.cx.unread.end(self.id) {
            self.on_end_of_stream();
        }
    }

    pub(super) fn on_receive_failed(&mut self, errno: Errno, lasts: bool) {
        self.end_receive(lasts);
        if self.connection.state == State::Ending {
            return;
        }
        match errno {
            Errno(libc::ENOBUFS) => {
                self.cx.metrics.buffers_starved.add(1);
                self.queue_readable();
            }
            // ECANCELED: a multishot receive has ended because the client is quiet or does not
            // read.
            Errno(libc::EAGAIN | libc::EINTR | libc::ECANCELED) => {}
            Errno(_) => self.end(CloseReason::Reset),
        }
    }

    pub(super) fn on_receive_cancelled(&mut self, result: Result<(), Errno>) {
        self.connection.in_flight.end(InFlight::CALM);
        let listens = self.connection.in_flight.has(InFlight::LASTING);
        if self.connection.state == State::Ending && listens && result.is_err() {
            // Nothing else would end the receive, and the descriptor would never be free again.
            self.reset();
        }
    }

    fn on_end_of_stream(&mut self) {
        // A client may end its side and still read: what is on its way to it goes out first.
        let sending = self.connection.in_flight.has(InFlight::SEND);
        match self.connection.state {
            State::Open if sending => {
                self.connection.reason = Some(CloseReason::PeerGone);
                self.flush_and_close();
            }
            // The deadline of these is set, and goes on.
            State::Closing | State::Lingering | State::Flushing if sending => {
                self.connection.state = State::Flushing;
            }
            State::Open
            | State::Closing
            | State::Lingering
            | State::Flushing
            | State::Vacant
            | State::Unadmitted
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Handshake
            | State::TurnedAway
            | State::Ending => self.end(CloseReason::PeerGone),
        }
    }

    /// How to wait after `len` bytes, by how long the client was quiet before them.
    fn listen_for(&mut self, len: usize) -> Listen {
        let tick = self.cx.clock.tick;
        let heard_tick = std::mem::replace(&mut self.connection.heard_tick, tick);
        if len == self.cx.settings.receive_buffer_bytes {
            Listen::More
        } else if tick.wrapping_sub(heard_tick) <= BUSY_TICKS
            && self.connection.messages >= BUSY_MESSAGES
        {
            Listen::Busy
        } else {
            Listen::Idle
        }
    }

    /// Reads what was kept, as long as the kernel takes the replies, or beside a send that goes on
    /// if that, with what waits behind it, is little enough.
    pub(super) fn read_kept(&mut self) {
        while self.cx.unread.has(self.id) {
            if !matches!(self.connection.state, State::Open | State::Closing) {
                return self.drop_unread();
            }
            if self.cx.heavy.holds(self.id) {
                return; // until it is its turn
            }
            let may_read = match self.goes_on_with.take() {
                Some(held) => held + self.connection.held_bytes() <= limits::READ_PAUSE_BYTES,
                // What a send in flight still has to send is not known.
                None => !self.connection.in_flight.has(InFlight::SEND),
            };
            let Some(mut kept) = may_read.then(|| self.cx.unread.take(self.id)).flatten() else {
                return;
            };
            self.cx.budgets.output.release(kept.bytes.len());
            self.on_frames(&mut kept.bytes);
            if kept.is_last && !self.cx.unread.end(self.id) {
                self.on_end_of_stream();
            }
        }
    }

    /// Arms what tells of the next bytes, unless something is armed already; nothing while the
    /// client does not read what it is sent.
    pub(super) fn await_bytes(&mut self) {
        let in_flight = self.connection.in_flight;
        let does_not_read = self.connection.held_bytes() > limits::READ_PAUSE_BYTES;
        if in_flight.has(InFlight::LASTING) {
            if does_not_read || self.cx.heavy.holds(self.id) {
                self.cancel_receive();
            }
            return;
        }
        let is_armed = in_flight.has(InFlight::WATCH)
            || in_flight.has(InFlight::RECEIVE)
            || self.connection.life.is_readable();
        let is_heard = match self.connection.state {
            State::Unadmitted
            | State::Handshake
            | State::TurnedAway
            | State::Open
            | State::Closing
            | State::Lingering => true,
            State::Vacant
            | State::Awaiting
            | State::Leaving
            | State::Arriving
            | State::Flushing
            | State::Ending => false,
        };
        let waits = self.cx.unread.has(self.id) || self.cx.heavy.holds(self.id);
        if is_armed || !is_heard || does_not_read || waits {
            return;
        }
        self.cx.next.receive = match self.listen {
            Listen::More => Receive::Once { poll_first: false },
            Listen::Request => Receive::Once { poll_first: !self.cx.clock.accepts_late },
            Listen::Busy => Receive::Many,
            Listen::Idle => Receive::Poll,
        };
        match self.cx.next.receive {
            Receive::None => {}
            Receive::Poll => self.connection.in_flight.begin(InFlight::WATCH),
            Receive::Once { .. } => self.connection.in_flight.begin(InFlight::RECEIVE),
            Receive::Many => {
                self.connection.in_flight.begin(InFlight::RECEIVE);
                self.connection.in_flight.begin(InFlight::LASTING);
                if self.connection.state == State::Open {
                    self.set_open_timer();
                }
            }
        }
    }
}
