//! A session goes on where it left off: on the same node, on another, after a drain and after a
//! crash; and whoever asks for one is never kept waiting for long.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::figures::metric;
use crate::support::redis::Redis;
use crate::support::server::{Server, text};
use crate::support::wire::{self, Client, End, FIN, Next, TEXT};
use crate::support::{eventually, http};

/// A client with a session, and what it was told of it.
struct Guest {
    client: Client,
    told: Value,
}

impl Guest {
    #[track_caller]
    fn arrive(server: &Server, query: &str) -> Self {
        let mut client = Client::connect(server.clients, &format!("/ws?session={query}"));
        let told: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(told["type"], "session", "{told}");
        Self { client, told }
    }

    fn id(&self) -> String {
        self.told["id"].as_str().unwrap().to_owned()
    }

    fn say(&mut self, messages: u64) {
        (0..messages).for_each(|_| self.client.send(&wire::frame(FIN | TEXT, b"x")));
    }

    /// Whether it is a session from before, with so many messages, and these channels.
    #[track_caller]
    fn is(&self, resumed: bool, messages: u64, channels: &[&str]) {
        let seen = (&self.told["resumed"], &self.told["messages"], &self.told["channels"]);
        assert_eq!(seen, (&json!(resumed), &json!(messages), &json!(channels)), "{}", self.told);
    }

    #[track_caller]
    fn is_taken_over(&mut self) {
        let close = self.client.frame();
        assert_eq!(close.close_code(), Some(4001), "{close:?}");
        assert!(String::from_utf8_lossy(&close.payload[2..]).contains("newer connection"));
        self.client.send(&wire::frame(FIN | wire::CLOSE, &wire::close_payload(4001, "")));
        assert_eq!(self.client.next(), Next::End(End::Closed));
    }
}

#[track_caller]
fn alone(settings: &[&str]) -> Server {
    Server::start(&[&["server.shards=2"], settings].concat())
}

#[track_caller]
fn node(redis: &Redis, id: &str, settings: &[&str]) -> Server {
    let (url, id) = (redis.url(), format!("redis.node_id={id}"));
    let own =
        ["server.shards=2", "shutdown.notice_ms=10", "redis.flush_interval_ms=200", &url, &id];
    let server = Server::start(&[&own, settings].concat());
    is_ready(&server);
    server
}

#[track_caller]
fn is_ready(server: &Server) {
    for direction in ["in", "out"] {
        let name = format!("tidegate_cluster_link{{direction=\"{direction}\"}}");
        eventually("claims go in and out", || metric(server, &name) == 1);
    }
    eventually("its lease is there", || metric(server, "tidegate_redis_state{state=\"ok\"}") == 1);
}

#[track_caller]
fn publish(server: &Server, channel: &str) {
    http::post(server.admin, "/api/publish", &json!({ "channel": channel, "data": channel }));
}

fn record(redis: &Redis, id: &str) -> String {
    redis.ask(&["hget", &format!("{{tidegate:default}}:session:{id}"), "record"])
}

#[track_caller]
fn has_heard(server: &Server, messages: u64) {
    let heard = || metric(server, "tidegate_messages_received_total");
    eventually("they are heard", || heard() >= messages);
}

/// S2.17, S2.36.
#[test]
fn a_session_goes_on_on_one_node_without_redis() {
    let server = alone(&[]);
    let mut guest = Guest::arrive(&server, "new&channel=news&channel=sport");
    guest.is(false, 0, &["news", "sport"]);
    assert_eq!(guest.id().len(), 32);
    assert_eq!(guest.told.get("reason"), None);
    guest.say(3);
    let id = guest.id();
    guest.client.close();
    let mut guest = Guest::arrive(&server, &format!("{id}&channel=chess"));
    guest.is(true, 3, &["chess", "news", "sport"]);
    for channel in ["news", "sport", "chess"] {
        publish(&server, channel);
        assert_eq!(guest.client.frame().text(), format!("\"{channel}\""));
    }
    guest.say(2);
    // However it ends.
    drop(guest);
    eventually("it has ended", || metric(&server, "tidegate_sessions_kept") == 1);
    Guest::arrive(&server, &id).is(true, 5, &["chess", "news", "sport"]);
    // Another name is another session.
    Guest::arrive(&server, "user-4711").is(false, 0, &[]);
}

#[test]
fn what_is_no_name_of_a_session_is_refused() {
    let server = alone(&[]);
    for bad in ["", "short", "a%20b%20c%20d", "%00%00%00%00%00%00%00%00", "new&session=new"] {
        let path = format!("/ws?session={bad}");
        let response = Client::try_connect(server.clients, &path).unwrap().err().unwrap();
        assert_eq!(response.status, 400, "{bad}");
        assert!(response.body().contains("query parameter session"), "{response:?}");
    }
}

#[test]
fn the_newest_connection_has_the_session() {
    let server = alone(&[]);
    let mut first = Guest::arrive(&server, "user-4711&channel=news");
    first.say(4);
    has_heard(&server, 4);
    let mut second = Guest::arrive(&server, "user-4711");
    second.is(true, 4, &["news"]);
    first.is_taken_over();
    publish(&server, "news");
    assert_eq!(second.client.frame().text(), "\"news\"");
    let closed = "tidegate_connections_closed_total{reason=\"session_taken\"}";
    eventually("it is counted", || metric(&server, closed) == 1);
    let third = Guest::arrive(&server, "user-4711");
    third.is(true, 4, &["news"]);
    second.is_taken_over();
    third.client.close();
}

#[test]
fn a_session_ends_some_time_after_its_last_connection() {
    let server = alone(&["sessions.expiry_ms=1000"]);
    Guest::arrive(&server, "user-4711&channel=news").client.close();
    let expired = || metric(&server, "tidegate_sessions_expired_total");
    eventually("it is forgotten", || expired() == 1);
    Guest::arrive(&server, "user-4711").is(false, 0, &[]);
}

#[test]
fn a_session_goes_on_on_another_node() {
    let redis = Redis::start();
    let (one, other) = (node(&redis, "one", &[]), node(&redis, "other", &[]));
    let mut guest = Guest::arrive(&one, "new&channel=news");
    guest.is(false, 0, &["news"]);
    guest.say(3);
    let id = guest.id();
    guest.client.close();
    // At once, whether it has been saved or not.
    let mut guest = Guest::arrive(&other, &id);
    guest.is(true, 3, &["news"]);
    publish(&one, "news");
    assert_eq!(guest.client.frame().text(), "\"news\"");
    guest.say(1);
    has_heard(&other, 1);
    // While it is still open: the newest wins, across nodes too.
    let back = Guest::arrive(&one, &id);
    back.is(true, 4, &["news"]);
    guest.is_taken_over();
    back.client.close();
    eventually("it is saved", || record(&redis, &id).contains("\"messages\":4"));
    let name = format!("{{tidegate:default}}:session:{id}");
    let left_ms: u64 = redis.ask(&["pttl", &name]).trim().parse().unwrap();
    assert!((500_000..=600_000).contains(&left_ms), "{left_ms}");
}

/// S2.15, S2.17, S2.18, S2.29: the smaller form of a drain of 100,000.
#[test]
fn a_drain_saves_every_session_and_another_node_goes_on_with_it() {
    const GUESTS: u64 = 300;
    let redis = Redis::start();
    let directory = tempfile::tempdir().unwrap();
    let report_file = directory.path().join("report.json");
    let report = format!("shutdown.report_file={}", report_file.display());
    let (mut one, other) = (node(&redis, "one", &[&report]), node(&redis, "other", &[]));
    let mut guests: Vec<_> = (0..GUESTS)
        .map(|number| Guest::arrive(&one, &format!("drained-{number}&channel=c{}", number % 7)))
        .collect();
    guests.iter_mut().zip(0..).for_each(|(guest, number)| guest.say(number % 5));
    has_heard(&one, (0..GUESTS).map(|number| number % 5).sum());
    one.signal(Signal::TERM);
    let mut back = Vec::new();
    for (mut guest, number) in guests.into_iter().zip(0..) {
        let bye = loop {
            let frame = guest.client.frame();
            assert_eq!(frame.opcode(), TEXT, "{frame:?}");
            let told: Value = serde_json::from_str(frame.text()).unwrap();
            if told["bye"] == true {
                break told;
            }
        };
        assert_eq!(bye["total"], number % 5);
        assert_eq!(guest.client.frame().close_code(), Some(1001));
        // Before it has closed here, it is there.
        let next = Guest::arrive(&other, &guest.id());
        next.is(true, number % 5, &[&format!("c{}", number % 7)]);
        assert_eq!(next.told.get("reason"), None);
        guest.client.send(&wire::frame(FIN | wire::CLOSE, &wire::close_payload(1001, "")));
        back.push(next);
    }
    assert_eq!(one.ended().0, Some(0));
    let report: Value = serde_json::from_slice(&std::fs::read(&report_file).unwrap()).unwrap();
    assert_eq!(report["sessions"], json!({ "saved": GUESTS, "not_saved": 0 }), "{report}");
    let stages = report["stages"].as_array().unwrap();
    let result = |name: &str| {
        let stage = stages.iter().find(|stage| stage["name"] == name).unwrap();
        stage["result"].clone()
    };
    assert_eq!((result("sessions"), result("redis")), (json!("done"), json!("done")));
    let saved: Vec<_> = one
        .log()
        .into_iter()
        .filter(|event| event["message"] == "ws_shutdown_session_saved")
        .collect();
    let named = saved.iter().filter(|event| event["session_id"].is_string()).count();
    assert_eq!(named, 10);
    let counted: u64 = saved.iter().filter_map(|event| event["sessions"].as_u64()).sum();
    assert_eq!(named as u64 + counted, GUESTS);
    assert!(!format!("{saved:?}").contains("drained-1"), "ids are not logged");
    // A session says its whole count at the end of the next connection too.
    let mut last = back.pop().unwrap();
    last.say(2);
    drop(other);
}

#[test]
fn without_an_answer_of_redis_a_session_is_new_and_says_so() {
    let mut redis = Redis::start();
    let one = node(&redis, "one", &["sessions.resume_timeout_ms=500"]);
    let guest = Guest::arrive(&one, "user-4711&channel=news");
    guest.client.close();
    eventually("it is saved", || record(&redis, "user-4711").contains("news"));
    redis.pause();
    let started = Instant::now();
    let guest = Guest::arrive(&one, "user-4711");
    guest.is(false, 0, &[]);
    assert_eq!(text(&guest.told, "reason"), "timed_out");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    redis.go_on();
    redis.stop();
    guest.client.close();
    let gone = || Guest::arrive(&one, "new").told["reason"] == "unavailable";
    eventually("that it is gone is known", gone);
    let mut guest = Guest::arrive(&one, "user-0815&channel=news");
    guest.is(false, 0, &["news"]);
    guest.say(2);
    guest.client.close();
    // What cannot be saved yet is here.
    let guest = Guest::arrive(&one, "user-0815");
    guest.is(true, 2, &["news"]);
    guest.client.close();
    redis.start_again();
    eventually("it is saved after all", || record(&redis, "user-0815").contains("news"));
}

#[test]
fn a_session_of_a_killed_node_is_what_it_was_when_it_was_last_saved() {
    let redis = Redis::start();
    let (mut one, other) = (node(&redis, "one", &[]), node(&redis, "other", &[]));
    let mut guest = Guest::arrive(&one, "user-4711&channel=news");
    guest.say(2);
    guest.client.close();
    eventually("it is saved", || record(&redis, "user-4711").contains("\"messages\":2"));
    let mut guest = Guest::arrive(&one, "user-4711");
    guest.say(7);
    has_heard(&one, 9);
    one.signal(Signal::KILL);
    one.wait();
    let started = Instant::now();
    // Its lease may hold for a moment, in which it is waited for.
    Guest::arrive(&other, "user-4711").is(true, 2, &["news"]);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_could_not_be_saved_when_a_node_stops_is_counted() {
    let redis = Redis::start();
    let directory = tempfile::tempdir().unwrap();
    let report_file = directory.path().join("report.json");
    let report = format!("shutdown.report_file={}", report_file.display());
    let mut one = node(&redis, "one", &[&report, "shutdown.deadline_ms=4000"]);
    let mut guests: Vec<_> =
        (0..5).map(|number| Guest::arrive(&one, &format!("user-000{number}"))).collect();
    redis.pause();
    one.signal(Signal::TERM);
    for guest in &mut guests {
        guest.client.send(&wire::frame(FIN | wire::CLOSE, &wire::close_payload(1000, "")));
    }
    let (code, last_words) = one.ended();
    assert_eq!(code, Some(0), "{last_words}");
    let report: Value = serde_json::from_slice(&std::fs::read(&report_file).unwrap()).unwrap();
    assert_eq!(report["sessions"], json!({ "saved": 0, "not_saved": 5 }), "{report}");
    one.wait_for_log("the time to save sessions is over");
}

#[test]
fn what_stands_in_redis_is_not_trusted() {
    let redis = Redis::start();
    let one = node(&redis, "one", &[]);
    let huge = format!(r#"{{"v":1,"messages":1,"channels":["{}"]}}"#, "x".repeat(300));
    for (number, record) in ["nonsense", "{}", "", &huge].into_iter().enumerate() {
        let id = format!("hostile-{number}");
        let key = format!("{{tidegate:default}}:session:{id}");
        redis.ask(&["hset", &key, "record", record, "holder", "nobody", "node", "{"]);
        let guest = Guest::arrive(&one, &id);
        guest.is(false, 0, &[]);
        assert_eq!(guest.told["reason"] == "malformed", !record.is_empty(), "{}", guest.told);
    }
    // Something else under the name of a session is that session's problem.
    redis.ask(&["set", "{tidegate:default}:session:wrong-kind", "x"]);
    let guest = Guest::arrive(&one, "wrong-kind");
    guest.is(false, 0, &[]);
    assert_eq!(guest.told["reason"], "malformed");
    guest.client.close();
    let lost = || metric(&one, "tidegate_sessions_lost_total{reason=\"refused\"}");
    eventually("it cannot be saved", || lost() == 1);
    assert_eq!(Guest::arrive(&one, "new").told.get("reason"), None);
}

/// Who uses none is not told of them; who does is, once.
#[test]
fn that_sessions_cannot_be_saved_is_said_to_those_who_use_them() {
    let redis = Redis::stopped();
    let (url, id) = (redis.url(), "redis.node_id=one");
    let mut one = Server::start(&["server.shards=2", &url, id, "sessions.resume_timeout_ms=500"]);
    one.wait_for_log("Redis is unavailable");
    one.wait_for_log("publications of this node reach its own clients only");
    let plain = Client::connect(one.clients, "/ws?channel=news");
    // Long enough for several tries.
    std::thread::sleep(Duration::from_secs(2));
    let says = |server: &Server, part: &str| {
        let has = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(part));
        server.log().iter().filter(|event| has(event)).count()
    };
    assert_eq!(says(&one, "sessions"), 0, "{:?}", one.log());
    let guest = Guest::arrive(&one, "user-4711&channel=news");
    guest.is(false, 0, &["news"]);
    let said = one.wait_for_log("sessions cannot be saved in Redis");
    assert_eq!((text(&said, "level"), text(&said, "reason")), ("WARN", "unreachable"));
    assert_eq!(says(&one, "sessions cannot be saved"), 1);
    plain.close();
}

/// Sessions are kept in the keys of a database, and who has them is told over its own channel.
#[test]
fn a_session_of_one_database_is_none_of_another() {
    let redis = Redis::start();
    let start = |id: &str, database: &str| {
        let (url, id) = (format!("{}{database}", redis.url()), format!("redis.node_id={id}"));
        let server = Server::start(&["server.shards=2", "redis.flush_interval_ms=200", &url, &id]);
        is_ready(&server);
        server
    };
    let (zero, one) = (start("same", ""), start("same", "/1"));
    let mut guest = Guest::arrive(&zero, "user-4711&channel=news");
    guest.say(3);
    has_heard(&zero, 3);
    let other = Guest::arrive(&one, "user-4711&channel=sport");
    other.is(false, 0, &["sport"]);
    assert_eq!(other.told.get("reason"), None);
    guest.say(1);
    has_heard(&zero, 4);
    guest.client.close();
    other.client.close();
    eventually("it is saved", || record(&redis, "user-4711").contains("\"messages\":4"));
}
