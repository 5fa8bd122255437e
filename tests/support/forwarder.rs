//! A TCP forwarder: an address that leads to one of several servers. Leading it elsewhere changes
//! where new connections go; those that there are stay where they are.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A running forwarder.
pub(crate) struct Forwarder {
    address: SocketAddr,
    targets: Arc<Mutex<Targets>>,
}

#[derive(Clone, Copy)]
struct Targets {
    all: SocketAddr,
    /// Where connections that subscribe to something go.
    subscribers: SocketAddr,
}

impl Forwarder {
    /// Leads to `target`.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let targets = Arc::new(Mutex::new(Targets { all: target, subscribers: target }));
        let current = Arc::clone(&targets);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let targets = *current.lock().expect("no panic");
                // One that cannot be forwarded is closed.
                thread::spawn(move || drop(forward(client, targets)));
            }
        });
        Self { address, targets }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections to `target`.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        self.split(target, target);
    }

    /// Leads new connections to `all`, but to `subscribers` from the moment they subscribe.
    pub(crate) fn split(&self, all: SocketAddr, subscribers: SocketAddr) {
        *self.targets.lock().expect("no panic") = Targets { all, subscribers };
    }
}

fn forward(mut client: TcpStream, targets: Targets) -> io::Result<()> {
    let mut server = TcpStream::connect(targets.all)?;
    answer(&server, &client)?;
    let mut bytes = [0; 65_536];
    let mut is_split = targets.all != targets.subscribers;
    loop {
        let count = client.read(&mut bytes)?;
        if count == 0 {
            return server.shutdown(Shutdown::Write);
        }
        if is_split && bytes[..count].windows(13).any(|part| part == b"\r\nSUBSCRIBE\r\n") {
            is_split = false;
            server = TcpStream::connect(targets.subscribers)?;
            answer(&server, &client)?;
        }
        server.write_all(&bytes[..count])?;
    }
}

/// Carries what the server says, on a thread of its own.
fn answer(server: &TcpStream, client: &TcpStream) -> io::Result<()> {
    let (mut server, mut client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        // Whichever ends first ends the other.
        let _ = io::copy(&mut server, &mut client);
        let _ = client.shutdown(Shutdown::Both);
    });
    Ok(())
}
