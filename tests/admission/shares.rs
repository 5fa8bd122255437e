//! A source has a share of each budget first: what one source does costs the uploads, the replies and
//! the answers of no other, on the shard that both belong to; and a shard's part of a budget holds
//! one message that is allowed.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::budgets::sources_of_one_shard;
use crate::support::crowd::raise_open_files;
use crate::support::figures::{Figures, metric};
use crate::support::server::{Server, command};
use crate::support::wire::{BINARY, Client, FIN, frame, header, upgrade_request};
use crate::support::{alone, eventually, socket};

/// The most that holding one message of the default length can take.
const ONE_MESSAGE: u64 = (1 << 20) + (64 << 10);
const UPLOAD: usize = 600_000;
const EVICTED: &str = "unfinished_evicted";

/// A connection of `source` that has sent so much of a message of [`UPLOAD`] bytes.
fn upload(server: SocketAddr, source: Ipv4Addr, sent: usize) -> Client {
    let mut client = Client::try_connect_from(source, server, "/echo").unwrap().unwrap();
    client.send(&[header(FIN | BINARY, UPLOAD as u64, true), vec![0; 4 + sent]].concat());
    client
}

/// The rest of that message arrives, and it is echoed.
#[track_caller]
fn finish(mut client: Client, sent: usize) {
    client.send(&vec![0; UPLOAD - sent]);
    assert_eq!(client.frame().payload.len(), UPLOAD);
}

#[test]
fn a_client_that_is_alone_can_send_a_message_that_is_allowed_whatever_the_number_of_shards() {
    let budget = format!("server.max_unfinished_bytes={}", 8 * ONE_MESSAGE);
    let server = Server::start(&["server.shards=8", &budget]);
    for number in 1..=8 {
        let client = upload(server.clients, Ipv4Addr::new(127, 0, 11, number), UPLOAD - 1);
        let held = || metric(&server, "tidegate_unfinished_messages_bytes");
        eventually("all but one byte has come", || held() >= UPLOAD as u64 - 1);
        finish(client, UPLOAD - 1);
    }
    assert_eq!(Figures::of(&server).closed(EVICTED), 0);
}

#[test]
fn a_start_is_refused_whose_shards_could_not_hold_a_message_and_the_keys_are_named() {
    for key in ["server.max_unfinished_bytes", "server.max_total_queued_bytes"] {
        let value = format!("{key}={}", 4 * ONE_MESSAGE - 1);
        let output = command(&["server.shards=4", &value]).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{said}");
        for part in [key, "4 shards", "server.max_message_bytes = 1048576", "of at least 4456448"] {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    }
}

#[test]
fn uploads_of_one_source_end_none_of_others_on_its_shard() {
    const SENT: usize = 300_000;
    let _alone = alone();
    let budget = format!("server.max_unfinished_bytes={}", 4 * ONE_MESSAGE);
    let server = Server::start(&["server.shards=1", &budget]);
    let sources: Vec<_> = (1..=3).map(|number| Ipv4Addr::new(127, 0, 13, number)).collect();
    // Together less than a part of the budget, and begun before all others.
    let honest = [sources[0], sources[1]].map(|source| upload(server.clients, source, SENT));
    let held = || metric(&server, "tidegate_unfinished_messages_bytes");
    eventually("theirs has come", || held() >= 2 * SENT as u64);
    let hostile: Vec<_> = (0..100).map(|_| upload(server.clients, sources[2], 60_000)).collect();
    eventually("more than there is room for has been sent", || {
        Figures::of(&server).closed(EVICTED) >= 20
    });
    honest.into_iter().for_each(|client| finish(client, SENT));
    drop(hostile);
}

/// A client with a small socket that has asked for a long reply and reads nothing of it.
fn waits(server: SocketAddr, source: Ipv4Addr) -> TcpStream {
    let mut stream = socket::connect_with(source, server, Some(4096)).unwrap();
    stream.write_all(&upgrade_request("/echo")).unwrap();
    stream.write_all(&frame(FIN | BINARY, &vec![0; UPLOAD])).unwrap();
    stream
}

/// The same of another budget: what is not taken.
#[test]
fn replies_that_one_source_does_not_read_cost_none_of_others_on_its_shard() {
    let _alone = alone();
    let budget = format!("server.max_total_queued_bytes={}", 8 * ONE_MESSAGE);
    let server = Server::start(&["server.shards=1", &budget]);
    let of = |number| Ipv4Addr::new(127, 0, 12, number);
    let honest = waits(server.clients, of(1));
    let held = || metric(&server, "tidegate_output_held_bytes");
    eventually("its reply waits", || held() > 0);
    let hostile: Vec<_> = (0..60).map(|_| waits(server.clients, of(2))).collect();
    eventually("more waits than there is room for", || {
        Figures::of(&server).closed("slow_consumer") >= 30
    });
    let mut honest = Client::read_answer(honest).unwrap().unwrap();
    assert_eq!(honest.frame().payload.len(), UPLOAD, "it reads in the end");
    drop(hostile);
}

/// More than all answers and resets of its shard together.
#[test]
fn attempts_of_one_source_leave_others_of_its_shard_served() {
    const OTHERS: usize = 14;
    let _alone = alone();
    raise_open_files();
    let server = Server::start(&[
        "server.shards=4",
        "refusal.close_per_second=40",
        "refusal.http_per_second=400",
        "refusal.reset_per_second=400",
        "admission.connections_per_ip_per_minute=60",
        "admission.connections_per_ip_burst=8",
    ]);
    let sources = sources_of_one_shard(&server, OTHERS + 1);
    let ends = AtomicBool::new(false);
    let refused = || metric(&server, "tidegate_admission_refused_total{reason=\"per_ip_rate\"}");
    thread::scope(|scope| {
        let (hostile, clients, ends) = (sources[OTHERS], server.clients, &ends);
        for _ in 0..2 {
            scope.spawn(move || {
                while !ends.load(Ordering::Relaxed) {
                    // Refused, reset, or in the backlog: all the same to it.
                    if let Ok(stream) = socket::connect_from(hostile, clients) {
                        socket::reset(stream);
                    }
                }
            });
        }
        eventually("there are more attempts than answers", || refused() > 2_000);
        for source in &sources[..OTHERS] {
            let client = Client::try_connect_from(*source, server.clients, "/echo").unwrap();
            client.expect("let in").echo("served");
        }
        // Refused themselves, they are told so.
        for _ in 0..4 {
            let stream = socket::connect_from(sources[0], server.clients).unwrap();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            if let Err(refused) = Client::upgrade(stream, "/echo").unwrap() {
                assert_eq!(refused.status, 429);
            }
        }
        ends.store(true, Ordering::Relaxed);
    });
    let silence = metric(&server, "tidegate_refusals_total{rung=\"silence\"}");
    assert_eq!(silence, 0, "after {} refusals", refused());
}
