//! One connection meets one event: [`handle`] is the only way in.
//!
//! A function of the connection, the event and the shard's [`Context`], without kernel, clock and
//! table of connections. What is to happen next is derived once, after the event: see
//! [`Machine::settle`].
//!
//! The files lie upon each other, and each calls only those below it:
//!
//! | file | what it is about |
//! |---|---|
//! | this one | the events |
//! | `receive`, `draining` | bytes come, the stream ends, what is read next; the drain |
//! | `placing` | verdicts, moves between shards |
//! | `proxied` | a trusted proxy says for whom it connects |
//! | `handshake` | the head of a request, the upgrade |
//! | `deadlines`, `sent` | time limits, sends complete |
//! | `identity`, `frames` | for whom a proxy connects; frames, and what a handler wants done |
//! | `refused`, `session` | refusals, and how they are told; sessions |
//! | `ending` | Close handshakes, resets, the end |
//! | `output` | bytes to the client |

pub(crate) mod context;
mod deadlines;
mod draining;
mod ending;
mod frames;
mod handshake;
mod identity;
mod output;
mod placing;
mod proxied;
mod receive;
pub(crate) mod refused;
mod sent;
mod session;

use std::net::SocketAddr;

use crate::admission::Verdict;
use crate::close_reason::{CloseReason, DrainOutcome};
use crate::connection::Connection;
use crate::mesh::message::Handed;
use crate::ring::{Errno, SendBatch, Token};
use crate::sessions::id::SessionId;
use crate::sessions::keeper::Found;
use crate::shard::fan_out::Publication;

use context::Context;
pub(crate) use draining::Notice;
use receive::Listen;

/// What happens to a connection.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// The one-shot poll has completed.
    Readable(Result<(), Errno>),
    /// It is its turn to receive.
    ReceiveTurn,
    /// It is its turn among connections whose bytes cost much.
    HeavyTurn,
    /// Bytes have been received. `lasts`: the receive is a multishot one, and goes on.
    Received { bytes: &'a mut [u8], lasts: bool },
    /// The client has ended its side.
    EndOfStream { lasts: bool },
    /// The receive has failed.
    ReceiveFailed { errno: Errno, lasts: bool },
    /// The cancellation of the multishot receive has completed.
    ReceiveCancelled(Result<(), Errno>),
    /// A send has completed.
    Sent(Result<usize, Errno>, SendBatch),
    /// So many bytes are not acknowledged.
    Unacknowledged(Result<u32, Errno>),
    /// The reset has completed.
    Reset(Result<(), Errno>),
    /// This side of the stream is ended.
    HalfClosed,
    /// The descriptor is closed.
    Closed,
    /// The timer has fired.
    Deadline,
    /// Whether the connection is admitted is known. If it is, and nothing has been read of it, it
    /// goes to shard `to`, if there is one.
    Verdict { verdict: Verdict, to: Option<usize> },
    /// Its peer is a trusted proxy, which has to say for whom it connects; it goes to shard `to`, if
    /// there is one.
    Proxied { peer: SocketAddr, to: Option<usize> },
    /// The descriptor is in the table of shard `to`, or could not be put there.
    SentTo { to: usize, result: Result<(), Errno> },
    /// A descriptor that came from another shard: this is whose it is.
    Arrived(Handed),
    /// A publication of a channel, or for everybody.
    Publication(&'a mut Publication),
    /// A session begins, with an id unless the kernel had no random bytes.
    SessionBegins { id: Option<SessionId>, channels: Vec<String> },
    /// What is known of the session that it has asked for.
    SessionAttached(Found),
    /// Nothing was heard of its session for too long.
    SessionLate,
    /// Another connection has its session.
    SessionTaken,
    /// The server begins to refuse.
    RefusingBegins,
    /// The notice of the drain.
    Notice(Notice<'a>),
    /// Bye and Close, with the notice first if it has not had one; a `patient` drain waits for the
    /// end of a message that has begun.
    Goodbye { notice: Option<Notice<'a>>, close_code: u16, patient: bool },
    /// There is no time for messages any more.
    OnlyClose,
    /// The end of the drain.
    DrainCut,
    /// The drain is cancelled; `noticed`: the client has heard the notice.
    DrainCancelled { noticed: bool },
    /// Another drain begins before it has left in the one that was cancelled.
    DrainSettled,
    /// The shard ends, and closing its ring will reset what is left.
    ShardEnds,
    /// Something that it holds is needed for others, or its shard has failed: it ends now.
    Evict(CloseReason),
    /// Of all messages that are not complete, its is the oldest, and there is too much of them.
    EvictUnfinished,
    /// Something has waited for it for longest, and too much waits for all.
    EvictOutput,
}

/// What came of an event, for those who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The connection does not exist any more.
    Gone,
    /// The event is none for a connection in this state.
    Passed,
    /// Done.
    Done,
    /// Not yet: a message is about to end.
    Later,
    /// Done, and the connection belongs to the drain no more.
    Settled(DrainOutcome),
}

/// A connection and what it needs while an event of it is handled.
pub(super) struct Machine<'a> {
    id: Token,
    connection: &'a mut Connection,
    cx: &'a mut Context,
    /// How the next bytes are awaited, should they be.
    listen: Listen,
    /// Bytes held by a send that goes on, beside which more may be read.
    goes_on_with: Option<usize>,
}

/// Handles one event of a connection, and derives what is to be done next.
pub(crate) fn handle(
    id: Token,
    connection: &mut Connection,
    event: Event<'_>,
    cx: &mut Context,
) -> Reply {
    let mut machine = Machine { id, connection, cx, listen: Listen::Idle, goes_on_with: None };
    let reply = machine.on(event);
    machine.settle();
    reply
}

impl Machine<'_> {
    fn on(&mut self, event: Event<'_>) -> Reply {
        match event {
            Event::Readable(result) => self.on_readable(result),
            Event::ReceiveTurn => self.on_receive_turn(),
            // What was kept is read, and more is awaited, after every event.
            Event::HeavyTurn => {}
            Event::Received { bytes, lasts } => self.on_received(bytes, lasts),
            Event::EndOfStream { lasts } => self.on_no_more(lasts),
            Event::ReceiveFailed { errno, lasts } => self.on_receive_failed(errno, lasts),
            Event::ReceiveCancelled(result) => self.on_receive_cancelled(result),
            Event::Sent(result, batch) => self.on_sent(result, batch),
            Event::Unacknowledged(result) => self.on_unacknowledged(result),
            Event::Reset(result) => self.on_reset(result),
            Event::HalfClosed => self.on_half_closed(),
            Event::Closed => self.on_closed(),
            Event::Deadline => self.on_deadline(),
            Event::Verdict { verdict, to } => return self.on_verdict(verdict, to),
            Event::Proxied { peer, to } => self.on_proxied(peer, to),
            Event::SentTo { to, result } => self.on_sent_to(to, result),
            Event::Arrived(papers) => return self.on_arrived(&papers),
            Event::Publication(publication) => self.on_publication(publication),
            Event::SessionBegins { id, channels } => return self.begin_session(id, channels),
            Event::SessionAttached(found) => return self.on_session_attached(found),
            Event::SessionLate => self.on_session_late(),
            Event::SessionTaken => self.on_session_taken(),
            Event::RefusingBegins => self.on_refusing_begins(),
            Event::Notice(notice) => return self.on_notice(notice),
            Event::Goodbye { notice, close_code, patient } => {
                return self.on_goodbye(notice, close_code, patient);
            }
            Event::OnlyClose => self.on_only_close(),
            Event::DrainCut => self.on_drain_cut(),
            Event::DrainCancelled { noticed } => return self.on_drain_cancelled(noticed),
            Event::DrainSettled => return self.on_drain_settled(),
            Event::ShardEnds => self.let_go_of_session(),
            Event::Evict(reason) => self.end(reason),
            Event::EvictUnfinished => self.on_evict_unfinished(),
            Event::EvictOutput => self.cut(CloseReason::SlowConsumer),
        }
        Reply::Done
    }

    /// What the event was not about, but may have made possible or necessary: reading on, waiting
    /// for more, the close of a descriptor on which nothing is in flight.
    fn settle(&mut self) {
        self.read_kept();
        self.await_bytes();
        self.close_if_quiet();
    }
}
