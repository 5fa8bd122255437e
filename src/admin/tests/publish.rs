//! Publications reach every shard, byte for byte, in one order, or the caller is told who
//! missed them.

use std::thread;

use super::*;
use crate::channels::publish::{broadcast_text, text_frame};
use crate::mesh::message::{Fault, ShardMessage};

fn small_inboxes() -> Admin {
    Admin::with(Config::default(), 1, Patience::SERVER)
}

fn published(message: Option<ShardMessage>) -> (String, Vec<u8>) {
    match message {
        Some(ShardMessage::Publish { channel, frame }) => (channel.to_string(), frame.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// S2.27.
#[test]
fn a_broadcast_goes_to_every_shard() {
    let admin = Admin::start();
    admin.state.shards[0].connections.set(3);
    admin.state.shards[1].connections.set(4);
    let body = r#"{"message":"back at 9","title":"Maintenance","level":"warning"}"#;
    let reply = admin.post("/api/v1/broadcast", body);
    assert_eq!(reply.status, 202, "{reply:?}");
    assert_eq!(reply.json(), serde_json::json!({ "accepted": true, "connections": 7 }));
    let expected = text_frame(&broadcast_text("back at 9", "Maintenance", "warning"));
    for inbox in &admin.inboxes {
        match inbox.take() {
            Some(ShardMessage::Broadcast { frame }) => assert_eq!(frame, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn data_is_published_as_it_was_written() {
    let admin = Admin::start();
    let data = "{\"price\": 1.10,\n \"id\":12345678901234567890, \"s\":\"\\u00e9\"}";
    let reply = admin.post("/api/publish", &format!("{{\"channel\":\"a b/é\",\"data\":{data}}}"));
    assert_eq!((reply.status, reply.body.as_str()), (200, "{\"result\":{}}\n"));
    for inbox in &admin.inboxes {
        let expected = ("a b/é".to_owned(), text_frame(data).to_vec());
        assert_eq!(published(inbox.take()), expected);
        assert!(inbox.take().is_none());
    }
    let reply = admin.post("/api/publish", r#"{"channel":"news","data":"text"}"#);
    assert_eq!(reply.status, 200);
    assert_eq!(published(admin.inboxes[0].take()).1, b"\x81\x06\"text\"");
}

#[test]
fn several_channels_get_the_same_frame() {
    let admin = Admin::start();
    let reply = admin.post("/api/broadcast", r#"{"channels":["a","b"],"data":[1]}"#);
    assert_eq!(
        reply.json(),
        serde_json::json!({"result":{"responses":[{"result":{}},{"result":{}}]}})
    );
    for inbox in &admin.inboxes {
        for channel in ["a", "b"] {
            assert_eq!(published(inbox.take()), (channel.to_owned(), b"\x81\x03[1]".to_vec()));
        }
    }
}

#[test]
fn what_is_malformed_is_refused_with_centrifugos_number() {
    let admin = Admin::start();
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("\u{0}", 400),
        ("{}", 200),
        (r#"{"channel":"","data":1}"#, 200),
        (r#"{"channel":"a","data":1,"tags":{}}"#, 200),
    ] {
        let reply = admin.post("/api/publish", body);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (status, &107.into()), "{body}");
        let reply = admin.post_for_status("/api/publish", body);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &107.into()), "{body}");
    }
    let page = admin.get("/metrics").body;
    let counted = "tidegate_admin_api_errors_total{code=\"107\"} 14";
    assert!(page.lines().any(|line| line == counted), "{page}");
    let reply = admin.ask("POST", "/api/publish", "content-type: application/json\r\n", "{}");
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("`channel`"));
    assert!(admin.inboxes[0].take().is_none());
    admin.post("/api/v1/broadcast", "{").is_error(400, "bad_request", "line 1 column 1");
}

/// A field that does nothing yet is refused, and the message says that this is why.
#[test]
fn fields_without_effect_are_refused_with_a_word() {
    let admin = Admin::start();
    for field in ["tags", "skip_history", "idempotency_key", "b64data", "version"] {
        let body = format!(r#"{{"channel":"a","channels":["a"],"data":1,"{field}":null}}"#);
        let path = if field == "tags" { "/api/broadcast" } else { "/api/publish" };
        let body = match path {
            "/api/broadcast" => body.replace(r#""channel":"a","#, ""),
            _ => body.replace(r#""channels":["a"],"#, ""),
        };
        let reply = admin.post(path, &body);
        let said = format!("`{field}` has no effect in this version");
        assert!(reply.body.contains(&said), "{reply:?}");
    }
    assert!(admin.inboxes[0].take().is_none());
}

/// The limit is on different channels; one that is named again is published to once.
#[test]
fn a_channel_that_is_named_many_times_counts_once() {
    let admin = Admin::start();
    let many = vec!["\"a\""; 1_500].join(",");
    let reply = admin.post("/api/broadcast", &format!(r#"{{"channels":[{many},"b"],"data":1}}"#));
    assert_eq!(reply.json()["result"]["responses"].as_array().unwrap().len(), 1_501, "{reply:?}");
    for inbox in &admin.inboxes {
        let channels: Vec<_> =
            std::iter::from_fn(|| inbox.take().map(|message| published(Some(message)).0)).collect();
        assert_eq!(channels, ["a", "b"]);
    }
    let different: Vec<_> = (0..1_001).map(|n| format!("\"{n}\"")).collect();
    let body = format!(r#"{{"channels":[{}],"data":1}}"#, different.join(","));
    assert!(admin.post("/api/broadcast", &body).body.contains("1001 different entries"));
    let body = format!(r#"{{"channels":[{}],"data":1}}"#, vec!["\"a\""; 16_001].join(","));
    assert!(admin.post("/api/broadcast", &body).body.contains("16001 entries"));
}

#[test]
fn info_is_about_this_node() {
    let admin = Admin::start();
    admin.state.shards[1].connections.set(9);
    let node = admin.post("/api/info", "").json()["result"]["nodes"][0].take();
    assert_eq!(node["num_clients"], 9);
    assert_eq!(node["version"], env!("CARGO_PKG_VERSION"));
    assert!(node["name"].as_str().unwrap().ends_with("_8080"), "{node}");
    assert!(node["uptime"].is_u64());
}

#[test]
fn a_full_inbox_is_waited_for() {
    let admin = small_inboxes();
    let body = r#"{"channel":"c","data":1}"#;
    assert_eq!(admin.post("/api/publish", body).status, 200);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| admin.post("/api/publish", r#"{"channel":"d","data":2}"#));
        thread::sleep(Duration::from_millis(100));
        assert!(!waiting.is_finished());
        for inbox in &admin.inboxes {
            assert_eq!(published(inbox.take()).0, "c");
        }
        assert_eq!(waiting.join().unwrap().status, 200);
    });
    for inbox in &admin.inboxes {
        assert_eq!(published(inbox.take()).0, "d");
    }
}

#[test]
fn a_shard_that_takes_nothing_is_named() {
    let admin = small_inboxes();
    assert_eq!(admin.post("/api/publish", r#"{"channel":"c","data":1}"#).status, 200);
    assert_eq!(published(admin.inboxes[0].take()).0, "c");
    let asked_at = Instant::now();
    let reply = admin.post_for_status("/api/publish", r#"{"channel":"d","data":2}"#);
    assert!((900..3_000).contains(&asked_at.elapsed().as_millis()), "{:?}", asked_at.elapsed());
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (503, &100.into()), "{reply:?}");
    assert!(reply.body.contains("the inbox of shard 1 stayed full"), "{reply:?}");
    assert_eq!(published(admin.inboxes[0].take()).0, "d", "the other shard has it");
}

#[test]
fn no_shard_is_503() {
    let mut admin = Admin::start();
    admin.inboxes.pop();
    assert_eq!(admin.post("/api/publish", r#"{"channel":"c","data":1}"#).status, 200);
    admin.inboxes.clear();
    let reply = admin.post_for_status("/api/publish", r#"{"channel":"c","data":1}"#);
    assert_eq!(reply.status, 503);
    assert!(reply.body.contains("no shard is left"), "{reply:?}");
    let reply = admin.post("/api/publish", r#"{"channel":"c","data":1}"#);
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (200, &100.into()));
    admin.post("/api/v1/broadcast", r#"{"message":"m"}"#).is_error(503, "unavailable", "no shard");
}

/// Many publish at once while inboxes run full: all shards see one order, nothing is lost, and
/// a client that hangs up does not stop its publication half way.
#[test]
fn all_shards_see_one_order() {
    const CLIENTS: usize = 8;
    const EACH: usize = 20;
    let admin = Admin::with(Config::default(), 2, Patience::SERVER);
    let seen: Vec<Vec<String>> = thread::scope(|scope| {
        for client in 0..CLIENTS {
            let admin = &admin;
            scope.spawn(move || {
                for number in 0..EACH {
                    let body = format!(r#"{{"channel":"{client}-{number}","data":0}}"#);
                    if number % 5 == 4 {
                        let mut stream = admin.connect();
                        write!(
                            stream,
                            "POST /api/publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: \
                             application/json\r\ncontent-length: {}\r\n\r\n{body}",
                            body.len()
                        )
                        .unwrap();
                        // Long enough to be read, too short for an answer while inboxes are full.
                        thread::sleep(Duration::from_millis(5));
                        continue;
                    }
                    assert_eq!(admin.post("/api/publish", &body).status, 200);
                }
            });
        }
        let shards: Vec<_> = admin
            .inboxes
            .iter()
            .enumerate()
            .map(|(shard, inbox)| {
                scope.spawn(move || {
                    let (mut seen, mut quiet_since) = (Vec::new(), Instant::now());
                    while quiet_since.elapsed() < Duration::from_millis(1_500) {
                        match inbox.take() {
                            Some(message) => {
                                seen.push(published(Some(message)).0);
                                quiet_since = Instant::now();
                            }
                            None => thread::sleep(Duration::from_millis(1 + shard as u64)),
                        }
                    }
                    seen
                })
            })
            .collect();
        shards.into_iter().map(|shard| shard.join().unwrap()).collect()
    });
    assert_eq!(seen[0], seen[1]);
    for client in 0..CLIENTS {
        let answered: Vec<_> = seen[0]
            .iter()
            .filter(|channel| channel.starts_with(&format!("{client}-")))
            .filter(|channel| !channel.ends_with(['4', '9']))
            .cloned()
            .collect();
        let sent: Vec<_> = (0..EACH)
            .filter(|number| number % 5 != 4)
            .map(|number| format!("{client}-{number}"))
            .collect();
        assert_eq!(answered, sent);
    }
}

#[test]
fn faults_go_to_one_shard_and_only_when_allowed() {
    let path = "/api/v1/debug/fault";
    let stall = r#"{"shard":1,"fault":"stall","ms":250}"#;
    Admin::start().post(path, stall).is_error(404, "not_found", path);
    let mut config = Config::default();
    config.debug.fault_injection = true;
    let admin = Admin::with(config, 1, Patience::SERVER);
    assert_eq!(admin.post(path, stall).status, 202);
    assert!(admin.inboxes[0].take().is_none());
    admin.post(path, stall).is_error(503, "unavailable", "inbox of shard 1 is full");
    assert!(matches!(admin.inboxes[1].take(), Some(ShardMessage::Fault(Fault::Stall(250)))));
    assert_eq!(admin.post(path, r#"{"shard":0,"fault":"panic"}"#).status, 202);
    assert!(matches!(admin.inboxes[0].take(), Some(ShardMessage::Fault(Fault::Panic))));
    admin.post(path, r#"{"shard":2,"fault":"panic"}"#).is_error(400, "bad_request", "`shard`");
}
