//! The real binary: started on free ports, its log collected, ended whatever happens.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// A running server.
pub(crate) struct Server {
    child: Child,
    log: Log,
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// Where the admin API is.
    pub(crate) admin: SocketAddr,
    panic_expected: bool,
}

/// What every server here is started with, unless a test sets it otherwise: free ports, `/echo`,
/// and no limit that is not the subject.
const DEFAULTS: [(&str, &str); 7] = [
    ("server.listen", "127.0.0.1:0"),
    ("admin.listen", "127.0.0.1:0"),
    ("server.echo", "true"),
    ("log.format", "json"),
    ("admission.connections_per_ip_per_minute", "0"),
    ("admission.global_connections_per_second", "1000000"),
    // A machine that is busy with other things is not the subject.
    ("admission.shed_load", "false"),
];

/// The command that serves with these settings (`section.key=value`) over the defaults, in an
/// environment that holds nothing else.
pub(crate) fn command(settings: &[&str]) -> Command {
    let mut values: BTreeMap<&str, &str> = DEFAULTS.into();
    for setting in settings {
        let (key, value) = setting.split_once('=').expect("key=value");
        values.insert(key, value);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("serve").env_clear().stdin(Stdio::null()).stdout(Stdio::null());
    for (key, value) in values {
        command.arg("--set").arg(format!("{key}={value}"));
    }
    command
}

impl Server {
    /// Starts a server with these settings over the defaults and waits until it serves.
    #[track_caller]
    pub(crate) fn start(settings: &[&str]) -> Self {
        Self::from_command(command(settings))
    }

    /// The same, from a command.
    #[track_caller]
    pub(crate) fn from_command(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let log = Log::collect(child.stderr.take().expect("a pipe"));
        let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server =
            Self { child, log, clients: unspecified, admin: unspecified, panic_expected: false };
        let serves = server.wait_for_log("Tidegate serves WebSocket clients");
        server.clients = text(&serves, "clients").parse().expect("an address");
        let figures = server.wait_for_log("figures: curl http://");
        let address = text(&figures, "message").split(['/', ' ']).nth(4).map(str::parse);
        server.admin = address.expect("an address").expect("an address");
        server
    }

    /// A panic in the log is what this test is about.
    pub(crate) fn expect_panic(&mut self) {
        self.panic_expected = true;
    }

    /// The process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to this process.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server takes the signal");
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.wait_at_most(PATIENCE)
    }

    /// The same with a bound of its own.
    #[track_caller]
    pub(crate) fn wait_at_most(&mut self, bound: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(started.elapsed() < bound, "the server has not ended within {bound:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// True until the process ends.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// The first log event whose message contains `part`, waiting for it.
    #[track_caller]
    pub(crate) fn wait_for_log(&mut self, part: &str) -> Value {
        match self.log.wait_for(part, PATIENCE) {
            Some(event) => event,
            None => panic!("no {part:?} in the log"),
        }
    }

    /// The log so far: one JSON object for each event.
    pub(crate) fn log(&self) -> Vec<Value> {
        self.log.events()
    }

    /// The last line of the log of a server that has ended.
    #[track_caller]
    pub(crate) fn last_line(&mut self) -> Value {
        self.log.finish();
        self.log().pop().expect("a line")
    }

    /// Sends SIGTERM, waits for the end, and returns the exit code and the last words.
    #[track_caller]
    pub(crate) fn drain(&mut self) -> (Option<i32>, Value) {
        self.signal(Signal::TERM);
        self.ended()
    }

    /// Waits for the end, and returns the exit code and the last words.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> (Option<i32>, Value) {
        let status = self.wait();
        (status.code(), self.wait_for_log("Graceful shutdown completed"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.finish();
        let panics = self.log.lines_with("\"panic: ");
        if std::thread::panicking() {
            let lines = self.log.lines();
            let from = lines.len().saturating_sub(40);
            eprintln!("--- the server's log, last lines\n{}", lines[from..].join("\n"));
        } else {
            assert_eq!(!panics.is_empty(), self.panic_expected, "panics: {panics:?}");
        }
    }
}

/// A field of a log event, as text.
#[track_caller]
pub(crate) fn text<'a>(event: &'a Value, field: &str) -> &'a str {
    match event[field].as_str() {
        Some(text) => text,
        None => panic!("no text field {field} in {event}"),
    }
}

/// The outcomes in the last words: their names and counts.
#[track_caller]
pub(crate) fn outcomes(last_words: &Value) -> BTreeMap<String, u64> {
    serde_json::from_str(text(last_words, "outcomes")).expect("outcomes as JSON")
}

/// The lines that a process writes to standard error.
struct Log {
    shared: Arc<(Mutex<Lines>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

impl Log {
    fn collect(stderr: impl std::io::Read + Send + 'static) -> Self {
        let shared = Arc::<(Mutex<Lines>, Condvar)>::default();
        let (state, changed) = (Arc::clone(&shared), ());
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                state.0.lock().expect("no panic").lines.push(line);
                state.1.notify_all();
            }
            state.0.lock().expect("no panic").ended = true;
            state.1.notify_all();
            changed
        });
        Self { shared, reader: Some(reader) }
    }

    fn wait_for(&self, part: &str, patience: Duration) -> Option<Value> {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut lines = self.shared.0.lock().expect("no panic");
        loop {
            let found = lines.lines[seen..].iter().filter_map(|line| event(line)).find(|event| {
                event["message"].as_str().is_some_and(|message| message.contains(part))
            });
            if found.is_some() {
                return found;
            }
            seen = lines.lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                return None;
            }
            lines = self.shared.1.wait_timeout(lines, left).expect("no panic").0;
        }
    }

    fn lines(&self) -> Vec<String> {
        self.shared.0.lock().expect("no panic").lines.clone()
    }

    fn events(&self) -> Vec<Value> {
        self.lines().iter().filter_map(|line| event(line)).collect()
    }

    fn lines_with(&self, part: &str) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.contains(part)).collect()
    }

    /// Waits for the end of the log, which is there once the process is gone.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn event(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok()
}
