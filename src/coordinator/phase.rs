//! The phases of the server's life and the steps that are allowed between them.

use std::fmt;

/// Where the server is in its life. Each entry raises the shutdown epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// Shards are being set up.
    Starting = 0,
    /// Serving.
    Running = 1,
    /// Not ready any more, so that load balancers look elsewhere, but still accepting.
    Notice = 2,
    /// New connections are told 503; clients are being told to come back elsewhere.
    Refusing = 3,
    /// Connections leave at the pace of the drain.
    Draining = 4,
    /// What is left is cut.
    Forcing = 5,
    /// Counts, hooks, logs.
    Flushing = 6,
    /// Nothing is left.
    Stopped = 7,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Running,
        Self::Notice,
        Self::Refusing,
        Self::Draining,
        Self::Forcing,
        Self::Flushing,
        Self::Stopped,
    ];

    /// Whether `next` may follow. Draining may be skipped when nobody is connected, everything
    /// before Forcing when the stop is forced. The only way back is that a drain is cancelled,
    /// while everybody who is still there can stay.
    pub const fn may_step_to(self, next: Self) -> bool {
        use Phase::{Draining, Flushing, Forcing, Notice, Refusing, Running, Starting, Stopped};
        matches!(
            (self, next),
            (Starting, Running | Flushing | Forcing)
                | (Running, Notice | Refusing | Forcing)
                | (Notice, Refusing | Forcing | Running)
                | (Refusing, Draining | Forcing | Running)
                | (Draining, Forcing | Flushing | Running)
                | (Forcing, Flushing)
                | (Flushing, Stopped)
        )
    }

    /// True while new connections are admitted.
    pub const fn accepts(self) -> bool {
        matches!(self, Self::Running | Self::Notice)
    }

    /// True while a shutdown is under way that can be held, paced and cancelled: nobody is cut and
    /// nothing that outlives the connections has been given up.
    pub const fn can_turn_back(self) -> bool {
        matches!(self, Self::Notice | Self::Refusing | Self::Draining)
    }

    /// True while load balancers should send clients here.
    pub const fn is_ready(self) -> bool {
        matches!(self, Self::Running)
    }

    /// True from the first step of a shutdown on.
    pub const fn is_shutting_down(self) -> bool {
        (self as u8) >= Self::Notice as u8
    }

    /// The phase of a number that was a phase.
    pub fn from_number(number: u8) -> Self {
        Self::ALL.get(usize::from(number)).copied().unwrap_or(Self::Stopped)
    }

    /// Name in logs, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Notice => "notice",
            Self::Refusing => "refusing",
            Self::Draining => "draining",
            Self::Forcing => "forcing",
            Self::Flushing => "flushing",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_leads_forwards_to_stopped() {
        for from in Phase::ALL {
            for to in Phase::ALL {
                let cancelled = from.can_turn_back() && to == Phase::Running;
                assert!(
                    !from.may_step_to(to) || to > from || cancelled,
                    "{from} -> {to} leads back"
                );
                assert!(!cancelled || from.may_step_to(to), "{from} cannot be cancelled");
            }
            assert!(
                from == Phase::Stopped || Phase::ALL.iter().any(|to| from.may_step_to(*to)),
                "{from} is a dead end"
            );
        }
    }
}
