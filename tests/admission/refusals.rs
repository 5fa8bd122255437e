//! Those who are not let in, over real sockets: what they are told, and what the operator sees of
//! them.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::support::figures::Figures;
use crate::support::server::Server;
use crate::support::wire::{
    self, CLOSE, Client, End, FIN, KEY, Next, Response, close_payload, frame, upgrade_request,
};
use crate::support::{eventually, http, socket};
use rustix::process::Signal;
use serde_json::{Value, json};

const HERE: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// One connection for each source, and then one a minute.
const ONE_EACH: [&str; 3] = [
    "server.shards=1",
    "admission.connections_per_ip_per_minute=1",
    "admission.connections_per_ip_burst=1",
];

fn server(settings: &[&str]) -> Server {
    Server::start(&[&ONE_EACH[..], settings].concat())
}

/// What Chromium sends.
fn browser_request(extra: &str) -> Vec<u8> {
    format!(
        "GET /ws?channel=news HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
         Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0 (X11; Linux \
         x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
         Upgrade: websocket\r\nOrigin: https://app.example\r\nSec-WebSocket-Version: 13\r\n\
         Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en\r\n{extra}\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Extensions: permessage-deflate; \
         client_max_window_bits\r\n\r\n"
    )
    .into_bytes()
}

/// How an attempt was refused.
#[derive(Debug)]
enum Told {
    /// Close code and reason.
    Close(u16, Value),
    Http(Response),
    Reset,
}

/// Sends `request` and, upgraded, does what a browser does: answers the Close, and waits for the
/// end.
#[track_caller]
fn told(source: Ipv4Addr, server: SocketAddr, request: &[u8]) -> Told {
    // A flood's reset can be there before any of these has returned.
    let answer = socket::connect_from(source, server).and_then(|mut stream| {
        stream.write_all(request)?;
        Client::read_answer(stream)
    });
    match answer {
        Ok(Ok(mut client)) => {
            let close = client.frame();
            let code = close.close_code().expect("a Close");
            assert!(close.payload.len() <= 125);
            client.send(&frame(FIN | CLOSE, &close_payload(code, "")));
            assert_eq!(client.next(), Next::End(End::Closed), "not reset: it is read");
            Told::Close(code, serde_json::from_slice(&close.payload[2..]).unwrap())
        }
        Ok(Err(response)) => Told::Http(response),
        Err(error) if wire::is_reset(&error) => Told::Reset,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn close_of(told: Told) -> (u16, Value) {
    match told {
        Told::Close(code, reason) => (code, reason),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn response_of(told: Told) -> Response {
    match told {
        Told::Http(response) => response,
        other => panic!("{other:?}"),
    }
}

fn rung(figures: &Figures, rung: &str) -> u64 {
    figures.sum(&format!("tidegate_refusals_total{{rung=\"{rung}\"}}"))
}

/// S0.67.
#[test]
fn a_browser_is_told_in_a_close_and_others_by_a_status() {
    let server = server(&["admission.deny=127.0.6.0/24"]);
    let _admitted = Client::connect(server.clients, "/echo");
    let (code, reason) = close_of(told(HERE, server.clients, &browser_request("")));
    assert_eq!(
        (code, &reason["type"], &reason["reason"]),
        (1013, &json!("server.refused"), &json!("per_ip_rate"))
    );
    let wait_ms = reason["retry_after_ms"].as_u64().unwrap();
    assert!((30_000..=60_000).contains(&wait_ms), "{wait_ms}");

    let response = response_of(told(HERE, server.clients, &upgrade_request("/echo")));
    assert_eq!(response.status, 429);
    let wait_s: u64 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((30..=60).contains(&wait_s), "{wait_s}");

    // A page that is fetched is no WebSocket, and a request that breaks off is none either.
    let page = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: https://app.example\r\n\r\n";
    assert_eq!(response_of(told(HERE, server.clients, page)).status, 429);
    let broken = b"GET /ws HTTP/1.1\r\nOrigin\x00: https://app.example\r\n\r\n";
    assert_eq!(response_of(told(HERE, server.clients, broken)).status, 429);

    // Nothing helps who is denied: no time to come back, and another code.
    let denied = Ipv4Addr::new(127, 0, 6, 1);
    let (code, reason) = close_of(told(denied, server.clients, &browser_request("")));
    assert_eq!((code, reason), (1008, json!({ "type": "server.refused", "reason": "denied" })));
    assert_eq!(response_of(told(denied, server.clients, &upgrade_request("/ws"))).status, 403);

    let figures = Figures::of(&server);
    assert_eq!((rung(&figures, "close"), rung(&figures, "http")), (2, 4));
    assert_eq!(figures.sum("tidegate_admission_refused_total"), 6, "each once");
    assert_eq!(figures.sum("tidegate_connections_opened_total"), 1, "nobody else was let in");
}

#[test]
fn a_request_that_arrives_bit_by_bit_is_told_the_same() {
    let server = server(&[]);
    let _admitted = Client::connect(server.clients, "/echo");
    for (request, upgraded) in [(browser_request(""), true), (upgrade_request("/ws"), false)] {
        let mut stream = socket::connect(server.clients).unwrap();
        for byte in &request {
            stream.write_all(&[*byte]).unwrap();
        }
        match Client::read_answer(stream).unwrap() {
            Ok(mut client) => {
                assert!(upgraded);
                assert_eq!(client.frame().close_code(), Some(1013));
            }
            Err(response) => assert!(!upgraded && response.status == 429, "{response:?}"),
        }
    }
}

#[test]
fn browsers_behind_a_proxy_are_told_too() {
    let server = server(&["server.trusted_proxies=127.0.0.1", "server.proxy_protocol=accept"]);
    let header = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 1000 80\r\n").into_bytes();
    let forwarded = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    let mut first = socket::connect(server.clients).unwrap();
    first.write_all(&[header("192.0.2.1"), upgrade_request("/echo")].concat()).unwrap();
    let _first = Client::read_answer(first).unwrap().ok().unwrap();
    let refused = [
        [header("192.0.2.1"), browser_request("")].concat(),
        browser_request(&forwarded("192.0.2.1")),
    ];
    for request in &refused {
        let (code, reason) = close_of(told(HERE, server.clients, request));
        assert_eq!((code, &reason["reason"]), (1013, &json!("per_ip_rate")));
    }
    let plain = [header("192.0.2.1"), upgrade_request("/echo")].concat();
    assert_eq!(response_of(told(HERE, server.clients, &plain)).status, 429);
    // The header by itself, and the request a moment later.
    let mut stream = socket::connect(server.clients).unwrap();
    stream.write_all(&header("192.0.2.1")).unwrap();
    eventually("the header has been read", || {
        Figures::of(&server).sum("tidegate_admission_refused_total") == 4
    });
    stream.write_all(&browser_request("")).unwrap();
    let mut client = Client::read_answer(stream).unwrap().ok().unwrap();
    assert_eq!(client.frame().close_code(), Some(1013));
}

#[test]
fn a_server_that_drains_tells_browsers_in_a_close() {
    let mut server = Server::start(&["server.shards=1", "shutdown.notice_ms=2000"]);
    let _client = Client::connect(server.clients, "/echo");
    server.signal(Signal::TERM);
    server.wait_for_log("stopping to accept new connections");
    eventually("refusals begin", || {
        Client::try_connect(server.clients, "/echo").unwrap().err().is_some_and(|r| r.status == 503)
    });
    let (code, reason) = close_of(told(HERE, server.clients, &browser_request("")));
    assert_eq!((code, &reason["reason"]), (1013, &json!("draining")));
}

/// Each rung has its rate; what is above it is left to the next. Every attempt is counted once by
/// its reason and once by what was done with it.
/// S0.38, S0.70, S1.67.
#[test]
fn a_flood_goes_down_the_ladder_and_recovers() {
    const ATTEMPTS: usize = 300;
    let server = server(&[
        "refusal.close_per_second=2",
        "refusal.http_per_second=4",
        "refusal.reset_per_second=8",
    ]);
    let mut admitted = Client::connect(server.clients, "/echo");
    let (mut closes, mut answers, mut resets) = (0, 0, 0);
    for attempt in 0..ATTEMPTS {
        match told(HERE, server.clients, &browser_request("")) {
            Told::Close(code, _) => {
                assert_eq!(code, 1013);
                closes += 1;
            }
            Told::Http(response) => {
                assert_eq!(response.status, 429);
                answers += 1;
            }
            Told::Reset => resets += 1,
        }
        match attempt {
            1 => assert_eq!((closes, answers), (2, 0)),
            5 => assert_eq!((closes + answers, resets), (6, 0)),
            _ => {}
        }
    }
    let figures = Figures::of(&server);
    assert_eq!((rung(&figures, "close"), rung(&figures, "http")), (closes, answers));
    let (reset, silence) = (rung(&figures, "reset"), rung(&figures, "silence"));
    assert_eq!(reset + silence, resets);
    assert!(reset >= 8 && silence > 0, "{reset} {silence}");
    assert_eq!(figures.sum("tidegate_admission_refused_total"), ATTEMPTS as u64);
    // Those who are let in are let in also then, and those who are in notice nothing.
    let mut other = Client::try_connect_from(Ipv4Addr::new(127, 0, 0, 2), server.clients, "/echo");
    other.as_mut().unwrap().as_mut().ok().unwrap().echo("let in");
    admitted.echo("undisturbed");
    std::thread::sleep(Duration::from_secs(1));
    close_of(told(HERE, server.clients, &browser_request("")));
}

/// With no budget at all nothing is read: who says nothing is reset just so. What the pause keeps
/// in the backlog is accepted after it.
#[test]
fn silence_holds_the_backlog_and_ends() {
    let server = server(&[
        "refusal.close_per_second=0",
        "refusal.http_per_second=0",
        "refusal.reset_per_second=0",
        "admission.deny=127.0.20.0/23",
    ]);
    let mut admitted = Client::connect(server.clients, "/echo");
    let started = Instant::now();
    // A source above its share would be reset and wait for nothing.
    let source = |n: u16| Ipv4Addr::new(127, 0, 20 + (n / 250) as u8, 1 + (n % 250) as u8);
    let connect = |n| socket::connect_from(source(n), server.clients);
    let crowd: Vec<_> = (0..500).map(connect).collect();
    for stream in crowd {
        match stream {
            Ok(mut stream) => {
                let (bytes, end) = wire::read_to_end(&mut stream).unwrap();
                assert_eq!((bytes.len(), end), (0, End::Reset));
            }
            Err(error) => assert!(wire::is_reset(&error), "{error}"),
        }
    }
    // At most 64 are under way when a pause begins, and it lasts 64 ms at least.
    assert!(started.elapsed() > Duration::from_millis(6 * 64), "{:?}", started.elapsed());
    let figures = Figures::of(&server);
    assert_eq!(rung(&figures, "silence"), 500);
    assert_eq!(figures.sum("tidegate_admission_refused_total"), 500);
    let handshaking = || Figures::of(&server).sum("tidegate_connections_handshaking");
    crate::support::eventually("all of them are gone", || handshaking() == 0);
    admitted.echo("undisturbed");
}

/// S0.74.
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
