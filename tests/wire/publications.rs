//! A publication reaches every subscriber of its channel once, however many there are, and what
//! is counted of a client is gone with it.

use crate::support;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::server::Server;
use crate::support::wire::Client;
use crate::support::{eventually, http, socket};
use serde_json::json;

fn subscribers(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.clients, "/ws?channel=news")).collect()
}

/// The sum of a metric over the shards.
#[track_caller]
fn metric(server: &Server, name: &str) -> u64 {
    let page = http::get(server.admin, "/metrics");
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then(|| rest.rsplit(' ').next().unwrap().parse::<u64>())
    });
    samples.map(|sample| sample.expect("a whole number")).sum()
}

#[test]
fn channels_around_the_visits_of_a_turn_are_reached_again_and_again() {
    let _alone = support::alone();
    let server = Server::start(&["server.shards=1"]);
    // A shard visits 512 places in a turn; the end of an audience is one more place.
    let mut clients = subscribers(&server, 510);
    for _ in 510..=513 {
        for number in 0..3 {
            http::post(server.admin, "/api/publish", &json!({ "channel": "news", "data": number }));
            for client in &mut clients {
                assert_eq!(client.frame().text(), number.to_string());
            }
        }
        clients.extend(subscribers(&server, 1));
    }
}

#[test]
fn a_subscriber_that_reads_slowly_is_not_taken_for_one_that_does_not() {
    const BYTES: usize = 60_000;
    const COUNT: usize = 200;
    const BYTES_PER_SECOND: f64 = 2_500_000.0;
    let server = Server::start(&[
        "server.shards=1",
        "server.write_timeout_ms=1000",
        "server.max_queued_bytes=32000000",
    ]);
    let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server.clients, Some(8192)).unwrap();
    let mut client = Client::upgrade(stream, "/ws?channel=news").unwrap().unwrap();
    let publication = json!({ "channel": "news", "data": "x".repeat(BYTES - 2) });
    (0..COUNT).for_each(|_| drop(http::post(server.admin, "/api/publish", &publication)));
    // As many frames as one send gathers would take longer than the timeout at this pace.
    let started = Instant::now();
    for number in 1..=COUNT {
        assert_eq!(client.frame().payload.len(), BYTES);
        let due = Duration::from_secs_f64((number * BYTES) as f64 / BYTES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

/// S3.10, S4.54.
#[test]
fn subscriptions_end_with_their_client() {
    let server = Server::start(&["server.shards=2"]);
    let mut clients = subscribers(&server, 20);
    eventually("all are subscribed", || metric(&server, "tidegate_subscriptions") == 20);
    clients.drain(10..).for_each(Client::close);
    eventually("half of them are left", || metric(&server, "tidegate_subscriptions") == 10);
    drop(clients);
    eventually("nobody is left", || metric(&server, "tidegate_subscriptions") == 0);
}
