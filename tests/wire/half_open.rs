//! Connections that say nothing, by the thousand, over real sockets: they do not keep out those
//! who speak, and the oldest of them goes first. One shard, on which the budgets are exact.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::support::figures::{Figures, metric};
use crate::support::server::Server;
use crate::support::wire::{Client, upgrade_request};
use crate::support::{eventually, socket};

const PENDING: &str = "tidegate_connections_handshaking";
const ACCEPTED: &str = "tidegate_connections_accepted_total";
const EVICTED: &str = "tidegate_handshakes_ended_total{reason=\"handshake_evicted\"}";

fn silent(server: &Server, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| socket::connect(server.clients).unwrap()).collect()
}

/// Whether the server has ended this connection.
fn has_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut byte = [0];
    let ended = match stream.read(&mut byte) {
        Ok(0) => true,
        Ok(_) => panic!("the server said something"),
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    ended
}

#[test]
fn thousands_who_say_nothing_do_not_keep_out_those_who_speak() {
    let server = Server::start(&[
        "server.shards=1",
        "handshake.timeout_ms=600000",
        "handshake.max_pending=500",
    ]);
    let mut early = Client::connect(server.clients, "/echo");
    let crowd = silent(&server, 3_000);
    let mut clients: Vec<_> = (0..50).map(|_| Client::connect(server.clients, "/echo")).collect();
    eventually("all have been accepted", || metric(&server, ACCEPTED) == 3_051);
    // A client that comes and is upgraded has made room that nobody needed yet.
    eventually("those who are too many are gone", || {
        (499..=500).contains(&metric(&server, PENDING))
    });
    assert_eq!(metric(&server, EVICTED) + metric(&server, PENDING), 3_000);
    // Those who stayed are the last who came, and can still speak.
    assert!(has_ended(&crowd[0]) && !has_ended(&crowd[2_999]));
    for stream in crowd.into_iter().skip(2_990) {
        clients.push(Client::upgrade(stream, "/echo").unwrap().ok().unwrap());
    }
    early.echo("still here");
    clients.iter_mut().for_each(|client| client.echo("here"));
}

#[test]
fn the_oldest_goes_first_and_each_for_one_that_comes() {
    let server = Server::start(&[
        "server.shards=1",
        "handshake.timeout_ms=600000",
        "handshake.max_pending=64",
    ]);
    let mut crowd = silent(&server, 1);
    for count in 2..=64 {
        // One by one, so that the order is known.
        eventually("the one before is in", || metric(&server, ACCEPTED) == count - 1);
        crowd.extend(silent(&server, 1));
    }
    eventually("there is no room for more", || metric(&server, PENDING) == 64);
    assert!(!crowd.iter().any(has_ended));
    // A part of a request does not make a connection younger.
    crowd[0].write_all(&upgrade_request("/echo")[..20]).unwrap();
    for gone in 0..5 {
        crowd.extend(silent(&server, 1));
        eventually("the oldest is gone", || has_ended(&crowd[gone]));
        assert!(!crowd[gone + 1..].iter().any(has_ended), "only the oldest");
    }
    assert_eq!(metric(&server, EVICTED), 5);
    // Who is upgraded is not among them any more, however old.
    let mut kept = Client::upgrade(crowd.remove(5), "/echo").unwrap().ok().unwrap();
    let more = silent(&server, 200);
    eventually("all have been accepted", || metric(&server, ACCEPTED) == 269);
    kept.echo("still here");
    drop(more);
}

/// The descriptors that are kept for refusals are not theirs who do not want to hear them.
#[test]
fn refused_clients_that_say_nothing_do_not_stop_accepting() {
    let server = Server::start(&[
        "server.shards=1",
        "server.direct_descriptors=200",
        "admission.max_global_connections=50",
        "handshake.timeout_ms=600000",
    ]);
    let mut inside: Vec<_> = (0..50).map(|_| Client::connect(server.clients, "/echo")).collect();
    let crowd = silent(&server, 600);
    for _ in 0..20 {
        let response = Client::try_connect(server.clients, "/echo").unwrap().err().unwrap();
        assert_eq!(response.status, 503, "{response:?}");
    }
    eventually("all have been accepted", || metric(&server, ACCEPTED) == 670);
    assert!(has_ended(&crowd[0]) && !has_ended(&crowd[599]), "the oldest went first");
    let figures = Figures::of(&server);
    // 150 descriptors are left, of which 16 are kept for accepts.
    assert!(figures.sum(EVICTED) >= 600 - 150, "{}", figures.sum(EVICTED));
    let refused = "tidegate_admission_refused_total{reason=\"capacity\"}";
    assert_eq!(figures.sum(refused), 620, "each once");
    inside.iter_mut().for_each(|client| client.echo("undisturbed"));
    inside.pop().unwrap().close();
    eventually("the place that came free is given", || {
        Client::try_connect(server.clients, "/echo").unwrap().is_ok()
    });
}
