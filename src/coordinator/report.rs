//! What a shutdown did, as it is shown while it runs and written when it ends.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;

/// The state of a shutdown: `/api/v1/shutdown/status`, the last log line and
/// `shutdown.report_file` are all this.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ShutdownReport {
    /// Phase of the server when this was taken.
    pub phase: String,
    /// What asked for the shutdown: `SIGTERM`, `POST /api/v1/shutdown/shutdown`, ...; empty
    /// while the server runs.
    pub reason: String,
    /// `signal`, `panic`, `program`, `deploy`, `scale-in`, `emergency`, `operator` or empty.
    pub cause: String,
    /// The shutdown epoch.
    pub epoch: u64,
    /// When the shutdown began, RFC 3339 in UTC.
    pub started_at: Option<String>,
    /// Milliseconds since then.
    pub duration_ms: u64,
    /// When the process ends at the latest, in milliseconds after the beginning; a drain that is
    /// held moves it.
    pub deadline_ms: u64,
    /// Connections (handshakes included) that were open when new ones began to be refused.
    pub connections_at_start: u64,
    /// Connections still open.
    pub connections_left: u64,
    /// What became of the others; when all is done this adds up to `connections_at_start`.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What does not add up, in words; absent when everything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discrepancy: Option<String>,
    /// Pace of the drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<DrainPlanReport>,
    /// How far the drain has come; absent before it is planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressReport>,
    /// The stages so far.
    pub stages: Vec<StageReport>,
    /// What became of the sessions; absent without Redis, where they end with the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionsReport>,
    /// True if connections or stages were cut short by the server.
    pub forced: bool,
    /// What had not ended in its time when the server gave up waiting: `shard 1`, `coordinator`,
    /// `admin listener`, `log writer`, `redis`, or a resource as `stage:name`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_done: Vec<String>,
    /// Lines of the log that were lost, or not written when this was taken, because standard error
    /// was not read or could not be written.
    #[serde(skip_serializing_if = "is_zero")]
    pub log_lines_lost: u64,
    /// The code with which the process ends; absent until it is decided.
    pub exit_code: Option<u8>,
    /// The drain before, if it was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Box<ShutdownReport>>,
}

impl ShutdownReport {
    /// Resources that were not closed in order, as `stage:name`.
    pub fn unclosed_resources(&self) -> Vec<&str> {
        let is_resource = |stage: &&StageReport| stage.name.contains(':');
        let is_unclosed = |stage: &&StageReport| {
            matches!(stage.result, StageResult::TimedOut | StageResult::Failed)
        };
        let unclosed = self.stages.iter().filter(is_resource).filter(is_unclosed);
        unclosed.map(|stage| stage.name.as_ref()).collect()
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the form that serde calls")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far a drain has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProgressReport {
    /// Connections that have ended.
    pub done: u64,
    /// Connections that are left.
    pub left: u64,
    /// Connections that ended in the last second.
    pub per_second: u64,
    /// When all have been told to go, in milliseconds from now; absent while it is held.
    pub eta_ms: Option<u64>,
    /// Nobody more is told to go for now.
    pub paused: bool,
}

/// The pace of a drain and whether it can do what it should.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DrainPlanReport {
    /// Connections closed per second, all shards together.
    pub connections_per_second: u64,
    /// What would be enough.
    pub needed_per_second: u64,
    /// Time that closing all that were left took at this pace, from when it was planned.
    pub estimated_ms: u64,
    /// Time that there was for it.
    pub window_ms: u64,
    /// Set if that is not enough: what would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
    /// When and where the clients come back.
    pub reconnect: ReconnectReport,
}

/// How the clients come back who do as they are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReconnectReport {
    /// How many in a second.
    pub per_second: u64,
    /// How long the last one waits after its Close, in milliseconds.
    pub last_after_ms: u64,
    /// Where, if they were told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// The sessions at the end of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SessionsReport {
    /// Records that this process has saved, from its start.
    pub saved: u64,
    /// Records that were not in Redis when the time for it was over.
    pub not_saved: u64,
}

/// One stage of a shutdown.
#[derive(Clone, Debug, Serialize)]
pub struct StageReport {
    /// Name: the phase that it was, `sessions` or `redis`, or a resource as `stage:name`.
    pub name: Cow<'static, str>,
    /// When it began, RFC 3339 in UTC.
    pub started_at: String,
    /// How long it took, or has taken so far.
    pub duration_ms: u64,
    /// How it ended.
    pub result: StageResult,
    /// What a resource said of itself when it was closed, or why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// How a stage of a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageResult {
    /// It is under way.
    Running,
    /// It did what it should.
    Done,
    /// Its time ran out; the next one started.
    TimedOut,
    /// It could not do what it should.
    Failed,
    /// There was nothing to do.
    Skipped,
    /// The drain was cancelled.
    Cancelled,
}

impl StageResult {
    /// As in the report.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::TimedOut => "timed_out",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}
