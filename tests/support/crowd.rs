//! Thousands of clients of one process, which do as they are told.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use super::eventually;
use super::figures::is_stopped;
use super::server::Server;
use super::socket;
use super::wire::{Client, upgrade_request};

/// Connections begun before the first answer is read: well below the backlog, enough for the
/// server to have many at once.
const AT_ONCE: usize = 250;

/// One upgraded client for each path.
#[track_caller]
pub(crate) fn crowd<'a>(
    server: SocketAddr,
    paths: impl IntoIterator<Item = &'a str>,
) -> Vec<Client> {
    raise_open_files();
    let mut clients = Vec::new();
    let mut begun = Vec::new();
    for path in paths {
        let mut stream = socket::connect(server).expect("a connection");
        stream.write_all(&upgrade_request(path)).expect("the server reads");
        begun.push(stream);
        if begun.len() == AT_ONCE {
            clients.extend(begun.drain(..).map(upgraded));
        }
    }
    clients.extend(begun.into_iter().map(upgraded));
    clients
}

/// Lets this process have as many descriptors as it may.
pub(crate) fn raise_open_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the hard limit");
}

#[track_caller]
fn upgraded(stream: TcpStream) -> Client {
    Client::read_answer(stream)
        .expect("an answer")
        .unwrap_or_else(|response| panic!("not upgraded: {response:?}"))
}

/// Does something while the server is stopped, so that all of it is there at once when it goes
/// on.
#[track_caller]
pub(crate) fn while_stopped(server: &Server, act: impl FnOnce()) {
    server.signal(Signal::STOP);
    eventually("the server has stopped", || is_stopped(server.pid()));
    act();
    server.signal(Signal::CONT);
}
