//! What comes all at once leaves nothing behind: a storm of resets, tens of thousands of short
//! lives, thousands of sockets readable in the same instant, more readers than buffers, readers
//! that stop, peers that vanish, a table that is full, a server that stood still. Afterwards
//! every connection is accounted for, everybody else was served, and the machine is at rest.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::crowd::{crowd, while_stopped};
use crate::support::figures::{
    Figures, descriptors, metric, nothing_is_unread, own_memory, processor_share,
};
use crate::support::load::Load;
use crate::support::server::Server;
use crate::support::wire::{BINARY, Client, FIN, TEXT, frame, upgrade_request};
use crate::support::{alone, eventually, http, socket};
use rustix::process::Signal;
use serde_json::json;

fn publish(server: &Server, channel: &str, data: &serde_json::Value) {
    let body = json!({ "channel": channel, "data": data });
    assert_eq!(http::post(server.admin, "/api/publish", &body), json!({ "result": {} }));
}

/// Waits until nobody is connected; then every connection there ever was has its one reason, and
/// nothing that belonged to one is left.
#[track_caller]
fn settled(server: &Server) -> Figures {
    let mut figures = Figures::of(server);
    eventually("everybody has left", || {
        figures = Figures::of(server);
        figures.sum("tidegate_connections") + figures.sum("tidegate_connections_handshaking") == 0
    });
    let sum = |name| figures.sum(name);
    let (opened, closed) =
        (sum("tidegate_connections_opened_total"), sum("tidegate_connections_closed_total"));
    let ended = sum("tidegate_handshakes_ended_total");
    assert_eq!(opened, closed, "{}", figures.lines("tidegate_connections"));
    assert_eq!(sum("tidegate_connections_accepted_total"), opened + ended);
    assert_eq!(sum("tidegate_subscriptions"), 0);
    assert_eq!(sum("tidegate_queued_bytes"), 0);
    figures
}

/// Clients of `/echo` that arrive until `over`, at most `most`. Each sends an id of its own and
/// must get exactly that.
fn newcomers(server: SocketAddr, prefix: &str, most: usize, over: &AtomicBool) -> Newcomers {
    let mut clients = Vec::new();
    while !over.load(Ordering::Relaxed) && clients.len() < most {
        let id = format!("{prefix}, number {}", clients.len());
        let mut client = Client::connect(server, "/echo");
        client.echo(&id);
        clients.push((client, id));
    }
    clients
}

type Newcomers = Vec<(Client, String)>;

#[test]
fn a_storm_of_resets_touches_nobody_else_and_leaves_nothing_behind() {
    const CLIENTS: usize = 5_000;
    const UNFINISHED: usize = 500;
    const ROUNDS: usize = 3;
    let _alone = alone();
    let server = Server::start(&["server.shards=2"]);
    // Several channels, so that a publication is on its way while others begin.
    let paths: Vec<_> = (0..10).map(|n| format!("/ws?channel=storm-{n}")).collect();
    let mut stayed: Newcomers = Vec::new();
    let mut published = 0;
    for round in 0..ROUNDS {
        let subscribers = paths.iter().cycle().map(String::as_str).take(CLIENTS);
        let halves = crowd(server.clients, subscribers).into_iter().enumerate();
        let (one, other): (Vec<_>, Vec<_>) = halves.partition(|(index, _)| index % 2 == 0);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let over = &over;
            let server = &server;
            let publisher = scope.spawn(move || {
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    publish(server, &format!("storm-{}", count % 10), &json!({ "n": count }));
                    thread::sleep(Duration::from_millis(2));
                    count += 1;
                }
                count
            });
            let coming = [0, 1].map(|side| {
                let prefix = format!("round {round}, side {side}");
                scope.spawn(move || newcomers(server.clients, &prefix, 1000, over))
            });
            thread::sleep(Duration::from_millis(50));
            let reset = |half: Vec<(usize, Client)>| {
                half.into_iter().for_each(|(_, client)| socket::reset(client.stream));
            };
            // These are reset before they have said what they want, or in the middle of it.
            for number in 0..UNFINISHED {
                let mut stream = socket::connect(server.clients).unwrap();
                stream.write_all(&upgrade_request("/echo")[..number % 100]).unwrap();
                socket::reset(stream);
            }
            let resets = [one, other].map(|half| scope.spawn(move || reset(half)));
            for thread in resets {
                thread.join().unwrap();
            }
            let gone = (CLIENTS * (round + 1)) as u64;
            eventually("the reset connections are counted", || {
                metric(server, "tidegate_connections_closed_total") == gone
            });
            over.store(true, Ordering::Relaxed);
            published += publisher.join().unwrap();
            for thread in coming {
                stayed.extend(thread.join().unwrap());
            }
        });
        for (client, id) in &mut stayed {
            client.echo(id);
        }
    }
    let newcomers = stayed.len() as u64;
    for (client, _) in stayed {
        client.close();
    }
    let figures = settled(&server);
    let storm = (CLIENTS * ROUNDS) as u64;
    println!("{newcomers} newcomers, {published} publications");
    assert!(newcomers > 100, "{newcomers} came during the storms");
    assert_eq!(figures.closed("peer_closed"), newcomers);
    assert_eq!(figures.closed("reset"), storm);
    assert_eq!(figures.sum("tidegate_connections_opened_total"), storm + newcomers);
}

/// One connection from beginning to end: upgraded, echoed, and left in one of three ways.
fn live_once(server: SocketAddr, number: usize) {
    let mut client = Client::connect(server, "/echo");
    client.echo(&format!("life {number}"));
    match number % 4 {
        0 => socket::reset(client.stream),
        1 => drop(client),
        _ => client.close(),
    }
}

/// S0.19, S0.61, S1.61, S4.10.
#[test]
fn a_server_is_the_same_after_forty_thousand_short_lives() {
    const LIVES: usize = 20_000;
    const THREADS: usize = 4;
    let _alone = alone();
    // 384 of the table are kept for refusals, accepts in flight and other shards' connections.
    let server = Server::start(&["server.shards=1", "server.direct_descriptors=1000"]);
    let (pid, address) = (server.pid(), server.clients);
    let files = descriptors(pid);
    let fill = || {
        let clients = crowd(address, std::iter::repeat_n("/echo", 616));
        let refused = Client::try_connect(address, "/echo").unwrap();
        assert_eq!(refused.err().map(|response| response.status), Some(503), "one more");
        drop(clients);
        settled(&server);
    };
    let round = || {
        let started = Instant::now();
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let lives = (thread..LIVES).step_by(THREADS);
                scope.spawn(move || lives.for_each(|number| live_once(address, number)));
            }
        });
        settled(&server);
        println!("{LIVES} lives in {:?}, {} bytes", started.elapsed(), own_memory(pid));
        own_memory(pid)
    };
    fill();
    let memory = round();
    let memory_after = round();
    fill();
    assert!(memory_after <= memory + memory / 20, "{memory} bytes became {memory_after}");
    let figures = settled(&server);
    // The admin listener may still be closing what the figures came through.
    eventually("no descriptor is left over", || descriptors(pid) == files);
    assert_eq!(figures.sum("tidegate_connections_opened_total"), 2 * LIVES as u64 + 2 * 616);
}

#[test]
fn senders_wait_for_receive_buffers_and_nothing_is_lost() {
    const SENDERS: usize = 500;
    const MESSAGES: usize = 3;
    const BYTES: usize = 16 << 10;
    let _alone = alone();
    let server = Server::start(&["server.shards=1", "server.receive_buffers=16"]);
    let mut clients = crowd(server.clients, std::iter::repeat_n("/echo", SENDERS));
    // Every message is another one, so that none can stand for a neighbour's.
    let message = |sender: usize, number: usize| -> Vec<u8> {
        let seed = (sender * MESSAGES + number) as u32;
        (0..BYTES as u32 / 4).flat_map(|n| (seed << 16 | n).to_le_bytes()).collect()
    };
    for round in 0..2 {
        while_stopped(&server, || {
            for (sender, client) in clients.iter_mut().enumerate() {
                for number in 0..MESSAGES {
                    client.send(&frame(FIN | BINARY, &message(sender, number)));
                }
            }
        });
        for (sender, client) in clients.iter_mut().enumerate() {
            for number in 0..MESSAGES {
                let echo = client.frame();
                assert_eq!(echo.first, FIN | BINARY);
                assert!(echo.payload == message(sender, number), "{round}, {sender}, {number}");
            }
        }
    }
    let starved = metric(&server, "tidegate_receive_buffers_starved_total");
    assert!(starved > 0, "16 buffers were enough for {SENDERS} senders");
    let share = processor_share(server.pid(), Duration::from_secs(1));
    println!("starved {starved} times, {share:.3} of a core afterwards");
    assert!(share < 0.05, "{share} of a core for nothing");
    drop(clients);
    settled(&server);
}

#[test]
fn a_sender_without_a_buffer_listens_once_when_its_reply_has_gone() {
    const SENDERS: usize = 40;
    let _alone = alone();
    let server = Server::start(&["server.shards=1", "server.receive_buffers=16"]);
    let mut stuck: Vec<_> = (0..SENDERS).map(|_| Stuck::new(&server)).collect();
    // All send again, then all read what waits for them, so that many find no buffer in the same
    // turn in which their reply goes out.
    let last = vec![1; 16_000];
    while_stopped(&server, || {
        for Stuck { client, .. } in &mut stuck {
            client.send(&frame(FIN | BINARY, &last));
        }
        for Stuck { client, replies } in &mut stuck {
            while *replies > 1 && client.next_within(Duration::from_millis(2)).is_some() {
                *replies -= 1;
            }
        }
    });
    for Stuck { client, replies } in &mut stuck {
        for _ in 0..*replies {
            assert!(client.frame().payload == Stuck::MESSAGE);
        }
        assert!(client.frame().payload == last);
    }
    assert!(metric(&server, "tidegate_receive_buffers_starved_total") > 0);
    drop(stuck);
    settled(&server);
}

/// A client of `/echo` with one reply on its way that the kernel has no room for, and no other
/// behind it.
struct Stuck {
    client: Client,
    /// That it has not read.
    replies: usize,
}

impl Stuck {
    const MESSAGE: [u8; 60_000] = [0; 60_000];

    fn new(server: &Server) -> Self {
        let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096));
        let client = Client::upgrade(stream.unwrap(), "/echo").unwrap().unwrap();
        let mut stuck = Self { client, replies: 0 };
        let before = Figures::of(server);
        // The first has room in every case.
        while stuck.replies < 1 || stuck.all_sent(server, &before) {
            stuck.client.send(&frame(FIN | BINARY, &Self::MESSAGE));
            stuck.replies += 1;
        }
        stuck
    }

    /// Whether the kernel has taken every reply, once the server has read every message.
    fn all_sent(&self, server: &Server, before: &Figures) -> bool {
        let since = |name| metric(server, name) - before.sum(name);
        eventually("the server has read everything", || {
            since("tidegate_messages_received_total") == self.replies as u64
        });
        let expected = (self.replies * (Self::MESSAGE.len() + 4)) as u64;
        let started = Instant::now();
        while since("tidegate_sent_bytes_total") < expected {
            if started.elapsed() > Duration::from_millis(20) {
                return false;
            }
        }
        true
    }
}

#[test]
fn nobody_goes_deaf_when_all_send_in_the_same_instant() {
    const CLIENTS: usize = 5_000;
    const ROUNDS: usize = 10;
    let _alone = alone();
    // Buffers of half a kilobyte: a message is several completions, more in all than the queue
    // of completions has places.
    let server = Server::start(&["server.shards=1", "server.receive_buffer_bytes=512"]);
    let mut clients = crowd(server.clients, std::iter::repeat_n("/echo", CLIENTS));
    for round in 0..ROUNDS {
        let text = |index: usize| format!("{index} in round {round} {}", "-".repeat(2000));
        while_stopped(&server, || {
            for (index, client) in clients.iter_mut().enumerate() {
                client.send(&frame(FIN | TEXT, text(index).as_bytes()));
            }
        });
        let started = Instant::now();
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.frame().text(), text(index));
        }
        println!("round {round}: {:?}", started.elapsed());
    }
    drop(clients);
    let figures = settled(&server);
    let echoes = (CLIENTS * ROUNDS) as u64;
    assert_eq!(figures.sum("tidegate_messages_received_total"), echoes);
    assert_eq!(figures.sum("tidegate_messages_sent_total"), echoes);
}

#[test]
fn a_publication_ends_with_its_last_subscriber_wherever_a_turn_ends() {
    // A turn of the loop visits 512: around that and around its double.
    let _alone = alone();
    for subscribers in [510, 511, 512, 513, 1022, 1023, 1024] {
        let server = Server::start(&["server.shards=1"]);
        let paths = std::iter::repeat_n("/ws?channel=news", subscribers);
        let mut clients = crowd(server.clients, paths);
        for seq in 0..3 {
            publish(&server, "news", &json!(seq));
        }
        for client in &mut clients {
            for seq in 0..3 {
                assert_eq!(client.frame().text(), seq.to_string(), "of {subscribers}");
            }
        }
        drop(clients);
        settled(&server);
    }
}

#[test]
fn a_server_that_stood_still_throws_nobody_out_who_answers() {
    let _alone = alone();
    let server = Server::start(&[
        "server.shards=2",
        "keepalive.ping_interval_ms=1000",
        "keepalive.timeout_ms=1000",
    ]);
    let url = format!("ws://{}/ws", server.clients);
    let mut load = Load::start("hold", &url, &["-n", "500", "--for", "600s"]);
    assert_eq!(load.opened(), 500);
    for seconds in [1.5, 5.0] {
        // The worst moment: everybody has been asked, and answers while the server stands still.
        let asked = metric(&server, "tidegate_pings_sent_total") + 500;
        load.signal(Signal::STOP);
        eventually("all are asked", || metric(&server, "tidegate_pings_sent_total") >= asked);
        while_stopped(&server, || {
            load.signal(Signal::CONT);
            thread::sleep(Duration::from_secs_f64(seconds));
        });
        // Long enough for everybody to be asked again and given up.
        thread::sleep(Duration::from_millis(2200));
        let figures = Figures::of(&server);
        assert_eq!(
            (figures.sum("tidegate_connections"), figures.closed("keepalive_timeout")),
            (500, 0),
            "after {seconds} s"
        );
    }
    load.stop();
    assert_eq!(load.report()["ledger"]["ended_by_reason"], json!({}));
    settled(&server);
}

#[test]
fn nobody_has_been_connected_while_the_server_stood_still() {
    let _alone = alone();
    let server = Server::start(&["server.shards=1"]);
    let connection_seconds = || metric(&server, "tidegate_connection_seconds_total");
    while_stopped(&server, || thread::sleep(Duration::from_secs(4)));
    let came = Instant::now();
    let clients = crowd(server.clients, std::iter::repeat_n("/echo", 100));
    // A hundred clients cannot have been connected for longer than a hundred times this.
    let at_most = || 100 * (came.elapsed().as_secs() + 1);
    let open = connection_seconds();
    assert!(open <= at_most(), "{open} s for 100 that have just come");
    thread::sleep(Duration::from_secs(1));
    let later = connection_seconds();
    assert!((open + 80..=at_most()).contains(&later), "{open} s, and a second later {later}");
    drop(clients);
    settled(&server);
    let ended = connection_seconds();
    assert!((later..=at_most()).contains(&ended), "{later} s open, {ended} ended: a counter");
}

#[test]
fn readers_that_stop_are_ended_and_the_others_miss_nothing() {
    const READERS: u64 = 1_800;
    const STOPPED: u64 = 200;
    const QUEUE: u64 = 64 << 10;
    // Well below the queue, so that nobody who reads is ever in danger.
    const BATCH: u64 = 40;
    let _alone = alone();
    let server = Server::start(&[
        "server.shards=1",
        &format!("server.max_queued_bytes={QUEUE}"),
        "shutdown.close_timeout_ms=500",
        "keepalive.ping_interval_ms=0",
    ]);
    let path = "/ws?channel=news";
    let url = format!("ws://{}{path}", server.clients);
    let arguments = ["-n", "1800", "--for", "600s", "--check-sequence", "seq"];
    let mut load = Load::start("hold", &url, &arguments);
    assert_eq!(load.opened(), READERS);
    let stopped: Vec<_> = (0..STOPPED)
        .map(|_| {
            let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096));
            Client::upgrade(stream.unwrap(), "/ws?channel=news&channel=own").unwrap().unwrap()
        })
        .collect();
    // The kernel keeps some megabytes for each; that it is full shows as bytes in a queue.
    let filler = json!("x".repeat(8000));
    eventually("the kernel has no more room", || {
        publish(&server, "own", &filler);
        let waits = || metric(&server, "tidegate_queued_bytes") > 0;
        waits() && {
            // Not only because the shard is still at work.
            thread::sleep(Duration::from_millis(50));
            waits()
        }
    });
    // Publications are finished one after the other, so one that has come here has all others
    // before it at every reader.
    let mut witness = Client::connect(server.clients, path);
    let memory = own_memory(server.pid());
    let (mut published, mut most) = (0, memory);
    let text = "x".repeat(1000);
    let started = Instant::now();
    let mut figures = Figures::of(&server);
    while figures.closed("slow_consumer") < STOPPED {
        assert!(published < 5_000, "{published} publications of 1 KiB were swallowed");
        for _ in 0..BATCH {
            published += 1;
            publish(&server, "news", &json!({ "seq": published, "text": text }));
        }
        for seq in published - BATCH + 1..=published {
            let expected = json!({ "seq": seq, "text": text });
            assert_eq!(witness.frame().text(), expected.to_string());
        }
        eventually("the readers read", || nothing_is_unread(server.clients, READERS_NETWORK));
        most = most.max(own_memory(server.pid()));
        figures = Figures::of(&server);
    }
    println!("{published} publications in {:?}; {memory} bytes, at most {most}", started.elapsed());
    assert_eq!(figures.closed("slow_consumer"), STOPPED);
    assert_eq!(figures.sum("tidegate_connections_closed_total"), STOPPED, "nobody else");
    let bound = QUEUE * STOPPED + (8 << 20);
    assert!(most - memory < bound, "{memory} bytes became {most}");

    load.stop();
    let report = load.report();
    assert_eq!(report["held"]["messages_per_open_connection_min"], published, "{report}");
    assert_eq!(report["held"]["messages_per_open_connection_max"], published, "{report}");
    assert_eq!(report["sequence"]["missing"], 0);
    assert_eq!(report["sequence"]["repeated_or_late"], 0);
    drop((stopped, witness));
    settled(&server);
}

/// Where `tidegate-load` connects from; the clients of this process are at 127.0.0.1.
const READERS_NETWORK: &str = "127.0.1.0/24";

#[test]
fn one_long_reply_that_nobody_reads_ends_its_connection() {
    let server = Server::start(&[
        "server.shards=1",
        "server.max_message_bytes=16777216",
        "server.write_timeout_ms=1000",
        "keepalive.ping_interval_ms=0",
    ]);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096)).unwrap();
    let mut client = Client::upgrade(stream, "/echo").unwrap().unwrap();
    client.send(&frame(FIN | BINARY, &vec![0; 12 << 20]));
    eventually("the reader is given up", || Figures::of(&server).closed("slow_consumer") == 1);
    settled(&server);
}

#[test]
fn peers_that_vanish_are_found_and_their_places_come_free() {
    let _alone = alone();
    let server = Server::start(&[
        "server.shards=2",
        "keepalive.ping_interval_ms=1000",
        "keepalive.timeout_ms=1000",
    ]);
    let url = format!("ws://{}/ws", server.clients);
    let hold = |count| Load::start("hold", &url, &["-n", count, "--for", "600s"]);
    let (mut gone, mut there) = (hold("2000"), hold("200"));
    assert_eq!((gone.opened(), there.opened()), (2000, 200));
    // Stopped, the process answers nothing, and its kernel still acknowledges every segment.
    gone.signal(Signal::STOP);
    let stopped = Instant::now();
    let mut figures = Figures::of(&server);
    eventually("all who vanished are found", || {
        figures = Figures::of(&server);
        figures.sum("tidegate_connections") == 200
    });
    let took = stopped.elapsed();
    println!("found in {took:?}");
    // Ping interval and timeout, and a second for a machine that is busy.
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert!(took > Duration::from_millis(900), "{took:?}: nobody was asked");
    assert_eq!(figures.closed("keepalive_timeout"), 2000);
    thread::sleep(Duration::from_secs(2));
    there.stop();
    assert_eq!(there.report()["ledger"]["ended_by_reason"], json!({}));
    let figures = settled(&server);
    assert_eq!(figures.closed("keepalive_timeout"), 2000);
}

/// S0.69.
#[test]
fn three_times_a_table_of_silent_clients_cost_nothing_and_keep_nobody_out_for_long() {
    const SILENT: usize = 600;
    let _alone = alone();
    let server = Server::start(&[
        "server.shards=1",
        "server.direct_descriptors=200",
        "handshake.timeout_ms=1000",
    ]);
    let started = Instant::now();
    // Half of the table is for those who are admitted; of the others the oldest go.
    let silent: Vec<_> = (0..SILENT).map(|_| socket::connect(server.clients).unwrap()).collect();
    let accepted = "tidegate_connections_accepted_total";
    eventually("all are accepted", || metric(&server, accepted) == SILENT as u64);
    let share = processor_share(server.pid(), Duration::from_millis(1500));
    println!("{share:.3} of a core while full");
    assert!(share < 0.1, "{share} of a core while full");
    eventually("a new client is served", || {
        match Client::try_connect(server.clients, "/echo").expect("an answer") {
            Ok(mut client) => {
                client.echo("at last");
                client.close();
                true
            }
            Err(response) => {
                assert_eq!(response.status, 503, "{response:?}");
                false
            }
        }
    });
    let took = started.elapsed();
    println!("served after {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?} for one second");
    let ended = silent.into_iter().map(ended_without_a_word).filter(|ended| *ended).count();
    assert_eq!(ended, SILENT);
    let figures = settled(&server);
    let ended =
        |reason| figures.sum(&format!("tidegate_handshakes_ended_total{{reason=\"{reason}\"}}"));
    assert_eq!(ended("handshake_timeout") + ended("handshake_evicted"), SILENT as u64);
    assert!(ended("handshake_timeout") >= 100 && ended("handshake_evicted") >= 100);
}

/// True if the server ended the connection and sent nothing.
fn ended_without_a_word(mut stream: TcpStream) -> bool {
    let _ = stream.shutdown(Shutdown::Write);
    let mut byte = [0];
    !matches!(stream.read(&mut byte), Ok(1))
}

#[test]
fn five_thousand_idle_connections_leave_the_machine_at_rest() {
    let _alone = alone();
    let server = Server::start(&["server.shards=2"]);
    let url = format!("ws://{}/ws?channel=a", server.clients);
    let mut load = Load::start("hold", &url, &["-n", "5000", "--for", "600s"]);
    assert_eq!(load.opened(), 5_000);
    thread::sleep(Duration::from_millis(500));
    let share = processor_share(server.pid(), Duration::from_secs(3));
    println!("{share:.4} of a core");
    assert!(share < 0.03, "{share} of a core");
    load.stop();
    load.report();
    settled(&server);
}
