//! What load balancers, supervisors and people see of a server: readiness goes off at the signal
//! and before the first refusal, liveness stays, the figures agree with what the clients did, and
//! a drain can be asked for, watched and forced over HTTP.

use crate::support::server::Server;
use crate::support::wire::{self, CLOSE, Client, FIN, close_payload, frame};
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

fn status(server: &Server, path: &str) -> u16 {
    let admin = server.admin;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
    wire::exchange(admin, request.as_bytes()).expect("the admin answers").0.status
}

fn json_of(server: &Server, path: &str) -> Value {
    serde_json::from_str(&http::get(server.admin, path)).unwrap()
}

/// S0.25, S0.55, S1.46, S1.47, S1.58, S1.68 to S1.70, S2.32, S3.16, S3.17, S4.6, S4.94.
#[test]
fn readiness_goes_off_at_the_signal_and_before_the_first_refusal() {
    let mut server = Server::start(&["shutdown.pre_drain_delay_ms=1500"]);
    assert_eq!((status(&server, "/readyz"), status(&server, "/livez")), (200, 200));
    let mut client = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    eventually("readiness is off", || status(&server, "/readyz") == 503);
    assert_eq!(status(&server, "/healthz"), 503);
    assert_eq!(status(&server, "/livez"), 200, "nobody should kill a draining server");
    // Still inside the delay: a client that the load balancer has sent already is let in.
    let mut late = Client::connect(server.clients, "/echo");
    assert!(
        json_of(&server, "/health/status")["graceful_shutdown"]["accepting_connections"] == true
    );
    let mut refused = None;
    eventually("connections are refused", || {
        match Client::try_connect(server.clients, "/echo").expect("an answer") {
            Ok(_) => false,
            Err(response) => {
                refused = Some(response);
                true
            }
        }
    });
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503);
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    let accepting = &json_of(&server, "/health/status")["graceful_shutdown"];
    assert_eq!(accepting["accepting_connections"], false);
    for client in [&mut client, &mut late] {
        let (frames, _) = client.read_to_close();
        assert_eq!(frames.last().unwrap().close_code(), Some(1001));
    }
    let (code, _) = server.ended();
    assert_eq!(code, Some(0));
}

/// S0.4, S0.20, S0.22, S0.24, S0.31, S0.34, S0.49, S0.50, S2.31, S3.30, S4.52.
#[test]
fn the_figures_agree_with_the_clients() {
    let server = Server::start(&["server.shards=2", "admission.max_global_connections=16"]);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(server.clients, "/echo")).collect();
    for client in &mut clients {
        client.echo("one");
        client.echo("two");
    }
    // The peak is what the coordinator has seen, and it looks ten times a second.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let left = clients.split_off(5);
    left.into_iter().for_each(Client::close);
    eventually("three have left", || {
        json_of(&server, "/health/status")["backpressure"]["global_connections"] == 5
    });
    let status = json_of(&server, "/health/status");
    assert_eq!(status["redis"]["status"], "disabled");
    assert_eq!(status["redis"]["concurrent_connections"], 5);
    assert_eq!(status["redis"]["peak_connections"], 8);
    assert_eq!(status["backpressure"]["connections_rejected"], 0);
    assert_eq!(status["backpressure"]["config"]["max_global_connections"], 16);
    let page = http::get(server.admin, "/metrics");
    let sum = |name: &str| -> f64 {
        let values = page.lines().filter(|line| line.starts_with(name));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    assert_eq!(sum("tidegate_connections{"), 5.0);
    assert_eq!(sum("tidegate_connections_opened_total"), 8.0);
    assert_eq!(sum("tidegate_connections_closed_total{reason=\"peer_closed\"}"), 3.0);
    assert_eq!(sum("tidegate_messages_received_total"), 16.0);
    assert_eq!(sum("tidegate_messages_sent_total"), 16.0);
}

/// Both forms have the same samples; a type line that text readers would not understand is in
/// neither of theirs.
#[test]
fn metrics_are_in_the_form_that_the_reader_asks_for() {
    let server = Server::start(&["server.shards=2"]);
    let page = |accept: &str| {
        let request = format!(
            "GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{accept}\r\n",
            server.admin
        );
        let (response, _) = wire::exchange(server.admin, request.as_bytes()).unwrap();
        let content_type = response.header("content-type").unwrap().to_owned();
        assert_eq!(response.header("vary"), Some("Accept"));
        (content_type, response.body().to_owned())
    };
    let prometheus = "accept: application/openmetrics-text;version=1.0.0;q=0.5,\
                      text/plain;version=0.0.4;q=0.2,*/*;q=0.1\r\n";
    let (content_type, open_metrics) = page(prometheus);
    assert_eq!(content_type, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    assert!(open_metrics.ends_with("# EOF\n"));
    assert!(open_metrics.contains("# TYPE tidegate_connections_accepted counter\n"));
    // A reader of text alone, one that takes anything, and one that says nothing.
    for accept in ["accept: text/plain;version=0.0.4\r\n", "accept: */*\r\n", ""] {
        let (content_type, text) = page(accept);
        assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8", "{accept}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
        let kinds = ["counter", "gauge", "histogram", "untyped"];
        let mut kind = (String::new(), String::new());
        for line in text.lines() {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["#", "TYPE", name, of] => {
                    assert!(kinds.contains(&of), "{line}");
                    kind = (name.to_owned(), of.to_owned());
                }
                ["#", "HELP", ..] => {}
                // A sample belongs to the type above it by its name.
                _ => assert!(line.starts_with(&kind.0), "{line} below {kind:?}"),
            }
        }
        assert!(text.contains("# TYPE tidegate_connections_accepted_total counter\n"));
        let names = |page: &str| -> Vec<String> {
            let samples = page.lines().filter(|line| !line.starts_with('#'));
            samples
                .filter_map(|line| line.rsplit_once(' '))
                .map(|(name, _)| name.to_owned())
                .collect()
        };
        let admin = |name: &String| name.starts_with("tidegate_admin_answers");
        let without_own =
            |page| names(page).into_iter().filter(|name| !admin(name)).collect::<Vec<_>>();
        assert_eq!(without_own(&text), without_own(&open_metrics));
    }
}

/// S4.22, S4.30, S4.31.
#[test]
fn a_drain_is_asked_for_watched_and_forced_over_http() {
    let mut server = Server::start(&["server.shards=2"]);
    let mut client = Client::connect(server.clients, "/echo");
    let started = http::post(server.admin, "/api/v1/shutdown/shutdown", &json!({}));
    assert_ne!(started["phase"], "running", "{started}");
    let again = http::post(server.admin, "/api/v1/shutdown/shutdown", &json!({}));
    assert_eq!(again["reason"], started["reason"], "a second start changes nothing");
    eventually("the client is being waited for", || {
        let status = json_of(&server, "/api/v1/shutdown/status");
        status["phase"] == "draining" && status["connections_left"] == 1
    });
    // It does not answer Close; the operator has no patience.
    let admin = server.admin;
    let request = format!(
        "DELETE /api/v1/shutdown/shutdown HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n"
    );
    let (response, _) = wire::exchange(admin, request.as_bytes()).unwrap();
    assert!(matches!(response.status, 200 | 202), "{response:?}");
    let (code, last_words) = server.ended();
    assert_eq!((code, &last_words["forced"]), (Some(75), &json!(true)));
    let (frames, _) = client.read_to_close();
    assert!(frames.iter().any(|frame| frame.close_code() == Some(1001)), "it was told");
}

/// S2.27.
#[test]
fn a_broadcast_reaches_every_client_whatever_it_is_subscribed_to() {
    let server = Server::start(&["server.shards=2"]);
    let paths = ["/echo", "/ws", "/ws?channel=a", "/ws?channel=b&channel=a"];
    let mut clients: Vec<_> =
        paths.iter().cycle().take(20).map(|path| Client::connect(server.clients, path)).collect();
    let body = json!({ "message": "maintenance", "title": "Tonight", "level": "info" });
    http::post(server.admin, "/api/v1/broadcast", &body);
    let publication = json!({ "channel": "a", "data": { "n": 1 } });
    http::post(server.admin, "/api/publish", &publication);
    for (index, client) in clients.iter_mut().enumerate() {
        let received: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(received["message"], "maintenance");
        assert_eq!((&received["title"], &received["level"]), (&json!("Tonight"), &json!("info")));
        if index % 4 >= 2 {
            assert_eq!(client.frame().text(), r#"{"n":1}"#, "bytes as they were published");
        }
        client.send(&frame(FIN | CLOSE, &close_payload(1000, "")));
        assert_eq!(client.frame().close_code(), Some(1000), "and nothing more");
    }
}
