//! What the machine of a connection sees and changes besides the connection itself.
//!
//! A [`Context`] belongs to the shard and is lent to the machine field by field. It has no ring, no
//! clock and no table of connections: what the kernel is to do next stands in [`Next`], what
//! concerns others stands in a list of [`Action`]s, and the shard carries both out.

use std::sync::Arc;

use super::refused::Refused;
use crate::admission::SourceKey;
use crate::channels::registry::Registry;
use crate::clock::Now;
use crate::close_reason::DrainOutcome;
use crate::coordinator::phase::Phase;
use crate::handler::{Effects, ShardRoutes};
use crate::http::request::HeadScanner;
use crate::mesh::message::Handed;
use crate::metrics::ShardMetrics;
use crate::ring::{FileSlot, SendBatch, Token};
use crate::sessions::id::SessionId;
use crate::shard::farewell::Farewells;
use crate::shard::half_open::HalfOpen;
use crate::shard::heads::Heads;
use crate::shard::heavy::Heavy;
use crate::shard::hostile::{Output, PingCounts, Unfinished};
use crate::shard::refusing::Refusing;
use crate::shard::sessions::Sessions;
use crate::shard::settings::Settings;
use crate::shard::spare::Spare;
use crate::shard::unadmitted::Unadmitted;
use crate::shard::unread::Unread;
use crate::tables::Map;
use crate::websocket::deflate::Inflater;

/// What all connections of a shard share.
pub(crate) struct Context {
    pub(crate) settings: Settings,
    pub(crate) metrics: Arc<ShardMetrics>,
    pub(crate) clock: TurnTime,
    pub(crate) next: Next,
    /// In the order in which they came up; carried out before the turn ends.
    pub(crate) actions: Vec<(Token, Action)>,
    pub(crate) serving: Serving,
    pub(crate) budgets: Budgets,
    pub(crate) unread: Unread,
    pub(crate) heavy: Heavy,
    pub(crate) registry: Registry,
    pub(crate) sessions: Sessions,
    pub(crate) handshakes: Handshakes,
    pub(crate) refusing: Refusing,
    pub(crate) spare: Spare,
    pub(crate) shutdown: Shutdown,
}

/// Time as the shard sees it: one reading for a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TurnTime {
    pub(crate) now: Now,
    /// [`TICK_MS`](crate::limits::TICK_MS) each, without the time in which the shard stood still.
    pub(crate) tick: u32,
    /// More connections wait in the backlog than are accepted at a time, so that the request of
    /// each has come when it is accepted.
    pub(crate) accepts_late: bool,
}

/// The handlers of the shard, and what their calls share.
pub(crate) struct Serving {
    pub(crate) routes: ShardRoutes,
    pub(crate) effects: Effects,
    pub(crate) inflater: Inflater,
}

/// What clients make the shard hold, and count, together.
#[derive(Debug)]
pub(crate) struct Budgets {
    pub(crate) unfinished: Unfinished,
    pub(crate) output: Output,
    pub(crate) pings: PingCounts,
}

/// What is known of connections before their upgrade. Beside the table of connections, because
/// few are in that state at a time.
#[derive(Debug)]
pub(crate) struct Handshakes {
    pub(crate) half_open: HalfOpen,
    /// Bytes of connections that are not upgraded.
    pub(crate) heads: Heads,
    /// How far the requests have come of connections that are admitted, or refused.
    pub(crate) requests: Map<FileSlot, Request>,
    /// Connections of trusted proxies that have not said for whom they connect.
    pub(crate) unadmitted: Map<FileSlot, Unadmitted>,
}

impl Handshakes {
    /// Nothing of a connection is needed any more.
    pub(crate) fn forget(&mut self, id: Token) {
        self.requests.remove(&id.slot);
        self.unadmitted.remove(&id.slot);
        self.heads.forget(id.slot);
    }
}

/// A request whose head is not complete.
#[derive(Debug)]
pub(crate) enum Request {
    /// The connection is, or may be, admitted.
    Head(HeadScanner),
    /// The connection was refused; how it is told is seen from its request.
    Refused(Refused),
}

/// What connections know of the shutdown.
#[derive(Debug)]
pub(crate) struct Shutdown {
    pub(crate) phase: Phase,
    /// Of the drain that is under way.
    pub(crate) terms: Option<DrainTerms>,
    pub(crate) log: Farewells,
}

/// Times of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DrainTerms {
    /// How long the answer to a Close is awaited, in ticks.
    pub(crate) close_patience: u32,
    /// When what is left is forced, in milliseconds of [`Now`]; 0 once that has begun.
    pub(crate) forcing_at_ms: u64,
}

/// What the ring, the timers and the queues of the shard are to do for the connection whose event
/// was handled. The bits of operations in flight are set already.
#[derive(Debug, Default)]
pub(crate) struct Next {
    /// One send; there is none in flight.
    pub(crate) send: Option<SendBatch>,
    pub(crate) receive: Receive,
    pub(crate) timer: Timer,
    /// Cancel the multishot receive.
    pub(crate) cancel_receive: bool,
    /// Reset the connection.
    pub(crate) reset: bool,
    /// End this side of the stream.
    pub(crate) half_close: bool,
    /// Close the descriptor: nothing else is in flight.
    pub(crate) close: bool,
    /// Ask how much of what was sent is not acknowledged.
    pub(crate) ask_progress: bool,
    /// Give the descriptor to the ring of this shard.
    pub(crate) send_to: Option<usize>,
    /// Put it into the queue of those whose bytes are received in turn.
    pub(crate) queue_readable: bool,
    /// Put it into the queue of refused connections.
    pub(crate) queue_refused: bool,
    /// The descriptor is closed: this life of its index is over.
    pub(crate) ended: bool,
    /// It may hold more of the shard's budgets than before.
    pub(crate) holds_more: bool,
}

/// How the next bytes are awaited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Receive {
    /// Not, or they are awaited already.
    #[default]
    None,
    /// One-shot poll.
    Poll,
    /// One receive; `poll_first` waits for readiness before the first attempt.
    Once { poll_first: bool },
    /// Multishot receive.
    Many,
}

/// What becomes of the timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Timer {
    /// It stays as it is.
    #[default]
    Keep,
    /// None is needed.
    Clear,
    /// It fires at this tick.
    At(u32),
}

/// What an event of one connection means for others, or needs from outside the machine.
#[derive(Debug)]
pub(crate) enum Action {
    /// The client is known: ask whether it is admitted.
    Ask { source: SourceKey },
    /// The descriptor has arrived at another shard: tell that shard whose it is.
    Transfer { to: usize, papers: Handed, admitted: bool },
    /// A handler wants a session: issue an id if there is none.
    BeginSession { id: Option<SessionId>, channels: Vec<String> },
    /// The connection has ended.
    Ended {
        source: SourceKey,
        /// It held a place in the admission budgets.
        admitted: bool,
        /// It was there when the drain began.
        outcome: Option<DrainOutcome>,
    },
}
