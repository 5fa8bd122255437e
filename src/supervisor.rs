//! What the service manager is told by the protocol of sd_notify(3): ready, reloading, stopping,
//! and, as long as every shard and the coordinator come round, alive.
//!
//! Without `NOTIFY_SOCKET` in the environment nobody is told anything. Telling never blocks: a
//! manager that does not read misses a message, and nothing waits for it.
//!
//! Invariant: a process whose shards stand still does not say that it is alive.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{error, warn};

use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::limits::{STOP_MARGIN_MS, WATCHDOG_LOOK_MIN_MS};
use crate::sys::kernel;

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<UnixDatagram>,
    /// How long it waits for a sign of life, if it does.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that the environment names in `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let socket = match connect(&name) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(socket = %name.to_string_lossy(), %error, "NOTIFY_SOCKET cannot be used");
                return Self::default();
            }
        };
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let watchdog = number("WATCHDOG_USEC").filter(|usec| *usec > 0);
        let for_us = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        Self {
            socket: Some(socket),
            watchdog: watchdog.filter(|_| for_us).map(Duration::from_micros),
        }
    }

    /// A phase has been entered. `deadline_ms` is `shutdown.deadline_ms`: the manager is asked to
    /// wait that long for the end, and a margin, whatever TimeoutStopSec= says.
    pub fn entered(&self, phase: Phase, deadline_ms: u64) {
        match phase {
            Phase::Starting => {}
            Phase::Running => self.tell("READY=1\nSTATUS=running"),
            Phase::Stopped => self.tell("STATUS=stopped"),
            phase => {
                let usec = deadline_ms.saturating_add(STOP_MARGIN_MS).saturating_mul(1_000);
                self.tell(&format!("STOPPING=1\nSTATUS={phase}\nEXTEND_TIMEOUT_USEC={usec}"));
            }
        }
    }

    /// The configuration is being read again; [`Phase::Running`] is entered again after it.
    pub fn reloading(&self) {
        let usec = kernel::monotonic_usec();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}\nSTATUS=reading the configuration"));
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            // A manager that is gone or does not read cannot be told so.
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// Connects to a path, or to an abstract name that begins with `@`.
fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address)?;
    Ok(socket)
}

/// Starts the thread that says that the server is alive, if the manager waits for that.
///
/// # Errors
/// The thread cannot be made.
pub fn watch(state: Arc<ServerState>) -> io::Result<()> {
    let Some(patience) = state.supervisor.watchdog else { return Ok(()) };
    let watch = move || {
        let mut stood_still = false;
        while state.phase() != Phase::Stopped {
            let away = longest_away(&state);
            // What stands still for half the time may be late for the whole of it.
            let stands_still = away > patience / 2;
            if state.phase() == Phase::Starting {
                // READY=1 is the first that is heard.
            } else if !stands_still {
                let status = status(&state);
                state.supervisor.tell(&format!("WATCHDOG=1\nSTATUS={status}"));
            } else if !stood_still {
                error!(
                    away_ms = away.as_millis() as u64,
                    patience_ms = patience.as_millis() as u64,
                    "a thread stands still; the service manager is not told that we are alive"
                );
            }
            stood_still = stands_still;
            thread::sleep((patience / 4).max(Duration::from_millis(WATCHDOG_LOOK_MIN_MS)));
        }
    };
    thread::Builder::new().name("tidegate-watchdog".to_owned()).spawn(watch).map(drop)
}

/// For how long a shard or the coordinator has not come round; since the start if it never did.
/// Shards end in a drain, each when it has nothing more to do, so then only the coordinator counts.
fn longest_away(state: &ServerState) -> Duration {
    let now = state.clock.now().ms();
    let shards = state.shards.iter().filter(|_| state.phase().accepts());
    let turns = shards.map(|shard| shard.last_turn_ms.get());
    let oldest = turns.chain([state.coordinator_turn_ms()]).min().unwrap_or(now);
    Duration::from_millis(now.saturating_sub(oldest))
}

fn status(state: &ServerState) -> String {
    format!("{}, {} connections", state.phase(), state.connections())
}
