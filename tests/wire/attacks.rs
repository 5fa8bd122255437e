//! Known attacks by a thousand clients at once: what they can make the server keep stays inside
//! its budget, each ends as it should, and an honest client is served all the while.
//! `docs/attacks.md` says which test is about which attack; with one attacker most of them are in
//! `protocol.rs`, `compression.rs` and `handshake_over_sockets.rs`.

use crate::support;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::crowd::{crowd, raise_open_files};
use crate::support::figures::{Figures, metric, own_memory};
use crate::support::server::Server;
use crate::support::wire::{
    self, BINARY, CLOSE, COMPRESSED, CONTINUATION, Client, FIN, Frame, Next, PING, TEXT,
    close_payload, frame, header, unmasked_frame, upgrade_request, upgrade_request_with,
};
use crate::support::{alone, eventually, http, socket};
use flate2::{Compress, Compression, FlushCompress};
use serde_json::json;

const ATTACKERS: usize = 1_000;

/// Beyond the budget of an attack: the entries of the attackers, the buffers of the shards, and
/// what the allocator keeps.
const SLACK: u64 = 24 << 20;

/// An honest client may wait for an echo as long as this, on a machine that has other things to do:
/// a queue that nobody bounds takes longer.
const WORST_ECHO: Duration = Duration::from_secs(5);

/// A server under attack and an honest client of it.
struct Siege {
    server: Server,
    before: u64,
}

impl Siege {
    fn new(settings: &[&str]) -> Self {
        let server = Server::start(&[&["server.shards=2"], settings].concat());
        // What the first connections need is not the attackers' doing.
        drop(crowd(server.clients, std::iter::repeat_n("/echo", ATTACKERS)));
        eventually("the first have left", || metric(&server, "tidegate_connections") == 0);
        let before = own_memory(server.pid());
        Self { server, before }
    }

    /// Attacks while an honest client echoes, and gives back what the attack does. The server may
    /// take `budget` bytes for it, at any time.
    #[track_caller]
    fn withstands<T>(&self, budget: u64, attack: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        let (server, most) = (&self.server, self.before + budget + SLACK);
        thread::scope(|scope| {
            let honest = scope.spawn(|| {
                let mut client = Client::connect(server.clients, "/echo");
                let (mut echoes, mut worst, mut memory) = (0, Duration::ZERO, 0);
                while !over.load(Ordering::Relaxed) || echoes < 10 {
                    let sent = Instant::now();
                    client.echo(&format!("honest {echoes}"));
                    worst = worst.max(sent.elapsed());
                    memory = memory.max(own_memory(server.pid()));
                    echoes += 1;
                    thread::sleep(Duration::from_millis(2));
                }
                client.close();
                (echoes, worst, memory)
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(attack));
            over.store(true, Ordering::Relaxed);
            let (echoes, worst, memory) = honest.join().expect("the honest client is served");
            println!("{echoes} echoes, the slowest {worst:?}; {memory} bytes, {most} allowed");
            assert!(worst < WORST_ECHO, "an honest client waited for {worst:?}");
            assert!(memory < most, "{memory} bytes, {most} allowed");
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn attackers(&self, path: &str) -> Vec<Client> {
        crowd(self.server.clients, std::iter::repeat_n(path, ATTACKERS))
    }

    /// Waits until so many connections have ended for this reason.
    #[track_caller]
    fn ended(&self, reason: &str, count: u64) {
        let mut seen = String::new();
        eventually(&format!("{count} ended by {reason}"), || {
            let figures = Figures::of(&self.server);
            seen = figures.lines("tidegate_connections_closed");
            figures.closed(reason) >= count
        });
    }
}

/// Writes what the server takes; it may have had enough.
fn push(client: &mut Client, bytes: &[u8]) {
    let _ = client.stream.set_write_timeout(Some(Duration::from_millis(500)));
    let _ = client.stream.write_all(bytes);
}

/// The code with which the server closed.
#[track_caller]
fn close_code(client: &mut Client) -> Option<u16> {
    loop {
        match client.next() {
            Next::Frame(frame) if frame.opcode() == CLOSE => return frame.close_code(),
            Next::Frame(_) => {}
            Next::End(_) => return None,
        }
    }
}

/// All attackers send the same and are closed with this code.
#[track_caller]
fn all_closed_with(settings: &[&str], budget: u64, bytes: &[u8], code: u16) {
    let _alone = alone();
    let siege = Siege::new(settings);
    let mut attackers = siege.attackers("/echo");
    siege.withstands(budget, || {
        attackers.iter_mut().for_each(|client| push(client, bytes));
        for client in &mut attackers {
            assert_eq!(close_code(client), Some(code));
        }
    });
}

#[test]
fn a_thousand_rows_of_empty_fragments_are_messages_that_are_too_big() {
    let endless = [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(10_000)].concat();
    all_closed_with(&["server.max_message_bytes=100000"], 1 << 20, &endless, 1009);
}

#[test]
fn a_thousand_messages_of_tiny_fragments_that_never_end_hold_no_more_than_their_budget() {
    let _alone = alone();
    const BUDGET: u64 = 16 << 20;
    let siege = Siege::new(&[&*format!("server.max_unfinished_bytes={BUDGET}")]);
    let mut attackers = siege.attackers("/echo");
    // A hundred megabytes of messages, of which each is well below what one may have.
    let tiny = [frame(BINARY, &[0; 8]), frame(CONTINUATION, &[0; 8]).repeat(12_500)].concat();
    siege.withstands(2 * BUDGET, || {
        attackers.iter_mut().for_each(|client| push(client, &tiny));
        siege.ended("unfinished_evicted", ATTACKERS as u64 / 2);
        let held = metric(&siege.server, "tidegate_unfinished_messages_bytes");
        assert!(held <= BUDGET, "{held}");
    });
    let evicted = attackers.iter_mut().find_map(|client| {
        match client.next_within(Duration::from_millis(100)) {
            Some(Next::Frame(frame)) => frame.close_code(),
            _ => None,
        }
    });
    assert_eq!(evicted, Some(1008), "the oldest were told");
}

#[test]
fn a_message_that_does_not_end_is_closed_at_its_deadline_whatever_trickles_in() {
    let server = Server::start(&["server.shards=1", "server.message_timeout_ms=500"]);
    for begin in [frame(TEXT, b"begun"), header(FIN | TEXT, 100, true), vec![FIN | TEXT]] {
        let mut client = Client::connect(server.clients, "/echo");
        let started = Instant::now();
        client.send(&begin);
        // Another frame between is no end of the message.
        if begin.len() > 8 {
            client.send(&frame(FIN | PING, b""));
        }
        assert_eq!(close_code(&mut client), Some(1008));
        assert!(started.elapsed() >= Duration::from_millis(400));
    }
    // Who ends his messages has as many as he likes.
    let mut client = Client::connect(server.clients, "/echo");
    for _ in 0..20 {
        client.send(&frame(TEXT, b"one, "));
        thread::sleep(Duration::from_millis(50));
        client.send(&frame(FIN | CONTINUATION, b"two"));
        assert_eq!(client.frame().text(), "one, two");
    }
}

#[test]
fn a_thousand_messages_that_do_not_end_are_closed_at_their_deadline() {
    all_closed_with(
        &["server.message_timeout_ms=1000"],
        4 << 20,
        &frame(TEXT, &[b'x'; 2000]),
        1008,
    );
}

#[test]
fn more_pings_in_a_second_than_allowed_close_the_connection() {
    let server = Server::start(&["server.shards=1", "server.max_pings_per_second=20"]);
    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(FIN | PING, b"x").repeat(20));
    client.send(&frame(FIN | TEXT, b"twenty are allowed"));
    let mut frames = std::iter::from_fn(|| Some(client.frame()));
    let text = frames.find(|frame| frame.opcode() == TEXT).unwrap();
    assert_eq!(text.text(), "twenty are allowed");
    let mut client = Client::connect(server.clients, "/echo");
    client.send(&frame(FIN | PING, b"x").repeat(21));
    assert_eq!(close_code(&mut client), Some(1008));
    eventually("it is counted", || Figures::of(&server).closed("ping_flood") == 1);
}

#[test]
fn a_thousand_ping_floods_of_clients_that_do_not_read_are_closed() {
    let flood = frame(FIN | PING, &[b'p'; 125]).repeat(1_000);
    all_closed_with(&[], 4 << 20, &flood, 1008);
}

#[test]
fn of_the_pings_of_a_thousand_who_do_not_read_only_the_latest_waits_for_its_pong() {
    let _alone = alone();
    let siege = Siege::new(&["server.max_pings_per_second=0"]);
    let mut attackers = silent_readers(siege.server.clients, "/echo");
    let flood = frame(FIN | PING, &[b'p'; 125]).repeat(4_000);
    // Unbounded it would be half a gigabyte.
    siege.withstands(16 << 20, || {
        attackers.iter_mut().for_each(|stream| {
            let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
            let _ = stream.write_all(&flood);
        });
        let queued = metric(&siege.server, "tidegate_queued_bytes");
        assert!(queued < ATTACKERS as u64 * 8192, "{queued}");
    });
}

/// Upgraded connections with small receive buffers whose clients read nothing.
fn silent_readers(server: SocketAddr, path: &str) -> Vec<TcpStream> {
    raise_open_files();
    let connect = |_| {
        let mut stream = socket::connect_with(Ipv4Addr::LOCALHOST, server, Some(4096)).unwrap();
        stream.write_all(&upgrade_request(path)).unwrap();
        stream
    };
    (0..ATTACKERS).map(connect).collect()
}

#[test]
fn a_thousand_who_do_not_read_hold_no_more_than_the_budget() {
    let _alone = alone();
    // Less than what is on its way to a few of them at once: the sockets have room for much of it,
    // and the more the longer it takes.
    const BUDGET: u64 = 4 << 20;
    let siege = Siege::new(&[&*format!("server.max_total_queued_bytes={BUDGET}")]);
    let mut attackers = silent_readers(siege.server.clients, "/echo");
    // Each asks for three quarters of a megabyte that it does not read.
    let message = frame(FIN | BINARY, &vec![0; 256 << 10]);
    // Their messages have a budget of their own until they are whole, and the allocator keeps some of
    // what was given back; without a budget it would be half a gigabyte.
    siege.withstands(256 << 20, || {
        // By the third the server does not read from them any more.
        for patience_ms in [500, 500, 2] {
            for stream in &mut attackers {
                let _ = stream.set_write_timeout(Some(Duration::from_millis(patience_ms)));
                let _ = stream.write_all(&message);
            }
        }
        siege.ended("slow_consumer", 1);
        eventually("what is held is within the budget", || {
            metric(&siege.server, "tidegate_output_held_bytes") <= BUDGET + (1 << 20)
        });
    });
}

#[test]
fn a_thousand_subscribers_who_do_not_read_cost_handles_and_not_copies() {
    let _alone = alone();
    let siege = Siege::new(&["server.max_queued_bytes=1048576"]);
    let attackers = silent_readers(siege.server.clients, "/ws?channel=flood");
    eventually("all are subscribed", || {
        metric(&siege.server, "tidegate_subscriptions") == ATTACKERS as u64
    });
    let body = json!({ "channel": "flood", "data": "x".repeat(100_000) });
    // Four megabytes for each of them, forty times what the publications are.
    siege.withstands(40 << 20, || {
        for _ in 0..40 {
            http::post(siege.server.admin, "/api/publish", &body);
        }
        siege.ended("slow_consumer", ATTACKERS as u64 / 2);
    });
    drop(attackers);
}

/// Upgraded connections that have negotiated compression.
fn compressing(server: SocketAddr) -> Vec<Client> {
    compressing_with(server, "Sec-WebSocket-Extensions: permessage-deflate")
}

fn compressing_with(server: SocketAddr, offer: &str) -> Vec<Client> {
    raise_open_files();
    let connect = |_| {
        let mut stream = socket::connect(server).unwrap();
        stream.write_all(&upgrade_request_with("/echo", &[offer])).unwrap();
        Client::read_answer(stream).unwrap().unwrap()
    };
    (0..ATTACKERS).map(connect).collect()
}

#[test]
fn a_thousand_bombs_cost_the_memory_of_one_message_per_shard() {
    let _alone = alone();
    let siege = Siege::new(&[]);
    let mut attackers = compressing(siege.server.clients);
    let mut compress = Compress::new(Compression::best(), false);
    let mut bomb = Vec::with_capacity(1 << 20);
    compress.compress_vec(&vec![0; 64 << 20], &mut bomb, FlushCompress::Sync).unwrap();
    bomb.truncate(bomb.len() - 4);
    let bytes = frame(FIN | COMPRESSED | BINARY, &bomb);
    // 64 GB if anybody inflated them; what waits for its last bytes is what was sent of it.
    siege.withstands((ATTACKERS * bytes.len() * 2) as u64, || {
        attackers.iter_mut().for_each(|client| push(client, &bytes));
        for client in &mut attackers {
            assert_eq!(close_code(client), Some(1009));
        }
    });
}

/// Replies of more than 256 KiB are sent as they are, so a compressed message can have one that is
/// a thousand times as long.
#[test]
fn a_thousand_chunks_of_messages_with_long_replies_hold_one_reply_each() {
    const REPLY: usize = (256 << 10) + 1;
    const COUNT: usize = 100;
    let _alone = alone();
    // Enough for one reply each, so that nobody is ended.
    let siege = Siege::new(&[
        "server.receive_buffer_bytes=65536",
        "server.max_total_queued_bytes=1073741824",
        "server.write_timeout_ms=60000",
    ]);
    let mut attackers = compressing(siege.server.clients);
    let mut compress = Compress::new(Compression::best(), false);
    let mut bomb = Vec::with_capacity(REPLY);
    compress.compress_vec(&vec![0; REPLY], &mut bomb, FlushCompress::Sync).unwrap();
    bomb.truncate(bomb.len() - 4);
    let bytes = frame(FIN | COMPRESSED | BINARY, &bomb).repeat(COUNT);
    // 26 GB if all replies were made.
    let each = bytes.len() + REPLY;
    siege.withstands((ATTACKERS * each) as u64, || {
        attackers.iter_mut().for_each(|client| push(client, &bytes));
        for client in attackers.iter_mut().step_by(100) {
            for _ in 0..COUNT {
                assert_eq!(client.frame().payload.len(), REPLY);
            }
        }
        assert_eq!(metric(&siege.server, "tidegate_connections_closed_total"), ATTACKERS as u64);
    });
}

#[test]
fn a_thousand_compressed_frames_that_nobody_negotiated_are_refused() {
    let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    all_closed_with(&[], 1 << 20, &frame(FIN | COMPRESSED | TEXT, &hello), 1002);
}

#[test]
fn an_endless_list_of_offers_is_read_in_no_time_by_a_thousand() {
    let _alone = alone();
    let siege = Siege::new(&[]);
    let lists = [
        "permessage-deflate; x=\"".to_owned() + &"\\\"".repeat(3_000),
        "permessage-deflate; server_max_window_bits=99,".repeat(150),
        ",;=".repeat(2_000),
    ];
    siege.withstands(16 << 20, || {
        for number in 0..ATTACKERS {
            let offer = format!("Sec-WebSocket-Extensions: {}", lists[number % lists.len()]);
            let mut stream = socket::connect(siege.server.clients).unwrap();
            stream.write_all(&upgrade_request_with("/echo", &[&offer])).unwrap();
            assert!(Client::read_answer(stream).unwrap().is_ok(), "declined, not refused");
        }
    });
}

#[test]
fn a_thousand_announced_giants_are_refused_from_their_headers() {
    for len in [1_u64 << 30, i64::MAX as u64] {
        let bytes = [&header(FIN | BINARY, len, true)[..], &[0; 4]].concat();
        all_closed_with(&[], 1 << 20, &bytes, 1009);
    }
}

#[test]
fn a_thousand_lengths_with_the_top_bit_set_are_refused() {
    let bytes = [&[FIN | BINARY, 0xff, 0x80][..], &[0; 7], &[0; 4]].concat();
    all_closed_with(&[], 1 << 20, &bytes, 1002);
}

#[test]
fn what_a_thousand_announce_and_do_not_send_is_not_allocated() {
    let _alone = alone();
    let siege = Siege::new(&[]);
    let mut attackers = siege.attackers("/echo");
    // A gigabyte is announced in all.
    let bytes = [&header(FIN | BINARY, 1 << 20, true)[..], &[0; 100]].concat();
    siege.withstands(1 << 20, || {
        attackers.iter_mut().for_each(|client| push(client, &bytes));
        eventually("all have been read", || {
            metric(&siege.server, "tidegate_received_bytes_total")
                >= (ATTACKERS * bytes.len()) as u64
        });
        let held = metric(&siege.server, "tidegate_unfinished_messages_bytes");
        assert!(held < ATTACKERS as u64 * 400, "{held}");
    });
}

#[test]
fn a_thousand_unmasked_frames_are_refused() {
    all_closed_with(&[], 1 << 20, &unmasked_frame(FIN | TEXT, b"hello"), 1002);
}

#[test]
fn a_thousand_bad_bytes_in_a_text_are_refused_at_the_byte() {
    let mut bytes = header(FIN | TEXT, 1000, true);
    bytes.extend([0, 0, 0, 0, b'a', 0xf4, 0x90]);
    all_closed_with(&[], 1 << 20, &bytes, 1007);
}

#[test]
fn a_thousand_bad_closes_are_answered_with_what_is_wrong_with_them() {
    for payload in [vec![3], close_payload(1005, ""), close_payload(2999, ""), close_payload(0, "")]
    {
        all_closed_with(&[], 1 << 20, &frame(FIN | CLOSE, &payload), 1002);
    }
}

#[test]
fn a_thousand_who_stay_after_their_close_are_gone_without_a_spin() {
    let _alone = alone();
    let siege = Siege::new(&["shutdown.close_timeout_ms=500"]);
    let mut attackers = siege.attackers("/echo");
    let after = frame(FIN | TEXT, &[b'x'; 1000]).repeat(10);
    siege.withstands(4 << 20, || {
        for client in &mut attackers {
            push(client, &frame(FIN | CLOSE, &close_payload(1000, "")));
            push(client, &after);
        }
        siege.ended("peer_closed", ATTACKERS as u64);
        eventually("nobody but the honest client is left", || {
            metric(&siege.server, "tidegate_connections") <= 1
        });
    });
    let share = support::figures::processor_share(siege.server.pid(), Duration::from_secs(1));
    assert!(share < 0.25, "{share} of a core for nobody");
}

#[test]
fn a_thousand_who_do_not_answer_a_close_are_cut() {
    let _alone = alone();
    let mut server = Server::start(&["server.shards=2", "shutdown.close_timeout_ms=500"]);
    let mut attackers = crowd(server.clients, std::iter::repeat_n("/echo", ATTACKERS));
    let (code, last_words) = server.drain();
    assert_eq!(code, Some(0));
    let outcomes = support::server::outcomes(&last_words);
    assert_eq!(outcomes.values().sum::<u64>(), ATTACKERS as u64, "{outcomes:?}");
    assert_eq!(outcomes.get("close_acknowledged").copied().unwrap_or(0), 0, "{outcomes:?}");
    let told = attackers.iter_mut().filter_map(close_code).count();
    assert_eq!(told, ATTACKERS);
}

#[test]
fn a_thousand_pings_come_back_as_they_were() {
    let _alone = alone();
    let siege = Siege::new(&[]);
    let mut attackers = siege.attackers("/echo");
    siege.withstands(1 << 20, || {
        for (number, client) in attackers.iter_mut().enumerate() {
            let payload = vec![number as u8; number % 126];
            client.send(&frame(FIN | PING, &payload));
            assert_eq!(client.frame(), Frame { first: FIN | wire::PONG, payload });
        }
    });
}

/// A thousand send this request each, with `beside` in the same segment, and get this status.
#[track_caller]
fn all_refused_with(settings: &[&str], request: &[u8], status: u16) {
    let _alone = alone();
    let siege = Siege::new(settings);
    siege.withstands(24 << 20, || {
        let connect = |_| {
            let mut stream = socket::connect(siege.server.clients).unwrap();
            let _ = stream.write_all(request);
            stream
        };
        raise_open_files();
        let streams: Vec<_> = (0..ATTACKERS).map(connect).collect();
        for mut stream in streams {
            let (bytes, _) = wire::read_to_end(&mut stream).unwrap();
            let response = wire::Response::parse(&bytes).expect("an answer");
            assert_eq!(response.status, status);
            let length: usize = response.header("content-length").unwrap().parse().unwrap();
            assert_eq!(response.rest.len(), length, "one answer and no more");
        }
    });
}

#[test]
fn a_thousand_long_heads_are_refused() {
    let long = format!("X: {}", "x".repeat(9_000));
    all_refused_with(&[], &upgrade_request_with("/echo", &[&long]), 431);
}

#[test]
fn a_thousand_heads_of_many_headers_are_refused() {
    let many = vec!["X: y"; 100];
    all_refused_with(&[], &upgrade_request_with("/echo", &many), 431);
}

#[test]
fn a_thousand_upgrades_with_a_body_are_refused_and_nothing_behind_them_is_read() {
    let smuggled = upgrade_request("/echo");
    for header in ["Content-Length: 5", "Transfer-Encoding: chunked"] {
        let request = [upgrade_request_with("/echo", &[header]), smuggled.clone()].concat();
        all_refused_with(&[], &request, 400);
    }
}

#[test]
fn a_thousand_pages_of_another_origin_are_refused() {
    let request = upgrade_request_with("/echo", &["Origin: http://evil.example"]);
    all_refused_with(&["server.allowed_origins=http://good.example"], &request, 403);
}

#[test]
fn a_thousand_slow_handshakes_are_cut_at_their_deadline_from_accept() {
    let _alone = alone();
    let siege = Siege::new(&["handshake.timeout_ms=1000"]);
    let request = upgrade_request("/echo");
    siege.withstands(16 << 20, || {
        raise_open_files();
        let mut slow: Vec<_> =
            (0..ATTACKERS).map(|_| socket::connect(siege.server.clients).unwrap()).collect();
        let started = Instant::now();
        let mut sent = 0;
        // A byte of each from time to time, never the last.
        while metric(&siege.server, "tidegate_connections_handshaking") > 0 {
            for stream in &mut slow {
                let _ = stream.write_all(&request[sent..=sent]);
            }
            sent = (sent + 1) % (request.len() - 10);
            thread::sleep(Duration::from_millis(20));
            assert!(started.elapsed() < support::PATIENCE, "they are still there");
        }
        assert!(started.elapsed() >= Duration::from_millis(500));
    });
}
