//! The socket that a floor listens on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;

/// A listener whose connections inherit TCP_NODELAY.
///
/// # Errors
/// The address cannot be had.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    let (one, fd) = (1_i32, listener.as_raw_fd());
    let len = size_of::<i32>() as libc::socklen_t;
    let value = std::ptr::from_ref(&one).cast();
    // SAFETY: reads one integer from the stack.
    if unsafe { libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, value, len) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: takes two integers; a second listen only changes the backlog.
    if unsafe { libc::listen(fd, 4_096) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(listener)
}
