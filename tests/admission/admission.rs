//! Who is let in, counted on real sockets: the limits hold to the connection, a refusal names its
//! reason and when to come back, and what was given back can be used again. One shard, on which
//! every limit is exact.

use crate::support;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::eventually;
use crate::support::server::Server;
use crate::support::wire::{self, Client, Response, upgrade_request};
use rustix::process::Signal;

/// What became of some attempts.
#[derive(Default)]
struct Attempts {
    admitted: Vec<Client>,
    refused: Vec<Response>,
}

impl Attempts {
    /// Makes `count` of them from `source`, each answered before the next.
    fn make(server: &Server, source: Ipv4Addr, count: usize) -> Self {
        let mut attempts = Self::default();
        for _ in 0..count {
            match Client::try_connect_from(source, server.clients, "/echo").unwrap() {
                Ok(client) => attempts.admitted.push(client),
                Err(response) => attempts.refused.push(response),
            }
        }
        attempts
    }

    /// Each refusal is a whole answer with this status and detail; returns the waiting times.
    #[track_caller]
    fn check_refusals(&self, status: u16, detail: &str) -> Vec<u64> {
        let check = |response: &Response| {
            assert_eq!(response.status, status, "{response:?}");
            assert_eq!(response.header("connection"), Some("close"));
            assert_eq!(response.header("content-type"), Some("application/json"));
            let body: serde_json::Value = serde_json::from_str(response.body()).unwrap();
            assert_eq!(body["error"], detail);
            response.header("retry-after").unwrap().parse().unwrap()
        };
        self.refused.iter().map(check).collect()
    }
}

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// S0.10, S0.35.
#[test]
fn a_source_is_held_to_its_burst_and_then_to_its_rate() {
    // Slow enough that nothing is earned back while the test runs.
    let server = Server::start(&[
        "server.shards=1",
        "admission.connections_per_ip_per_minute=1",
        "admission.connections_per_ip_burst=60",
    ]);
    let attempts = Attempts::make(&server, HERE, 100);
    assert_eq!((attempts.admitted.len(), attempts.refused.len()), (60, 40));
    let waits = attempts.check_refusals(429, "too many connection attempts from this address");
    assert!(waits.iter().all(|wait| (30..=60).contains(wait)), "{waits:?}");

    let others = Attempts::make(&server, ELSEWHERE, 61);
    assert_eq!(others.admitted.len(), 60, "each source has a bucket of its own");
    // Leaving earns nothing back: it is a rate of attempts.
    attempts.admitted.into_iter().for_each(Client::close);
    assert!(Attempts::make(&server, HERE, 5).admitted.is_empty());
}

/// S0.10, S0.35.
#[test]
fn the_default_of_sixty_a_minute_admits_sixty_of_a_hundred() {
    let server = Server::start(&[
        "server.shards=1",
        "admission.connections_per_ip_per_minute=60",
        "admission.connections_per_ip_burst=60",
    ]);
    let started = Instant::now();
    let attempts = Attempts::make(&server, HERE, 100);
    let earned = started.elapsed().as_secs() as usize; // one a second
    let admitted = attempts.admitted.len();
    assert!((60..=60 + earned).contains(&admitted), "{admitted} admitted, {earned} s");
    let waits = attempts.check_refusals(429, "too many connection attempts from this address");
    assert!(waits.iter().all(|wait| *wait == 1), "{waits:?}");

    // Who waits as long as it was told is let in.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(Attempts::make(&server, HERE, 1).admitted.len(), 1);
}

/// S0.12, S0.37.
#[test]
fn capacity_is_exact_and_comes_back() {
    let server = Server::start(&["server.shards=1", "admission.max_global_connections=100"]);
    let mut attempts = Attempts::make(&server, HERE, 130);
    assert_eq!((attempts.admitted.len(), attempts.refused.len()), (100, 30));
    let waits = attempts.check_refusals(503, "server is full");
    assert!(waits.iter().all(|wait| *wait >= 1), "{waits:?}");

    attempts.admitted.drain(..10).for_each(Client::close);
    // The end of a connection is seen by its client a moment before its place is free.
    let mut back = Vec::new();
    eventually("ten places are free again", || {
        back.extend(Client::try_connect(server.clients, "/echo").unwrap().ok());
        back.len() == 10
    });
    assert!(Attempts::make(&server, HERE, 20).admitted.is_empty(), "and not one more");

    // Nobody who was in has noticed.
    for client in attempts.admitted.iter_mut().chain(&mut back) {
        client.echo("still here");
    }
    // Ends without a Close give their places back too.
    for client in attempts.admitted.drain(..50) {
        wire_reset(client);
    }
    drop(attempts);
    let mut back = Vec::new();
    eventually("ninety places are free again", || {
        back.extend(Client::try_connect(server.clients, "/echo").unwrap().ok());
        back.len() == 90
    });
    assert!(Attempts::make(&server, HERE, 20).admitted.is_empty());
}

fn wire_reset(client: Client) {
    support::socket::reset(client.stream);
}

/// S0.19.
#[test]
fn a_handshake_that_fails_gives_its_place_back() {
    let server = Server::start(&["server.shards=1", "admission.max_global_connections=3"]);
    for _ in 0..20 {
        eventually("there is a place for the next attempt", || {
            let (response, _) = wire::exchange(server.clients, &upgrade_request("/nope")).unwrap();
            response.status == 404
        });
    }
    let mut clients = Vec::new();
    eventually("all three places are free", || {
        clients.extend(Client::try_connect(server.clients, "/echo").unwrap().ok());
        clients.len() == 3
    });
}

/// S0.11, S0.36.
#[test]
fn the_global_rate_holds_for_all_sources_together() {
    let server = Server::start(&["server.shards=1", "admission.global_connections_per_second=50"]);
    let started = Instant::now();
    let mut attempts = Attempts::default();
    for index in 0..300 {
        let source = Ipv4Addr::new(127, 0, 1, (index % 50) as u8 + 1);
        let more = Attempts::make(&server, source, 1);
        attempts.admitted.extend(more.admitted);
        attempts.refused.extend(more.refused);
    }
    let earned = (started.elapsed().as_secs_f64() * 50.0).ceil() as usize;
    let admitted = attempts.admitted.len();
    assert!((50..=50 + earned).contains(&admitted), "{admitted} admitted, {earned} earned");
    let waits = attempts.check_refusals(429, "too many connection attempts");
    assert!(!waits.is_empty() && waits.iter().all(|wait| *wait == 1), "{waits:?}");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(Attempts::make(&server, HERE, 20).admitted.len(), 20, "it refills");
}

#[test]
fn shards_share_the_global_rate_and_the_capacity() {
    let server = Server::start(&[
        "server.shards=4",
        "admission.max_global_connections=101",
        "admission.global_connections_per_second=1000000",
    ]);
    let attempts = Attempts::make(&server, HERE, 600);
    assert_eq!(attempts.admitted.len(), 101);
    attempts.check_refusals(503, "server is full");
}

/// A line for a flood, not one for each and not none.
#[test]
fn refused_connections_are_counted_in_a_line() {
    let settings = ["server.shards=2", "admission.max_connections_per_ip=5"];
    let mut server = Server::start(&settings);
    let attempts = Attempts::make(&server, HERE, 105);
    assert_eq!(attempts.admitted.len(), 5);
    let line = server.wait_for_log("connections were refused");
    assert_eq!(line["level"], "WARN", "{line}");
    let of_first = line["refused"].as_u64().unwrap();
    assert_eq!(line["reasons"], format!("per_ip_concurrent {of_first}"), "{line}");
    drop(attempts);
    server.drain();
    server.last_line();
    let counted = server.log().into_iter().filter(|line| line["refused"].is_u64());
    let counts: Vec<u64> = counted.map(|line| line["refused"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 100, "every one is in a line: {counts:?}");
    assert!(counts.len() < 10, "{counts:?}");
}

#[test]
fn a_source_may_hold_so_many_connections_and_no_more() {
    let server = Server::start(&["server.shards=1", "admission.max_connections_per_ip=5"]);
    let mut attempts = Attempts::make(&server, HERE, 9);
    assert_eq!(attempts.admitted.len(), 5);
    attempts.check_refusals(429, "too many connections from this address");
    assert_eq!(Attempts::make(&server, ELSEWHERE, 6).admitted.len(), 5);

    attempts.admitted.pop().unwrap().close();
    let mut back = None;
    eventually("the place of the one that left is free", || {
        back = Client::try_connect(server.clients, "/echo").unwrap().ok();
        back.is_some()
    });
    assert!(Attempts::make(&server, HERE, 3).admitted.is_empty());
}

#[test]
fn a_source_is_as_many_addresses_as_the_prefix_says() {
    let server = Server::start(&[
        "server.shards=1",
        "admission.ipv4_prefix_bits=24",
        "admission.max_connections_per_ip=2",
    ]);
    let admitted: Vec<_> = [[1, 1], [1, 2], [1, 3], [2, 1]]
        .map(|[c, d]| Attempts::make(&server, Ipv4Addr::new(127, 0, c, d), 1).admitted)
        .into_iter()
        .collect();
    let counts: Vec<_> = admitted.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 1, 0, 1], "127.0.1.0/24 has its two");
}

/// S0.16, S0.40, S3.26.
#[test]
fn a_server_that_drains_refuses_and_says_so() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=2000"]);
    let client = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    server.wait_for_log("stopping to accept new connections");
    let mut attempts = Attempts::default();
    eventually("refusals begin", || {
        attempts = Attempts::make(&server, HERE, 1);
        attempts.admitted.is_empty()
    });
    let waits = attempts.check_refusals(503, "server is shutting down");
    assert!(waits[0] >= 1);
    drop(client);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_refused_client_that_sends_its_request_bit_by_bit_still_reads_why() {
    let server = Server::start(&["server.shards=1", "admission.max_global_connections=1"]);
    let _only = Client::connect(server.clients, "/echo");
    let mut stream = support::socket::connect(server.clients).unwrap();
    for byte in upgrade_request("/echo") {
        if std::io::Write::write_all(&mut stream, &[byte]).is_err() {
            break;
        }
    }
    let (received, _) = wire::read_to_end(&mut stream).unwrap();
    assert_eq!(Response::parse(&received).map(|response| response.status), Some(503));
}
