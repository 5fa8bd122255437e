//! The listener as its clients see it: a real thread, real sockets, a server of two shards
//! whose coordinator and inboxes are played by the test.

mod bounds;
mod publish;
mod reload;
mod routes;
mod shutdown;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use serde_json::Value;

use super::connection::Patience;
use super::figures::Counted;
use super::moment::Moment;
use super::process::ProcessFigures;
use super::server::start_with;
use super::{AdminContext, AdminHandle, bind};
use crate::clock::{Clock, Now};
use crate::config::{Config, Secret};
use crate::coordinator::command::Command;
use crate::coordinator::phase::Phase;
use crate::coordinator::state::ServerState;
use crate::mesh::inbox::{Inbox, inbox};
use crate::mesh::publisher::Publisher;
use crate::metrics::ShardMetrics;
use crate::redis::board::View;
use crate::sys::event_fd::EventFd;

pub(super) const TOKEN: &str = "not to be shown anywhere";

pub(super) fn state_with(config: Config, phase: Phase) -> Arc<ServerState> {
    let shards = (0..2).map(|_| Arc::new(ShardMetrics::default())).collect();
    let state = ServerState::new(Arc::new(config), Clock::start(), shards);
    state.enter_for_test(phase);
    Arc::new(state)
}

/// A server of two shards with a token, two hours after its start.
pub(super) fn moment(phase: Phase) -> Moment {
    Moment {
        state: state_with(with_token(), phase),
        now: Now::from_ms(7_200_000),
        timestamp: "2026-01-01T00:00:00.000Z".to_owned(),
        process: ProcessFigures::default(),
        redis: View::default(),
        inboxes: vec![0, 0],
        last_shutdown: None,
        admin: Counted::default(),
    }
}

fn with_token() -> Config {
    let mut config = Config::default();
    config.admin.token = Some(Secret::new(TOKEN.to_owned()));
    config
}

/// A listener at work.
struct Admin {
    handle: Option<AdminHandle>,
    state: Arc<ServerState>,
    /// What the shards would read.
    inboxes: Vec<Inbox>,
    /// What the coordinator would read.
    commands: Receiver<Command>,
}

impl Admin {
    fn start() -> Self {
        Self::with(Config::default(), 100, Patience::SERVER)
    }

    /// With inboxes of this size.
    fn with(config: Config, inbox_size: usize, patience: Patience) -> Self {
        let state = state_with(config, Phase::Running);
        let (postboxes, inboxes) =
            (0..2).map(|_| inbox(inbox_size, EventFd::new().unwrap())).unzip();
        let (sender, commands) = bounded(1);
        let context = AdminContext {
            state: Arc::clone(&state),
            commands: sender,
            publisher: Publisher::new(postboxes),
            last_shutdown: None,
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let handle = start_with(listener, context, patience).unwrap();
        Self { handle: Some(handle), state, inboxes, commands }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.handle.as_ref().unwrap().address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream
    }

    /// Sends bytes and reads until the listener closes.
    fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes.as_ref()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    /// A request with these header lines (each ending in CRLF) on a connection of its own.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Reply {
        Reply::read(&self.exchange(format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )))
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "", "")
    }

    /// A POST to the server API whose errors are to be statuses.
    fn post_for_status(&self, path: &str, body: &str) -> Reply {
        let headers = "content-type: application/json\r\nX-Centrifugo-Error-Mode: transport\r\n";
        self.ask("POST", path, headers, body)
    }

    fn post(&self, path: &str, body: &str) -> Reply {
        self.ask("POST", path, "content-type: application/json\r\n", body)
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            assert!(!handle.is_finished(), "the admin thread has ended");
            assert!(handle.stop_within(Duration::from_secs(5), Duration::from_secs(5)));
        }
    }
}

/// One answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(text: &str) -> Self {
        let Some((head, body)) = text.split_once("\r\n\r\n") else { panic!("no head: {text:?}") };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        match serde_json::from_str(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error}: {self:?}"),
        }
    }

    /// Asserts an error in the listener's own form.
    fn is_error(&self, status: u16, code: &str, said: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        let error = &self.json()["error"];
        assert_eq!(error["code"], code, "{self:?}");
        assert!(error["message"].as_str().unwrap().contains(said), "no {said:?} in {self:?}");
    }
}
