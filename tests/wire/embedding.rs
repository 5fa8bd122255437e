//! A server inside another program: a path of its own, a shutdown that any thread can ask for any
//! number of times, nothing left behind, and the program's logger and signals left alone.

#[path = "../../examples/embedded.rs"]
mod example;

use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::admin_siege::{Kind, Siege};
use crate::support::redis::Redis;
use crate::support::wire::{self, CLOSE, Client, End, FIN, Next, close_payload, frame};
use crate::support::{eventually, http};
use serde_json::{Value, json};
use tidegate::config::{Config, Secret};
use tidegate::handler::{Effects, Handler, Inbound};
use tidegate::resources::{Resource, Stage, Statistics};
use tidegate::{Handle, Server};

const DEADLINE: Duration = Duration::from_secs(20);

/// Threads and descriptors are those of the process, so one test at a time looks at them.
fn alone_in_the_process() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Reverse;

impl Handler for Reverse {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        if let Inbound::Text(text) = inbound {
            effects.text(&text.chars().rev().collect::<String>());
        }
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 2;
    config.admission.connections_per_ip_per_minute = 0;
    config.admission.shed_load = false;
    config.shutdown.notice_ms = 50;
    config
}

fn start() -> Handle {
    Server::new(config()).handler("/reverse", || Reverse).start().unwrap()
}

fn client(server: &Handle) -> Client {
    let mut client = Client::connect(server.clients(), "/reverse");
    client.send(&wire::frame(FIN | wire::TEXT, b"stressed"));
    assert_eq!(client.frame().text(), "desserts");
    client
}

/// Reads notice and goodbye and answers Close.
fn leave(mut client: Client) {
    while client.frame().close_code() != Some(1001) {}
    client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    assert_eq!(client.next(), Next::End(End::Closed));
}

/// The threads of servers in this process.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("tidegate-")).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// S3.6, S4.50: the example of the documentation.
#[test]
fn the_example_runs() {
    let _alone = alone_in_the_process();
    example::main().unwrap();
}

/// The coordinator of a server stands still for longer than anybody waits.
fn hang_coordinator(server: &Handle) {
    let fault = json!({ "thread": "coordinator", "fault": "stall", "ms": 6_000 });
    http::post(server.admin(), "/api/v1/debug/fault", &fault);
}

#[test]
fn a_program_whose_server_hangs_is_told_and_goes_on() {
    let _alone = alone_in_the_process();
    let mut config = config();
    config.debug.fault_injection = true;
    config.shutdown.force_timeout_ms = 500;
    let server = Server::new(config).handler("/reverse", || Reverse).start().unwrap();
    let _client = client(&server);
    hang_coordinator(&server);
    let asked = Instant::now();
    std::thread::scope(|scope| {
        // Who waits without a bound hears it too.
        let waiting = scope.spawn(|| server.wait().unwrap_err().report);
        let unfinished = server.shutdown(Duration::from_millis(500)).unwrap_err();
        assert!(unfinished.to_string().contains("the server"), "{unfinished}");
        let report = waiting.join().unwrap();
        assert_eq!(
            (report.exit_code, &report.not_done[..]),
            (Some(70), &["coordinator".to_owned()][..])
        );
    });
    assert!(asked.elapsed() < Duration::from_secs(5), "before the coordinator comes round");
    drop(server);
    assert!(asked.elapsed() < Duration::from_secs(5), "dropping it waits no longer");
    eventually("its threads end once the coordinator comes round", || threads().is_empty());
}

/// S3.6, S3.10 to S3.12, S1.13, S4.10, S4.75: servers one after the other, and two at once, leave
/// no thread, no descriptor and no port behind.
#[test]
fn servers_come_and_go_in_one_process_and_leave_nothing() {
    let _alone = alone_in_the_process();
    let warm_up = start();
    warm_up.shutdown(DEADLINE).unwrap();
    eventually("its threads end", || threads().is_empty());
    let before = descriptors();
    for _ in 0..2 {
        let servers = [start(), start()];
        let clients: Vec<Client> =
            servers.iter().flat_map(|server| [client(server), client(server)]).collect();
        assert_eq!(servers.each_ref().map(Handle::connections), [2, 2]);
        assert!(servers.iter().all(Handle::is_ready));
        let leaving = std::thread::spawn(|| clients.into_iter().for_each(leave));
        for server in &servers {
            let report = server.shutdown(DEADLINE).unwrap();
            assert_eq!((report.exit_code, report.cause.as_str()), (Some(0), "program"));
            assert_eq!(report.outcomes["close_acknowledged"], 2, "{report:?}");
            assert_eq!((server.is_ready(), server.connections()), (false, 0));
        }
        leaving.join().unwrap();
        for address in servers.iter().flat_map(|server| [server.clients(), server.admin()]) {
            eventually("the port is free", || TcpListener::bind(address).is_ok());
        }
        drop(servers);
        eventually("the threads end", || threads().is_empty());
    }
    eventually("descriptors are closed", || descriptors() <= before);
}

/// S3.6: idempotent, from any thread, and bounded.
#[test]
fn all_who_ask_for_the_shutdown_get_the_same_report() {
    let _alone = alone_in_the_process();
    let server = start();
    let deaf = [client(&server), client(&server)];
    let reports: Vec<_> = std::thread::scope(|scope| {
        let ask = || server.shutdown(Duration::from_secs(3)).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let again = server.shutdown(Duration::ZERO).unwrap();
    for report in reports.iter().chain([&again]) {
        assert_eq!(report.started_at, reports[0].started_at);
        assert_eq!(report.duration_ms, reports[0].duration_ms);
        assert_eq!((report.outcomes["forced"], report.forced), (2, true));
    }
    assert!(reports[0].duration_ms <= 3_000, "{:?}", reports[0]);
    drop(deaf);
}

/// S3.6: it answers at its deadline, whatever hangs, and says what.
#[test]
fn a_shutdown_that_cannot_be_whole_is_an_error_that_says_what() {
    let _alone = alone_in_the_process();
    let server = start();
    // It hangs until the test is over.
    let (over, wait) = std::sync::mpsc::channel::<()>();
    let hang = move || {
        let _ = wait.recv();
        Ok(Statistics::none())
    };
    server.register(Resource::blocking("pool", Stage::Database, hang)).unwrap();
    let begun = Instant::now();
    let unfinished = server.shutdown(Duration::from_secs(2)).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert_eq!(unfinished.report.exit_code, Some(74));
    assert!(unfinished.to_string().contains("74"), "{unfinished}");
    let stages = serde_json::to_value(&unfinished.report.stages).unwrap();
    let pool = stages.as_array().unwrap().iter().find(|stage| stage["name"] == "database:pool");
    assert_eq!(pool.unwrap()["result"], "timed_out", "{stages}");
    drop(over);
}

/// A client of the admin listener that never stops asking, and others that hold it in other ways.
#[test]
fn a_shutdown_returns_in_its_time_whatever_clients_of_the_admin_do() {
    let _alone = alone_in_the_process();
    for kinds in [&[Kind::Pipeline][..], &[Kind::Deaf, Kind::HalfBody, Kind::Guess, Kind::Trickle]]
    {
        let mut config = config();
        config.admin.token = Some(Secret::new("correct-horse-battery-staple".to_owned()));
        let server = Server::new(config).start().unwrap();
        let siege = Siege::begin(server.admin(), kinds, kinds.len());
        eventually("they have connected", || siege.connects() >= kinds.len() as u64);
        let deadline = Duration::from_secs(3);
        let began = Instant::now();
        let waiting = std::thread::scope(|scope| {
            let other = scope.spawn(|| server.shutdown(deadline));
            (server.shutdown(deadline), other.join().unwrap())
        });
        assert!(began.elapsed() < deadline + Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!(waiting.0.unwrap().exit_code, Some(0));
        assert_eq!(waiting.1.unwrap().exit_code, Some(0));
        drop(siege);
    }
}

#[test]
fn a_server_that_is_dropped_is_stopped() {
    let _alone = alone_in_the_process();
    let server = start();
    let (clients, client) = (server.clients(), client(&server));
    let leaving = std::thread::spawn(move || leave(client));
    drop(server);
    leaving.join().unwrap();
    assert!(TcpListener::bind(clients).is_ok(), "nobody listens");
}

#[test]
fn the_admin_drains_and_publishes_and_does_not_reload_what_was_not_read() {
    let _alone = alone_in_the_process();
    let server = start();
    let mut subscriber = Client::connect(server.clients(), "/ws?channel=news");
    server.publish("news", "from the program").unwrap();
    assert_eq!(subscriber.frame().text(), "from the program");
    let publication = json!({ "channel": "news", "data": "over HTTP" });
    http::post(server.admin(), "/api/publish", &publication);
    assert_eq!(subscriber.frame().text(), "\"over HTTP\"");
    server.broadcast("to all").unwrap();
    assert_eq!(subscriber.frame().text(), "to all");
    assert!(server.publish("", "nobody").is_err());
    assert_eq!((server.status().phase.as_str(), server.status().connections_left), ("running", 1));

    let admin = server.admin();
    let request = format!(
        "POST /api/v1/config/reload HTTP/1.1\r\nHost: {admin}\r\nContent-Type: application/json\r\n\
         Content-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    );
    let (response, _) = wire::exchange(admin, request.as_bytes()).unwrap();
    assert_eq!(response.status, 422, "{response:?}");
    http::post(admin, "/api/v1/shutdown/shutdown", &json!({}));
    leave(subscriber);
    assert_eq!(server.wait().unwrap().cause, "operator");
}

/// What a program publishes reaches the other nodes too, and the threads that speak to Redis end
/// with their server.
#[test]
fn publications_of_a_program_reach_other_nodes() {
    let _alone = alone_in_the_process();
    let redis = Redis::start();
    let url = redis.url();
    let url = url.strip_prefix("redis.url=").unwrap();
    let node = |id: &str| {
        let mut config = config();
        config.redis.url = Some(Secret::new(url.to_owned()));
        config.redis.node_id = id.to_owned();
        config.redis.flush_interval_ms = 100;
        Server::new(config).start().unwrap()
    };
    let (here, there) = (node("here"), node("there"));
    let mut subscriber = Client::connect(there.clients(), "/ws?channel=news");
    let listens = |server: &Handle| {
        http::get(server.admin(), "/metrics").contains("tidegate_cluster_nodes 2")
    };
    eventually("both know of each other", || listens(&here) && listens(&there));
    // Whether the other node has subscribed already is known when something has arrived.
    let (arrived, has_arrived) = std::sync::mpsc::channel();
    let reading = std::thread::spawn(move || {
        let first = subscriber.frame().text().to_owned();
        arrived.send(first).unwrap();
        subscriber
    });
    let mut first = None;
    eventually("a publication arrives at the other node", || {
        here.publish("news", "to all nodes").unwrap();
        first = has_arrived.recv_timeout(Duration::from_millis(200)).ok();
        first.is_some()
    });
    assert_eq!(first.as_deref(), Some("to all nodes"));
    drop(reading.join().unwrap());
    for server in [here, there] {
        server.shutdown(DEADLINE).unwrap();
    }
    eventually("the threads end", || threads().is_empty());
}

#[test]
fn what_cannot_be_started_is_said_and_leaves_nothing() {
    let _alone = alone_in_the_process();
    eventually("other servers have gone", || threads().is_empty());
    let handler = |path: &str| Server::new(config()).handler(path, || Reverse).start();
    assert!(handler("/ws").unwrap_err().to_string().contains("/ws is served already"));
    assert!(handler("chat").unwrap_err().to_string().contains("is not a path"));
    let twice = || Resource::blocking("pool", Stage::Last, || Ok(Statistics::none()));
    let error = Server::new(config()).resource(twice()).resource(twice()).start().unwrap_err();
    assert!(error.to_string().contains("pool"), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = config();
    config.admin.listen = taken.local_addr().unwrap();
    let error = Server::new(config.clone()).start().unwrap_err();
    assert!(error.to_string().contains("admin.listen"), "{error}");
    assert_eq!(error.exit_code(), 69);
    assert_eq!(threads(), Vec::<String>::new());
    config.shutdown.deadline_ms = 0;
    let error = Server::new(config.clone()).start().unwrap_err();
    assert!(error.to_string().contains("shutdown.deadline_ms"), "{error}");
    assert_eq!(error.exit_code(), 78);
    // Found out when the shards run already.
    config.shutdown.deadline_ms = 30_000;
    config.admin.listen = "0.0.0.0:0".parse().unwrap();
    let error = Server::new(config).start().unwrap_err();
    assert!(error.to_string().contains("needs admin.token"), "{error}");
    eventually("what had been started ends", || threads().is_empty());
    // A handler that cannot be made, on the shard's own thread.
    let error = Server::new(self::config())
        .handler("/reverse", || -> Reverse { panic!("on purpose") })
        .start()
        .unwrap_err();
    assert!(error.to_string().contains("panicked: on purpose"), "{error}");
    eventually("the shards end", || threads().is_empty());
    let mut config = self::config();
    config.server.allowed_origins = vec!["https://example.com/chat".to_owned()];
    let error = Server::new(config).start().unwrap_err();
    assert!(error.to_string().contains("server.allowed_origins"), "{error}");
    assert_eq!(error.exit_code(), 78);
}

/// Log lines as the program's logger sees them.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Signals that the process handles, one bit each: proc_pid_status(5).
fn caught_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap()
}

/// S3.14, S3.13, S3.29, S3.20, S1.33: the logger is the program's before, while and after; signals
/// are its own.
#[test]
fn the_logger_and_the_signals_of_the_program_are_left_alone() {
    let _alone = alone_in_the_process();
    start().shutdown(DEADLINE).unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let logger = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
    // Which fails if somebody has installed one already.
    logger.flatten_event(true).try_init().unwrap();
    let server = start();
    let sigterm = 1 << (15 - 1);
    assert_eq!(caught_signals() & sigterm, 0);
    server.shutdown(DEADLINE).unwrap();
    tracing::info!("the program goes on");
    let events = lines.events();
    let said = |text: &str| {
        let message = |event: &Value| event["message"].as_str().unwrap_or_default().contains(text);
        events.iter().position(message).unwrap_or_else(|| panic!("{text}: {events:?}"))
    };
    let order = [
        "shutdown requested, initiating graceful shutdown",
        "stopping to accept new connections",
        "Graceful shutdown completed in ",
        "the program goes on",
    ]
    .map(said);
    assert!(order.is_sorted(), "{order:?}");
}
