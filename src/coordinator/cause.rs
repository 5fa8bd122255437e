//! What a shutdown is for, and how the server lets go because of it: the profile of each cause, as
//! it is configured. Pure.

use crate::config::Config;

/// What began a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A signal: whoever supervises the process wants it gone and will not wait forever.
    Signal,
    /// A thread died.
    Panic,
    /// The program that the server is part of ends it.
    Program,
    /// Asked for: another version takes the place of this one.
    Deploy,
    /// Asked for: there are to be fewer nodes.
    ScaleIn,
    /// Asked for: the node must go at once.
    Emergency,
    /// Asked for, without a reason that is known here.
    Operator,
}

impl Cause {
    /// The causes that can be named by whoever asks for a shutdown.
    pub const ASKED: [Self; 4] = [Self::Deploy, Self::ScaleIn, Self::Emergency, Self::Operator];

    /// The name in requests, reports and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Panic => "panic",
            Self::Program => "program",
            Self::Deploy => "deploy",
            Self::ScaleIn => "scale-in",
            Self::Emergency => "emergency",
            Self::Operator => "operator",
        }
    }

    /// The cause of this name, if it can be asked for.
    pub fn asked(name: &str) -> Option<Self> {
        Self::ASKED.into_iter().find(|cause| cause.label() == name)
    }
}

/// How the server lets go for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// When the process ends, in milliseconds from the beginning.
    pub deadline_ms: u64,
    /// How long the drain may take, in milliseconds.
    pub drain_ms: u64,
    /// Connections to close per second; 0 for as many as it takes.
    pub connections_per_second: u64,
    /// The code of every Close.
    pub close_code: u16,
    /// The `reason` that clients are told: not who pressed which button.
    pub reason: String,
}

impl Profile {
    /// The profile that is configured for a cause; for what nobody asks for, that of
    /// `shutdown` itself.
    pub fn of(cause: Cause, config: &Config) -> Self {
        macro_rules! of_section {
            ($section:ident) => {{
                let section = &config.$section;
                Self {
                    deadline_ms: section.deadline_ms,
                    drain_ms: section.drain_ms,
                    connections_per_second: section.connections_per_second,
                    close_code: section.close_code,
                    reason: section.reason.clone(),
                }
            }};
        }
        match cause {
            Cause::Deploy => of_section!(drain_deploy),
            Cause::ScaleIn => of_section!(drain_scale_in),
            Cause::Emergency => of_section!(drain_emergency),
            Cause::Operator => of_section!(drain_operator),
            Cause::Signal | Cause::Panic | Cause::Program => Self {
                deadline_ms: config.shutdown.deadline_ms,
                drain_ms: config.shutdown.drain_ms,
                connections_per_second: config.shutdown.drain_connections_per_second,
                close_code: config.shutdown.close_code,
                reason: if cause == Cause::Panic { "failure" } else { "shutdown" }.to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_profile_leaves_out_is_as_for_a_signal() {
        let mut config = Config::default();
        let signal = Profile::of(Cause::Signal, &config);
        for cause in [Cause::Deploy, Cause::ScaleIn, Cause::Operator] {
            let profile = Profile { reason: signal.reason.clone(), ..Profile::of(cause, &config) };
            assert_eq!(profile, signal, "{cause:?}");
        }
        config.drain_deploy.close_code = 1012;
        assert_eq!(Profile::of(Cause::Deploy, &config).close_code, 1012);
        assert_eq!(Profile::of(Cause::ScaleIn, &config).close_code, 1001);
        let emergency = Profile::of(Cause::Emergency, &config);
        assert!(emergency.drain_ms < signal.drain_ms && emergency.deadline_ms < signal.deadline_ms);
    }

    #[test]
    fn only_four_can_be_asked_for() {
        for cause in Cause::ASKED {
            assert_eq!(Cause::asked(cause.label()), Some(cause));
        }
        assert_eq!(Cause::asked("signal"), None);
        assert_eq!(Cause::asked(""), None);
    }
}
