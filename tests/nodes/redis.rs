//! The counts of a cluster in a real Redis: right within one flush, after crashes, and after all
//! that can happen to a Redis; and whatever happens to it, clients notice nothing.

use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::figures::{metric, processor_share};
use crate::support::redis::Redis;
use crate::support::server::{Server, command, text};
use crate::support::wire::Client;
use crate::support::{eventually, http};

/// A node of this id that writes every 200 ms, so that its lease is 600 ms.
#[track_caller]
fn node(redis: &Redis, id: &str) -> Server {
    node_at(&redis.url(), id, 200)
}

#[track_caller]
fn node_at(url: &str, id: &str, interval_ms: u64) -> Server {
    let id = format!("redis.node_id={id}");
    let interval = format!("redis.flush_interval_ms={interval_ms}");
    Server::start(&["server.shards=1", "shutdown.notice_ms=10", url, &id, &interval])
}

/// What `/health/status` says of Redis, with the scope beside it.
#[track_caller]
fn status(server: &Server) -> Value {
    let text = http::get(server.admin, "/health/status");
    let status: Value = serde_json::from_str(&text).unwrap();
    let mut redis = status["redis"].clone();
    redis["scope"] = status["scope"].clone();
    redis
}

#[track_caller]
fn is(server: &Server, state: &str) -> bool {
    status(server)["status"] == state
}

/// The sum that a node shows for the cluster, if it does.
#[track_caller]
fn sum(server: &Server) -> Option<u64> {
    let status = status(server);
    assert_eq!(status["scope"] == "cluster", status["status"] == "ok", "{status}");
    status["concurrent_connections"].as_u64().filter(|_| status["scope"] == "cluster")
}

/// One flush from now every node shows this sum. Only if one of them stood still for longer than
/// its lease, on a machine that is busy with other things, it may take another.
#[track_caller]
fn is_right_after_one_flush(nodes: &[&Server], expected: u64) {
    let lapses = || nodes.iter().map(|node| lines(node, "epoch has ended")).sum::<usize>();
    for _ in 0..10 {
        let before = lapses();
        one_flush_later(nodes);
        let sums: Vec<_> = nodes.iter().map(|node| sum(node)).collect();
        if sums.iter().all(|sum| *sum == Some(expected)) {
            return;
        }
        one_flush_later(nodes);
        assert_ne!(lapses(), before, "{sums:?} and not {expected}");
    }
    panic!("the nodes lose their leases all the time");
}

/// Waits until every node has begun and finished a flush, first all of them, and then all again:
/// what each wrote in the first each has read in the second.
#[track_caller]
fn one_flush_later(nodes: &[&Server]) {
    for _ in 0..2 {
        for node in nodes {
            let flushes = || metric(node, "tidegate_redis_flushes_total{result=\"ok\"}");
            // One may have been in flight.
            let until = flushes() + 2;
            eventually("a flush", || flushes() >= until);
        }
    }
}

/// What is settled of lives that are written again is subtracted from what they write, so nothing
/// is counted twice and nothing is lost.
#[track_caller]
fn is_settled_once(redis: &Redis, nodes: &[&str]) {
    let bases = nodes.iter().map(|node| redis.number(&format!("node:{node}"), "_base"));
    assert_eq!(redis.number("totals", "connection_ms"), bases.sum::<u64>());
}

#[track_caller]
fn lines(server: &Server, part: &str) -> usize {
    let says = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(part));
    server.log().iter().filter(|event| says(event)).count()
}

/// That Redis was lost, and that it was there again, the start included.
#[track_caller]
fn changes(server: &Server) -> (usize, usize) {
    (lines(server, "Redis is unavailable"), lines(server, "Redis is available"))
}

#[track_caller]
fn clients(server: &Server, count: usize) -> Vec<Client> {
    (0..count).map(|_| Client::connect(server.clients, "/echo")).collect()
}

/// S0.22, S0.65, S0.66, rule 13.
#[test]
fn the_counts_of_two_nodes_are_their_sum_after_one_flush() {
    let redis = Redis::start();
    let (one, other) = (node(&redis, "one"), node_at(&redis.unix_url(), "other", 200));
    let mut held = clients(&one, 3);
    held.extend(clients(&other, 4));
    is_right_after_one_flush(&[&one, &other], 7);
    for node in [&one, &other] {
        let status = status(node);
        assert_eq!((&status["scope"], &status["status"]), (&"cluster".into(), &"ok".into()));
        assert_eq!(status["concurrent_connections"], 7, "{status}");
        assert_eq!((&status["peak_connections"], &status["nodes"]), (&7.into(), &2.into()));
        assert!(status["age_ms"].is_u64(), "{status}");
        assert_eq!(metric(node, "tidegate_cluster_connections"), 7);
        assert_eq!(metric(node, "tidegate_redis_state{state=\"ok\"}"), 1);
    }
    for client in held.drain(..5) {
        client.close();
    }
    is_right_after_one_flush(&[&one, &other], 2);
    let status = status(&one);
    assert_eq!(status["peak_connections"], 7, "{status}");
    // Nobody counts by adding and taking away.
    let keys = redis.ask(&["--scan"]);
    assert!(keys.lines().all(|key| key.starts_with("{tidegate:default}:")), "{keys}");
}

/// S0.66: crash and restart, once after and once before the lease has ended.
/// S0.51.
#[test]
fn what_a_killed_node_counted_ends_with_its_lease_and_its_time_is_counted_once() {
    let redis = Redis::start();
    let other = node(&redis, "other");
    let mut settled_ms = 0;
    for restarts_at_once in [false, true, false] {
        let mut one = node(&redis, "one");
        let held = clients(&one, 3);
        is_right_after_one_flush(&[&one, &other], 3);
        eventually("time passes", || redis.number("node:one", "connection_ms") > 50);
        one.signal(Signal::KILL);
        one.wait();
        drop(held);
        let last_ms = redis.number("node:one", "connection_ms");
        if restarts_at_once {
            let again = node(&redis, "one");
            is_right_after_one_flush(&[&again, &other], 0);
            drop(again);
        }
        eventually("its lease ends", || sum(&other) == Some(0) && status(&other)["nodes"] == 1);
        // It may have been settled before it could be looked at.
        assert!(last_ms > 50 || restarts_at_once, "{last_ms}");
        let now_ms = redis.number("totals", "connection_ms");
        assert_eq!(now_ms, settled_ms + last_ms, "restarted at once: {restarts_at_once}");
        settled_ms = now_ms;
    }
    let seconds = status(&other)["total_connection_seconds"].as_u64().unwrap();
    assert_eq!(seconds, settled_ms / 1000);
}

/// S0.64, S0.76.
#[test]
fn a_redis_that_is_gone_and_comes_back_empty_is_right_after_one_flush() {
    let mut redis = Redis::start();
    let (one, other) = (node(&redis, "one"), node(&redis, "other"));
    let mut held = clients(&one, 3);
    held.extend(clients(&other, 4));
    is_right_after_one_flush(&[&one, &other], 7);
    redis.stop();
    eventually("it is missed", || is(&one, "unavailable") && is(&other, "unavailable"));
    let alone = status(&one);
    assert_eq!((&alone["scope"], &alone["reason"]), (&"node".into(), &"unreachable".into()));
    assert_eq!(alone["concurrent_connections"], 3, "{alone}");
    held.iter_mut().for_each(|client| client.echo("without Redis"));
    held.extend(clients(&one, 1));
    sleep(Duration::from_secs(2));
    redis.start_again();
    eventually("it is back", || is(&one, "ok") && is(&other, "ok"));
    is_right_after_one_flush(&[&one, &other], 8);
    assert_eq!((changes(&one), changes(&other)), ((1, 2), (1, 2)));
    let parts =
        redis.number("node:one", "connection_ms") + redis.number("node:other", "connection_ms");
    assert!(parts > 7 * 2_000, "the time before it was gone is lost: {parts}");
    assert_eq!(redis.number("totals", "connection_ms"), 0);
}

/// S0.64.
#[test]
fn a_redis_that_stands_still_for_five_seconds_holds_nobody_up() {
    let redis = Redis::start();
    let (one, other) = (node(&redis, "one"), node(&redis, "other"));
    let mut held = clients(&one, 3);
    one_flush_later(&[&one, &other]);
    redis.pause();
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < Duration::from_secs(5) {
        let before = Instant::now();
        held.iter_mut().for_each(|client| client.echo("while Redis stands still"));
        slowest = slowest.max(before.elapsed());
        sleep(Duration::from_millis(5));
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let alone = status(&one);
    assert_eq!((&alone["status"], &alone["scope"]), (&"unavailable".into(), &"node".into()));
    assert_eq!(
        (&alone["reason"], &alone["concurrent_connections"]),
        (&"timed_out".into(), &3.into())
    );
    held.extend(clients(&other, 2));
    redis.go_on();
    eventually("it is back", || is(&one, "ok") && is(&other, "ok"));
    is_right_after_one_flush(&[&one, &other], 5);
    assert_eq!((changes(&one), changes(&other)), ((1, 2), (1, 2)));
    // The requests that were given up while it stood still have been read meanwhile.
    is_settled_once(&redis, &["one", "other"]);
    assert_eq!(lines(&one, "two nodes use the same"), 0);
}

/// FAULTS: down at the start, wrong password, read-only, out of memory.
#[test]
fn every_way_to_fail_has_its_name_and_one_line() {
    let mut redis = Redis::stopped();
    let one = node(&redis, "one");
    let _held = clients(&one, 1);
    let mut expected = (0, 0);
    let mut fails = |reason: &str| {
        eventually(reason, || is(&one, "unavailable") && status(&one)["reason"] == reason);
        // Long enough for many tries.
        sleep(Duration::from_secs(1));
        expected.0 += 1;
        assert_eq!(changes(&one), expected, "{reason}");
        expected.1 += 1;
        metric(&one, "tidegate_redis_flush_failures_total")
    };
    let recovers = |redis: &Redis| {
        eventually("it is back", || is(&one, "ok"));
        is_right_after_one_flush(&[&one], 1);
        assert_eq!(redis.number("node:one", "connections"), 1);
    };
    fails("unreachable");
    redis.start_again();
    recovers(&redis);
    redis.ask(&["replicaof", "127.0.0.1", "1"]);
    fails("read_only");
    redis.ask(&["replicaof", "no", "one"]);
    recovers(&redis);
    redis.ask(&["config", "set", "maxmemory", "1"]);
    fails("out_of_memory");
    redis.ask(&["config", "set", "maxmemory", "0"]);
    recovers(&redis);
    // The connection is known already; a new one is asked for the password.
    redis.ask(&["config", "set", "requirepass", "hunter2"]);
    redis.ask(&["-a", "hunter2", "client", "kill", "type", "normal"]);
    let failures = fails("authentication");
    redis.ask(&["-a", "hunter2", "config", "set", "requirepass", ""]);
    recovers(&redis);
    redis.ask(&["script", "flush"]);
    one_flush_later(&[&one]);
    assert_eq!(changes(&one), (4, 4));
    assert!(failures < 100, "{failures} tries");
    assert_eq!(metric(&one, "tidegate_redis_breaker_changes_total{to=\"open\"}"), 4);
}

/// What others write where nodes count: too large, negative, no number at all.
#[test]
fn numbers_that_no_node_writes_lock_nobody_out_and_are_not_believed() {
    let redis = Redis::start();
    let one = node(&redis, "one");
    let _held = clients(&one, 3);
    is_right_after_one_flush(&[&one], 3);
    let key = |name: &str| format!("{{tidegate:default}}:{name}");
    let life = redis.ask(&["hget", &key("node:one"), "_life"]).trim().to_owned();
    let far =
        ["18446744073709551615", "9223372036854775807", "4503599627370496", "-1", "1e308", "x"];
    for number in far {
        redis.ask(&["hset", &key("node:one"), "_seq", number, "_epoch", number, "_base", number]);
        redis.ask(&["hset", &key(&format!("settled:{life}")), "seq", number]);
        redis.ask(&["set", &key("epoch:one"), number]);
        redis.ask(&["hset", &key("totals"), "connection_ms", number]);
        redis.ask(&["del", &key("lease:one")]);
        is_right_after_one_flush(&[&one], 3);
    }
    // A node that does not exist, with a lease.
    for number in ["1e308", "-7", "18446744073709551616", "nan", "inf"] {
        redis.ask(&["hset", &key("node:evil"), "connections", number, "connection_ms", number]);
        redis.ask(&["set", &key("lease:evil"), "1", "px", "60000"]);
        redis.ask(&["sadd", &key("nodes"), "evil"]);
        is_right_after_one_flush(&[&one], 3);
        assert_eq!(status(&one)["nodes"], 2);
        assert_eq!(status(&one)["peak_connections"], 3);
    }
    assert_eq!(changes(&one), (0, 1), "it was never unavailable");
}

#[test]
fn a_wrong_password_is_told_and_never_shown() {
    let redis = Redis::with(&["--requirepass", "correct-horse"]);
    let right = node(&redis, "right");
    eventually("it is let in", || is(&right, "ok"));
    let wrong = node_at(&redis.url().replace("correct-horse", "hunter2"), "wrong", 100);
    eventually("it is refused", || is(&wrong, "unavailable"));
    assert_eq!(status(&wrong)["reason"], "authentication");
    for (server, secret) in [(&right, "correct-horse"), (&wrong, "hunter2")] {
        let shown = [
            format!("{:?}", server.log()),
            http::get(server.admin, "/api/v1/shutdown/config"),
            http::get(server.admin, "/api/v1/shutdown/overview"),
            http::get(server.admin, "/metrics"),
        ];
        assert!(shown.iter().all(|text| !text.contains(secret)), "{shown:?}");
        assert!(shown[1].contains("redis.url"), "{}", shown[1]);
    }
}

/// Each refusal has its reason, and a remedy that works as it is written.
#[test]
fn a_right_that_is_missing_is_named_with_the_command_that_gives_it() {
    let redis = Redis::start();
    redis.ask(&["acl", "setuser", "gate", "on", ">pass", "-@all"]);
    let url = redis.url().replace("redis://", "redis://gate:pass@");
    let mut one = node_at(&url, "one", 100);
    eventually("it may not", || is(&one, "unavailable"));
    let reason = &status(&one)["reason"];
    assert_eq!(reason, "permission");
    for message in ["Redis is unavailable", "reach its own clients only", "do not arrive"] {
        let said = one.wait_for_log(message);
        assert_eq!(text(&said, "reason"), "permission", "{said}");
        assert!(text(&said, "remedy").contains("ACL SETUSER gate"), "{said}");
    }
    let mut client = Client::connect(one.clients, "/ws?session=user-4711&channel=news");
    assert!(client.frame().text().contains("\"reason\":\"unavailable\""));
    let said = one.wait_for_log("sessions cannot be saved in Redis");
    // As somebody who copies it into a shell, but for where the server is.
    let remedy = text(&said, "remedy").split_once("redis-cli").unwrap().1;
    let script = format!("redis-cli -h {} {remedy}", redis.address().ip());
    let ran = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(ran.stdout, b"OK\n", "{script}: {ran:?}");
    eventually("it may", || is(&one, "ok"));
    one.wait_for_log("publications of this node go to the other nodes");
    one.wait_for_log("publications of the other nodes arrive");
    one.wait_for_log("sessions are saved in Redis");
    client.close();
    let key = "{tidegate:default}:session:user-4711";
    eventually("it is saved", || redis.ask(&["hget", key, "record"]).contains("news"));
    let denied = redis.ask(&["acl", "log"]);
    let since = denied.matches("client-info").count();
    one_flush_later(&[&one]);
    assert_eq!(redis.ask(&["acl", "log"]).matches("client-info").count(), since);
}

#[test]
fn a_redis_that_cannot_write_its_data_is_told_apart_from_one_that_refuses() {
    let redis = Redis::with(&["--save", "3600 1", "--dbfilename", "blocked"]);
    redis.block("blocked");
    let one = node(&redis, "one");
    eventually("it is there", || is(&one, "ok"));
    redis.ask(&["bgsave"]);
    eventually("it cannot", || is(&one, "unavailable"));
    assert_eq!(status(&one)["reason"], "cannot_persist");
    let said = one.log().into_iter().find(|event| event["reason"] == "cannot_persist").unwrap();
    assert!(text(&said, "remedy").contains("stop-writes-on-bgsave-error"), "{said}");
    redis.ask(&["config", "set", "stop-writes-on-bgsave-error", "no"]);
    eventually("it is back", || is(&one, "ok"));
}

/// What is behind an address is only known when it answers.
#[test]
fn a_sentinel_and_a_node_of_a_cluster_are_named() {
    let sentinel = Redis::sentinel();
    let member = Redis::with(&["--cluster-enabled", "yes"]);
    for (redis, reason) in [(&sentinel, "unsupported"), (&member, "cluster")] {
        let node = node(redis, "one");
        eventually("it cannot be used", || is(&node, "unavailable"));
        assert_eq!(status(&node)["reason"], reason);
        let mut client = Client::connect(node.clients, "/echo");
        client.echo("untouched");
        assert_eq!(changes(&node), (1, 0));
    }
}

#[test]
fn tls_is_spoken_with_whom_the_system_trusts_and_with_nobody_else() {
    let redis = Redis::with_tls();
    let settings = ["server.shards=1", "redis.flush_interval_ms=100", &redis.tls_url()];
    let mut trusting = command(&settings);
    trusting.env("SSL_CERT_FILE", redis.certificate());
    let trusting = Server::from_command(trusting);
    eventually("it is trusted", || is(&trusting, "ok"));
    let wary = Server::start(&settings);
    eventually("it is not trusted", || is(&wary, "unavailable"));
    let said = wary.log().into_iter().find(|event| event["reason"] == "unreachable").unwrap();
    assert!(text(&said, "error").contains("certificate"), "{said}");
    // Set and empty is not set: the system is trusted as before, and not a file without a name.
    let mut empty = command(&settings);
    empty.env("SSL_CERT_FILE", "");
    let empty = Server::from_command(empty);
    eventually("it is not trusted either", || is(&empty, "unavailable"));
    let again = empty.log().into_iter().find(|event| event["reason"] == "unreachable").unwrap();
    assert_eq!(again["error"], said["error"]);
}

#[test]
fn what_answers_nonsense_is_asked_seldom_and_harms_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis.url=redis://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        let nonsense: [&[u8]; 5] = [
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"*9999999999\r\n",
            b"+OK\r\n+OK\r\n+OK\r\n*1\r\n$3\r\nwhy\r\n",
            b"+OK\r\n+OK\r\n*-1\r\n:1\r\n",
            b"\xff\xff\r\n$-5\r\n",
        ];
        for stream in listener.incoming() {
            let said = nonsense[count.fetch_add(1, Ordering::Relaxed) as usize % nonsense.len()];
            // It may have gone away.
            let _ = stream.unwrap().write_all(said);
        }
    });
    let one = node_at(&url, "one", 100);
    let mut client = Client::connect(one.clients, "/echo");
    eventually("it is no Redis", || is(&one, "unavailable"));
    eventually("all was tried", || asked.load(Ordering::Relaxed) > 10);
    let (before, share) =
        (asked.load(Ordering::Relaxed), processor_share(one.pid(), Duration::from_secs(2)));
    let tries = asked.load(Ordering::Relaxed) - before;
    assert!(tries < 50, "{tries} tries in two seconds");
    assert!(share < 0.3, "{share} of a core");
    client.echo("untouched");
    assert_eq!(changes(&one), (1, 0));
}

/// S0.76.
#[test]
fn a_redis_that_flaps_is_told_once_for_each_change() {
    let mut redis = Redis::start();
    let one = node(&redis, "one");
    let mut held = clients(&one, 5);
    let rounds = 5;
    for _ in 0..rounds {
        eventually("it is there", || is(&one, "ok"));
        redis.stop();
        eventually("it is gone", || is(&one, "unavailable"));
        held.iter_mut().for_each(|client| client.echo("flapping"));
        redis.start_again();
    }
    eventually("it is there", || is(&one, "ok"));
    is_right_after_one_flush(&[&one], 5);
    let (lost, found) = changes(&one);
    assert!((1..=rounds).contains(&lost) && found == lost + 1, "{lost} and {found}");
    assert_eq!(metric(&one, "tidegate_redis_breaker_changes_total{to=\"open\"}"), lost as u64);
    held.iter_mut().for_each(|client| client.echo("still here"));
}

#[test]
fn two_nodes_with_one_id_both_say_so_and_name_both() {
    let redis = Redis::start();
    let mut one = node_at(&redis.url(), "same", 50);
    eventually("it is in", || is(&one, "ok"));
    let mut other = node_at(&redis.url(), "same", 50);
    let pids = [one.pid(), other.pid()].map(|pid| pid.to_string());
    for server in [&mut one, &mut other] {
        let said = server.wait_for_log("two nodes use the same redis.node_id");
        assert_eq!(text(&said, "level"), "ERROR");
        for pid in &pids {
            assert!(text(&said, "message").contains(&format!("pid {pid}")), "{said}");
        }
    }
    let errors = |server: &Server| lines(server, "two nodes use the same");
    let before = errors(&one) + errors(&other);
    sleep(Duration::from_secs(3));
    // At full speed there would be a hundred.
    let more = errors(&one) + errors(&other) - before;
    assert!(more <= 12, "{more} in three seconds");
    let held = clients(&one, 3);
    sleep(Duration::from_millis(300));
    drop(held);
    let (code, _) = other.drain();
    assert_eq!(code, Some(0));
    eventually("the one that is left has its place back", || {
        is(&one, "ok") && redis.number("node:same", "pid").to_string() == pids[0]
    });
    is_right_after_one_flush(&[&one], 0);
    // The other had no client: all that is settled is of this one.
    is_settled_once(&redis, &["same"]);
}

/// FAULTS: a process that stands still for longer than its lease.
#[test]
fn a_life_that_slept_through_its_lease_takes_a_new_epoch() {
    let redis = Redis::start();
    let (mut one, other) = (node(&redis, "one"), node(&redis, "other"));
    let mut held = clients(&one, 3);
    one_flush_later(&[&one, &other]);
    let epoch = status(&one)["epoch"].as_u64().unwrap();
    one.signal(Signal::STOP);
    eventually("its lease ends", || status(&other)["nodes"] == 1);
    is_right_after_one_flush(&[&other], 0);
    let settled_ms = redis.number("totals", "connection_ms");
    assert!(settled_ms > 0);
    one.signal(Signal::CONT);
    one.wait_for_log("this node's epoch has ended");
    eventually("it is back", || status(&one)["epoch"].as_u64().unwrap() > epoch);
    is_right_after_one_flush(&[&one, &other], 3);
    assert!(redis.number("node:one", "_base") >= settled_ms);
    is_settled_once(&redis, &["one", "other"]);
    held.iter_mut().for_each(|client| client.echo("slept"));
}

/// S0.7, S0.44, S1.14, S1.16, S1.17, S4.4, S4.15.
#[test]
fn a_shutdown_takes_the_node_out_at_once() {
    let redis = Redis::start();
    let other = node(&redis, "other");
    // Without being taken out it would be counted for a minute.
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let settings = [
        "server.shards=1".to_owned(),
        "shutdown.notice_ms=10".to_owned(),
        redis.url(),
        "redis.node_id=one".to_owned(),
        "redis.flush_interval_ms=20000".to_owned(),
        format!("shutdown.report_file={}", report.display()),
    ];
    let settings: Vec<_> = settings.iter().map(String::as_str).collect();
    let mut one = Server::from_command(command(&settings));
    eventually("it is counted", || status(&other)["nodes"] == 2);
    let held = clients(&one, 3);
    sleep(Duration::from_millis(300));
    drop(held);
    assert_eq!(one.drain().0, Some(0));
    assert_eq!(stage(&report, "redis")["result"], "done");
    assert_eq!(redis.ask(&["smembers", "{tidegate:default}:nodes"]).trim(), "other");
    assert_eq!(redis.ask(&["exists", "{tidegate:default}:lease:one"]).trim(), "0");
    // What it counted was never flushed before: three times 300 ms, in ticks of 64 ms.
    let counted_ms = redis.number("totals", "connection_ms");
    assert!(counted_ms >= 3 * (300 - 2 * 64), "{counted_ms}");
    one_flush_later(&[&other]);
    assert_eq!(status(&other)["nodes"], 1);
}

/// S1.14, S1.49: Redis never holds up a drain, and is not in the exit code.
#[test]
fn a_redis_that_fails_during_a_shutdown_has_its_stage_and_its_time() {
    let directory = tempfile::tempdir().unwrap();
    for (result, stands_still) in [("failed", false), ("timed_out", true)] {
        let mut redis = Redis::start();
        let report = directory.path().join(result);
        let report_file = format!("shutdown.report_file={}", report.display());
        let url = redis.url();
        let deadline = "shutdown.deadline_ms=4000";
        let mut one = Server::start(&[
            "server.shards=1",
            "redis.flush_interval_ms=100",
            deadline,
            &url,
            &report_file,
        ]);
        eventually("it is counted", || is(&one, "ok"));
        let mut client = Client::connect(one.clients, "/echo");
        if stands_still {
            redis.pause()
        } else {
            redis.stop()
        }
        one.signal(Signal::TERM);
        client.stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
        let (code, last_words) = one.ended();
        assert_eq!(code, Some(0), "{last_words}");
        assert_eq!(last_words["forced"], false, "{last_words}");
        assert_eq!(stage(&report, "redis")["result"], result);
        assert_eq!(stage(&report, "flushing")["result"], "done");
        let took = stage(&report, "redis")["duration_ms"].as_u64().unwrap();
        assert!(took < 4_000, "{took} ms");
    }
}

#[track_caller]
fn stage(report: &std::path::Path, name: &str) -> Value {
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let stages = report["stages"].as_array().unwrap();
    let found = stages.iter().find(|stage| stage["name"] == name);
    found.unwrap_or_else(|| panic!("no stage {name} in {report}")).clone()
}
