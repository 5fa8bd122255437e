//! What the server does when it runs short: at its memory budget it refuses with 503 and is never
//! killed, and admits again when memory is free; while a shard stands still it lowers the rate,
//! and says so.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::cgroup::Cgroup;
use support::figures::metric;
use support::server::{Server, command, text};
use support::wire::{BINARY, Client, FIN, frame};
use support::{alone, eventually, http};

const LIMIT: u64 = 512 << 20;
/// What a client sends of a message that it never ends.
const PINNED: usize = 900 << 10;

fn status(server: &Server) -> Value {
    let status: Value = serde_json::from_str(&http::get(server.admin, "/health/status")).unwrap();
    status["backpressure"]["pressure"].clone()
}

/// Lets clients in that each make the server keep a part of a message, until one is told 503.
#[track_caller]
fn grow_until_refused(server: &Server) -> Vec<Client> {
    // All but the last byte.
    let mut unfinished = frame(FIN | BINARY, &vec![7; PINNED]);
    unfinished.pop();
    let mut clients = Vec::new();
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < Duration::from_secs(120), "{} clients", clients.len());
        match Client::try_connect(server.clients, "/echo").unwrap() {
            Ok(mut client) => {
                client.send(&unfinished);
                clients.push(client);
            }
            Err(response) => match (response.status, response.header("retry-after")) {
                // Over the rate, or over what the load leaves of it.
                (429 | 503, Some("1")) => thread::sleep(Duration::from_millis(20)),
                // Nobody enters.
                (503, Some("5")) => {
                    assert!(response.body().contains("server is overloaded"), "{response:?}");
                    return clients;
                }
                _ => panic!("{response:?}"),
            },
        }
    }
}

/// S0.69, S0.72.
#[test]
fn at_its_memory_budget_the_server_refuses_and_is_never_killed() {
    let _alone = alone();
    let cgroup = match Cgroup::with_memory(LIMIT) {
        Ok(cgroup) => cgroup,
        Err(why) => {
            eprintln!("NOT TESTED: no cgroup with a memory limit can be made here: {why}");
            return;
        }
    };
    // So that they come no faster than clients over a network would bring that much.
    // What they send would otherwise be bounded long before.
    let settings = [
        "server.shards=2",
        "admission.global_connections_per_second=100",
        "server.max_unfinished_bytes=1073741824",
    ];
    let mut server = Server::from_command(cgroup.command(&command(&settings)));
    let mut witness = Client::connect(server.clients, "/echo");
    assert_eq!(status(&server)["memory_limit_bytes"], LIMIT);
    // The same twice: what was used is free again.
    for round in 1..=2 {
        let clients = grow_until_refused(&server);
        println!("round {round}: {} clients, memory {:?}", clients.len(), cgroup.memory());
        assert!(clients.len() > 200, "only {}", clients.len());
        let all = server.log();
        let overloads = all.iter().filter(|event| {
            event["message"] == "overload: nobody new is admitted" && event["cause"] == "memory"
        });
        assert_eq!(overloads.count(), round);
        assert_eq!(status(&server)["admission_share_ratio"], 0.0);
        // It stays like that while they stay, and whoever is in is served.
        for _ in 0..20 {
            assert!(Client::try_connect(server.clients, "/echo").unwrap().is_err());
            witness.echo("still here");
        }
        assert_eq!(cgroup.oom_kills(), 0);
        drop(clients);
        eventually("they have left", || metric(&server, "tidegate_connections") == 1);
        eventually("the load is back to normal", || status(&server)["level"] == 0);
        println!("after round {round}: memory {:?}", cgroup.memory());
    }
    assert!(server.is_running());
    assert_eq!(cgroup.oom_kills(), 0);
    Client::connect(server.clients, "/echo").echo("admitted again");
    witness.echo("from the beginning to the end");
    let (code, _) = server.drain();
    assert_eq!(code, Some(0));
    let peak = cgroup.memory().0;
    assert!(peak < LIMIT, "{peak} of {LIMIT}");
}

/// S0.72.
#[test]
fn a_shard_that_stands_still_lowers_the_rate_until_it_goes_on() {
    let settings = ["server.shards=2", "debug.fault_injection=true", "admission.shed_load=true"];
    let mut server = Server::start(&settings);
    let come_round = "tidegate_uptime_seconds";
    eventually("the shards have come round", || metric(&server, come_round) >= 1);
    let stall = json!({ "shard": 0, "fault": "stall", "ms": 2_000 });
    http::post(server.admin, "/api/v1/debug/fault", &stall);
    let stalled = |event: &Value| event["cause"] == "stall" && event["share"] == 0.125;
    eventually("it stands still for a while", || server.log().iter().any(stalled));
    let last = server.log().into_iter().find(stalled).unwrap();
    assert_eq!((text(&last, "level"), &last["limit"]), ("WARN", &json!(50)));
    server.wait_for_log("load is back to normal");
    eventually("nothing is left of it", || status(&server)["admission_share_ratio"] == 1.0);
    let events = server.log();
    let shares: Vec<_> = events
        .iter()
        .filter(|event| text(event, "message").starts_with("load is"))
        .map(|event| event["share"].as_f64().unwrap())
        .collect();
    let steps = shares.windows(2).all(|pair| pair[0] / pair[1] <= 2.0 && pair[1] / pair[0] <= 2.0);
    assert!(steps, "one step at a time: {shares:?}");
    Client::connect(server.clients, "/echo").echo("admitted");
}
