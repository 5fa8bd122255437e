//! From a configuration to a running server, and from there to the exit code.
//!
//! The order matters: signals are caught before the first listener is open, the machine is
//! checked before anything is promised, listeners are bound before threads start so that a
//! taken port is an error and not a half-started server.

mod capacity;
mod logging;
mod redis;
mod report_file;
mod shard_thread;
mod steering;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use tracing::{error, info, warn};

use crate::admin;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::coordinator::command::{Command, ShardFailure};
use crate::coordinator::limits::Limits;
use crate::coordinator::report::ShutdownReport;
use crate::coordinator::state::ServerState;
use crate::coordinator::{Coordinator, signals};
use crate::exit_code;
use crate::limits;
use crate::mesh::publisher::Publisher;
use crate::metrics::ShardMetrics;
use crate::pressure::reading::Reader;
use crate::pressure::sampler;
use crate::ring::probe;
use crate::sys::{kernel, listener, rlimit};

use capacity::Capacity;
use shard_thread::{Mailboxes, Shards};

/// Why the server did not start: what was found and what to do, and the exit code.
#[derive(Debug)]
struct NotStarted {
    message: String,
    exit_code: u8,
}

impl NotStarted {
    fn unavailable(message: impl ToString) -> Self {
        Self { message: message.to_string(), exit_code: exit_code::UNAVAILABLE }
    }
}

impl From<probe::Unavailable> for NotStarted {
    fn from(cause: probe::Unavailable) -> Self {
        Self::unavailable(cause)
    }
}

/// Runs a server with this configuration until it is stopped; `sources` are those it was loaded
/// from, to be read again on request. The exit code is one of [`exit_code`].
pub fn serve(config: Config, sources: Sources) -> ExitCode {
    logging::start(config.log.format);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    match run(Arc::new(config), sources) {
        Ok(report) => ExitCode::from(report.exit_code.unwrap_or(exit_code::PANICKED)),
        Err(NotStarted { message, exit_code }) => {
            error!("{message}");
            ExitCode::from(exit_code)
        }
    }
}

fn run(config: Arc<Config>, sources: Sources) -> Result<ShutdownReport, NotStarted> {
    let clock = Clock::start();
    let caught = signals::catch()
        .map_err(|error| NotStarted::unavailable(format!("signals cannot be caught: {error}")))?;
    probe::check()?;
    let files = rlimit::raise_open_files()
        .map_err(|error| NotStarted::unavailable(format!("RLIMIT_NOFILE: {error}")))?;
    let mut reader = Reader::new(kernel::page_bytes());
    let memory_bytes = reader.smallest_budget(config.admission.max_memory_bytes);
    let capacity = Capacity::new(&config, files.soft, memory_bytes)?;
    capacity.log(&config);

    let address = listener::claim(config.server.listen)
        .map_err(|error| cannot_listen("server.listen", config.server.listen, &error))?;
    let listeners = (0..capacity.shards)
        .map(|_| listener::listen(address, config.server.backlog))
        .collect::<io::Result<Vec<OwnedFd>>>()
        .map_err(|error| cannot_listen("server.listen", address, &error))?;
    let owners = steering::draw_owners(capacity.shards);
    steering::begin(&listeners, owners, &config);
    let admin_listener = admin::bind(config.admin.listen)
        .map_err(|error| cannot_listen("admin.listen", config.admin.listen, &error))?;
    let admin_address = admin_listener.local_addr().unwrap_or(config.admin.listen);

    let (commands, inbox) = bounded(limits::COMMANDS);
    let metrics: Vec<Arc<ShardMetrics>> = (0..capacity.shards).map(|_| Arc::default()).collect();
    let state = Arc::new(ServerState::new(Arc::clone(&config), clock, metrics));
    let (seats, mailboxes) = (capacity.seats(), Mailboxes::new(capacity.shards)?);
    state.shards.iter().for_each(|shard| shard.capacity.set(seats.per_shard.into()));
    let limits = Limits::new(
        sources.clone(),
        seats,
        &config.admission,
        &mailboxes.postboxes,
        commands.clone(),
    );
    let plan = Arc::new(limits.plan(&config.admission));
    let shards = Shards::start(&state, &capacity, &plan, mailboxes, listeners, owners, &commands)?;
    sampler::start(Arc::clone(&state), reader, commands.clone())
        .map_err(|error| NotStarted::unavailable(format!("pressure thread: {error}")))?;
    let publisher = Publisher::new(shards.postboxes.clone());
    redis::start(&state, address, &publisher)?;
    let context = admin::AdminContext {
        state: Arc::clone(&state),
        commands: commands.clone(),
        publisher,
        last_shutdown: report_file::read(config.shutdown.report_file.as_deref()),
    };
    admin::start(admin_listener, context)
        .map_err(|error| NotStarted::unavailable(format!("admin listener: {error}")))?;
    let inherited = {
        let (state, commands) = (Arc::clone(&state), commands.clone());
        let postboxes = shards.postboxes.clone();
        move || Limits::inherited(sources, seats, &state.config().admission, &postboxes, commands)
    };
    caught
        .forward(commands)
        .map_err(|error| NotStarted::unavailable(format!("signal thread: {error}")))?;

    let coordinator =
        Coordinator::new(Arc::clone(&state), inbox.clone(), shards.postboxes.clone(), limits);
    coordinator.open();
    say_hello(&config, &capacity, address, admin_address);
    let report = lead(coordinator, &state, &inbox, &shards, inherited);
    finish(&config, &report, shards);
    Ok(report)
}

/// Runs the coordinator. If it panics a second one stops the server in order: the shards serve
/// on meanwhile and know nothing of it.
fn lead(
    coordinator: Coordinator,
    state: &Arc<ServerState>,
    inbox: &Receiver<Command>,
    shards: &Shards,
    inherited: impl FnOnce() -> Limits,
) -> ShutdownReport {
    let run = catch_unwind(AssertUnwindSafe(|| coordinator.run()));
    run.unwrap_or_else(|panic| {
        let cause = ShardFailure::Panic(shard_thread::message_of(panic.as_ref()));
        let postboxes = shards.postboxes.clone();
        let successor = Coordinator::new(Arc::clone(state), inbox.clone(), postboxes, inherited());
        successor.stop_after_death("coordinator", cause).run()
    })
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
        Some(libc::EMFILE | libc::ENFILE) => {
            "raise RLIMIT_NOFILE: ulimit -n 1048576 (systemd: LimitNOFILE=1048576)".into()
        }
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

/// The last words. If a shard did not stop in time, the process ends without waiting for it.
fn finish(config: &Config, report: &ShutdownReport, shards: Shards) {
    let seconds = report.duration_ms as f64 / 1_000.0;
    let outcomes = serde_json::to_string(&report.outcomes).unwrap_or_default();
    info!(
        reason = report.reason,
        connections_at_start = report.connections_at_start,
        outcomes,
        forced = report.forced,
        exit_code = report.exit_code,
        "Graceful shutdown completed in {seconds:.2}s"
    );
    if let Some(discrepancy) = &report.discrepancy {
        error!("the outcomes do not add up: {discrepancy}");
    }
    if let Some(path) = &config.shutdown.report_file
        && let Err(error) = report_file::write(path, report)
    {
        error!(path = %path.display(), %error, "shutdown.report_file could not be written");
    }
    if !shards.join() {
        kernel::exit_now(report.exit_code.map_or(1, i32::from));
    }
}
