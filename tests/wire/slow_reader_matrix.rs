//! The whole matrix of steady readers, message lengths, pings and drains, as rows of tables, for
//! `scripts/bench-slow-readers`: every byte is counted, and a row that is not as it should be is a
//! failure. What runs with every change is in `slow_readers.rs`.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::slow_readers::publish;
use crate::support::figures::Figures;
use crate::support::server::Server;
use crate::support::slow_reader::{SlowReader, Story};
use crate::support::wire::{BINARY, Client, FIN, frame};
use crate::support::{eventually, socket};

const RATES: [usize; 3] = [10_000, 64_000, 1_000_000];
const LENGTHS: [usize; 4] = [64, 64 << 10, 1 << 20, 16 << 20];

/// How long a reader of short messages reads.
const SECONDS: usize = 30;

/// What one body of the admin listener carries, with room for what is around it.
const PUBLISHED_MOST: usize = 1 << 20;

/// Publications for one reader at most: each is a request of its own.
const PUBLICATIONS: usize = 2_048;

const SERVER: [&str; 7] = [
    "server.shards=1",
    "server.max_message_bytes=33554432",
    "server.max_queued_bytes=268435456",
    "server.max_total_queued_bytes=4294967296",
    "server.max_unfinished_bytes=1073741824",
    // The least that tells a reader of 10 kB/s from one that has stopped.
    "server.write_timeout_ms=10000",
    "server.message_timeout_ms=0",
];

/// How the messages come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Publications,
    Replies,
}

#[derive(Clone, Copy)]
struct Cell {
    rate: usize,
    length: usize,
    kind: Kind,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for rate in RATES {
        for length in LENGTHS {
            cells.push(Cell { rate, length, kind: Kind::Replies });
            if length <= PUBLISHED_MOST {
                cells.push(Cell { rate, length, kind: Kind::Publications });
            }
        }
    }
    cells
}

impl Cell {
    /// Messages that keep the reader busy for `seconds`; one at least.
    fn count(self, seconds: usize) -> usize {
        let count = (self.rate * seconds / self.length).max(1);
        if self.kind == Kind::Publications { count.min(PUBLICATIONS) } else { count }
    }

    fn connect(self, server: &Server) -> SlowReader {
        let path = match self.kind {
            Kind::Replies => "/echo".to_owned(),
            Kind::Publications => format!("/ws?channel={}-{}", self.rate, self.length),
        };
        let receive_bytes = (self.rate < 100_000).then_some(16 << 10);
        SlowReader::connect(server.clients, &path, self.rate, receive_bytes)
    }

    /// Has so many messages made for the reader, which begins to read.
    fn begin(
        self,
        server: &Server,
        mut reader: SlowReader,
        count: usize,
        until: usize,
    ) -> thread::JoinHandle<Story> {
        reader.longest = Duration::from_secs(3_600);
        match self.kind {
            Kind::Publications => {
                publish(server, &format!("{}-{}", self.rate, self.length), self.length, count);
            }
            Kind::Replies => {
                for number in 0..count {
                    reader.queue(&frame(FIN | BINARY, &self.message(number)));
                }
            }
        }
        reader.follow(until)
    }

    fn message(self, number: usize) -> Vec<u8> {
        let mut message = format!("\"{number:06}").into_bytes();
        message.resize(self.length, b'x');
        message
    }

    fn assert_whole(self, messages: &[Vec<u8>]) {
        for (number, message) in messages.iter().enumerate() {
            assert_eq!(message.len(), self.length, "{number}");
            assert_eq!(message[..7], self.message(number)[..7], "{number}");
        }
    }

    fn row(self, columns: &[String]) {
        let Self { rate, length, kind } = self;
        let rate = format!("{} kB/s", rate / 1_000);
        let length = match length {
            0..1024 => format!("{length} B"),
            1024..1_048_576 => format!("{} KiB", length >> 10),
            _ => format!("{} MiB", length >> 20),
        };
        println!("| {rate} | {length} | {kind:?} | {} |", columns.join(" | "));
    }
}

#[test]
#[ignore = "a measurement of half an hour"]
fn steady_readers_get_every_byte() {
    let with = Server::start(
        &[&SERVER[..], &["keepalive.ping_interval_ms=5000", "keepalive.timeout_ms=10000"]].concat(),
    );
    let without = Server::start(&[&SERVER[..], &["keepalive.ping_interval_ms=0"]].concat());
    let mut readers = Vec::new();
    for (has_pings, server) in [(true, &with), (false, &without)] {
        for cell in cells() {
            let count = cell.count(SECONDS);
            let reader = cell.begin(server, cell.connect(server), count, count);
            readers.push((cell, has_pings, count, reader));
        }
    }
    println!("\nsteady: rate, length, kind, pings, messages, bytes of messages, time, pings seen");
    for (cell, has_pings, count, reader) in readers {
        let Story { messages, closed, pings, took, .. } = reader.join().unwrap();
        cell.assert_whole(&messages);
        let bytes: usize = messages.iter().map(Vec::len).sum();
        let pings_seen = if has_pings { pings.to_string() } else { "off".to_owned() };
        cell.row(&[
            pings_seen,
            format!("{} of {count}", messages.len()),
            bytes.to_string(),
            format!("{:.1} s", took.as_secs_f64()),
        ]);
        assert_eq!((messages.len(), closed), (count, None), "{} {}", cell.rate, cell.length);
    }
    for server in [&with, &without] {
        let figures = Figures::of(server);
        assert_eq!(figures.closed("slow_consumer") + figures.closed("keepalive_timeout"), 0);
    }
}

#[test]
#[ignore = "a measurement"]
fn in_a_drain_readers_get_what_there_is_time_for() {
    const DRAIN_SECONDS: usize = 40;
    let drain = [
        "shutdown.notice_ms=100",
        "shutdown.close_timeout_ms=2000",
        "shutdown.drain_ms=40000",
        "shutdown.deadline_ms=60000",
        "keepalive.ping_interval_ms=5000",
        "keepalive.timeout_ms=10000",
    ];
    let mut server = Server::start(&[&SERVER[..], &drain].concat());
    let mut readers = Vec::new();
    for cell in cells() {
        // Twice what there is time for.
        let count = cell.count(2 * DRAIN_SECONDS);
        readers.push((cell, count, cell.begin(&server, cell.connect(&server), count, usize::MAX)));
    }
    thread::sleep(Duration::from_secs(5));
    let begun = Instant::now();
    server.signal(Signal::TERM);
    println!("\ndrain: rate, length, kind, messages, bytes read, of what the rate allows, end");
    for (cell, count, reader) in readers {
        let Story { mut messages, closed, read, took, .. } = reader.join().unwrap();
        // The notice and bye may come before a reply.
        messages.retain(|message| !message.starts_with(b"{"));
        cell.assert_whole(&messages);
        let allowed = cell.rate as f64 * took.as_secs_f64();
        cell.row(&[
            format!("{} of {count}", messages.len()),
            read.to_string(),
            format!("{:.2} in {:.1} s", read as f64 / allowed, took.as_secs_f64()),
            closed.map_or("cut".to_owned(), |code| format!("Close {code}")),
        ]);
        // A message that has begun and that there is no time for cannot be finished.
        let fits = cell.length < cell.rate * DRAIN_SECONDS * 3 / 4;
        assert!(!fits || closed == Some(1001), "{} {}", cell.rate, cell.length);
    }
    server.wait_at_most(Duration::from_secs(70));
    println!("\ndrained: {:.1} s, exit code {:?}", begun.elapsed().as_secs_f64(), server.ended().0);
}

#[test]
#[ignore = "a measurement"]
fn readers_that_stop_are_cut_in_time() {
    let server = Server::start(&[&SERVER[..], &["keepalive.ping_interval_ms=0"]].concat());
    println!("\nstopped: length, time until all are cut");
    for length in [64 << 10, 1 << 20] {
        let before = Figures::of(&server).closed("slow_consumer");
        let channel = format!("stopped-{length}");
        let stopped: Vec<_> = (0..10)
            .map(|_| {
                let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096));
                Client::upgrade(stream.unwrap(), &format!("/ws?channel={channel}"))
                    .unwrap()
                    .unwrap()
            })
            .collect();
        let begun = Instant::now();
        publish(&server, &channel, length, (4 << 20) / length);
        eventually("all are cut", || Figures::of(&server).closed("slow_consumer") == before + 10);
        println!("| stopped | {} KiB | {:.1} s |", length >> 10, begun.elapsed().as_secs_f64());
        drop(stopped);
    }
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=100"]);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096)).unwrap();
    let _stopped = Client::upgrade(stream, "/ws?channel=news").unwrap().unwrap();
    publish(&server, "news", 1 << 20, 1);
    let begun = Instant::now();
    server.signal(Signal::TERM);
    server.wait_at_most(Duration::from_secs(40));
    println!(
        "| stopped, in a drain with the defaults | 1024 KiB | {:.1} s |",
        begun.elapsed().as_secs_f64()
    );
}
