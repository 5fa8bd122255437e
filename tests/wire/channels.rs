//! What channels take is bounded, for each connection and for all of them: who asks for many that
//! nobody else has is refused with a reason while who asks for one is served, and what a crowd has
//! taken is given back when it has left.

use std::net::SocketAddr;

use crate::support::figures::{Figures, metric};
use crate::support::server::Server;
use crate::support::wire::{Client, Response};
use crate::support::{alone, eventually, http};
use serde_json::{Value, json};

const ROOM: &str = "tidegate_channels_refused_total{reason=\"no_room\"}";
const NAMES: &str = "tidegate_channels_refused_total{reason=\"names_of_connection\"}";

fn path(names: impl Iterator<Item = String>) -> String {
    format!("/ws?{}", names.map(|name| format!("channel={name}")).collect::<Vec<_>>().join("&"))
}

/// So many channels of this client alone.
fn own(client: usize, count: usize) -> String {
    path((0..count).map(|n| format!("own-{client:05}-{n:02}")))
}

fn ask(server: SocketAddr, path: &str) -> Result<Client, Response> {
    Client::try_connect(server, path).unwrap()
}

fn reason(response: &Response) -> String {
    let body: Value = serde_json::from_str(response.body()).unwrap();
    body["reason"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn names_that_are_too_long_together_are_refused_with_a_reason() {
    let server = Server::start(&["server.shards=2"]);
    let of = |count: usize, len: usize| path((0..count).map(|n| format!("{n:0len$}")));
    for (count, len) in [(1, 255), (64, 64), (16, 255)] {
        assert!(ask(server.clients, &of(count, len)).is_ok(), "{count} names of {len} bytes");
    }
    for (count, len) in [(64, 65), (17, 255)] {
        let refused = ask(server.clients, &of(count, len)).err().expect("refused");
        assert_eq!((refused.status, reason(&refused).as_str()), (400, "names_of_connection"));
    }
    assert_eq!(metric(&server, NAMES), 2);
}

#[test]
fn clients_with_many_channels_of_their_own_are_refused_long_before_those_with_one() {
    let _alone = alone();
    let server = Server::start(&["server.shards=1", "admission.max_memory_bytes=134217728"]);
    let held = || Figures::of(&server).sum("tidegate_channels_bytes");
    let budget = Figures::of(&server).sum("tidegate_memory_budget_bytes{use=\"channels\"}");
    let mut clients = Vec::new();
    let refused = loop {
        assert!(clients.len() < 5_000, "{} bytes are held and nobody is refused", held());
        match ask(server.clients, &own(clients.len(), 64)) {
            Ok(client) => clients.push(client),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused.status, reason(&refused).as_str()), (503, "no_room"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(metric(&server, ROOM), 1);
    assert!(held() * 10 > budget * 5 && held() * 10 < budget * 9, "{} of {budget}", held());

    // One of its own, and 64 that others have: these are let in, and hear of publications.
    let mut one = Client::connect(server.clients, &own(90_000, 1));
    let mut shared = Client::connect(server.clients, &own(0, 64));
    for channel in ["own-90000-00", "own-00000-63"] {
        http::post(server.admin, "/api/publish", &json!({ "channel": channel, "data": channel }));
    }
    assert_eq!(one.frame().text(), "\"own-90000-00\"");
    assert_eq!(shared.frame().text(), "\"own-00000-63\"");

    drop(clients);
    one.close();
    shared.close();
    eventually("what channels took is given back", || held() == 0);
    assert!(ask(server.clients, &own(1, 64)).is_ok(), "and can be had again");
}

/// A session brings its channels with it, and is told which of them it has.
#[test]
fn a_session_that_comes_back_without_room_has_what_others_have() {
    let _alone = alone();
    let server = Server::start(&["server.shards=1", "admission.max_memory_bytes=134217728"]);
    let session = |query: &str| {
        let mut client = Client::connect(server.clients, &format!("/ws?{query}"));
        let told: Value = serde_json::from_str(client.frame().text()).unwrap();
        (client, told)
    };
    let channels = |client| own(client, 64).trim_start_matches("/ws?").to_owned();
    let (client, told) = session(&format!(
        "session=new&{}&channel=shared",
        channels(90_000).replacen("channel=own-90000-63", "", 1)
    ));
    assert_eq!(told["channels"].as_array().unwrap().len(), 64);
    client.close();
    let _stays = Client::connect(server.clients, "/ws?channel=shared");
    let mut clients = Vec::new();
    for count in [64, 40] {
        while let Ok(client) = ask(server.clients, &own(clients.len(), count)) {
            clients.push(client);
        }
    }
    let refused = metric(&server, ROOM);
    let id = told["id"].as_str().unwrap();
    let (_client, told) = session(&format!("session={id}"));
    assert_eq!((&told["resumed"], &told["channels"]), (&json!(true), &json!(["shared"])));
    assert_eq!(metric(&server, ROOM), refused + 1);
}
