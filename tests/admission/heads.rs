//! What is kept of connections before they are upgraded has a budget in bytes: above it the oldest
//! gives way, one that is not admitted before one that is, and never one that is upgraded. Of those
//! that are refused next to nothing is kept, and they are answered all the same.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::crowd::while_stopped;
use crate::support::figures::Figures;
use crate::support::server::Server;
use crate::support::wire::{
    CLOSE, Client, End, FIN, Next, Response, TEXT, frame, read_to_end, upgrade_request_with,
};
use crate::support::{eventually, socket};
use rustix::net::sockopt;

const EVICTED: &str = "tidegate_handshakes_ended_total{reason=\"head_evicted\"}";
const HELD: &str = "tidegate_memory_held_bytes{use=\"heads\"}";
const BUDGET: &str = "tidegate_memory_budget_bytes{use=\"heads\"}";

/// More than the budget has room for, and fewer than may be half-open.
const MANY: usize = 250;

/// A server with little memory: some hundred heads of the longest kind are kept.
fn small(settings: &[&str]) -> Server {
    let little = ["server.shards=1", "admission.max_memory_bytes=60000000"];
    Server::start(&[&little[..], settings].concat())
}

/// A request of the longest kind.
fn long_request(headers: &[&str]) -> Vec<u8> {
    let cookie = format!("Cookie: {:c>7000}", "");
    upgrade_request_with("/echo", &[&[cookie.as_str()], headers].concat())
}

fn source(nth: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 0, 9, 1)) + nth as u32)
}

/// A connection that has sent all of a request but its last bytes.
#[track_caller]
fn unfinished(server: SocketAddr, source: Ipv4Addr, request: &[u8]) -> TcpStream {
    let mut stream = socket::connect_from(source, server).expect("a connection");
    // In pieces, as a client does that is slow.
    for piece in request[..request.len() - 2].chunks(3_000) {
        stream.write_all(piece).expect("it is read");
    }
    stream
}

/// Sends the last bytes and reads the answer.
#[track_caller]
fn finished(mut stream: TcpStream) -> Result<Client, Response> {
    stream.write_all(b"\r\n").expect("it is read");
    Client::read_answer(stream).expect("an answer")
}

#[test]
fn heads_of_many_sources_give_way_to_later_ones_and_not_those_who_are_in() {
    let server = small(&[]);
    let mut witness = Client::connect(server.clients, "/echo");
    let request = long_request(&[]);
    let mut heads: Vec<_> =
        (0..MANY).map(|nth| unfinished(server.clients, source(nth), &request)).collect();
    eventually("some have given way", || Figures::of(&server).sum(EVICTED) >= MANY as u64 / 3);
    let figures = Figures::of(&server);
    let (held, budget) = (figures.sum(HELD), figures.sum(BUDGET));
    assert!(held > budget / 2 && held <= budget, "{held} of {budget}");
    let (_, end) = read_to_end(&mut heads[0]).expect("the oldest has ended");
    assert_eq!(end, End::Reset);
    let last = heads.pop().expect("many");
    finished(last).expect("the latest is let in").echo("in");
    witness.echo("still here");
    drop(heads);
    eventually("nothing is kept of those who have gone", || Figures::of(&server).sum(HELD) == 0);
}

#[test]
fn who_is_not_admitted_yet_gives_way_before_who_is() {
    let proxy = Ipv4Addr::new(127, 12, 0, 1);
    let server = small(&["server.trusted_proxies=127.12.0.1", "server.proxy_protocol=accept"]);
    let admitted = unfinished(server.clients, source(0), &long_request(&[]));
    let behind = long_request(&["X-Forwarded-For: 10.0.0.1"]);
    let header = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\x08"[..], &[0; 510]].concat();
    let mut proxied: Vec<_> = (0..MANY / 2)
        .flat_map(|_| {
            [unfinished(server.clients, proxy, &behind), unfinished(server.clients, proxy, &header)]
        })
        .collect();
    eventually("some have given way", || Figures::of(&server).sum(EVICTED) > 0);
    let (_, end) = read_to_end(&mut proxied[0]).expect("the oldest has ended");
    assert_eq!(end, End::Reset);
    finished(admitted).expect("it is let in").echo("in");
}

#[test]
fn of_refused_ones_next_to_nothing_is_kept_and_all_are_answered() {
    let server = small(&["admission.deny=127.0.9.0/24", "refusal.http_per_second=100000"]);
    let witness = unfinished(server.clients, Ipv4Addr::LOCALHOST, &long_request(&[]));
    let request = long_request(&[]);
    let refused: Vec<_> =
        (0..MANY).map(|nth| unfinished(server.clients, source(nth % 200), &request)).collect();
    let answers: Vec<_> = refused
        .into_iter()
        .map(|stream| {
            let figures = Figures::of(&server);
            assert!(figures.sum(HELD) <= figures.sum(BUDGET) / 3, "{}", figures.sum(HELD));
            finished(stream).err().expect("a refusal").status
        })
        .collect();
    assert_eq!(answers, vec![403; MANY]);
    assert_eq!(Figures::of(&server).sum(EVICTED), 0);
    finished(witness).expect("it is let in").echo("in");
}

/// What a client can send that is not read: its own buffer is as small as can be.
#[test]
fn of_a_client_that_is_not_read_the_kernel_takes_little() {
    let server = small(&[]);
    let mut taken = 0;
    while_stopped(&server, || {
        let client = socket::connect_from(source(0), server.clients).expect("the backlog has room");
        sockopt::set_socket_send_buffer_size(&client, 1_024).expect("SO_SNDBUF");
        client.set_write_timeout(Some(Duration::from_millis(500))).expect("SO_SNDTIMEO");
        taken = sent_until_full(&client, 1 << 20);
    });
    assert!((4 << 10..40 << 10).contains(&taken), "{taken} bytes");
    // What is read makes room for more.
    let mut client = Client::connect(server.clients, "/echo");
    let long = vec![b'a'; 1_000_000];
    client.stream.write_all(&frame(FIN | TEXT, &long)).expect("it is read");
    let Next::Frame(echo) = client.next() else { panic!("no echo") };
    assert_eq!(echo.payload.len(), long.len());
}

/// Sends until nothing more is taken; how many bytes were.
fn sent_until_full(mut stream: &TcpStream, most: usize) -> usize {
    let mut sent = 0;
    while sent < most {
        match stream.write(&[b'a'; 1_024]) {
            Ok(len) => sent += len,
            Err(_) => break,
        }
    }
    sent
}

#[test]
fn a_browser_whose_request_comes_in_pieces_is_told_in_a_close() {
    let server = small(&["admission.deny=127.0.9.0/24"]);
    let request = long_request(&["Origin: https://a.example"]);
    let mut client = finished(unfinished(server.clients, source(0), &request)).expect("101");
    let Next::Frame(frame) = client.next() else { panic!("no frame") };
    assert_eq!(frame.opcode(), CLOSE);
}
