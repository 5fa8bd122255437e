//! What is published on one node reaches the clients of all, once; and whatever happens to Redis, a
//! node's own clients have it at once, and what the others miss is counted.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::figures::metric;
use crate::support::redis::Redis;
use crate::support::server::Server;
use crate::support::wire::{Client, Next};
use crate::support::{eventually, http};

const TOPIC: &str = "publications";

#[track_caller]
fn node(redis: &Redis, id: &str) -> Server {
    let id = format!("redis.node_id={id}");
    let server = Server::start(&["server.shards=2", "shutdown.notice_ms=10", &redis.url(), &id]);
    is_linked(&server);
    server
}

#[track_caller]
fn is_linked(server: &Server) {
    for direction in ["in", "out"] {
        let name = format!("tidegate_cluster_link{{direction=\"{direction}\"}}");
        eventually("publications go in and out", || metric(server, &name) == 1);
    }
}

/// Two nodes, each of which knows how far the other has counted.
#[track_caller]
fn two_nodes(redis: &Redis) -> [Server; 2] {
    let nodes = [node(redis, "one"), node(redis, "other")];
    for node in &nodes {
        eventually("the other is heard", || metric(node, "tidegate_cluster_publishers") == 1);
    }
    nodes
}

#[track_caller]
fn publish(server: &Server, data: impl Into<Value>) -> Value {
    let body = json!({ "channel": "news", "data": data.into() });
    http::post(server.admin, "/api/publish", &body)["result"].clone()
}

fn subscribers(servers: &[Server]) -> Vec<Client> {
    let connect = |server: &Server| Client::connect(server.clients, "/ws?channel=news");
    servers.iter().flat_map(|server| [connect(server), connect(server)]).collect()
}

#[track_caller]
fn received(server: &Server, result: &str) -> u64 {
    let name = format!("tidegate_cluster_publications_received_total{{result=\"{result}\"}}");
    metric(server, &name)
}

#[track_caller]
fn missed(server: &Server) -> u64 {
    metric(server, "tidegate_cluster_publications_missed_total")
}

/// S2.27, S0.66.
#[test]
fn what_is_published_anywhere_arrives_everywhere_once_and_in_its_order() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut clients = subscribers(&nodes);
    let mut elsewhere = Client::connect(nodes[1].clients, "/ws?channel=sport");
    for number in 0..100 {
        for (at, node) in nodes.iter().enumerate() {
            assert_eq!(publish(node, format!("{at}:{number}")), json!({ "scope": "cluster" }));
        }
    }
    for client in &mut clients {
        let mut seen = BTreeMap::<String, u64>::new();
        for _ in 0..200 {
            let text: String = serde_json::from_str(client.frame().text()).unwrap();
            let (from, number) = text.split_once(':').unwrap();
            let next = seen.entry(from.to_owned()).or_default();
            assert_eq!(number, next.to_string(), "from node {from}");
            *next += 1;
        }
    }
    let body = json!({ "channels": ["sport", "news"], "data": 1.5 });
    let answer = http::post(nodes[0].admin, "/api/broadcast", &body);
    assert_eq!(answer["result"]["scope"], "cluster", "{answer}");
    assert_eq!(answer["result"]["responses"].as_array().unwrap().len(), 2);
    let body = json!({ "message": "back at 9", "level": "warning" });
    let answer = http::post(nodes[1].admin, "/api/v1/broadcast", &body);
    assert_eq!(answer["scope"], "cluster", "{answer}");
    clients.push(elsewhere);
    for client in &mut clients {
        assert_eq!(client.frame().text(), "1.5");
        let told: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(told["message"], "back at 9");
    }
    // One more, behind which nothing else can be on its way.
    publish(&nodes[0], "last");
    elsewhere = clients.pop().unwrap();
    clients.iter_mut().for_each(|client| assert_eq!(client.frame().text(), "\"last\""));
    elsewhere.close();
    for node in &nodes {
        assert_eq!((missed(node), received(node, "duplicate")), (0, 0));
    }
    assert_eq!((received(&nodes[0], "delivered"), received(&nodes[1], "delivered")), (101, 102));
}

#[test]
fn without_redis_a_node_publishes_to_its_own_clients_and_says_so() {
    let mut redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut clients = subscribers(&nodes);
    redis.stop();
    for node in &nodes {
        let name = "tidegate_cluster_link{direction=\"out\"}";
        eventually("it is missed", || metric(node, name) == 0);
    }
    for number in 0..3 {
        let alone = json!({ "scope": "node", "reason": "unavailable" });
        assert_eq!(publish(&nodes[0], number), alone);
        for client in &mut clients[..2] {
            assert_eq!(client.frame().text(), number.to_string());
        }
    }
    redis.start_again();
    nodes.iter().for_each(is_linked);
    eventually("the other knows what it missed", || missed(&nodes[1]) == 3);
    assert_eq!(missed(&nodes[0]), 0);
    assert_eq!(publish(&nodes[0], "again")["scope"], "cluster");
    clients.iter_mut().for_each(|client| assert_eq!(client.frame().text(), "\"again\""));
    let says = |part: &str| {
        let has = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(part));
        nodes[1].log().iter().filter(|event| has(event)).count()
    };
    eventually("what was missed is said", || says("did not arrive here") == 1);
    let changes = ["reach its own clients only", "do not arrive; subscribing", "nodes arrive"];
    assert_eq!(changes.map(says), [1, 1, 2]);
}

#[test]
fn a_redis_that_stands_still_delays_nobody_here_and_doubles_nothing() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut clients = subscribers(&nodes);
    redis.pause();
    let started = Instant::now();
    let mut arrivals = Vec::new();
    let (published, begun) = std::thread::scope(|scope| {
        let publishing = scope.spawn(|| {
            let (mut answers, mut begun) = (Vec::new(), Vec::new());
            while started.elapsed() < Duration::from_secs(5) {
                begun.push(Instant::now());
                answers.push(publish(&nodes[0], answers.len()));
                sleep(Duration::from_millis(20));
            }
            (answers, begun)
        });
        while !publishing.is_finished() {
            if let Some(next) = clients[0].next_within(Duration::from_millis(50)) {
                let Next::Frame(frame) = next else { panic!("{next:?}") };
                assert_eq!(frame.text(), arrivals.len().to_string());
                arrivals.push(Instant::now());
            }
        }
        publishing.join().unwrap()
    });
    assert_eq!(arrivals.len(), begun.len());
    let took = begun.iter().zip(&arrivals).map(|(begun, arrived)| *arrived - *begun);
    let slowest = took.max().unwrap();
    assert!(slowest < Duration::from_millis(900), "{slowest:?}");
    assert!(published.iter().all(|answer| answer["scope"] == "node"), "{published:?}");
    assert_eq!(published[0]["reason"], "timed_out");
    redis.go_on();
    nodes.iter().for_each(is_linked);
    publish(&nodes[0], "the end");
    // Of what was given up on, some may have been in Redis's buffer: each once, in order.
    let mut seen = Vec::new();
    loop {
        match clients[2].frame().text() {
            "\"the end\"" => break,
            number => seen.push(number.parse::<u64>().unwrap()),
        }
    }
    assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
    eventually("the rest is counted", || {
        missed(&nodes[1]) == (published.len() - seen.len()) as u64
    });
}

#[test]
fn a_listener_that_is_thrown_out_subscribes_again_and_counts_what_it_missed() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut clients = subscribers(&nodes);
    let losses = |node| metric(node, "tidegate_cluster_link_losses_total{direction=\"in\"}");
    for round in 1..=3 {
        redis.ask(&["client", "kill", "type", "pubsub"]);
        publish(&nodes[0], round);
        nodes.iter().for_each(is_linked);
        eventually("it is noticed", || {
            missed(&nodes[1]) + received(&nodes[1], "delivered") == round
        });
    }
    publish(&nodes[0], "the end");
    let mut arrived = 0;
    while clients[2].frame().text() != "\"the end\"" {
        arrived += 1;
    }
    assert_eq!(missed(&nodes[1]), 3 - arrived);
    assert!(losses(&nodes[1]) <= 3);
    for number in 1..=3 {
        assert_eq!(clients[0].frame().text(), number.to_string(), "its own clients miss nothing");
    }
}

#[test]
fn what_no_node_says_is_refused_and_counted() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut clients = subscribers(&nodes);
    let mut said = b"TG1\x01".to_vec();
    said.extend([9; 16]);
    said.extend(1_u64.to_be_bytes());
    said.extend(b"\x00\x01\x04news");
    let with = |text: &[u8]| [&said[..], text].concat();
    let too_long = with(&vec![b'x'; 6 << 20]);
    for bytes in [&b"hello"[..], b"TG1", &said[..20], &with(b"\xff\xfe"), &[0; 4096]] {
        redis.publish(TOPIC, bytes);
    }
    redis.publish(TOPIC, &too_long);
    for node in &nodes {
        eventually("all is refused", || {
            (received(node, "malformed"), received(node, "too_long")) == (5, 1)
        });
    }
    // What is well formed is taken, once.
    redis.publish(TOPIC, &with(b"{}"));
    redis.publish(TOPIC, &with(b"{}"));
    for node in &nodes {
        eventually("the second is refused", || received(node, "duplicate") == 1);
    }
    assert_eq!(publish(&nodes[0], "still here")["scope"], "cluster");
    for client in &mut clients {
        assert_eq!(client.frame().text(), "{}");
        assert_eq!(client.frame().text(), "\"still here\"");
    }
}

/// What a database keeps apart is keys: channels are those of the whole Redis.
#[test]
fn databases_of_one_redis_do_not_hear_each_other() {
    let redis = Redis::start();
    let url = |database: &str| format!("{}{database}", redis.url());
    let start = |id: &str, url: &str| {
        let id = format!("redis.node_id={id}");
        let server = Server::start(&["server.shards=2", "shutdown.notice_ms=10", url, &id]);
        is_linked(&server);
        server
    };
    let socket = format!("{}?db=1", redis.unix_url());
    let nodes = [
        start("zero", &url("")),
        start("nought", &url("/0")),
        start("one", &url("/1")),
        start("first", &socket),
    ];
    for node in &nodes {
        eventually("one other is heard", || metric(node, "tidegate_cluster_publishers") == 1);
    }
    let mut clients: Vec<_> =
        nodes.iter().map(|node| Client::connect(node.clients, "/ws?channel=news")).collect();
    assert_eq!(publish(&nodes[0], "to database 0")["scope"], "cluster");
    let told = json!({ "message": "to database 1", "level": "info" });
    assert_eq!(http::post(nodes[3].admin, "/api/v1/broadcast", &told)["scope"], "cluster");
    for (at, client) in clients.iter_mut().enumerate() {
        let text = client.frame().text().to_owned();
        assert!(
            text.contains(if at < 2 { "to database 0" } else { "to database 1" }),
            "{at}: {text}"
        );
    }
    // Nothing else is on its way: what is published later comes next.
    publish(&nodes[1], "last");
    publish(&nodes[2], "last");
    clients.iter_mut().for_each(|client| assert_eq!(client.frame().text(), "\"last\""));
    // A node of before has the name that it had.
    let names = redis.ask(&["pubsub", "channels", "*"]);
    let mut names: Vec<_> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["{tidegate:default}:publications", "{tidegate:default}:publications:1"]);
}

/// Bytes that say `text` to the channel `news` as publication `number` of the life that `node` has.
fn spoofed(redis: &Redis, node: &str, number: u64, text: &str) -> Vec<u8> {
    let life = redis.ask(&["hget", &format!("{{tidegate:default}}:node:{node}"), "_life"]);
    let life = u128::from_str_radix(life.trim(), 16).unwrap();
    let mut bytes = b"TG1\x01".to_vec();
    bytes.extend(life.to_be_bytes());
    bytes.extend(number.to_be_bytes());
    bytes.extend(b"\x00\x01\x04news");
    bytes.extend(text.as_bytes());
    bytes
}

#[test]
fn a_number_near_the_end_of_its_range_silences_no_publisher() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut client = Client::connect(nodes[1].clients, "/ws?channel=news");
    publish(&nodes[0], 1);
    assert_eq!(client.frame().text(), "1");
    let far = [1 << 40, 1 << 63, u64::MAX - 1, u64::MAX];
    for number in far {
        redis.publish(TOPIC, &spoofed(&redis, "one", number, "spoofed"));
        assert_eq!(client.frame().text(), "spoofed");
        for data in 2..5 {
            assert_eq!(publish(&nodes[0], data)["scope"], "cluster");
            assert_eq!(client.frame().text(), data.to_string(), "after {number}");
        }
    }
    assert_eq!(missed(&nodes[1]), 0, "a jump is not counted");
    assert_eq!(received(&nodes[1], "duplicate"), 0);
}

/// What is near could be true: it is a gap until the publisher itself says less.
#[test]
fn a_number_a_little_ahead_silences_a_publisher_for_two_beats_at_most() {
    let redis = Redis::start();
    let nodes = two_nodes(&redis);
    let mut client = Client::connect(nodes[1].clients, "/ws?channel=news");
    publish(&nodes[0], 0);
    assert_eq!(client.frame().text(), "0");
    redis.publish(TOPIC, &spoofed(&redis, "one", 100_000, "spoofed"));
    assert_eq!(client.frame().text(), "spoofed");
    let mut data = 1;
    eventually("it is heard again", || {
        publish(&nodes[0], data);
        data += 1;
        client.next_within(Duration::from_millis(50)).is_some()
    });
    assert!(data < 1_000, "only after {data}, not by its beats");
    publish(&nodes[0], data);
    while client.frame().text() != data.to_string() {}
}
