//! Sockets of test clients: from a chosen source address, with small buffers, or ended by RST.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::PATIENCE;

/// Connects from 127.0.0.1.
pub(crate) fn connect(server: SocketAddr) -> std::io::Result<TcpStream> {
    connect_from(Ipv4Addr::LOCALHOST, server)
}

/// Connects from this address of the machine: each address of 127.0.0.0/8 is a source of its
/// own.
pub(crate) fn connect_from(
    source: impl Into<IpAddr>,
    server: SocketAddr,
) -> std::io::Result<TcpStream> {
    connect_with(source, server, None)
}

/// The same with a receive buffer of about `receive_bytes`, so that a client that does not read
/// is noticed soon.
pub(crate) fn connect_with(
    source: impl Into<IpAddr>,
    server: SocketAddr,
    receive_bytes: Option<usize>,
) -> std::io::Result<TcpStream> {
    let source = source.into();
    let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // A server that another test starts meanwhile would keep it open.
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    if source.is_ipv6() {
        sockopt::set_ipv6_freebind(&socket, true)?; // local by a route, not by an interface
    }
    if let Some(bytes) = receive_bytes {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    // A port that is chosen at bind would be taken for every destination.
    if source != Ipv4Addr::LOCALHOST {
        rustix::net::bind(&socket, &SocketAddr::new(source, 0))?;
    }
    rustix::net::connect(&socket, &server)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Ends a connection with RST, as a client does that is gone without a word.
pub(crate) fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO)).expect("SO_LINGER");
}
