//! The WebSocket clients of one ring: they open, read, send and end as a scenario says.
//!
//! An event goes downwards: the ring's completion, then `opening`, `receiving` or `closing`,
//! then the scenario's hook, which may send or close through [`Core`]. Hooks never call back
//! into the event's handler; what they ask for is done by later completions.

mod closing;
pub(crate) mod connection;
mod core;
mod opening;
mod receiving;
mod returning;
mod upgrade;

use std::io;
use std::time::Duration;

use tidegate::ring::{Completion, FileSlot, Outcome, Ring, Wait};

pub(crate) use self::core::{Core, Job, Manner, SPARE_FILES};
pub(crate) use self::returning::{Bounced, Door, Visit};
use crate::crew::Phase;
use crate::fate::Ending;

/// A complete message.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message<'a> {
    /// Valid UTF-8.
    Text(&'a str),
    /// Any bytes.
    Binary(&'a [u8]),
    /// What one receive brought on a connection without WebSocket.
    Raw(&'a [u8]),
}

/// What the connections of a run are for.
pub(crate) trait Scenario {
    /// What is kept for each connection.
    type State: Default;

    /// True if messages follow each other closely: a lasting receive is armed then. Otherwise an
    /// idle connection has a one-shot watch armed, which costs the kernel a third of that.
    const BUSY: bool;

    /// Path and query for connection number `index`; `None` for the URL's own.
    fn path(&self, _index: u64) -> Option<&str> {
        None
    }

    /// Admitted, this long after the attempt began. Nothing is armed yet, so this is the place to
    /// make the connection deaf.
    fn on_open(&mut self, _core: &mut Core<Self::State>, _slot: FileSlot, _took: Duration) {}

    /// Answered with another status than 101, this long after the attempt began.
    fn on_refused(
        &mut self,
        _core: &mut Core<Self::State>,
        _took: Duration,
        _retry_after_s: Option<u32>,
    ) {
    }

    /// A message has arrived.
    fn on_message(&mut self, core: &mut Core<Self::State>, slot: FileSlot, message: Message<'_>);

    /// The peer's Close has arrived; it will be answered, unless it is itself the answer to ours.
    fn on_close_frame(
        &mut self,
        _core: &mut Core<Self::State>,
        _slot: FileSlot,
        _code: Option<u16>,
        _reason: &str,
    ) {
    }

    /// An admitted connection has ended; `answered` if the peer's Close was, completely.
    fn on_end(&mut self, _core: &mut Core<Self::State>, _end: End<'_, Self::State>) {}

    /// An attempt to come back has failed. Nobody else will make another.
    fn on_bounced(&mut self, _core: &mut Core<Self::State>, _bounced: Bounced) {}

    /// The run has entered another phase.
    fn on_phase(&mut self, _core: &mut Core<Self::State>, _phase: Phase) {}

    /// Once a turn. Returns how long the ring may sleep.
    fn on_turn(&mut self, _core: &mut Core<Self::State>) -> Duration {
        core::LONGEST_SLEEP
    }

    /// Messages received that count, so far.
    fn messages(&self) -> u64;

    /// True once there is nothing more to wait for in the window.
    fn is_done(&self, _core: &Core<Self::State>) -> bool {
        false
    }
}

/// How an admitted connection ended.
pub(crate) struct End<'a, C> {
    /// Number of its client.
    pub(crate) index: u64,
    /// Which attempt of the client it was.
    pub(crate) visit: Visit,
    /// What the scenario kept.
    pub(crate) state: &'a C,
    /// How.
    pub(crate) ending: Ending,
    /// True if the peer's Close was answered, completely.
    pub(crate) answered: bool,
}

/// One ring's clients.
pub(crate) struct Client<S: Scenario> {
    pub(crate) core: Core<S::State>,
    pub(crate) scenario: S,
    scratch: Vec<u8>,
}

impl<S: Scenario> Client<S> {
    /// Makes the ring; call it on the thread that will use it.
    ///
    /// # Errors
    /// What the kernel answers to setting up the ring.
    pub(crate) fn new(job: Job, scenario: S) -> io::Result<Self> {
        Ok(Self { core: Core::new(job)?, scenario, scratch: Vec::new() })
    }

    /// One turn: open what is due, let the scenario act, wait, handle what completed.
    ///
    /// # Errors
    /// The ring has become unusable.
    pub(crate) fn turn(&mut self) -> io::Result<()> {
        let until_next_open = self.core.open_due();
        self.expire_openings();
        let sleep = self.scenario.on_turn(&mut self.core).min(until_next_open);
        self.core.retry_starved();
        self.core.ring.turn(Wait::AtMost(sleep))?;
        self.core.refresh_clock();
        let answered = self.core.ledger.answered();
        while let Some(completion) = self.core.ring.next_completion() {
            self.dispatch(completion);
        }
        if self.core.ledger.answered() > answered {
            self.core.last_answer = Some(self.core.now());
        }
        for bounced in std::mem::take(&mut self.core.returns.bounced) {
            self.scenario.on_bounced(&mut self.core, bounced);
        }
        Ok(())
    }

    fn dispatch(&mut self, Completion { token, outcome }: Completion) {
        match outcome {
            Outcome::Opened(result) => self.on_opened(result),
            Outcome::Bound(result) => self.on_bound(token, result),
            Outcome::Connected(result) => self.on_connected(token, result),
            Outcome::Readable(_) => self.on_readable(token),
            Outcome::Received { result, lasts } => self.on_received(token, result, lasts),
            Outcome::Sent(result, batch) => self.on_sent(token, result, batch),
            Outcome::Cut(_) => self.on_cut(token),
            Outcome::Closed => self.core.on_closed(token),
            // A calmed receive reports its own end; the rest is never asked for.
            Outcome::Calmed(_)
            | Outcome::Accepted(_)
            | Outcome::HalfClosed
            | Outcome::Unacknowledged(_)
            | Outcome::HandedOver { .. }
            | Outcome::HandedHere { .. }
            | Outcome::Ticked { .. }
            | Outcome::Woken => {}
        }
    }
}
