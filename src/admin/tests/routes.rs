//! Every route answers what it should, to those who may ask.

use super::super::route::{ENDPOINTS, Method};
use super::*;

/// S4.22 to S4.29.
#[test]
fn every_get_route_answers() {
    let admin = Admin::start();
    for endpoint in ENDPOINTS.iter().filter(|endpoint| endpoint.method == Method::Get) {
        let reply = admin.get(endpoint.path);
        assert_eq!(reply.status, 200, "{} {reply:?}", endpoint.path);
        assert!(reply.head.contains("cache-control: no-store"), "{reply:?}");
        if endpoint.path == "/metrics" {
            assert!(reply.head.contains("content-type: text/plain; version=0.0.4"), "{reply:?}");
            assert!(reply.head.contains("vary: accept"), "{reply:?}");
        } else {
            let timestamp = reply.json()["timestamp"].as_str().unwrap().to_owned();
            assert!(timestamp.ends_with('Z') && timestamp.len() == 24, "{timestamp}");
        }
        let head = admin.ask("HEAD", endpoint.path, "", "");
        assert_eq!((head.status, head.body.as_str()), (200, ""), "{}", endpoint.path);
    }
}

/// S3.16, S3.17, S1.46, S2.32.
#[test]
fn probes_follow_the_phase() {
    let admin = Admin::start();
    assert_eq!(admin.get("/readyz").json()["status"], "ready");
    assert_eq!(admin.get("/readyz?verbose=1").status, 200);
    admin.state.enter_for_test(Phase::Notice);
    for path in ["/readyz", "/healthz", "/api/v1/shutdown/ready", "/api/v1/shutdown/health"] {
        let reply = admin.get(path);
        assert_eq!(reply.status, 503, "{path}");
        assert_eq!(reply.json()["phase"], "notice", "{path}");
    }
    assert_eq!(admin.get("/readyz").json()["status"], "not_ready");
    assert_eq!(admin.get("/livez").status, 200);
    assert_eq!(admin.get("/health/status").status, 200);
}

#[test]
fn what_does_not_exist_is_said_to_not_exist() {
    let admin = Admin::start();
    admin.get("/metric").is_error(404, "not_found", "/metrics");
    admin.get("/").is_error(404, "not_found", "");
    admin.get("/api/v1/broadcast").is_error(405, "method_not_allowed", "POST");
    admin.ask("OPTIONS", "/livez", "", "").is_error(405, "method_not_allowed", "GET, HEAD");
    admin.ask("BREW", "/livez", "", "").is_error(405, "method_not_allowed", "`BREW`");
    let reply = admin.get("/api/unknown");
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &104.into()));
}

/// What exists is not told to those who have no token.
#[test]
fn with_a_token_everything_but_probes_wants_it() {
    let admin = Admin::with(with_token(), 100, Patience::SERVER);
    for endpoint in ENDPOINTS {
        let method = match endpoint.method {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Delete => "DELETE",
        };
        let reply = admin.ask(method, endpoint.path, "", "");
        assert_eq!(reply.status, if endpoint.open { 200 } else { 401 }, "{}", endpoint.path);
    }
    let reply = admin.get("/nothing");
    reply.is_error(401, "unauthorized", "admin.token");
    assert!(reply.head.contains("www-authenticate: bearer"), "{reply:?}");
    let key = format!("x-api-key: {TOKEN}\r\n");
    assert_eq!(admin.ask("GET", "/metrics", &key, "").status, 200);
    let bearer = format!("authorization: Bearer {TOKEN}\r\norigin: https://dashboard.example\r\n");
    assert_eq!(admin.ask("GET", "/health/status", &bearer, "").status, 200);
    assert_eq!(admin.ask("GET", "/nothing", &bearer, "").status, 404);
    assert_eq!(admin.ask("GET", "/metrics", "x-api-key: wrong\r\n", "").status, 401);
}

/// A browser on the same machine must not be able to drain the server.
#[test]
fn without_a_token_web_pages_are_refused() {
    let admin = Admin::start();
    let drain = "/api/v1/shutdown/shutdown";
    let json = "content-type: application/json\r\n";
    let foreign = format!("{json}origin: http://evil.example\r\n");
    admin.ask("POST", drain, &foreign, "{}").is_error(403, "forbidden", "evil.example");
    admin.ask("DELETE", drain, "origin: null\r\n", "").is_error(403, "forbidden", "Origin");
    let rebound = Reply::read(&admin.exchange(
        "DELETE /api/v1/shutdown/shutdown HTTP/1.1\r\nhost: evil.example:8081\r\n\
         connection: close\r\n\r\n",
    ));
    rebound.is_error(403, "forbidden", "Host `evil.example:8081`");
    admin.ask("POST", drain, "", "{}").is_error(415, "unsupported_media_type", "there is none");
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    admin.ask("POST", drain, form, "a=b").is_error(415, "unsupported_media_type", "x-www-form");
    admin.ask("DELETE", drain, form, "a=b").is_error(415, "unsupported_media_type", "x-www-form");
    assert!(admin.commands.is_empty(), "nothing reached the coordinator");
}

/// Rule 6.
#[test]
fn a_listener_that_others_reach_needs_a_token() {
    let context = |config| AdminContext {
        state: state_with(config, Phase::Running),
        commands: bounded(1).0,
        publisher: Publisher::new(Vec::new()),
        last_shutdown: None,
    };
    let everywhere = || bind("0.0.0.0:0".parse().unwrap()).unwrap();
    let error = super::super::start(everywhere(), context(Config::default())).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
    super::super::start(everywhere(), context(with_token()))
        .unwrap()
        .stop_within(Duration::from_secs(5), Duration::from_secs(5));
}

#[test]
fn a_taken_port_is_an_error_at_the_start() {
    let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let error = bind(first.local_addr().unwrap()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
}

#[test]
fn answers_are_counted_by_status() {
    let admin = Admin::start();
    admin.get("/livez");
    admin.get("/nothing");
    let page = admin.get("/metrics").body;
    for line in [
        "tidegate_admin_answers_total{status=\"200\"} 1",
        "tidegate_admin_answers_total{status=\"404\"} 1",
    ] {
        assert!(page.lines().any(|found| found == line), "{page}");
    }
}

/// The sources of all shards are put together; a shard that does not answer is left out.
#[test]
fn the_most_refused_sources_are_those_of_the_shards_that_answer() {
    use crate::admission::{HeavyHitters, Prefixes, RefusalReason};
    use crate::mesh::message::ShardMessage;
    let admin = Admin::start();
    admin.get("/api/v1/admission/refused?limit=65").is_error(400, "bad_request", "1 to 64");
    let inbox = &admin.inboxes[0];
    while inbox.take().is_some() {}
    let reply = std::thread::scope(|scope| {
        let asked = scope.spawn(|| admin.get("/api/v1/admission/refused?limit=1"));
        let question = loop {
            match inbox.take() {
                Some(ShardMessage::TopRefused(reply)) => break reply,
                Some(other) => panic!("{other:?}"),
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        let mut hitters = HeavyHitters::default();
        for n in [1, 2, 2] {
            let source = Prefixes::default().key([192, 0, 2, n].into());
            hitters.count(source, RefusalReason::PerIpRate, 0);
        }
        question.unbounded_send(Box::new(hitters)).unwrap();
        asked.join().unwrap()
    });
    let json = reply.json();
    assert_eq!(
        (reply.status, &json["shards_answered"], &json["shards"]),
        (200, &1.into(), &2.into())
    );
    let sources = json["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 1, "{json}");
    assert_eq!((&sources[0]["source"], &sources[0]["refused"]), (&"192.0.2.2".into(), &2.into()));
    assert_eq!(sources[0]["reason"], "per_ip_rate");
    assert!(sources[0]["last_refused_ms_ago"].is_u64() && sources[0]["at_most_over"] == 0);
}
