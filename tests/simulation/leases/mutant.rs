//! Ways to break the protocol, each of which the checks must notice. They act on what passes
//! between the real parts; the parts themselves stay as they are.

use tidegate::admission::leases::{Reply, Say};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    None,
    /// What a shard gives back is counted twice.
    ReturnedTwice,
    /// The coordinator forgets that it has granted something.
    GrantForgotten,
    /// The coordinator grants more than there is.
    LimitIgnored,
    /// A shard answers a recall, and keeps everything then and later.
    NothingGivenBack,
    /// Shards say that they hold nothing of a dead one, although they do.
    OrphansDenied,
    /// Shards never say what they hold of a dead one.
    OrphansUnsaid,
    /// Nobody is told that something has come back.
    NoRefill,
    /// Spent tokens are given back.
    SpentGivenBack,
    /// Spent tokens are not told of.
    SpentUnsaid,
    /// Some asks are lost.
    AskLost,
    /// Some answers are lost.
    AnswerLost,
    /// The end of a connection on another shard is told twice.
    EndedTwice,
    /// The end of a connection on another shard is not told.
    EndedUnsaid,
    /// Connections that a dead shard held for others stay booked.
    LossForgotten,
}

impl Mutant {
    /// What a shard says instead.
    pub(crate) fn say(self, say: Say) -> Say {
        match self {
            Self::NothingGivenBack => Say { slots_back: 0, tokens_back: 0, ..say },
            _ => say,
        }
    }

    /// What the coordinator hears instead.
    pub(crate) fn heard(self, say: Say, chance: bool) -> Say {
        match self {
            Self::SpentGivenBack => {
                Say { tokens_back: say.tokens_back + say.spent, spent: 0, ..say }
            }
            Self::SpentUnsaid => Say { spent: 0, ..say },
            Self::AskLost if chance => Say { ask: None, ..say },
            _ => say,
        }
    }

    /// Whether a reply is lost.
    pub(crate) fn loses(self, reply: &Reply, chance: bool) -> bool {
        match (self, reply) {
            (Self::NoRefill, Reply::Refill) => true,
            (Self::AnswerLost, Reply::Answer { .. }) => chance,
            _ => false,
        }
    }
}
