//! From a configuration to a running server, and from there to the exit code.
//!
//! The order matters: signals are caught before the first listener is open, the machine is
//! checked before anything is promised, listeners are bound before threads start so that a
//! taken port is an error and not a half-started server.

pub(crate) mod capacity;
mod handle;
mod overdue;
mod redis;
mod report_file;
mod rollback;
mod running;
mod server;
mod shard_thread;
mod signals;
mod steering;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{error, info, warn};

pub use capacity::memory_plan;
pub use handle::{Handle, NotPublished, Unfinished};
pub use server::Server;

use crate::config::{Config, Sources};
use crate::doctor::{self, Machine, Process, Question};
use crate::exit_code;
use crate::log;
use crate::ring::probe;
use crate::supervisor::Supervisor;
use crate::sys::inherited;
use crate::sys::standard_stream::StandardStream;

use capacity::Capacity;

const MORE_THREADS: &str = "ulimit -u unlimited (systemd: LimitNPROC=infinity, \
                            TasksMax=infinity; docker run --pids-limit -1)";
const MORE_FILES: &str = "ulimit -n 1048576 (systemd: LimitNOFILE=1048576; docker run --ulimit \
                          nofile=1048576)";

/// Why the server did not start: what was found and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStarted {
    message: String,
    exit_code: u8,
}

impl NotStarted {
    fn unavailable(message: impl ToString) -> Self {
        Self { message: message.to_string(), exit_code: exit_code::UNAVAILABLE }
    }

    /// The kernel refused `what`: a thread, or something that needs descriptors.
    fn lacking(what: &str, error: &io::Error) -> Self {
        let remedy = match error.raw_os_error() {
            Some(libc::EAGAIN) => MORE_THREADS,
            Some(libc::EMFILE | libc::ENFILE) => MORE_FILES,
            _ => return Self::unavailable(format!("{what}: {error}")),
        };
        Self::unavailable(format!("{what}: {error}. Fix: {remedy}"))
    }

    /// The code with which `tidegate serve` ends for this; one of [`exit_code`].
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }
}

impl fmt::Display for NotStarted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for NotStarted {}

impl From<probe::Unavailable> for NotStarted {
    fn from(cause: probe::Unavailable) -> Self {
        Self::unavailable(cause)
    }
}

/// Runs a server with this configuration until it is stopped; `sources` are those it was loaded
/// from, to be read again on request. The exit code is one of [`exit_code`].
pub fn serve(config: Config, sources: Sources) -> ExitCode {
    if let Err(error) = inherited::adopt() {
        let message = format!("signals that were inherited cannot be reset: {error}\n");
        // Without a log and without standard error nobody can be told.
        let _ = StandardStream::Error.write_all(message.as_bytes());
        return ExitCode::from(exit_code::UNAVAILABLE);
    }
    if let Err(error) = log::start(config.log.format) {
        log::write_here(&NotStarted::lacking("log thread", &error).message);
        return ExitCode::from(exit_code::UNAVAILABLE);
    }
    for warning in &config.warnings {
        warn!("{warning}");
    }
    let server = Server::new(config)
        .reloads_from(sources)
        .catches_signals()
        .owns_process()
        .supervised_by(Supervisor::from_environment());
    match server.start() {
        Ok(server) => {
            let end = server.end();
            server.exit(&end)
        }
        Err(NotStarted { message, exit_code }) => {
            error!(target: log::LAST, "{message}");
            log::flush(Duration::MAX);
            ExitCode::from(exit_code)
        }
    }
}

/// What this machine could be better at for as many connections as there can be, in one line.
fn advise(config: &Config, capacity: &Capacity, memory_bytes: Option<u64>) {
    // What cannot be asked is no reason not to start.
    let Ok(process) = Process::ask(Ok(())) else { return };
    let machine = Machine::with_memory(Path::new("/"), process, memory_bytes);
    let question = Question { connections: capacity.connections(), config };
    if let Some(line) = doctor::short(&doctor::examine(&machine, question)) {
        info!("{line}");
    }
}

fn cannot_listen(key: &str, address: SocketAddr, error: &io::Error) -> NotStarted {
    let port = address.port();
    let remedy = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => format!(
            "another process listens there; find it with: ss -ltnp 'sport = :{port}', or choose \
             another port with {key}"
        ),
        Some(libc::EACCES) => format!(
            "ports below 1024 need CAP_NET_BIND_SERVICE; choose another port with {key}, or: \
             sysctl -w net.ipv4.ip_unprivileged_port_start={port}"
        ),
        Some(libc::EADDRNOTAVAIL) => {
            "this machine does not have that address; list its addresses with: ip address".into()
        }
        Some(libc::EMFILE | libc::ENFILE) => format!("raise RLIMIT_NOFILE: {MORE_FILES}"),
        _ => format!("check {key}"),
    };
    NotStarted::unavailable(format!("cannot listen on {key} = {address}: {error}. {remedy}"))
}

fn say_hello(config: &Config, capacity: &Capacity, clients: SocketAddr, admin: SocketAddr) {
    let (here, admin) = (reachable(clients), reachable(admin));
    info!(
        version = env!("CARGO_PKG_VERSION"),
        shards = capacity.shards,
        capacity = capacity.connections(),
        %clients,
        "Tidegate serves WebSocket clients on ws://{here}/ws"
    );
    if config.server.echo {
        info!("echo is on: ws://{here}/echo");
    }
    info!("try it:  npx wscat --connect 'ws://{here}/ws?channel=news'");
    info!(
        "publish: curl -H 'content-type: application/json' \
         -d '{{\"channel\":\"news\",\"data\":\"hello\"}}' http://{admin}/api/publish"
    );
    info!("figures: curl http://{admin}/health/status   or   http://{admin}/metrics");
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
