//! What can go wrong between a shard and its kernel, each kind with its own odds, and how often
//! each has been seen.

use super::random::Random;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A completion that comes many turns late.
    LateCompletion,
    /// ECONNABORTED: the client was gone before it was accepted.
    AcceptAborted,
    /// EMFILE, ENOBUFS, ENOMEM on accept; the client stays in the backlog.
    AcceptShort,
    /// A receive of a few bytes although there are more.
    ShortReceive,
    /// EAGAIN or EINTR on receive.
    ReceiveInterrupted,
    /// ENOBUFS: all receive buffers are lent.
    NoBuffers,
    /// A multishot receive that ends on a good completion (IORING_CQE_F_MORE not set).
    LastingEnds,
    /// A poll that completes although there is nothing to read.
    SpuriousReadiness,
    /// A send that ends before all bytes were taken.
    ShortSend,
    /// A multishot timer that ends.
    TickEnds,
    /// A descriptor that another ring does not take.
    NoRoomForArrival,
    /// An inbox that is full.
    FullInbox,
    /// A shard's thread that stands still.
    Stall,
    /// A shard's thread that panics.
    Death,
    /// A coordinator that stands still.
    CoordinatorStall,
}

impl Fault {
    pub(crate) const ALL: [Self; 15] = [
        Self::LateCompletion,
        Self::AcceptAborted,
        Self::AcceptShort,
        Self::ShortReceive,
        Self::ReceiveInterrupted,
        Self::NoBuffers,
        Self::LastingEnds,
        Self::SpuriousReadiness,
        Self::ShortSend,
        Self::TickEnds,
        Self::NoRoomForArrival,
        Self::FullInbox,
        Self::Stall,
        Self::Death,
        Self::CoordinatorStall,
    ];
}

/// The odds of each kind in one world, and how often it struck.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// One in so many; 0 for never.
    one_in: [usize; Fault::ALL.len()],
    pub(crate) seen: [u64; Fault::ALL.len()],
}

impl Faults {
    /// Drawn anew for each world: about half of the kinds are off, so that one does not hide
    /// another.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut one_in = [0; Fault::ALL.len()];
        for odds in &mut one_in {
            *odds = random.of(&[0, 0, 0, 1_000, 200, 40]);
        }
        Self { one_in, seen: [0; Fault::ALL.len()] }
    }

    /// Without this kind: a way to shrink a failing world.
    pub(crate) fn without(mut self, fault: Fault) -> Self {
        self.one_in[fault as usize] = 0;
        self
    }

    pub(crate) fn is_on(&self, fault: Fault) -> bool {
        self.one_in[fault as usize] > 0
    }

    pub(crate) fn strikes(&mut self, fault: Fault, random: &mut Random) -> bool {
        let odds = self.one_in[fault as usize];
        let strikes = odds > 0 && random.one_in(odds);
        if strikes {
            self.saw(fault);
        }
        strikes
    }

    pub(crate) fn saw(&mut self, fault: Fault) {
        self.seen[fault as usize] += 1;
    }
}
