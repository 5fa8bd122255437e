//! What belongs to the application around the server is closed at the shutdown: one resource for
//! each thing that the five systems close, in its stage and its time, with one line when it begins
//! and one when it has ended (rule 8).

use std::io::{self, Write};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tidegate::Server;
use tidegate::config::Config;
use tidegate::coordinator::report::StageResult;
use tidegate::resources::{Closed, Resource, Stage, Statistics};

/// The log as the program's logger sees it.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn events(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 1;
    config.shutdown.notice_ms = 10;
    config
}

fn done() -> Closed {
    Ok(Statistics::none())
}

/// A resource that notes when it is closed.
fn noted(order: &mpsc::Sender<&'static str>, name: &'static str, stage: Stage) -> Resource {
    let order = order.clone();
    Resource::blocking(name, stage, move || {
        order.send(name)?;
        done()
    })
}

/// The position of the first event with this message.
#[track_caller]
fn position(events: &[Value], message: &str) -> usize {
    let found = events.iter().position(|event| event["message"] == message);
    found.unwrap_or_else(|| panic!("{message:?} was not said: {events:#?}"))
}

/// Rule 8, S1.6 to S1.8, S1.14 to S1.18, S1.25, S1.29, S1.31, S1.33, S1.43, S1.62 to S1.64, S2.11,
/// S3.19, S3.20, S4.3, S4.5, S4.14, S4.16, S4.17, S4.56, S4.58, S4.59, S4.61, S4.62, S4.74.
#[test]
fn everything_that_an_application_closes_is_closed_in_order_and_told() {
    let lines = Lines::default();
    let writer = lines.clone();
    let logger = tracing_subscriber::fmt().json().with_writer(move || writer.clone());
    logger.flatten_event(true).try_init().unwrap();

    let (order, closed) = mpsc::channel();
    let mut server = Server::new(config());
    // Registered in the opposite order: the stages count.
    for (name, stage) in [
        ("temporary files", Stage::Last),
        ("payment gateways", Stage::External),
        ("AI service", Stage::External),
        ("database connections", Stage::Database),
        ("channel layer", Stage::Cache),
        ("Redis connection", Stage::Cache),
        ("registration at the load balancer", Stage::Before),
    ] {
        server = server.resource(noted(&order, name, stage));
    }
    // S1.6: the tasks, each of which ends what it is doing when it is told.
    for name in [
        "metrics sync",
        "ledger ingestion",
        "liquidity-pool sync",
        "trustline-stats sync",
        "realtime broadcaster",
        "webhook dispatcher",
    ] {
        let (stop, stopped) = mpsc::channel::<()>();
        let task = std::thread::spawn(move || {
            // Works until nobody holds the other end any more.
            while stopped.recv_timeout(Duration::from_millis(1))
                != Err(mpsc::RecvTimeoutError::Disconnected)
            {}
        });
        let close = move || {
            drop(stop);
            task.join().map_err(|_| "the task panicked")?;
            done()
        };
        server = server.resource(Resource::blocking(name, Stage::Background, close));
    }
    let figures = order.clone();
    let statistics = async move {
        figures.send("cache")?;
        Ok(Statistics::none()
            .with("Hits", 3)
            .with("Misses", 1)
            .with("Invalidations", 0)
            .with("Hit Rate", "75.0%"))
    };
    server = server
        .resource(Resource::future("cache", Stage::Cache, statistics))
        .resource(Resource::blocking("file storage", Stage::External, || Err("disk full".into())))
        .resource(
            Resource::future("legacy bridge", Stage::External, std::future::pending())
                .timeout(Duration::from_millis(100)),
        );
    drop(order);
    let unfinished = server.start().unwrap().shutdown(Duration::from_secs(20)).unwrap_err();

    let expected = [
        "registration at the load balancer",
        "channel layer",
        "Redis connection",
        "cache",
        "database connections",
        "payment gateways",
        "AI service",
        "temporary files",
    ];
    assert_eq!(closed.into_iter().collect::<Vec<_>>(), expected);

    let events = lines.events();
    let said = |message: &str| position(&events, message);
    for (closing, closed) in [
        ("Closing channel layer", "Channel layer closed"),
        ("Closing Redis connection", "Redis connection closed"),
        ("Closing cache", "Cache closed"),
        ("Closing database connections", "Database connections closed"),
        ("Closing payment gateways", "Payment gateways closed"),
        ("Closing temporary files", "Temporary files closed"),
        ("Metrics sync shutting down", "Metrics sync closed"),
        ("Webhook dispatcher shutting down", "Webhook dispatcher closed"),
    ] {
        assert!(said(closing) < said(closed), "{closing}");
    }
    let sequence = [
        "Closing registration at the load balancer",
        "Server received shutdown signal, stopping to accept new connections",
        "Shutting down background tasks",
        "All background tasks completed within timeout",
        "Closing channel layer",
        "Cache statistics - Hits: 3, Misses: 1, Invalidations: 0, Hit Rate: 75.0%",
        "Closing database connections",
        "File storage: closing failed",
        "Legacy bridge: closing timed out",
        "Closing temporary files",
    ]
    .map(said);
    assert!(sequence.is_sorted(), "{sequence:?}");

    let failed = &events[said("File storage: closing failed")];
    assert_eq!((&failed["level"], &failed["error"]), (&"WARN".into(), &"disk full".into()));
    assert_eq!((&failed["stage"], &failed["state"]), (&"external".into(), &"failed".into()));
    assert_eq!(events[said("Legacy bridge: closing timed out")]["level"], "WARN");

    let report = unfinished.report;
    assert_eq!((report.exit_code, report.forced), (Some(74), false));
    let result = |name: &str| {
        let stage = report.stages.iter().find(|stage| stage.name == name);
        stage.unwrap_or_else(|| panic!("{name}: {report:?}")).result
    };
    assert_eq!(result("background:ledger ingestion"), StageResult::Done);
    assert_eq!(result("external:file storage"), StageResult::Failed);
    assert_eq!(result("external:legacy bridge"), StageResult::TimedOut);
    assert_eq!(result("last:temporary files"), StageResult::Done);
}
