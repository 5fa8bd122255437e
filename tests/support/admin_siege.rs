//! A thousand hostile clients of the admin listener, of every kind, driven by one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::socket;

/// What a hostile client does. A connection that ends is made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Says nothing.
    Silent,
    /// Sends a byte of a head each second.
    Trickle,
    /// Guesses tokens, many requests ahead of the answers.
    Guess,
    /// Asks for what there is not, many requests ahead of the answers.
    Pipeline,
    /// Begins a long body and does not go on.
    HalfBody,
    /// Asks for long answers and reads none.
    Deaf,
    /// Asks for probes as fast as they are answered.
    Probe,
    /// Asks for what an operator asks for, as fast as it is answered.
    Status,
    /// Sends a request and resets the connection.
    Churn,
}

pub(crate) const KINDS: [Kind; 8] = [
    Kind::Silent,
    Kind::Trickle,
    Kind::Guess,
    Kind::Pipeline,
    Kind::HalfBody,
    Kind::Deaf,
    Kind::Probe,
    Kind::Churn,
];

/// The clients at work. They stop when this is dropped.
pub(crate) struct Siege {
    stop: Arc<AtomicBool>,
    connects: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// Connections that are made in one round: two thousand a second at most, so that the attackers
/// leave some of the machine to what is measured.
const CONNECTS_PER_ROUND: usize = 20;

const ROUND: Duration = Duration::from_millis(10);

impl Siege {
    /// `count` clients of these kinds, by turns.
    pub(crate) fn begin(admin: SocketAddr, kinds: &[Kind], count: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let connects = Arc::<AtomicU64>::default();
        let clients = kinds.iter().cycle().take(count).map(|kind| Hostile::new(*kind)).collect();
        let driver = Driver { admin, clients, connects: Arc::clone(&connects) };
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || driver.run(&told));
        Self { stop, connects, thread: Some(thread) }
    }

    /// Connections that were made so far.
    pub(crate) fn connects(&self) -> u64 {
        self.connects.load(Ordering::Relaxed)
    }
}

impl Drop for Siege {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the driver is a fault of the test.
            assert!(thread.join().is_ok() || thread::panicking());
        }
    }
}

struct Driver {
    admin: SocketAddr,
    clients: Vec<Hostile>,
    connects: Arc<AtomicU64>,
}

impl Driver {
    fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let (began, mut may_connect) = (Instant::now(), CONNECTS_PER_ROUND);
            for client in &mut self.clients {
                if client.stream.is_none() && may_connect > 0 {
                    may_connect -= 1;
                    client.connect(self.admin);
                    self.connects.fetch_add(1, Ordering::Relaxed);
                }
                client.act();
            }
            thread::sleep(ROUND.saturating_sub(began.elapsed()));
        }
    }
}

struct Hostile {
    kind: Kind,
    stream: Option<TcpStream>,
    acted: Option<Instant>,
    number: u64,
}

impl Hostile {
    fn new(kind: Kind) -> Self {
        Self { kind, stream: None, acted: None, number: 0 }
    }

    fn connect(&mut self, admin: SocketAddr) {
        let connected = TcpStream::connect_timeout(&admin, Duration::from_millis(200));
        self.stream = connected.ok().filter(|stream| stream.set_nonblocking(true).is_ok());
        self.acted = None;
    }

    fn act(&mut self) {
        match self.kind {
            Kind::Silent => self.look(),
            Kind::Trickle => {
                let is_due = self.acted.is_none_or(|at| at.elapsed() > Duration::from_secs(1));
                if is_due {
                    self.acted = Some(Instant::now());
                    self.write(if self.number == 0 { "GET /livez HTTP/1.1\r\nx: " } else { "y" });
                }
                self.look();
            }
            Kind::Guess => {
                self.number += 1;
                let token = format!("x-api-key: guess-{:020}\r\n", self.number);
                self.ahead("/metrics", &token);
                self.look();
            }
            Kind::Pipeline => {
                self.ahead("/nothing", "");
                self.look();
            }
            Kind::HalfBody => {
                if self.acted.is_none() {
                    self.acted = Some(Instant::now());
                    let head = "POST /api/v1/broadcast HTTP/1.1\r\nhost: localhost\r\n\
                                content-type: application/json\r\ncontent-length: 4000000\r\n\r\n";
                    self.write(&format!("{head}{}", "[".repeat(300_000)));
                }
                self.look();
            }
            Kind::Deaf => {
                self.ahead("/api/v1/shutdown/overview", "");
            }
            Kind::Probe => {
                self.ahead("/livez", "");
                self.look();
            }
            Kind::Status => {
                self.ahead("/health/status", "");
                self.look();
            }
            Kind::Churn => {
                self.ahead("/nothing", "");
                if let Some(stream) = self.stream.take() {
                    socket::reset(stream);
                }
            }
        }
    }

    /// Sends a handful of requests without waiting for answers.
    fn ahead(&mut self, path: &str, headers: &str) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
        self.write(&request.repeat(20));
    }

    fn write(&mut self, bytes: &str) {
        self.number += 1;
        let Some(stream) = &mut self.stream else { return };
        match stream.write(bytes.as_bytes()) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.stream = None,
        }
    }

    /// Throws away what has come; notices the end.
    fn look(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        let mut buffer = [0; 16 << 10];
        match stream.read(&mut buffer) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => self.stream = None,
        }
    }
}
