//! Whether this machine holds so many connections, what binds first, and the commands that
//! change it. Pure: a [`Machine`] and a [`Question`] in, a [`Report`] out.
//!
//! The checks are `CHECKS`; kernel settings have a table of their own ([`sysctl`]), from which
//! the files under `tuning/` are made as well. Not here: refusing to start, which is `ring/probe`
//! and `boot/capacity`; what they would say is among the findings.
//!
//! Invariant: every finding that is not fine has a command.

mod machine;
mod process;
mod reach;
mod render;
mod surroundings;
pub mod sysctl;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod unit;

use serde::Serialize;

use crate::config::Config;

pub use machine::{Interface, Machine};
pub use process::Process;
pub use render::{json, short, text};

/// What is asked: so many connections under this configuration.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Connections that are to be held.
    pub connections: u64,
    /// The configuration of the server that is to hold them.
    pub config: &'a Config,
}

/// How a finding matters. The later, the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Fine,
    /// It could not be read.
    Unknown,
    /// So many connections are held, but something suffers.
    Advice,
    /// So many connections are not held.
    Binds,
    /// The server does not start.
    Refuses,
}

impl Verdict {
    /// Its word in the table.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Fine => "ok",
            Self::Unknown => "unknown",
            Self::Advice => "advice",
            Self::Binds => "BINDS",
            Self::Refuses => "REFUSES",
        }
    }
}

/// One subject: what was found, and what to do if it is not enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or by its sysctl name.
    pub subject: String,
    /// How it matters.
    pub verdict: Verdict,
    /// What there is.
    pub found: String,
    /// What so many connections need.
    pub needed: String,
    /// Why they need it.
    pub why: String,
    /// The command that brings it about; empty if nothing is to be done.
    pub command: String,
    /// The command that takes it back; empty if nothing is to be done.
    pub undo: String,
    /// Connections that this allows, where it bounds them.
    pub reachable: Option<u64>,
}

impl Finding {
    fn new(subject: &str, verdict: Verdict) -> Self {
        Self {
            subject: subject.to_owned(),
            verdict,
            found: String::new(),
            needed: String::new(),
            why: String::new(),
            command: String::new(),
            undo: String::new(),
            reachable: None,
        }
    }

    fn found(mut self, found: impl ToString) -> Self {
        self.found = found.to_string();
        self
    }

    fn needed(mut self, needed: impl ToString) -> Self {
        self.needed = needed.to_string();
        self
    }

    fn why(mut self, why: &str) -> Self {
        why.clone_into(&mut self.why);
        self
    }

    /// The way to change it and back; left out where the finding is fine.
    fn fix(mut self, command: impl ToString, undo: impl ToString) -> Self {
        if self.verdict >= Verdict::Advice {
            self.command = command.to_string();
            self.undo = undo.to_string();
        }
        self
    }

    fn reaches(mut self, connections: u64) -> Self {
        self.reachable = Some(connections);
        self
    }
}

/// A check: nothing if its subject is not there.
type Check = fn(&Machine, Question<'_>) -> Vec<Finding>;

/// Every check, in the order of the report: what refuses, what bounds, what suffers.
const CHECKS: &[Check] = &[
    reach::io_uring,
    reach::configuration,
    reach::descriptors,
    reach::own_descriptors,
    reach::memory,
    reach::memory_parts,
    reach::open_files,
    reach::locked_memory,
    reach::conntrack,
    sysctl::check,
    surroundings::backlog,
    surroundings::socket_table,
    surroundings::port,
    surroundings::huge_pages,
    surroundings::interrupts,
    surroundings::clock_source,
    surroundings::swap,
    surroundings::goodbyes,
    unit::check,
];

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Connections asked for.
    pub connections: u64,
    /// Connections that this machine holds under this configuration.
    pub reachable: u64,
    /// The subject that binds first; `None` if the number asked for is reached.
    pub binds: Option<String>,
    /// One for each subject.
    pub findings: Vec<Finding>,
}

impl Report {
    /// The worst of the findings.
    pub fn worst(&self) -> Verdict {
        self.findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
    }
}

/// Looks at everything.
pub fn examine(machine: &Machine, question: Question<'_>) -> Report {
    let findings: Vec<Finding> = CHECKS.iter().flat_map(|check| check(machine, question)).collect();
    let least = findings
        .iter()
        .filter_map(|finding| Some((finding.reachable?, finding)))
        .min_by_key(|(reachable, _)| *reachable);
    let reachable = least.map_or(question.connections, |(reachable, _)| reachable);
    let binds = least
        .filter(|(reachable, _)| *reachable < question.connections)
        .map(|(_, finding)| finding.subject.clone());
    Report { connections: question.connections, reachable, binds, findings }
}
