//! The TUN device, and the network namespace that it lives in: made here, removed here.
//!
//! The namespace hangs on this one by a pair of virtual Ethernet devices, and passes on what
//! comes from the clients; so the server can be any that listens on all addresses of this
//! machine, and nothing of the run is left when the namespace is gone.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use super::addresses::Ranges;

/// Packets that wait for this process before they are dropped.
const QUEUE: &str = "100000";

/// From linux/if_tun.h: the request that names the device, and its flags.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const IFF_TUN: u16 = 0x0001;
const IFF_NO_PI: u16 = 0x1000;

/// `struct ifreq` of linux/if.h, as far as TUNSETIFF looks at it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// The names of a run: devices have at most 15 characters.
struct Names {
    namespace: String,
    device: String,
    host_end: String,
    inside_end: String,
}

impl Names {
    fn of(process: u32) -> Self {
        let name = |what: &str| format!("tgl{what}{process}");
        Self {
            namespace: format!("tidegate-load-{process}"),
            device: name("t"),
            host_end: name("h"),
            inside_end: name("i"),
        }
    }
}

/// The device. Dropping it removes the namespace and with it everything that was made.
pub(crate) struct Tun {
    file: File,
    names: Names,
}

impl Tun {
    /// Makes namespace and device.
    ///
    /// # Errors
    /// Not root, no /dev/net/tun, no `ip` program, or the addresses are taken.
    pub(crate) fn new(ranges: &Ranges) -> io::Result<Self> {
        let names = Names::of(std::process::id());
        let explain = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => io::Error::other(
                "--client tun makes a network device and needs root (CAP_NET_ADMIN)",
            ),
            Some(libc::ENOENT | libc::ENXIO) => io::Error::other(
                "--client tun needs /dev/net/tun: modprobe tun, or give the container the device",
            ),
            _ => error,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")
            .map_err(explain)?;
        let mut request =
            InterfaceRequest { name: [0; 16], flags: IFF_TUN | IFF_NO_PI, rest: [0; 22] };
        request.name[..names.device.len()].copy_from_slice(names.device.as_bytes());
        // SAFETY: the request is as large as the kernel's struct ifreq (40 bytes) and lives until
        // the call returns; the kernel writes the device's name into it.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
        if made < 0 {
            return Err(explain(io::Error::last_os_error()));
        }
        let tun = Self { file, names };
        tun.connect(ranges)?;
        Ok(tun)
    }

    /// Moves the device into a namespace and lays the way between that and this one.
    fn connect(&self, ranges: &Ranges) -> io::Result<()> {
        let Names { namespace, device, host_end, inside_end } = &self.names;
        let (host, inside) = (format!("{}/30", ranges.host), format!("{}/30", ranges.inside));
        let (gateway, via) = (ranges.inside.to_string(), ranges.host.to_string());
        let clients = format!("{}/{}", ranges.clients.0, ranges.clients.1);
        ip(&["netns", "add", namespace])?;
        ip(&["link", "set", device, "netns", namespace])?;
        let pair = ["type", "veth", "peer", "name", inside_end, "netns", namespace];
        ip(&[&["link", "add", host_end], &pair[..]].concat())?;
        ip(&["addr", "add", &host, "dev", host_end])?;
        ip(&["link", "set", host_end, "txqueuelen", QUEUE, "up"])?;
        ip(&["route", "add", &clients, "via", &gateway, "dev", host_end])?;
        let within = |arguments: &[&str]| ip(&[&["-n", namespace], arguments].concat());
        within(&["link", "set", "lo", "up"])?;
        within(&["addr", "add", &inside, "dev", inside_end])?;
        within(&["link", "set", inside_end, "up"])?;
        within(&["link", "set", device, "txqueuelen", QUEUE, "up"])?;
        within(&["route", "add", &clients, "dev", device])?;
        within(&["route", "add", "default", "via", &via])?;
        run(Command::new("ip").args(["netns", "exec", namespace]).args([
            "sh",
            "-c",
            "echo 1 > /proc/sys/net/ipv4/ip_forward",
        ]))
    }

    /// The next packet; `None` if there is none at the moment.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.file.read(buffer) {
            Ok(len) => Ok(Some(len)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends one packet; one that the kernel has no room for is lost, as on any network.
    ///
    /// # Errors
    /// The device is gone.
    pub(crate) fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        // A device takes a packet whole or not at all.
        match self.file.write_all(packet) {
            Ok(()) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Sleeps until a packet comes, at most so long.
    pub(crate) fn wait(&self, most: Duration) {
        let milliseconds = most.as_millis().clamp(1, 1_000) as i32;
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd on the stack, valid for the call; an error only means not to wait.
        let _ = unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        // The devices inside go with their namespace, and the other end of the pair with them.
        let _ = ip(&["netns", "del", &self.names.namespace]);
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> io::Result<()> {
    let line = format!("{command:?}").replace('"', "");
    let output = command.output().map_err(|error| io::Error::other(format!("{line}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{line}: {}", said.trim())))
}
