//! The real binary with standard streams of a test's own, so that its log says nothing here: where
//! it listens is asked of the kernel.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;
use super::server::command;

/// A running server.
pub(crate) struct Silent {
    child: Child,
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// Where the admin API is.
    pub(crate) admin: SocketAddr,
}

/// Admin listeners here are on this address, so that the two are told apart.
const ADMIN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// The command that serves with these settings, to be given its streams.
pub(crate) fn silent(settings: &[&str]) -> Command {
    let mut settings = settings.to_vec();
    settings.push("admin.listen=127.0.0.2:0");
    command(&settings)
}

impl Silent {
    /// Starts it and waits until it serves.
    #[track_caller]
    pub(crate) fn start(mut command: Command) -> Self {
        let child = command.spawn().expect("the binary starts");
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, clients: unspecified, admin: unspecified };
        let pid = server.pid();
        eventually("the server listens", || {
            let found = listening(pid);
            let of = |is_admin: bool| {
                found.iter().copied().find(|address| (address.ip() == ADMIN) == is_admin)
            };
            match (of(false), of(true)) {
                (Some(clients), Some(admin)) => {
                    (server.clients, server.admin) = (clients, admin);
                    true
                }
                _ => false,
            }
        });
        server
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to it.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server takes the signal");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait_at_most(&mut self, bound: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(started.elapsed() < bound, "the server has not ended within {bound:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The IPv4 addresses on which a process listens. Sockets that only a ring holds are not among its
/// descriptors; those of the admin and the reuseport group are.
fn listening(pid: Pid) -> Vec<SocketAddr> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let names = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
    let sockets: HashSet<String> = names
        .filter_map(|name| {
            Some(name.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    table.lines().skip(1).filter_map(|row| listener(row, &sockets)).collect()
}

/// The address of a row of /proc/net/tcp, if it listens and is one of `sockets`.
fn listener(row: &str, sockets: &HashSet<String>) -> Option<SocketAddr> {
    const LISTEN: &str = "0A";
    let columns: Vec<&str> = row.split_whitespace().collect();
    if *columns.get(3)? != LISTEN || !sockets.contains(*columns.get(9)?) {
        return None;
    }
    let (address, port) = columns.get(1)?.split_once(':')?;
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    Some(SocketAddr::from((address, u16::from_str_radix(port, 16).ok()?)))
}
