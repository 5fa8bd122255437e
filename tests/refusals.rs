//! Those who are not let in, over real sockets: what they are told, and what the operator sees of
//! them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::Ipv4Addr;

use support::http;
use support::server::Server;
use support::wire::Client;

#[test]
fn the_most_refused_sources_are_shown_by_name_over_all_shards() {
    let server = Server::start(&[
        "server.shards=2",
        "admission.connections_per_ip_per_minute=1",
        "admission.deny=127.0.5.1/32",
    ]);
    let attempt = |source: Ipv4Addr| Client::try_connect_from(source, server.clients, "/echo");
    let loud = Ipv4Addr::new(127, 0, 5, 1);
    for n in 2..=21 {
        let _ = attempt(Ipv4Addr::new(127, 0, 5, n)).unwrap();
        assert!(attempt(loud).unwrap().is_err());
    }
    let path = "/api/v1/admission/refused?limit=1";
    let answer: serde_json::Value = serde_json::from_str(&http::get(server.admin, path)).unwrap();
    assert_eq!((&answer["shards_answered"], &answer["shards"]), (&2.into(), &2.into()));
    let sources = answer["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1, "{answer}");
    assert_eq!(sources[0]["source"], "127.0.5.1");
    assert_eq!((&sources[0]["refused"], &sources[0]["at_most_over"]), (&20.into(), &0.into()));
    assert_eq!(sources[0]["reason"], "denied");
    assert!(sources[0]["last_refused_ms_ago"].as_u64().unwrap() < 60_000);
}
