//! Whatever clients make the server hold, it stays inside the memory limit of its cgroup: it is
//! never killed, established clients keep their echo, and the memory comes back. Each known way of
//! making it hold memory is an [`Attack`]; they come one after the other and all at once, from one
//! source and from a thousand.
//!
//! The suite runs with limits of 64 and 128 MiB. `scripts/attack-memory` runs the whole matrix.

use crate::support;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::cgroup::Cgroup;
use crate::support::crowd::raise_open_files;
use crate::support::figures::metric;
use crate::support::server::{Server, command};
use crate::support::wire::{BINARY, Client, FIN, frame};
use crate::support::{alone, eventually, socket};

const MIB: u64 = 1 << 20;

/// What a client sends of a message that it never ends.
const PINNED: usize = 900 << 10;

/// Threads that send at the same time.
const PUSHERS: usize = 32;

/// How much more than before may be in use when the attackers have gone, in parts of the limit.
const COMES_BACK: u64 = 10;

/// A server in a cgroup, and a client of it that is served all the while.
struct Siege {
    server: Server,
    cgroup: Cgroup,
    limit: u64,
    witness: Client,
    before: u64,
}

impl Siege {
    /// `None` where no cgroup can be made.
    fn new(limit: u64, settings: &[&str]) -> Option<Self> {
        let cgroup = match Cgroup::with_memory_and_sockets(limit) {
            Ok(cgroup) => cgroup,
            Err(why) => {
                eprintln!("NOT TESTED: no cgroup with a memory limit can be made here: {why}");
                return None;
            }
        };
        raise_open_files();
        let settings = [&["server.shards=2"], settings].concat();
        let server = Server::from_command(cgroup.command(&command(&settings)));
        let mut witness = Client::connect(server.clients, "/echo");
        // What the first connections need is not the attackers' doing.
        let first: Vec<_> = (0..200).map(|_| Client::connect(server.clients, "/echo")).collect();
        drop(first);
        eventually("the first have left", || metric(&server, "tidegate_connections") == 1);
        witness.echo("before");
        let before = cgroup.used();
        Some(Self { server, cgroup, limit, witness, before })
    }

    /// The server lives, and serves whom it has let in.
    #[track_caller]
    fn holds(&mut self) {
        assert_eq!(self.cgroup.oom_kills(), 0, "killed; {}", self.figures());
        self.witness.echo("still here");
    }

    fn figures(&self) -> String {
        let (peak, now) = self.cgroup.memory();
        format!("{} before, {now} now, {peak} at most, of {}", self.before, self.limit)
    }

    /// The attackers have gone: what they took is free again.
    #[track_caller]
    fn comes_back(&mut self, what: &str) {
        let most = self.before + self.limit / COMES_BACK;
        eventually("they have left", || metric(&self.server, "tidegate_connections") == 1);
        let started = Instant::now();
        while self.cgroup.used() > most {
            assert!(started.elapsed() < support::PATIENCE, "{what}: {}", self.figures());
            thread::sleep(Duration::from_millis(20));
        }
        println!("{what}: {}", self.figures());
        self.holds();
    }
}

/// The address of the nth of so many sources.
fn source(nth: usize, sources: usize) -> Ipv4Addr {
    let nth = (nth % sources) as u32;
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 8, 1)) + nth)
}

/// Sends as much as the server takes at once; it may have had enough.
fn push(stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
    let _ = (&*stream).write_all(bytes);
}

/// All of them send at once, so that nobody has time to look.
fn push_all(streams: &[TcpStream], bytes: &[u8]) {
    thread::scope(|scope| {
        for part in streams.chunks(streams.len().div_ceil(PUSHERS).max(1)) {
            scope.spawn(move || part.iter().for_each(|stream| push(stream, bytes)));
        }
    });
}

/// Clients that are let in, each with a message that it never ends.
fn unfinished(server: SocketAddr, clients: usize, sources: usize) -> Vec<TcpStream> {
    let mut unfinished = frame(FIN | BINARY, &vec![7; PINNED]);
    unfinished.pop();
    let admitted = (0..clients).filter_map(|nth| {
        let stream = socket::connect_from(source(nth, sources), server).ok()?;
        Some(Client::upgrade(stream, "/echo").ok()?.ok()?.stream)
    });
    let admitted: Vec<_> = admitted.collect();
    push_all(&admitted, &unfinished);
    admitted
}

/// Clients that send messages and do not read the replies.
fn unread(server: SocketAddr, clients: usize, sources: usize) -> Vec<TcpStream> {
    let message = frame(FIN | BINARY, &vec![7; PINNED]);
    let admitted = (0..clients).filter_map(|nth| {
        let stream = socket::connect_with(source(nth, sources), server, Some(4_096)).ok()?;
        Some(Client::upgrade(stream, "/echo").ok()?.ok()?.stream)
    });
    let admitted: Vec<_> = admitted.collect();
    push_all(&admitted, &message.repeat(3));
    admitted
}

#[test]
fn messages_that_never_end_hold_no_more_than_their_part_of_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(256 * MIB, &[]) else { return };
    for sources in [5, 1_000] {
        let held = unfinished(siege.server.clients, 400, sources);
        siege.holds();
        drop(held);
        siege.comes_back(&format!("unfinished messages of {sources} sources"));
    }
}

#[test]
fn replies_that_nobody_reads_hold_no_more_than_their_part_of_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(256 * MIB, &[]) else { return };
    for sources in [5, 1_000] {
        let held = unread(siege.server.clients, 400, sources);
        siege.holds();
        drop(held);
        siege.comes_back(&format!("replies to {sources} sources"));
    }
}
