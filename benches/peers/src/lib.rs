//! What both peers share: who is subscribed, and the address to listen on.
//!
//! Paths are the same with every peer: /echo echoes, /ws subscribes, and what is sent to /publish
//! goes to all who are subscribed. SIGTERM says Close 1001 to everybody and ends the process.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// What a subscriber is told.
#[derive(Clone, Debug)]
pub enum News {
    /// A publication.
    Text(String),
    /// Say Close and go.
    Leave,
}

/// Everybody who is there, on one thread.
#[derive(Clone, Debug, Default)]
pub struct Hub(Rc<RefCell<Vec<UnboundedSender<News>>>>);

impl Hub {
    /// Enters somebody.
    pub fn enter(&self) -> UnboundedReceiver<News> {
        let (sender, receiver) = unbounded_channel();
        self.0.borrow_mut().push(sender);
        receiver
    }

    /// Tells everybody, and forgets those who have left.
    pub fn tell(&self, news: &News) {
        self.0.borrow_mut().retain(|member| member.send(news.clone()).is_ok());
    }
}

/// The address from the command line: the one argument.
///
/// # Errors
/// There is none, or it is no address.
pub fn address() -> Result<SocketAddr, String> {
    let argument = std::env::args().nth(1).ok_or("want an address to listen on")?;
    argument.parse().map_err(|error| format!("{argument}: {error}"))
}

/// A listener with the backlog that all peers get.
///
/// # Errors
/// The address cannot be had.
pub fn listen(address: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4_096)
}
