//! What a server says of itself on /metrics, and what the kernel says of its process.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::http;
use super::server::Server;

/// One scrape.
#[derive(Debug)]
pub(crate) struct Figures(String);

impl Figures {
    /// The figures now.
    #[track_caller]
    pub(crate) fn of(server: &Server) -> Self {
        Self(http::get(server.admin, "/metrics"))
    }

    /// The sum of a metric over all its labels, or one sample if `name` includes them.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        let values = self.0.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next())??;
            value.parse::<f64>().ok()
        });
        values.sum::<f64>() as u64
    }

    /// Upgraded connections that ended for this reason.
    pub(crate) fn closed(&self, reason: &str) -> u64 {
        self.sum(&format!("tidegate_connections_closed_total{{reason=\"{reason}\"}}"))
    }

    /// The lines of the metrics whose names begin like this, for a message.
    pub(crate) fn lines(&self, beginning: &str) -> String {
        let lines = self.0.lines().filter(|line| line.starts_with(beginning));
        lines.filter(|line| !line.ends_with(" 0")).collect::<Vec<_>>().join("\n")
    }
}

/// The sum of a metric over all its labels, now.
#[track_caller]
pub(crate) fn metric(server: &Server, name: &str) -> u64 {
    Figures::of(server).sum(name)
}

fn directory(pid: Pid) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

/// The processor time that the threads of a process have had.
#[track_caller]
pub(crate) fn processor_time(pid: Pid) -> Duration {
    let tasks = directory(pid).join("task").read_dir().expect("a process");
    let time = |task: fs::DirEntry| {
        // A thread may end between the listing and this.
        let scheduler = fs::read_to_string(task.path().join("schedstat")).ok()?;
        scheduler.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
    };
    tasks.filter_map(|task| time(task.ok()?)).sum()
}

/// The part of one core that a process uses, measured over `window`.
#[track_caller]
pub(crate) fn processor_share(pid: Pid, window: Duration) -> f64 {
    let (before, started) = (processor_time(pid), Instant::now());
    std::thread::sleep(window);
    let used = processor_time(pid).saturating_sub(before);
    used.as_secs_f64() / started.elapsed().as_secs_f64()
}

/// Bytes of a process's own memory that are in RAM: no program text, no shared pages.
#[track_caller]
pub(crate) fn own_memory(pid: Pid) -> u64 {
    let status = fs::read_to_string(directory(pid).join("status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("RssAnon") << 10
}

/// Descriptors that a process keeps open. A server opens files of /proc for an instant to see its
/// memory, four times a second; these count in one reading and not in the next, so the least of
/// some is what stays.
#[track_caller]
pub(crate) fn descriptors(pid: Pid) -> usize {
    let fd = directory(pid).join("fd");
    let reading = |_| {
        std::thread::sleep(Duration::from_millis(5));
        fd.read_dir().expect("a process").count()
    };
    (0..10).map(reading).min().expect("some readings")
}

/// True if no byte waits in a socket of the server or of a client of it in this network.
#[track_caller]
pub(crate) fn nothing_is_unread(server: SocketAddr, clients: &str) -> bool {
    let port = server.port();
    let filter = format!("( sport = :{port} dst {clients} ) or ( dport = :{port} src {clients} )");
    let output = Command::new("ss").args(["-Htn", "state", "established", &filter]).output();
    let output = output.expect("ss");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let table = String::from_utf8(output.stdout).expect("a table");
    table.lines().all(|line| line.split_whitespace().take(2).all(|queue| queue == "0"))
}

/// True if a process is stopped (SIGSTOP).
#[track_caller]
pub(crate) fn is_stopped(pid: Pid) -> bool {
    let tasks = directory(pid).join("task").read_dir().expect("a process");
    let stopped = |task: fs::DirEntry| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    tasks.flatten().all(stopped)
}
