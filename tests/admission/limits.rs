//! Rules for blocks of addresses, and limits that change while clients connect: by SIGHUP and by
//! `POST /api/v1/config/reload`. Everything over real sockets, against the real binary with a
//! configuration file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::server::{Server, text};
use crate::support::wire::{Client, Response};
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

const RELOAD: &str = "/api/v1/config/reload";
const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// A server with its configuration file.
struct Limited {
    server: Server,
    directory: tempfile::TempDir,
}

impl Limited {
    /// On one shard, with this `[admission]`.
    #[track_caller]
    fn start(admission: &str) -> Self {
        Self::start_with("127.0.0.1:0", 1, admission)
    }

    #[track_caller]
    fn start_with(listen: &str, shards: usize, admission: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tidegate.toml");
        std::fs::write(&path, file(listen, shards, admission)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("serve").arg("--config").arg(&path).env_clear();
        Self { server: Server::from_command(command), directory }
    }

    fn write(&self, text: &str) {
        std::fs::write(self.directory.path().join("tidegate.toml"), text).unwrap();
    }

    /// Writes another `[admission]`, sends SIGHUP and waits until the log says that `changed`
    /// settings are others now.
    #[track_caller]
    fn hang_up(&mut self, shards: usize, admission: &str, changed: u64) {
        let before = self.readings();
        self.write(&file("127.0.0.1:0", shards, admission));
        self.server.signal(Signal::HUP);
        eventually("the configuration is read", || self.readings() > before);
        let log = self.server.log();
        let last = log.iter().rfind(|event| event["message"] == "configuration read again");
        assert_eq!(last.unwrap()["changed"], changed);
    }

    fn readings(&self) -> usize {
        self.said("configuration read again")
    }

    /// How many messages of the log have this part.
    fn said(&self, part: &str) -> usize {
        let log = self.server.log();
        let messages = log.iter().filter_map(|event| event["message"].as_str());
        messages.filter(|message| message.contains(part)).count()
    }

    fn reload(&self) -> (u16, Value) {
        http::try_post(self.server.admin, RELOAD, &json!({}))
    }

    /// Admitted clients of `count` attempts from `source`, and the refusals.
    fn attempts(&self, source: Ipv4Addr, count: usize) -> (Vec<Client>, Vec<Response>) {
        let (mut admitted, mut refused) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match Client::try_connect_from(source, self.server.clients, "/echo").unwrap() {
                Ok(client) => admitted.push(client),
                Err(response) => refused.push(response),
            }
        }
        (admitted, refused)
    }

    fn admitted(&self, source: Ipv4Addr, count: usize) -> usize {
        self.attempts(source, count).0.len()
    }

    fn status(&self) -> Value {
        serde_json::from_str(&http::get(self.server.admin, "/health/status")).unwrap()
    }
}

fn file(listen: &str, shards: usize, admission: &str) -> String {
    format!(
        "[server]\nlisten = \"{listen}\"\nshards = {shards}\necho = true\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n\
         [admission]\nglobal_connections_per_second = 1000000\nshed_load = false\n{admission}"
    )
}

/// Each is a whole answer with this status and detail.
#[track_caller]
fn check(refused: &[Response], status: u16, detail: &str) {
    for response in refused {
        assert_eq!(response.status, status, "{response:?}");
        let body: Value = serde_json::from_str(response.body()).unwrap();
        assert_eq!(body["error"], detail);
        // No time will help who is denied.
        assert_eq!(response.header("retry-after").is_some(), status != 403, "{response:?}");
    }
}

/// S0.38, S0.68.
#[test]
fn a_denied_source_is_told_403_and_counted() {
    let limited = Limited::start("deny = [\"127.0.0.2/32\"]\n");
    let (admitted, refused) = limited.attempts(Ipv4Addr::new(127, 0, 0, 2), 5);
    assert!(admitted.is_empty());
    check(&refused, 403, "address not allowed");
    assert_eq!(limited.admitted(HERE, 5), 5);
    assert_eq!(limited.status()["backpressure"]["connections_rejected"], 5);
    let metrics = http::get(limited.server.admin, "/metrics");
    let counted = |line: &str| {
        line.starts_with("tidegate_admission_refused_total")
            && line.contains("reason=\"denied\"")
            && line.ends_with(" 5")
    };
    assert!(metrics.lines().any(counted), "{metrics}");
}

#[test]
fn an_allowed_source_has_no_limits_of_its_own() {
    let limited = Limited::start(
        "connections_per_ip_per_minute = 1\nconnections_per_ip_burst = 3\n\
         max_connections_per_ip = 2\nmax_tracked_sources = 1\nmax_global_connections = 40\n\
         allow = [\"127.0.0.3/32\"]\n",
    );
    let (here, refused) = limited.attempts(HERE, 5);
    assert_eq!(here.len(), 2);
    check(&refused, 429, "too many connections from this address");
    // Nor is it refused because too many sources are known; the capacity holds for it.
    let (allowed, refused) = limited.attempts(Ipv4Addr::new(127, 0, 0, 3), 45);
    assert_eq!(allowed.len(), 38);
    check(&refused, 503, "server is full");
}

/// S0.73. Everything that one kind of rule could do to another.
#[test]
fn the_longest_prefix_decides() {
    let limited = Limited::start(
        "connections_per_ip_per_minute = 1\nconnections_per_ip_burst = 2\n\
         deny = [\"127.1.2.0/24\"]\nallow = [\"127.1.2.3/32\"]\n\
         [admission.overrides.\"127.1.0.0/16\"]\nburst = 7\n\
         [admission.overrides.\"127.1.2.4/32\"]\nmax_concurrent = 1\n",
    );
    for (source, admitted) in [
        ([127, 0, 0, 9], 2),
        ([127, 1, 0, 1], 7),
        ([127, 1, 255, 255], 7),
        ([127, 1, 2, 1], 0),
        ([127, 1, 2, 3], 10),
        ([127, 1, 2, 4], 1),
        ([127, 2, 0, 1], 2),
    ] {
        // Each attempt stays open until its line is over.
        assert_eq!(limited.admitted(source.into(), 10), admitted, "{source:?}");
    }
}

#[test]
fn an_ipv4_address_on_a_listener_for_both_families_is_ipv4() {
    let mut limited = Limited::start_with("[::]:0", 1, "deny = [\"127.0.0.2/32\", \"::/0\"]\n");
    let port = limited.server.clients.port();
    limited.server.clients = SocketAddr::new(IpAddr::V4(HERE), port);
    check(&limited.attempts(Ipv4Addr::new(127, 0, 0, 2), 1).1, 403, "address not allowed");
    assert_eq!(limited.admitted(HERE, 1), 1);
    // As IPv6, the whole world is denied here.
    let stream = std::net::TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).unwrap();
    let Err(response) = Client::upgrade(stream, "/echo").unwrap() else { panic!("admitted") };
    assert_eq!(response.status, 403);
}

/// Clients that come one after the other from many sources until they are told to stop.
fn crowd(server: SocketAddr, stop: &Arc<AtomicBool>) -> thread::JoinHandle<(usize, usize)> {
    let stop = Arc::clone(stop);
    thread::spawn(move || {
        let (mut admitted, mut refused) = (0, 0);
        for n in 0_u32.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let source = Ipv4Addr::from_bits(Ipv4Addr::new(127, 9, 0, 1).to_bits() + n % 60_000);
            match Client::try_connect_from(source, server, "/echo").expect("a whole answer") {
                Ok(mut client) => {
                    client.echo("here");
                    admitted += 1;
                }
                Err(response) => {
                    assert!(matches!(response.status, 403 | 429 | 503), "{response:?}");
                    refused += 1;
                }
            }
        }
        (admitted, refused)
    })
}

#[test]
fn limits_change_by_signal_while_clients_connect() {
    let limits = |rate: u32, burst: u32, rest: &str| {
        format!(
            "connections_per_ip_per_minute = {rate}\nconnections_per_ip_burst = {burst}\n{rest}"
        )
    };
    let source = |n| Ipv4Addr::new(127, 0, 3, n);
    let mut limited = Limited::start_with("127.0.0.1:0", 1, &limits(1, 5, ""));
    let stop = Arc::new(AtomicBool::new(false));
    let crowd = crowd(limited.server.clients, &stop);

    let (mut first, _) = limited.attempts(source(1), 10);
    assert_eq!(first.len(), 5);
    limited.hang_up(1, &limits(6000, 50, ""), 2);
    eventually("the higher burst holds", || limited.admitted(source(2), 60) >= 50);
    // Nobody waits for a limit that is gone: at 6000 a minute the burst is back in half a second.
    eventually("the refused one is let in", || limited.admitted(source(1), 1) == 1);

    limited.hang_up(1, &limits(1, 2, "deny = [\"127.0.3.7/32\"]\n"), 3);
    let mut next = 10;
    eventually("the lower burst holds", || {
        next += 1;
        limited.admitted(source(next), 10) == 2
    });
    check(&limited.attempts(source(7), 3).1, 403, "address not allowed");
    // The other kinds of rules come and go the same way.
    limited.hang_up(1, &limits(1, 2, "allow = [\"127.0.3.7/32\"]\n"), 2);
    eventually("it is let in without a limit", || limited.admitted(source(7), 10) == 10);

    for client in &mut first {
        client.echo("still here");
    }
    stop.store(true, Ordering::Relaxed);
    let (admitted, _) = crowd.join().unwrap();
    assert!(admitted > 0, "the crowd was let in");
    let event = limited.server.wait_for_log("connections_per_ip_burst from 5 to 50");
    assert_eq!(text(&event, "level"), "INFO");
}

#[test]
fn a_lowered_capacity_throws_nobody_out_and_lets_nobody_in() {
    let capacity =
        |most: u32| format!("connections_per_ip_per_minute = 0\nmax_global_connections = {most}\n");
    let mut limited = Limited::start_with("127.0.0.1:0", 2, &capacity(10_000));
    let (mut clients, _) = limited.attempts(HERE, 20);
    assert_eq!(clients.len(), 20);
    let stop = Arc::new(AtomicBool::new(false));

    limited.hang_up(2, &capacity(10), 1);
    assert_eq!(limited.status()["backpressure"]["config"]["max_global_connections"], 10);
    let mut intruders = Vec::new();
    eventually("it is full", || {
        intruders = limited.attempts(HERE, 1).0;
        intruders.is_empty()
    });
    let (admitted, refused) = limited.attempts(HERE, 20);
    assert!(admitted.is_empty());
    check(&refused, 503, "server is full");
    for client in &mut clients {
        client.echo("still here");
    }

    // Also on a shard that has fallen below its own share nobody enters before the server has.
    clients.drain(..9).for_each(Client::close);
    let crowd = crowd(limited.server.clients, &stop);
    let open = || limited.status()["backpressure"]["global_connections"].as_u64().unwrap();
    eventually("those who left are gone", || open() == 11);
    thread::sleep(std::time::Duration::from_millis(400));
    stop.store(true, Ordering::Relaxed);
    assert_eq!(crowd.join().unwrap().0, 0, "at 11 of 10 somebody was let in");

    clients.drain(..2).for_each(Client::close);
    let mut back = Vec::new();
    eventually("one place is free", || {
        back.extend(limited.attempts(HERE, 1).0);
        back.len() == 1
    });
    assert_eq!(limited.admitted(HERE, 20), 0, "and not one more");

    limited.hang_up(2, &capacity(1000), 1);
    eventually("there is room again", || limited.admitted(HERE, 20) == 20);
    for client in &mut clients {
        client.echo("still here");
    }
}

#[test]
fn a_bad_file_keeps_the_limits_and_says_why() {
    let good = "connections_per_ip_per_minute = 1\nconnections_per_ip_burst = 3\n";
    let mut limited = Limited::start(good);
    let bad = "connections_per_ip_burst = 9\nmax_global_connections = 0\ndeny = [\"10.1.0.0/8\"]\n";
    limited.write(&file("127.0.0.1:0", 1, bad));
    limited.server.signal(Signal::HUP);
    limited.server.wait_for_log("max_global_connections = 0 is refused");
    limited.server.wait_for_log("it has bits set behind its prefix; write 10.0.0.0/8");
    limited.server.wait_for_log("the limits stay as they were");
    assert_eq!(limited.admitted(HERE, 10), 3);

    let (status, answer) = limited.reload();
    assert_eq!((status, &answer["error"]["code"]), (422, &json!("configuration_refused")));
    let errors = answer["error"]["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 2, "{answer}");
    assert!(errors[1].as_str().unwrap().contains("write 10.0.0.0/8"), "{answer}");

    std::fs::remove_file(limited.directory.path().join("tidegate.toml")).unwrap();
    let (status, answer) = limited.reload();
    assert_eq!(status, 422);
    assert!(answer["error"]["errors"][0].as_str().unwrap().contains("cannot be read"), "{answer}");

    let better = "connections_per_ip_per_minute = 1\nconnections_per_ip_burst = 4\n";
    limited.hang_up(1, better, 1);
    let mut next = 1;
    eventually("a good file holds", || {
        next += 1;
        limited.admitted(Ipv4Addr::new(127, 0, 4, next), 10) == 4
    });
}

#[test]
fn the_admin_reloads_and_names_what_changed_and_what_cannot() {
    let limited = Limited::start("connections_per_ip_per_minute = 60\n");
    let (status, answer) = limited.reload();
    assert_eq!(
        (status, answer),
        (200, json!({ "changed": [], "needs_restart": [], "warnings": [] }))
    );

    let admission = "connections_per_ip_per_minute = 60\nmax_connections_per_ip = 1\n\
                     deny = [\"127.0.0.2/32\"]\n[keepalive]\ntimeout_ms = 777\n";
    limited.write(&file("127.0.0.1:0", 1, admission));
    let (status, answer) = limited.reload();
    assert_eq!(status, 202);
    let expected = json!({
        "changed": [
            { "key": "admission.max_connections_per_ip", "from": 0, "to": 1 },
            { "key": "admission.deny", "from": [], "to": ["127.0.0.2/32"] },
        ],
        "needs_restart": ["keepalive.timeout_ms"],
        "warnings": [],
    });
    assert_eq!(answer, expected);
    let settings = http::get(limited.server.admin, "/api/v1/shutdown/config");
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["settings"]["admission.deny"]["value"], json!(["127.0.0.2/32"]));
    assert_eq!(settings["settings"]["keepalive.timeout_ms"]["value"], 10_000, "as it is in force");
    assert_eq!(limited.said("needs a restart: keepalive.timeout_ms"), 1);
    eventually("it is denied", || limited.admitted(Ipv4Addr::new(127, 0, 0, 2), 1) == 0);
    assert_eq!(limited.admitted(HERE, 3), 1);
    // What needs a restart is named as long as it does.
    assert_eq!(
        limited.reload(),
        (
            200,
            json!({
                "changed": [], "needs_restart": ["keepalive.timeout_ms"], "warnings": [],
            })
        )
    );
}

#[test]
fn a_pipe_in_the_place_of_the_file_keeps_the_limits_and_holds_nobody_up() {
    let mut limited =
        Limited::start("connections_per_ip_per_minute = 1\nconnections_per_ip_burst = 3\n");
    let path = limited.directory.path().join("tidegate.toml");
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    for _ in 0..3 {
        limited.server.signal(Signal::HUP);
    }
    limited.server.wait_for_log("it is a pipe");
    let (status, answer) = limited.reload();
    assert_eq!(status, 422, "{answer}");
    assert_eq!(limited.admitted(HERE, 10), 3);
    assert_eq!(limited.server.drain().0, Some(0));
}
