//! One shard: what it knows, and what it is told.

use std::collections::VecDeque;

use tidegate::admission::Abroad;
use tidegate::admission::leases::{Chunk, Leases, Reply};

/// A connection, or somebody who would like to be one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection {
    pub(crate) id: u64,
    /// Who keeps its books.
    pub(crate) owner: usize,
    /// Where it is, or is going to.
    pub(crate) holder: usize,
    pub(crate) state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Waiting,
    Open,
    /// Its descriptor is with the holder, who does not know yet whose it is.
    Moving,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Admitted,
    Full,
    NoTokens { wait_ns: u64 },
    OwnerDead,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    Limits { chunk: Chunk, rate_limited: bool },
    Budget(Reply),
    Died { shard: usize },
    Ask { from: usize, id: u64 },
    Verdict { owner: usize, id: u64, outcome: Outcome },
    Ended { from: usize, connections: u32 },
    Handed { from: usize, id: u64 },
}

/// An attempt that waits for the coordinator.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deferred {
    pub(crate) from: usize,
    pub(crate) id: u64,
    /// Answers that this shard has heard when it is decided at the latest.
    pub(crate) patience: u64,
}

/// The way to one other shard.
#[derive(Default)]
pub(crate) struct Link {
    pub(crate) waiting: VecDeque<Message>,
    pub(crate) ended: u32,
}

pub(crate) struct Shard {
    pub(crate) alive: bool,
    pub(crate) now_ns: u64,
    pub(crate) leases: Leases,
    pub(crate) abroad: Abroad,
    pub(crate) deferred: VecDeque<Deferred>,
    pub(crate) inbox: VecDeque<Message>,
    pub(crate) links: Vec<Link>,
    pub(crate) rate_limited: bool,
    pub(crate) lean: bool,
    /// The last that it heard of the budget is that there is no token: nobody need wait for more.
    pub(crate) told_no: bool,
    /// Answers heard.
    pub(crate) answers: u64,
    /// Tokens spent and not told of.
    pub(crate) spent: u64,
}

impl Shard {
    pub(crate) fn new(shards: usize, chunk: Chunk, rate_limited: bool) -> Self {
        let mut leases = Leases::default();
        leases.set(chunk, rate_limited);
        Self {
            alive: true,
            now_ns: 0,
            leases,
            abroad: Abroad::new(shards),
            deferred: VecDeque::new(),
            inbox: VecDeque::new(),
            links: (0..shards).map(|_| Link::default()).collect(),
            rate_limited,
            lean: false,
            told_no: false,
            answers: 0,
            spent: 0,
        }
    }

    /// What was said holds no more, or what was given is taken back: the next answers decide.
    pub(crate) fn be_patient(&mut self) {
        self.deferred.iter_mut().for_each(|deferred| deferred.patience += 2);
    }

    /// Nothing to do, to say or to send.
    pub(crate) fn is_quiet(&self) -> bool {
        let sent = self.links.iter().all(|link| link.waiting.is_empty() && link.ended == 0);
        let said = self.leases.to_say(0, true, self.now_ns).is_none();
        sent && said
            && self.inbox.is_empty()
            && self.deferred.is_empty()
            && self.abroad.to_say().is_none()
    }
}
