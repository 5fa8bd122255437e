//! Listening sockets: one per shard in a SO_REUSEPORT group.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::classic_bpf;
use super::socket_address::RawAddress;
use crate::limits::KERNEL_UNSENT_BYTES;

/// Bytes that the kernel takes of a client before anything has been read of it (SO_RCVBUF): a whole
/// head of the default length. The kernel's own default is sixteen times as much, which thousands
/// of connections that are not admitted could fill in a moment. As soon as a client is read from, the
/// kernel lets the buffer grow with what it sends (SO_BUF_LOCK).
const KERNEL_UNREAD_BYTES: i32 = 8 << 10;

/// After kill -9 the kernel needs some milliseconds to tear the old rings down, during which
/// their port is still taken; another server's port stays taken for longer than this.
const PORT_PATIENCE: Duration = Duration::from_millis(800);

/// Opens a listener of the group on `address`, with TCP_NODELAY, TCP_NOTSENT_LOWAT and a short
/// receive buffer that may grow, which accepted sockets inherit.
///
/// # Errors
/// EADDRINUSE after some patience, EACCES for a privileged port, EADDRNOTAVAIL.
pub fn listen(address: SocketAddr, backlog: u32) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // Not O_NONBLOCK: on such a file a ring answers EAGAIN instead of waiting.
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    // SAFETY: takes three integers, returns a descriptor or -1.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just created and that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, KERNEL_UNSENT_BYTES)?;
    set(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, KERNEL_UNREAD_BYTES)?;
    // A buffer that was set stays as it is, and with it the window scale, unless it is unlocked.
    set(fd, libc::SOL_SOCKET, libc::SO_BUF_LOCK, 0)?;
    bind_patiently(fd, address)?;
    set_backlog(fd, backlog)?;
    Ok(socket)
}

/// Sets how many connections wait to be accepted by a socket that listens already; the kernel's
/// `net.core.somaxconn` bounds it.
///
/// # Errors
/// EBADF, EINVAL for a socket that is not bound.
pub fn set_backlog(listener: RawFd, backlog: u32) -> io::Result<()> {
    // SAFETY: takes two integers.
    if unsafe { libc::listen(listener, backlog.min(i32::MAX as u32) as i32) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Claims `address` without SO_REUSEPORT for a moment, so that a port that another process
/// listens on (with SO_REUSEPORT, and the same user) is an error and not a silent share of its
/// clients. Returns the address with its port, which the kernel chooses if it was 0.
///
/// # Errors
/// As [`listen`].
pub fn claim(address: SocketAddr) -> io::Result<SocketAddr> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: takes three integers, returns a descriptor or -1.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that was just created and that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    bind_patiently(fd, address)?;
    local_address(socket.as_raw_fd())
}

/// Lets no new connection begin, but those that have begun complete: drops every segment that
/// has SYN and not ACK. A client whose SYN is dropped sends it again after a second and then
/// meets whoever listens by then, where closing at once would reset what had just been accepted.
///
/// # Errors
/// ENOMEM.
pub fn let_nobody_begin(listener: RawFd) -> io::Result<()> {
    const FLAGS: u32 = 13; // offset in the TCP header
    const SYN: u32 = 0x02;
    const SYN_OR_ACK: u32 = 0x12;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, SYN_OR_ACK),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    classic_bpf::attach(listener, libc::SO_ATTACH_FILTER, &mut steps)
}

/// True when no connection waits to be accepted.
pub fn backlog_is_empty(listener: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: listener, events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd on the stack, no waiting.
    unsafe { libc::poll(&mut poll, 1, 0) == 0 }
}

/// The address that a socket is bound to.
///
/// # Errors
/// EBADF, ENOTSOCK.
pub fn local_address(socket: RawFd) -> io::Result<SocketAddr> {
    let mut raw = RawAddress::empty();
    let mut len = RawAddress::CAPACITY;
    // SAFETY: writes at most `len` bytes into `raw`.
    if unsafe { libc::getsockname(socket, raw.as_mut_ptr(), &mut len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    raw.to_socket_addr().ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))
}

fn bind_patiently(fd: RawFd, address: SocketAddr) -> io::Result<()> {
    let raw = RawAddress::from(address);
    let started = Instant::now();
    loop {
        // SAFETY: reads `raw.len()` bytes of `raw`.
        if unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        let taken = error.raw_os_error() == Some(libc::EADDRINUSE);
        if !taken || started.elapsed() > PORT_PATIENCE {
            return Err(error);
        }
        sleep(Duration::from_millis(10));
    }
}

fn set(fd: RawFd, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: reads one integer from the stack.
    let result =
        unsafe { libc::setsockopt(fd, level, name, std::ptr::from_ref(&value).cast(), len) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
