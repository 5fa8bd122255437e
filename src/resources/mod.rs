//! Shutdown resources: what belongs to the program around the server and ends with it. A database
//! pool, a cache with statistics, a payment gateway, a background task, a command that tells
//! somebody; rule 8 of `docs/requirements.md`.
//!
//! A resource has a [`Stage`], a time limit and something that closes it, once. Stages come in
//! order; in a stage one resource is closed after the other, but for background tasks, which are
//! all told at once. One that fails, or takes too long, stops nothing.
//!
//! Not responsible for when stages begin: that is the coordinator's
//! (`coordinator/resource_stage.rs`), which never waits for a resource.

pub(crate) mod board;
mod closing;
mod hook;
mod in_progress;
mod timing;

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;

pub use board::NotRegistered;

/// When a resource is closed. The order of the variants is that of a shutdown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Before the first connection is refused, while `/readyz` is 503 already (S4.58).
    Before,
    /// After the connections: tasks, all told at once, with 10 s for all of them (S1.6).
    Background,
    /// Then caches and queues (S1.14, S2.11).
    Cache,
    /// Then databases (S1.18, S4.56).
    Database,
    /// Then services of others (S4.5, S4.61).
    External,
    /// At last everything else.
    Last,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 6] =
        [Self::Before, Self::Background, Self::Cache, Self::Database, Self::External, Self::Last];

    /// The name in the configuration, in logs and in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Background => "background",
            Self::Cache => "cache",
            Self::Database => "database",
            Self::External => "external",
            Self::Last => "last",
        }
    }

    /// The stage of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a resource says of itself when it has been closed (S1.15, S1.31).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statistics(Vec<(String, String)>);

impl Statistics {
    /// Nothing to say.
    pub fn none() -> Self {
        Self::default()
    }

    /// One more figure.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.push((name.into(), value.to_string()));
        self
    }

    /// True if there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `Hits: 3, Misses: 1`.
impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{name}: {value}")?;
        }
        Ok(())
    }
}

/// How closing ended: with statistics, or with the reason why not.
pub type Closed = Result<Statistics, Box<dyn Error + Send + Sync>>;

type ClosingFuture = Pin<Box<dyn Future<Output = Closed> + Send>>;

/// What closes a resource.
enum Close {
    /// On a thread of its own, which a time-out leaves behind.
    Blocking(Box<dyn FnOnce() -> Closed + Send>),
    /// Likewise, but a time-out drops the future.
    Async(ClosingFuture),
    /// A process, killed with its group by a time-out.
    Command { argv: Vec<String>, environment: Vec<String> },
}

/// Something to close at a shutdown.
///
/// ```
/// use std::time::Duration;
/// use tidegate::resources::{Resource, Stage, Statistics};
///
/// let cache = Resource::blocking("cache", Stage::Cache, || {
///     Ok(Statistics::none().with("Hits", 3).with("Misses", 1))
/// });
/// let orders = Resource::future("database connections", Stage::Database, async {
///     Err("the pool is gone".into())
/// })
/// .timeout(Duration::from_secs(2));
/// assert_eq!((cache.name(), orders.stage()), ("cache", Stage::Database));
/// ```
pub struct Resource {
    name: String,
    stage: Stage,
    /// As the configuration says if it is absent.
    timeout: Option<Duration>,
    close: Close,
}

impl Resource {
    /// A resource that `close` closes, on a thread of its own, where it may block. If it takes
    /// longer than its time the shutdown goes on without it; the thread cannot be ended.
    ///
    /// `name` says what it is and begins the log lines: "database connections" makes
    /// "Closing database connections" and "Database connections closed".
    pub fn blocking(
        name: impl Into<String>,
        stage: Stage,
        close: impl FnOnce() -> Closed + Send + 'static,
    ) -> Self {
        Self::new(name, stage, Close::Blocking(Box::new(close)))
    }

    /// A resource that a future closes. It is polled on a thread of its own that belongs to no
    /// async runtime: what needs one should be spawned there and its handle awaited here. If
    /// it takes longer than its time it is dropped.
    pub fn future(
        name: impl Into<String>,
        stage: Stage,
        close: impl Future<Output = Closed> + Send + 'static,
    ) -> Self {
        Self::new(name, stage, Close::Async(Box::pin(close)))
    }

    /// A command: the program and its arguments, without a shell. It succeeds with exit code 0.
    /// It runs in a process group of its own, which is killed if its time is over; the last line
    /// that it wrote to standard error is in the log.
    ///
    /// Its environment is `PATH`, `HOME`, `USER`, `LOGNAME`, `SHELL`, `LANG`, `LC_ALL`, `TZ` and
    /// `TMPDIR` of this process as far as they are set; what else this process was given, secrets
    /// among it, is not passed on but for [`Self::environment`].
    pub fn command(name: impl Into<String>, stage: Stage, argv: Vec<String>) -> Self {
        Self::new(name, stage, Close::Command { argv, environment: Vec::new() })
    }

    /// A command with these variables of the process besides. Other resources have no environment
    /// of their own.
    #[must_use]
    pub fn environment(mut self, names: Vec<String>) -> Self {
        if let Close::Command { environment, .. } = &mut self.close {
            *environment = names;
        }
        self
    }

    fn new(name: impl Into<String>, stage: Stage, close: Close) -> Self {
        Self { name: name.into(), stage, timeout: None, close }
    }

    /// With this time instead of `shutdown.resource_timeout_ms` (5 s). Background tasks have no more
    /// than `shutdown.background_ms`. If the deadline of the shutdown leaves less than all times
    /// together, the longest are cut first.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it is closed.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Once it is registered.
    fn timeout_ms(&self) -> u64 {
        let timeout = self.timeout.unwrap_or_default();
        u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, stage, timeout, .. } = self;
        f.debug_struct("Resource")
            .field("name", name)
            .field("stage", stage)
            .field("timeout", timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
