//! The kernel gives each connection to the listener of the shard that owns its source.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use crate::support::network::Network;
use crate::support::server::Server;
use crate::support::wire::Client;
use crate::support::{eventually, http};
use rustix::net::{AddressFamily, SocketType, acceptfrom, sockopt};
use serde_json::Value;
use tidegate::admission::steering_program::{Instruction, steering_program};
use tidegate::admission::{Owners, Prefixes};
use tidegate::limits::STEERING_INSTRUCTIONS;
use tidegate::sys::{listener, steering};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SEED: u32 = 0x5eed;

/// Listeners that share a port, in the order in which they began.
struct Group {
    address: SocketAddr,
    listeners: Vec<OwnedFd>,
}

impl Group {
    fn begin(ip: IpAddr, listeners: usize) -> Self {
        let address = listener::claim(SocketAddr::new(ip, 0)).unwrap();
        let mut group = Self { address, listeners: Vec::new() };
        (0..listeners).for_each(|_| group.one_more());
        group
    }

    fn one_more(&mut self) {
        self.listeners.push(listener::listen(self.address, 4096).unwrap());
    }

    fn steer(&self, program: &[Instruction]) {
        // Any of them will do.
        steering::attach(self.listeners.last().unwrap().as_raw_fd(), program).unwrap();
    }

    /// Connects from each of `sources` to `to`, and returns who arrived where.
    fn connect(&self, to: IpAddr, sources: impl Iterator<Item = IpAddr>) -> Vec<Arrival> {
        let server = SocketAddr::new(to, self.address.port());
        let clients: Vec<_> = sources.map(|source| connect_from(source, server)).collect();
        let mut arrivals = Vec::new();
        eventually("every connection arrives", || {
            for (listener, socket) in self.listeners.iter().enumerate() {
                while !listener::backlog_is_empty(socket.as_raw_fd()) {
                    let (_, peer) = acceptfrom(socket).unwrap();
                    let peer = SocketAddr::try_from(peer.unwrap()).unwrap();
                    arrivals.push(Arrival { peer, listener });
                }
            }
            arrivals.len() >= clients.len()
        });
        let mut sent: Vec<_> = clients.iter().map(|client| client.local_addr().unwrap()).collect();
        let mut seen: Vec<_> = arrivals.iter().map(Arrival::client).collect();
        sent.sort();
        seen.sort();
        assert_eq!(sent, seen);
        arrivals
    }
}

struct Arrival {
    peer: SocketAddr,
    listener: usize,
}

impl Arrival {
    /// The client's own view of its address.
    fn client(&self) -> SocketAddr {
        SocketAddr::new(self.peer.ip().to_canonical(), self.peer.port())
    }
}

fn connect_from(source: IpAddr, server: SocketAddr) -> TcpStream {
    let family = if source.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None).unwrap();
    if source.is_ipv6() {
        // Local by a route, not by an interface.
        sockopt::set_ipv6_freebind(&socket, true).unwrap();
    }
    rustix::net::bind(&socket, &SocketAddr::new(source, 0)).unwrap();
    rustix::net::connect(&socket, &server).unwrap();
    TcpStream::from(socket)
}

/// Sources of IPv4 that differ in all of their three lower bytes.
fn v4_sources(count: u32) -> impl Iterator<Item = IpAddr> {
    (0..count).map(|n| Ipv4Addr::from_bits(0x7f00_0002 + n * 0x8113).into())
}

/// Each time two sources of one /64, in a hundred of /48.
fn v6_sources(count: u128) -> impl Iterator<Item = IpAddr> {
    (0..count)
        .map(|n| Ipv6Addr::from_bits(0xfd00 << 112 | (n / 2) << 64 | (n % 100) << 80 | n).into())
}

#[test]
fn a_source_arrives_at_its_owner() {
    for shards in [2, 3, 8, 53] {
        let owners = Owners::new(shards, SEED);
        let group = Group::begin(LOOPBACK, shards);
        group.steer(&steering_program(owners, Prefixes::default(), &[]));
        let sources = v4_sources(150).chain(v4_sources(150));
        for arrival in group.connect(LOOPBACK, sources) {
            let expected = owners.of(Prefixes::default().key(arrival.peer.ip()));
            assert_eq!(arrival.listener, expected, "{} of {shards}", arrival.peer);
        }
    }
}

#[test]
fn both_families_arrive_at_a_listener_for_both() {
    let Some(network) = Network::new("steering") else { return };
    network.run(|| {
        let proxies = ["fd00:ffff::/32", "127.0.0.9/32"].map(|block| block.parse().unwrap());
        let proxy: [IpAddr; 2] = ["fd00:ffff::7", "127.0.0.9"].map(|ip| ip.parse().unwrap());
        for (v4, v6) in [(32, 64), (20, 48)] {
            let (owners, prefixes) = (Owners::new(5, SEED), Prefixes::new(v4, v6).unwrap());
            let group = Group::begin(Ipv6Addr::UNSPECIFIED.into(), 5);
            group.steer(&steering_program(owners, prefixes, &proxies));
            let from = |n| std::iter::repeat_n(proxy[n], 100);
            let v6 = v6_sources(300).chain(from(0));
            let mut arrivals = group.connect(Ipv6Addr::LOCALHOST.into(), v6);
            arrivals.extend(group.connect(LOOPBACK, v4_sources(300).chain(from(1))));
            for arrival in arrivals {
                let (ip, port) = (arrival.client().ip(), arrival.peer.port());
                assert!(arrival.peer.is_ipv6(), "as a dual-stack listener reports it");
                let expected = match prefixes.key(ip) {
                    key if proxy.contains(&ip) => owners.of_connection(key, port),
                    key => owners.of(key),
                };
                assert_eq!(arrival.listener, expected, "{}", arrival.peer);
            }
        }
    });
}

#[test]
fn connections_of_a_proxy_meet_every_shard() {
    let owners = Owners::new(4, SEED);
    let group = Group::begin(LOOPBACK, 4);
    let proxies = ["127.0.0.0/28".parse().unwrap()];
    group.steer(&steering_program(owners, Prefixes::default(), &proxies));
    let proxy = IpAddr::from([127, 0, 0, 9]);
    let mut counts = [0; 4];
    for arrival in group.connect(LOOPBACK, std::iter::repeat_n(proxy, 400)) {
        let key = Prefixes::default().key(proxy);
        assert_eq!(arrival.listener, owners.of_connection(key, arrival.peer.port()));
        counts[arrival.listener] += 1;
    }
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

#[test]
fn the_kernel_takes_the_longest_program() {
    let owners = Owners::new(8, SEED);
    for block in ["10.0.0.0/31", "fd00::/127"] {
        let proxies = vec![block.parse().unwrap(); STEERING_INSTRUCTIONS];
        let program = steering_program(owners, Prefixes::new(31, 63).unwrap(), &proxies);
        assert!(program.len() > STEERING_INSTRUCTIONS - 20);
        let group = Group::begin(LOOPBACK, 8);
        group.steer(&program);
        for arrival in group.connect(LOOPBACK, v4_sources(50)) {
            let key = Prefixes::new(31, 63).unwrap().key(arrival.peer.ip());
            assert_eq!(arrival.listener, owners.of(key));
        }
    }
}

#[test]
fn a_program_that_is_attached_early_steers_once_all_listen() {
    let owners = Owners::new(4, SEED);
    let mut group = Group::begin(LOOPBACK, 1);
    group.steer(&steering_program(owners, Prefixes::default(), &[]));
    let owner = |arrival: &Arrival| owners.of(Prefixes::default().key(arrival.peer.ip()));
    let early = group.connect(LOOPBACK, v4_sources(100));
    assert!(early.iter().all(|arrival| arrival.listener == 0), "no other began");
    group.one_more();
    let early = group.connect(LOOPBACK, v4_sources(100));
    let found = |arrival: &Arrival| owner(arrival) >= 2 || arrival.listener == owner(arrival);
    assert!(early.iter().all(found));
    group.one_more();
    group.one_more();
    for arrival in group.connect(LOOPBACK, v4_sources(100)) {
        assert_eq!(arrival.listener, owner(&arrival), "{}", arrival.peer);
    }
}

#[test]
fn the_last_listener_takes_the_place_of_one_that_closes() {
    let owners = Owners::new(4, SEED);
    let mut group = Group::begin(LOOPBACK, 4);
    group.steer(&steering_program(owners, Prefixes::default(), &[]));
    drop(group.listeners.swap_remove(1));
    let mut elsewhere = [0; 3];
    // That every one of them arrives is part of connecting.
    for arrival in group.connect(LOOPBACK, v4_sources(400)) {
        match owners.of(Prefixes::default().key(arrival.peer.ip())) {
            // The answer that no listener has any more: by the kernel's own hash.
            3 => elsewhere[arrival.listener] += 1,
            // Of the closed one too: the last one stands in its place, as in this group.
            owner => assert_eq!(arrival.listener, owner, "{}", arrival.peer),
        }
    }
    assert!(elsewhere.iter().all(|count| *count > 0), "{elsewhere:?}");
}

#[test]
fn a_refusal_of_the_kernel_is_an_error() {
    let group = Group::begin(LOOPBACK, 2);
    let attach = |program: &[Instruction]| {
        steering::attach(group.listeners[0].as_raw_fd(), program).unwrap_err().raw_os_error()
    };
    let invalid = Some(rustix::io::Errno::INVAL.raw_os_error());
    let program = steering_program(Owners::new(2, SEED), Prefixes::default(), &[]);
    assert_eq!(attach(&[]), invalid);
    assert_eq!(attach(&program[..program.len() - 1]), invalid, "it does not end");
    assert_eq!(attach(&program.repeat(100)), invalid, "longer than BPF_MAXINSNS");
    assert_eq!(attach(&program.repeat(2_000)), invalid, "longer than a length can say");
    let alone = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    let error = steering::attach(alone.as_raw_fd(), &program).unwrap_err();
    assert_eq!(error.raw_os_error(), invalid, "no group");
}

/// How many connections each of two shards has after clients from these sources have connected.
fn met(server: &Server, sources: impl Iterator<Item = IpAddr>) -> [u64; 2] {
    let connect = |source| match source {
        IpAddr::V4(ip) => Client::try_connect_from(ip, server.clients, "/echo").unwrap().unwrap(),
        IpAddr::V6(_) => unreachable!("the server listens on IPv4"),
    };
    let clients: Vec<_> = sources.map(connect).collect();
    // Where they were accepted; a shard hands some of many to the other.
    let shards: Value = serde_json::from_str(&http::get(server.admin, "/api/v1/shards")).unwrap();
    let counts = [0, 1].map(|shard| shards["shards"][shard]["accepted"].as_u64().unwrap());
    assert_eq!(counts.iter().sum::<u64>(), clients.len() as u64);
    counts
}

#[test]
fn a_server_meets_a_source_on_one_shard() {
    let proxies = "server.trusted_proxies=127.0.0.9";
    let one = |source: [u8; 4]| std::iter::repeat_n(IpAddr::from(source), 40);
    let server = || Server::start(&["server.shards=2", proxies]);
    for source in [[127, 0, 0, 2], [127, 0, 0, 3], [127, 200, 0, 2]] {
        let counts = met(&server(), one(source));
        assert!(counts.contains(&40), "{source:?}: {counts:?}");
    }
    for spread in [met(&server(), v4_sources(40)), met(&server(), one([127, 0, 0, 9]))] {
        assert!(!spread.contains(&0), "{spread:?}");
    }
}

#[test]
fn a_server_that_cannot_steer_says_so_and_serves() {
    let Some(network) = Network::new("unsteered") else { return };
    network.run(|| {
        // The room that a network's sockets have for programs.
        std::fs::write("/proc/sys/net/core/optmem_max", "512").unwrap();
        let mut server = Server::start(&["server.shards=2"]);
        server.wait_for_log("sources are not steered to their shard: Cannot allocate memory");
        let counts = met(&server, std::iter::repeat_n(LOOPBACK, 40));
        assert!(!counts.contains(&0), "by the kernel's own hash: {counts:?}");
    });
}
