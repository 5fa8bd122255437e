//! Who publishes: a thread of its own, at a fixed rate, through a server's API or as a client.
//!
//! A message carries its number and the time when it was due, so that what a late publisher
//! costs is in the latency and cannot be overlooked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::crew::{Phase, PhaseSign};
use crate::latency::Latencies;
use crate::server::Admin;
use crate::target::Target;

/// How long one publication may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the publisher looks whether it is time.
const LOOK: Duration = Duration::from_millis(2);
/// An HTTP connection that has been idle for longer is not used again: servers close those, and one
/// that does so while a request is on its way leaves it open whether it was taken.
const FRESH: Duration = Duration::from_secs(1);
/// Longest head of an answer.
const LONGEST_HEAD: u64 = 64 << 10;

/// How messages are published.
#[derive(Clone, Debug)]
pub(crate) enum Means {
    /// `POST /api/publish` of an admin listener.
    Api { admin: Admin, channel: String },
    /// `POST` of the bare message.
    Post { authority: String, path: String },
    /// A text message of another client.
    Client(Target),
}

/// What is published, and when.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) means: Means,
    pub(crate) per_second: f64,
    pub(crate) bytes: usize,
    /// Zero of the times in the messages.
    pub(crate) epoch: Instant,
}

/// What was published.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) count: u64,
    /// From when a message was due until it was handed over.
    pub(crate) late: Latencies,
    /// From then until the server had taken it.
    pub(crate) answered: Latencies,
    /// Why it ended before its time.
    pub(crate) failed: Option<String>,
}

/// A publisher at work.
pub(crate) struct Publisher {
    thread: JoinHandle<Published>,
}

impl Publisher {
    /// Starts when the window does and ends with it. `count` says how many are out.
    ///
    /// # Errors
    /// The server cannot be reached, or a thread cannot be had.
    pub(crate) fn start(
        schedule: Schedule,
        phase: PhaseSign,
        count: Arc<AtomicU64>,
    ) -> io::Result<Self> {
        let mut line = Line::open(&schedule.means)?;
        let work = move || {
            let mut published = Published {
                count: 0,
                late: Latencies::new(),
                answered: Latencies::new(),
                failed: None,
            };
            while phase.now() < Phase::Measuring {
                std::thread::sleep(LOOK);
            }
            let began = Instant::now();
            while phase.now() == Phase::Measuring {
                let due =
                    began + Duration::from_secs_f64(published.count as f64 / schedule.per_second);
                let wait = due.saturating_duration_since(Instant::now());
                if !wait.is_zero() {
                    // In small parts, so that the end of the window is noticed.
                    std::thread::sleep(wait.min(LOOK));
                    continue;
                }
                let at_us = due.duration_since(schedule.epoch).as_micros() as u64;
                let message = message(published.count, at_us, schedule.bytes);
                let handed = Instant::now();
                if let Err(error) = line.publish(&message) {
                    published.failed = Some(error.to_string());
                    break;
                }
                published.late.record(handed - due);
                published.answered.record(handed.elapsed());
                published.count += 1;
                count.store(published.count, Relaxed);
            }
            published
        };
        let thread = std::thread::Builder::new().name(String::from("publisher")).spawn(work)?;
        Ok(Self { thread })
    }

    /// What it did.
    pub(crate) fn end(self) -> Published {
        self.thread.join().unwrap_or_else(|_| Published {
            count: 0,
            late: Latencies::new(),
            answered: Latencies::new(),
            failed: Some(String::from("the publisher panicked")),
        })
    }
}

/// JSON of about so many bytes.
fn message(number: u64, at_us: u64, bytes: usize) -> String {
    let mut message = format!(r#"{{"seq":{number},"at_us":{at_us},"pad":""#);
    let pad = bytes.saturating_sub(message.len() + 2);
    message.extend(std::iter::repeat_n('.', pad));
    message.push_str("\"}");
    message
}

/// An open connection to whoever takes publications.
enum Line {
    Http { stream: BufReader<TcpStream>, used: Instant, authority: String, means: Means },
    Socket(tungstenite::WebSocket<Uninterrupted>),
}

/// A stream with timeouts, on which the kernel gives up a call also if the thread has something
/// else to do for it, such as the end of a ring that it once had: the call is made again.
struct Uninterrupted(TcpStream);

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Read for Uninterrupted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(bytes))
    }
}

impl Write for Uninterrupted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn connect(host: impl ToSocketAddrs) -> io::Result<TcpStream> {
    let address = host.to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Line {
    fn open(means: &Means) -> io::Result<Self> {
        let authority = match means {
            Means::Api { admin, .. } => &admin.url.authority,
            Means::Post { authority, .. } => authority,
            Means::Client(target) => {
                let stream = Uninterrupted(connect((target.host.as_str(), target.port))?);
                let url = format!("ws://{}{}", target.authority, target.path);
                let (socket, _) = tungstenite::client(url, stream)
                    .map_err(|error| io::Error::other(format!("the publisher: {error}")))?;
                drain(Uninterrupted(socket.get_ref().0.try_clone()?))?;
                return Ok(Self::Socket(socket));
            }
        };
        let stream = BufReader::new(connect(authority.as_str())?);
        let (used, authority, means) = (Instant::now(), authority.clone(), means.clone());
        Ok(Self::Http { stream, used, authority, means })
    }

    fn publish(&mut self, message: &str) -> io::Result<()> {
        match self {
            Self::Socket(socket) => socket
                .send(tungstenite::Message::text(message))
                .map_err(|error| io::Error::other(error.to_string())),
            Self::Http { stream, used, authority, means } => {
                if used.elapsed() > FRESH {
                    *stream = BufReader::new(connect(authority.as_str())?);
                }
                stream.get_mut().write_all(request(means, authority, message).as_bytes())?;
                read_answer(stream)?;
                *used = Instant::now();
                Ok(())
            }
        }
    }
}

/// Reads what comes back to a publisher that is itself subscribed, and forgets it.
fn drain(mut stream: Uninterrupted) -> io::Result<()> {
    let read = move || {
        let mut bytes = [0; 64 << 10];
        loop {
            match stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    };
    std::thread::Builder::new().name(String::from("publisher-reads")).spawn(read).map(drop)
}

fn request(means: &Means, authority: &str, message: &str) -> String {
    let (path, key, body) = match means {
        Means::Api { admin, channel } => {
            let channel = serde_json::Value::from(channel.as_str());
            let body = format!(r#"{{"channel":{channel},"data":{message}}}"#);
            let key = admin.token.as_ref().map(|token| format!("X-API-Key: {token}\r\n"));
            ("/api/publish", key.unwrap_or_default(), body)
        }
        Means::Post { path, .. } => (path.as_str(), String::new(), message.to_owned()),
        Means::Client(_) => ("/", String::new(), message.to_owned()),
    };
    format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/json\r\n\
         {key}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads one answer, which must be a success with a length.
fn read_answer(stream: &mut BufReader<TcpStream>) -> io::Result<()> {
    let (mut status, mut length, mut line) = (String::new(), None, String::new());
    loop {
        line.clear();
        if stream.by_ref().take(LONGEST_HEAD).read_line(&mut line)? == 0 {
            return Err(io::Error::other("the server closed the publisher's connection"));
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if status.is_empty() {
            text.clone_into(&mut status);
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<u64>().ok();
        }
    }
    let length = length.ok_or_else(|| io::Error::other("an answer without Content-Length"))?;
    let mut body = String::new();
    stream.by_ref().take(length).read_to_string(&mut body)?;
    match status.split(' ').nth(1) {
        Some(code) if code.starts_with('2') && !body.contains("\"error\"") => Ok(()),
        _ => Err(io::Error::other(format!("a publication was answered {status:?} {body}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sequence::number_in;

    #[test]
    fn a_message_has_its_number_its_time_and_its_length() {
        let text = message(7, 1_500, 200);
        assert_eq!((number_in(&text, "seq"), number_in(&text, "at_us")), (Some(7), Some(1_500)));
        assert_eq!(text.len(), 200);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert!(message(7, 1_500, 1).ends_with("\"pad\":\"\"}"), "never shorter than it must be");
    }
}
