//! The stages of an admin connection, the legal steps between them, and what a stage means for a
//! connection that waits for its client: how long it may, and when it gives way to another.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use super::budget::Charge;
use super::connection::Patience;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Accepted; the head of the first request has not arrived completely.
    Silent,
    /// Between two requests.
    Idle,
    /// The head of a further request has begun to arrive.
    Head,
    /// A request is being worked on.
    Working,
    /// A request waits until it is worked on.
    Queued,
    /// The body of a request is arriving.
    Body,
    /// A refusal is held back.
    Delayed,
    /// The answer is leaving.
    Answering,
    /// Half-closed; what still arrives is thrown away.
    Lingering,
}

impl Stage {
    /// Every stage.
    #[cfg(test)]
    pub(super) const ALL: [Self; 9] = [
        Self::Silent,
        Self::Idle,
        Self::Head,
        Self::Working,
        Self::Queued,
        Self::Body,
        Self::Delayed,
        Self::Answering,
        Self::Lingering,
    ];

    /// Whether `next` may follow. `Answering` follows a stage without a request where hyper answers
    /// by itself: bytes that are not HTTP.
    pub(super) fn may_become(self, next: Self) -> bool {
        match self {
            Self::Silent | Self::Head => {
                matches!(next, Self::Working | Self::Answering | Self::Lingering)
            }
            Self::Idle => {
                matches!(next, Self::Head | Self::Working | Self::Answering | Self::Lingering)
            }
            Self::Working => matches!(
                next,
                Self::Queued | Self::Body | Self::Delayed | Self::Answering | Self::Lingering
            ),
            Self::Queued => matches!(next, Self::Working | Self::Lingering),
            Self::Body => matches!(next, Self::Working | Self::Lingering),
            Self::Delayed => matches!(next, Self::Answering | Self::Lingering),
            Self::Answering => matches!(next, Self::Idle | Self::Working | Self::Lingering),
            Self::Lingering => false,
        }
    }
}

/// The standing of a connection: its stage, since when, and whether its client is known.
#[derive(Debug)]
pub(super) struct Standing {
    stage: Cell<Stage>,
    since: Cell<Instant>,
    /// The last request brought the token, or none is wanted; a probe proves nothing.
    is_trusted: Cell<bool>,
    /// The memory of the answer that is leaving.
    answer: RefCell<Option<Charge>>,
}

impl Standing {
    pub(super) fn accepted(now: Instant) -> Self {
        Self {
            stage: Cell::new(Stage::Silent),
            since: Cell::new(now),
            is_trusted: Cell::new(false),
            answer: RefCell::new(None),
        }
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.get()
    }

    pub(super) fn since(&self) -> Instant {
        self.since.get()
    }

    pub(super) fn set_trusted(&self, is_trusted: bool) {
        self.is_trusted.set(is_trusted);
    }

    /// Holds this until the answer that it is for has left.
    pub(super) fn hold(&self, charge: Charge) {
        *self.answer.borrow_mut() = Some(charge);
    }

    /// The one setter of the stage.
    pub(super) fn enter(&self, stage: Stage, now: Instant) {
        debug_assert!(self.stage.get().may_become(stage), "{:?} to {stage:?}", self.stage.get());
        if self.stage.replace(stage) == Stage::Answering {
            self.answer.replace(None);
        }
        self.since.set(now);
    }

    /// When the connection ends if its stage lasts; `None` where other clocks run.
    pub(super) fn due(&self, patience: Patience) -> Option<Instant> {
        let span = match self.stage.get() {
            Stage::Silent | Stage::Head => patience.head,
            Stage::Idle => patience.idle,
            Stage::Answering => patience.answer,
            Stage::Lingering => patience.linger,
            Stage::Working | Stage::Queued | Stage::Body | Stage::Delayed => return None,
        };
        Some(self.since.get() + span)
    }

    /// Whether the client is a stranger, as a new one is.
    pub(super) fn is_stranger(&self) -> bool {
        !self.is_trusted.get()
    }

    /// The order in which the connections of strangers, or those of known clients, give way to a
    /// new one, lowest first; `None` for a request of a known client that is being worked on.
    /// Within a rank the longest in its stage goes first.
    pub(super) fn rank(&self) -> Option<u8> {
        match (self.stage.get(), self.is_trusted.get()) {
            (Stage::Lingering, _) => Some(0),
            (Stage::Silent | Stage::Idle | Stage::Head | Stage::Delayed, _) => Some(1),
            (Stage::Body, _) => Some(2),
            (Stage::Answering, _) => Some(3),
            (Stage::Working | Stage::Queued, false) => Some(3),
            (Stage::Queued, true) => Some(4),
            (Stage::Working, true) => None,
        }
    }

    /// How long the client has kept this stage waiting.
    pub(super) fn waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legal_steps_are_these() {
        use Stage::*;
        let legal = [
            (Silent, &[Working, Answering, Lingering][..]),
            (Idle, &[Head, Working, Answering, Lingering]),
            (Head, &[Working, Answering, Lingering]),
            (Working, &[Queued, Body, Delayed, Answering, Lingering]),
            (Queued, &[Working, Lingering]),
            (Body, &[Working, Lingering]),
            (Delayed, &[Answering, Lingering]),
            (Answering, &[Idle, Working, Lingering]),
            (Lingering, &[]),
        ];
        for (from, next) in legal {
            for to in Stage::ALL {
                assert_eq!(from.may_become(to), next.contains(&to), "{from:?} to {to:?}");
            }
        }
    }

    /// Only a request of a known client that is being worked on is safe; idle ones go first.
    #[test]
    fn the_idle_give_way_before_those_that_have_something_under_way() {
        let standing = |stage, is_trusted| {
            let standing = Standing::accepted(Instant::now());
            standing.stage.set(stage);
            standing.set_trusted(is_trusted);
            standing.rank()
        };
        for stage in Stage::ALL {
            assert!(standing(stage, false).is_some(), "{stage:?}");
            assert_eq!(standing(stage, true).is_none(), stage == Stage::Working, "{stage:?}");
        }
        let order = [Stage::Lingering, Stage::Idle, Stage::Body, Stage::Answering, Stage::Queued];
        let ranks = order.map(|stage| standing(stage, true));
        assert!(ranks.is_sorted_by(|one, other| one < other), "{ranks:?}");
        let ranks = [0, 1, 2, 3].map(|index| standing(order[index], false));
        assert!(ranks.is_sorted_by(|one, other| one < other), "{ranks:?}");
    }
}
