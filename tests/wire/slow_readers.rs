//! A client that reads slowly but steadily gets everything, and in a drain what there is time for
//! and then Close; one that has stopped is cut in time. What counts is what its TCP acknowledges,
//! not what waits in the server or in the kernel.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::figures::Figures;
use crate::support::leaving::{check_sum, named};
use crate::support::server::Server;
use crate::support::slow_reader::{LONGEST, SlowReader};
use crate::support::wire::{BINARY, Client, FIN, PING, PONG, TEXT, frame};
use crate::support::{eventually, http, socket};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Publishes so many messages of so many bytes; each begins with its number.
pub(crate) fn publish(server: &Server, channel: &str, bytes: usize, count: usize) {
    for number in 0..count {
        let data = format!("{number:06}{}", "x".repeat(bytes.saturating_sub(8)));
        http::post(server.admin, "/api/publish", &json!({ "channel": channel, "data": data }));
    }
}

/// Whole messages from the first on.
#[track_caller]
fn assert_whole(messages: &[Vec<u8>], bytes: usize) {
    for (number, message) in messages.iter().enumerate() {
        assert!(message.starts_with(format!("\"{number:06}").as_bytes()), "{number}");
        assert_eq!(message.len(), bytes, "{number}");
    }
}

/// The messages of the server itself: the notice and bye.
fn split_goodbye(mut messages: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Vec<Value>) {
    let first = messages.iter().position(|message| message.starts_with(b"{"));
    let own = messages.split_off(first.unwrap_or(messages.len()));
    let own = own.iter().map(|message| serde_json::from_slice(message).expect("JSON")).collect();
    (messages, own)
}

const RATE: usize = 64_000;
const ALL: usize = 1 << 20;

/// Messages of every length, 1 MiB in all, for readers of 64 kB/s, with receive buffers of the
/// usual size and small ones.
fn everything_arrives(settings: &[&str], with_pings: bool) {
    let server = Server::start(
        &[
            &["server.shards=1", "server.max_queued_bytes=4194304", "server.write_timeout_ms=1500"],
            settings,
        ]
        .concat(),
    );
    let mut readers = Vec::new();
    for (bytes, receive_bytes) in
        [(64, None), (1 << 10, Some(8 << 10)), (64 << 10, None), (ALL, None), (ALL, Some(8 << 10))]
    {
        let channel = format!("c{bytes}-{}", receive_bytes.unwrap_or(0));
        let path = format!("/ws?channel={channel}");
        let reader = SlowReader::connect(server.clients, &path, RATE, receive_bytes);
        // A message of 64 bytes takes a request of its own: fewer of them are enough.
        let count = (ALL / bytes).min(2_048);
        publish(&server, &channel, bytes, count);
        readers.push((bytes, count, reader.follow(count)));
    }
    for (bytes, count, reader) in readers {
        let story = reader.join().unwrap();
        assert_eq!(story.messages.len(), count, "of {bytes} bytes; closed: {:?}", story.closed);
        assert_whole(&story.messages, bytes);
        if bytes == ALL {
            assert!(story.pings > 0 || !with_pings, "not one ping in a quarter of a minute");
        }
    }
    let figures = Figures::of(&server);
    assert_eq!(
        figures.sum("tidegate_connections_closed_total"),
        figures.closed("peer_gone") + figures.closed("reset")
    );
}

#[test]
fn steady_readers_get_every_byte_with_pings() {
    everything_arrives(&["keepalive.ping_interval_ms=1500", "keepalive.timeout_ms=1500"], true);
}

#[test]
fn steady_readers_get_every_byte_without_pings() {
    everything_arrives(&["keepalive.ping_interval_ms=0"], false);
}

/// A message that the kernel has whole, so that nothing waits in the server.
#[test]
fn in_a_drain_a_message_that_is_read_steadily_arrives_whole_and_then_close() {
    let mut server = Server::start(&[
        "server.shards=1",
        "shutdown.notice_ms=100",
        "shutdown.close_timeout_ms=1500",
        "shutdown.drain_ms=25000",
        "shutdown.deadline_ms=40000",
    ]);
    let bytes = 512 << 10;
    let reader = SlowReader::connect(server.clients, "/ws?channel=news", RATE, None);
    publish(&server, "news", bytes, 1);
    let reader = reader.follow(usize::MAX);
    server.signal(Signal::TERM);
    let story = reader.join().unwrap();
    let (messages, own) = split_goodbye(story.messages);
    assert_eq!(messages.len(), 1, "closed: {:?}", story.closed);
    assert_whole(&messages, bytes);
    assert_eq!((own.len(), story.closed), (2, Some(1001)), "{own:?}");
    server.wait_at_most(LONGEST);
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    assert_eq!(named(&check_sum(&server, &last_words)), [("close_acknowledged", 1)]);
}

#[test]
fn in_a_drain_that_is_too_short_whole_messages_arrive_and_then_close() {
    let mut server = Server::start(&[
        "server.shards=1",
        "shutdown.notice_ms=100",
        "shutdown.close_timeout_ms=1500",
        "shutdown.drain_ms=9000",
        "server.max_queued_bytes=4194304",
    ]);
    let (bytes, count) = (16 << 10, 128);
    let reader = SlowReader::connect(server.clients, "/ws?channel=news", RATE, Some(16 << 10));
    publish(&server, "news", bytes, count);
    let reader = reader.follow(usize::MAX);
    server.signal(Signal::TERM);
    let story = reader.join().unwrap();
    let (messages, own) = split_goodbye(story.messages);
    // 9 s are 35 of them; the rate has to be seen first, and Close has to arrive.
    assert!((12..60).contains(&messages.len()), "{}", messages.len());
    assert_whole(&messages, bytes);
    assert_eq!(story.closed, Some(1001), "{own:?} after {} messages", messages.len());
    assert_eq!(own.last().map(|own| own["bye"].clone()), Some(json!(true)), "{own:?}");
    server.wait_at_most(LONGEST);
    let (_, last_words) = server.ended();
    assert_eq!(check_sum(&server, &last_words)["close_acknowledged"], 1, "{last_words}");
}

/// The kernel and the queue are full of messages that it is reading when it breaks the protocol.
#[test]
fn a_refusal_behind_what_is_read_steadily_arrives() {
    let server = Server::start(&["server.shards=1", "server.max_queued_bytes=4194304"]);
    let (bytes, count) = (16 << 10, 32);
    let mut reader =
        SlowReader::connect(server.clients, "/ws?channel=news", 2 * RATE, Some(16 << 10));
    publish(&server, "news", bytes, count);
    // Reserved bits that nobody has negotiated.
    reader.answer(&frame(0x40 | 0x20 | FIN | TEXT, b"?"));
    let story = reader.read_messages(usize::MAX);
    assert_eq!(story.messages.len(), count, "closed: {:?}", story.closed);
    assert_whole(&story.messages, bytes);
    assert_eq!(story.closed, Some(1002));
}

#[test]
fn a_pong_goes_before_the_messages_that_wait() {
    let server = Server::start(&["server.shards=1", "server.max_queued_bytes=16777216"]);
    let (bytes, count) = (64 << 10, 128);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(16 << 10)).unwrap();
    let mut client = Client::upgrade(stream, "/ws?channel=news").unwrap().unwrap();
    publish(&server, "news", bytes, count);
    eventually("messages wait in the server", || {
        Figures::of(&server).sum("tidegate_queued_bytes") > 1 << 20
    });
    client.send(&frame(FIN | PING, b"are you there?"));
    // The ping is read in the shard's next turns; what the kernel has been given goes first.
    thread::sleep(Duration::from_millis(200));
    let before = (0..count).take_while(|_| client.frame().opcode() != PONG).count();
    assert!(before < count / 4, "{before} messages came before the pong");
    for _ in before..count {
        assert_eq!(client.frame().payload.len(), bytes);
    }
}

/// The kernel has everything when the ping is sent, the client's TCP has it when the time for the
/// pong is over, and the client reads it later still.
#[test]
fn a_ping_behind_what_the_kernel_has_is_waited_for() {
    let server = Server::start(&[
        "server.shards=1",
        "keepalive.ping_interval_ms=1500",
        "keepalive.timeout_ms=5000",
    ]);
    let reader = SlowReader::connect(server.clients, "/ws?channel=news", 10_000, Some(16 << 10));
    publish(&server, "news", 88_000, 1);
    let reader = reader.follow(2);
    eventually("it is asked", || Figures::of(&server).sum("tidegate_pings_sent_total") > 0);
    // Behind the ping, so that it is read before the end.
    publish(&server, "news", 64, 1);
    let story = reader.join().unwrap();
    assert_eq!((story.messages.len(), story.closed), (2, None), "after {:?}", story.took);
    assert!(story.pings > 0);
}

/// Whatever the kernel has room for, a reader below the floor is none.
#[test]
fn a_reader_below_the_floor_is_cut_and_one_above_it_is_not() {
    let server = Server::start(&[
        "server.shards=1",
        "server.write_timeout_ms=2000",
        "keepalive.ping_interval_ms=0",
        "delivery.min_bytes_per_second=40000",
    ]);
    let above = SlowReader::connect(server.clients, "/ws?channel=news", 2 * RATE, Some(16 << 10));
    let below = SlowReader::connect(server.clients, "/ws?channel=news", 4_000, Some(4 << 10));
    publish(&server, "news", ALL, 1);
    let (above, below) = (above.follow(1), below.follow(1));
    let (above, below) = (above.join().unwrap(), below.join().unwrap());
    assert_whole(&above.messages, ALL);
    assert_eq!((above.messages.len(), below.messages.len()), (1, 0));
    eventually("one was too slow", || Figures::of(&server).closed("slow_consumer") == 1);
}

#[test]
fn in_a_drain_a_reader_that_has_stopped_is_cut_in_time() {
    let mut server = Server::start(&[
        "server.shards=1",
        "shutdown.notice_ms=100",
        "shutdown.close_timeout_ms=1000",
        "shutdown.drain_ms=60000",
        "shutdown.deadline_ms=90000",
    ]);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(4096)).unwrap();
    let _stopped = Client::upgrade(stream, "/ws?channel=news").unwrap().unwrap();
    publish(&server, "news", ALL, 1);
    let started = Instant::now();
    let (code, last_words) = server.drain();
    assert_eq!(code, Some(0));
    assert_eq!(named(&check_sum(&server, &last_words)), [("forced", 1)]);
    // A window, twice if it has taken something at first, and not the minute of the drain.
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
}

/// Of what it sends before it reads, the replies that fit are made and the rest waits.
#[test]
fn a_client_that_ends_its_side_gets_the_replies_to_all_it_had_sent() {
    const COUNT: usize = 400;
    let server = Server::start(&["server.shards=1", "server.receive_buffer_bytes=65536"]);
    let mut client = Client::connect(server.clients, "/echo");
    let messages: Vec<Vec<u8>> = (0..COUNT).map(|n| vec![n as u8; 1_000 + n]).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(FIN | BINARY, message)).collect();
    client.send(&bytes);
    client.half_close();
    for message in &messages {
        assert_eq!(client.frame().payload, *message);
    }
}
