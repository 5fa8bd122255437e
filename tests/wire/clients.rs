//! Clients that nobody here wrote get along with the server: PyPI's `websockets`, npm's `ws`, and
//! a real browser. Text, binary and fragmented messages, 16 MiB of them, pings both ways, a clean
//! close, and on SIGTERM the notice, the goodbye and 1001. All of it with and without compression,
//! which all of them offer; tungstenite, which does not know it, is what the unit tests compare
//! frames with.
//!
//! The clients are installed under target/ by `scripts/test --prepare`, which runs by itself if
//! they are not there; without them these tests fail.

use crate::support;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::support::installed::{installed, node, repository};
use crate::support::server::Server;
use rustix::process::Signal;
use serde_json::Value;

/// For one step of a client on a busy machine: starting a browser, echoing 16 MiB.
const STEP: Duration = Duration::from_secs(90);

/// Longer than a client that answers no ping would be kept.
const SILENT_SECONDS: &str = "3.2";

const KEEPALIVE: [&str; 2] = ["keepalive.ping_interval_ms=300", "keepalive.timeout_ms=2000"];

/// A client as a process, and what it reports.
struct Visitor {
    child: Child,
    reports: Receiver<Value>,
}

impl Visitor {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (sender, reports) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let report = serde_json::from_str(&line).unwrap_or(Value::String(line));
                // The test may have ended.
                let _ = sender.send(report);
            }
        });
        Self { child, reports }
    }

    /// The next report, which must be of this step.
    #[track_caller]
    fn step(&self, name: &str) -> Value {
        let report = self.reports.recv_timeout(STEP);
        let report = report.unwrap_or_else(|error| panic!("waiting for {name}: {error}"));
        assert_eq!(report["step"], name, "{report}");
        report
    }

    /// Steps that have nothing more to say.
    #[track_caller]
    fn steps(&self, names: &[&str]) {
        for name in names {
            self.step(name);
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The drain as a client sees it, and the end of the server.
#[track_caller]
fn check_drain(mut server: Server, visitor: &Visitor) -> Value {
    visitor.step("waiting");
    server.signal(Signal::TERM);
    let told = visitor.step("told");
    assert_eq!(told["code"], 1001, "{told}");
    let texts: Vec<Value> = told["texts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|text| serde_json::from_str(text.as_str().unwrap()).unwrap())
        .collect();
    let [notice, bye] = &texts[..] else { panic!("{texts:?}") };
    assert_eq!(
        (&notice["type"], &notice["reason"]),
        (&"server.shutdown".into(), &"shutdown".into())
    );
    assert!(notice["reconnect_after_ms"].is_u64(), "{notice}");
    assert_eq!((&bye["bye"], &bye["total"]), (&true.into(), &1.into()));
    let (code, last_words) = server.ended();
    assert_eq!(code, Some(0));
    let outcomes = support::server::outcomes(&last_words);
    assert_eq!(outcomes["close_acknowledged"], 1, "the library answers Close: {outcomes:?}");
    told
}

fn server(more: &[&str]) -> Server {
    let message = "server.max_message_bytes=16777216";
    Server::start(&[&[message][..], &KEEPALIVE, more].concat())
}

fn url(server: &Server) -> String {
    format!("ws://{}/echo", server.clients)
}

/// S1.56, S2.3, S2.15, S3.22.
#[test]
fn websockets_from_pypi() {
    let python = installed("venv/bin/python");
    let _alone = support::alone();
    for compression in [true, false] {
        websockets_from_pypi_with(&python, compression);
    }
}

fn websockets_from_pypi_with(python: &Path, compression: bool) {
    let server = server(&[&format!("server.compression={compression}")]);
    let mut command = Command::new(python);
    command.arg(repository("tests/clients/websockets_client.py"));
    command.args([&url(&server), SILENT_SECONDS]);
    let visitor = Visitor::start(command);
    visitor.steps(&["short", "fragmented", "long", "ping_answered", "stayed"]);
    assert_eq!(visitor.step("closed")["code"], 1000);
    check_compression(&server, compression);
    check_drain(server, &visitor);
}

/// Whether the client's messages came compressed.
#[track_caller]
fn check_compression(server: &Server, expected: bool) {
    let inflated = support::figures::metric(server, "tidegate_messages_inflated_total");
    assert_eq!(inflated > 0, expected, "{inflated} messages were compressed");
}

/// S1.56, S2.3, S2.15, S3.22.
#[test]
fn ws_from_npm() {
    let _alone = support::alone();
    for compression in [true, false] {
        ws_from_npm_with(compression);
    }
}

fn ws_from_npm_with(compression: bool) {
    let server = server(&[&format!("server.compression={compression}")]);
    let visitor = Visitor::start({
        let mut command = node("tests/clients/ws_client.cjs");
        command.args([&url(&server), SILENT_SECONDS]);
        command
    });
    visitor.steps(&["short", "fragmented", "long", "ping_answered"]);
    let pings = visitor.step("stayed")["pings"].as_u64();
    assert!(pings >= Some(3), "{pings:?} pings in all that silence");
    assert_eq!(visitor.step("closed")["code"], 1000);
    check_compression(&server, compression);
    check_drain(server, &visitor);
}

/// S1.56, S2.3, S2.15, S3.22.
#[test]
fn a_real_browser() {
    let _alone = support::alone();
    let pages = serve_pages();
    for compression in [true, false] {
        a_real_browser_with(pages, compression);
    }
}

fn a_real_browser_with(pages: SocketAddr, compression: bool) {
    let origin = format!("http://{pages}");
    // The same page by another name is another origin.
    let other = format!("http://localhost:{}/", pages.port());
    let server = server(&[
        &format!("server.allowed_origins={origin}"),
        &format!("server.compression={compression}"),
    ]);
    let full = Server::start(&["server.shards=1", "admission.max_global_connections=1"]);
    let _only = support::wire::Client::connect(full.clients, "/echo");
    let mut command = node("tests/clients/browser.cjs");
    command.args([&url(&server), SILENT_SECONDS, &format!("{origin}/"), &other, &url(&full)]);
    let visitor = Visitor::start(command);
    assert_eq!(visitor.step("other_origin")["refused"], true);
    visitor.steps(&["short", "long", "stayed"]);
    let closed = visitor.step("closed");
    assert_eq!((&closed["code"], &closed["wasClean"]), (&1000.into(), &true.into()));
    let too_big = visitor.step("too_big");
    assert_eq!((&too_big["code"], &too_big["reason"]), (&1009.into(), &"message too big".into()));
    let extensions = too_big["extensions"].as_str().unwrap();
    assert_eq!(extensions.contains("permessage-deflate"), compression, "{extensions}");
    let refused = visitor.step("full");
    assert_eq!(refused["code"], 1013, "{refused}");
    let reason: Value = serde_json::from_str(refused["reason"].as_str().unwrap()).unwrap();
    assert!(reason.is_object(), "{refused}");
    check_compression(&server, compression);
    let told = check_drain(server, &visitor);
    assert_eq!(told["wasClean"], true);
    assert!(told["reason"].is_string(), "{told}");
}

/// The only block of this language in the guide for clients.
#[track_caller]
fn of_the_guide(language: &str) -> String {
    let guide = std::fs::read_to_string(repository("docs/client-guide.md")).unwrap();
    let blocks: Vec<&str> = guide.split(&format!("```{language}\n")).skip(1).collect();
    let [block] = blocks[..] else { panic!("{} blocks in {language}", blocks.len()) };
    block.split("```").next().unwrap().to_owned()
}

/// An address that nobody listens on, and that no other test gets by chance.
fn absent() -> SocketAddr {
    TcpListener::bind("127.0.53.1:0").unwrap().local_addr().unwrap()
}

/// The programs of the guide wait for a server that is not there, receive what it publishes, come
/// back in their slot after it has stopped, and receive from the next one.
#[test]
fn the_guides_programs_wait_for_their_server_and_come_back_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let program = |name: &str, language: &str, before: &str, server: SocketAddr| {
        let text = of_the_guide(language);
        assert!(text.contains("127.0.0.1:8080"), "{text}");
        let text = [before, &text.replace("127.0.0.1:8080", &server.to_string())].concat();
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let node = |arguments: &[&str], path: PathBuf| {
        let mut command = Command::new("node");
        command.env("NODE_PATH", installed("node_modules")).args(arguments).arg(path);
        command
    };
    let here = absent();
    let mut python = Command::new(installed("venv/bin/python"));
    python.arg(program("guide.py", "python", "", here));
    waits_and_comes_back(python, here);
    let here = absent();
    let with_ws = "globalThis.WebSocket = require('ws');\n";
    waits_and_comes_back(node(&[], program("ws.cjs", "js", with_ws, here)), here);
    // Node.js's own, whose failed connects may have no close event.
    let here = absent();
    let own = program("own.cjs", "js", "", here);
    waits_and_comes_back(node(&["--experimental-websocket"], own), here);
}

#[track_caller]
fn waits_and_comes_back(command: Command, here: SocketAddr) {
    let visitor = Visitor::start(command);
    // The next line that begins so.
    let says = |wanted: &str| loop {
        let line = visitor.reports.recv_timeout(STEP);
        let line = line.unwrap_or_else(|error| panic!("waiting for {wanted:?}: {error}"));
        match line.as_str() {
            Some(line) if line.starts_with(wanted) => return line.to_owned(),
            _ => {}
        }
    };
    says("closed 1006 - again in ");
    says("closed 1006 - again in ");
    let listen = format!("server.listen={here}");
    let settings = [listen.as_str(), "server.shards=1", "shutdown.reconnect_per_second=1"];
    for _ in 0..2 {
        let mut server = Server::start(&settings);
        let subscribed = "tidegate_subscriptions";
        support::eventually("it has subscribed", || {
            support::figures::metric(&server, subscribed) == 1
        });
        let news = serde_json::json!({ "channel": "news", "data": "hello" });
        support::http::post(server.admin, "/api/publish", &news);
        says("received \"hello\"");
        server.signal(Signal::TERM);
        let told = says("closed 1001 - again in ");
        let slot_ms: u64 = told.split(' ').nth_back(1).unwrap().parse().unwrap();
        assert!(slot_ms >= 100, "the slot that the server gave: {told}");
        assert_eq!(server.ended().0, Some(0));
    }
}

/// Serves an empty page to whoever asks for anything.
fn serve_pages() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                // A browser opens connections that it does not use.
                if matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
                    let page = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\
                                Content-Length: 15\r\nConnection: close\r\n\r\n<!doctype html>";
                    let _ = stream.write_all(page.as_bytes());
                }
            });
        }
    });
    address
}
