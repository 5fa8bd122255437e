//! A client that reads at a steady rate.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};

use super::wire::{
    self, CLOSE, Client, FIN, Frame, PING, PONG, close_payload, frame, parse_server_frame,
};
use super::{PATIENCE, socket};

/// How long a reader is followed if nothing else is said.
pub(crate) const LONGEST: Duration = Duration::from_secs(90);

/// How often it sees whether the server takes what it sends, while nothing comes.
const LOOK: Duration = Duration::from_millis(20);

/// A client that reads so many bytes in a second, answers pings when it has read them, and
/// answers Close. What it sends itself goes out as the server takes it.
pub(crate) struct SlowReader {
    pub(crate) stream: TcpStream,
    /// How long it is followed at most.
    pub(crate) longest: Duration,
    bytes_per_second: usize,
    received: Vec<u8>,
    read: usize,
    since: Instant,
    begun: Instant,
    pings: usize,
    to_send: VecDeque<u8>,
}

/// What a slow reader got.
pub(crate) struct Story {
    pub(crate) messages: Vec<Vec<u8>>,
    /// The code of Close, if one came.
    pub(crate) closed: Option<u16>,
    pub(crate) pings: usize,
    /// Bytes of frames.
    pub(crate) read: usize,
    pub(crate) took: Duration,
}

impl SlowReader {
    pub(crate) fn connect(
        server: SocketAddr,
        path: &str,
        bytes_per_second: usize,
        receive_bytes: Option<usize>,
    ) -> Self {
        let stream = socket::connect_with(Ipv4Addr::LOCALHOST, server, receive_bytes).unwrap();
        let client = Client::upgrade(stream, path).unwrap().unwrap();
        client.stream.set_read_timeout(Some(LOOK)).unwrap();
        Self {
            stream: client.stream,
            longest: LONGEST,
            bytes_per_second,
            received: Vec::new(),
            read: 0,
            since: Instant::now(),
            begun: Instant::now(),
            pings: 0,
            to_send: VecDeque::new(),
        }
    }

    /// Waits until the next bytes are due, and reads them. False at the end of the connection.
    fn read_some(&mut self) -> bool {
        let step = (self.bytes_per_second / 20).max(1);
        let due = (self.read + step) as f64 / self.bytes_per_second as f64;
        thread::sleep(Duration::from_secs_f64(due).saturating_sub(self.since.elapsed()));
        self.send_some();
        let (took, read) = (self.begun.elapsed(), self.read);
        assert!(took < self.longest, "{read} bytes in {took:?}");
        let mut chunk = vec![0; step];
        let waited = Instant::now();
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(len) => {
                    self.received.extend(&chunk[..len]);
                    self.read += len;
                    // It does not hurry for what has not come.
                    self.since += waited.elapsed();
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    assert!(waited.elapsed() < PATIENCE, "nothing comes after {} bytes", self.read);
                    self.send_some();
                }
                Err(error) if wire::is_reset(&error) => return false,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let (frame, len) = parse_server_frame(&self.received).unwrap()?;
        self.received.drain(..len);
        Some(frame)
    }

    /// Reads until so many messages have come, or to the end.
    pub(crate) fn read_messages(mut self, count: usize) -> Story {
        self.begun = Instant::now();
        self.since = self.begun;
        let mut messages = Vec::new();
        let mut closed = None;
        loop {
            while let Some(heard) = self.take_frame() {
                assert_eq!(closed, None, "{} bytes after Close", heard.payload.len());
                match heard.opcode() {
                    PING => {
                        self.pings += 1;
                        self.answer(&frame(FIN | PONG, &heard.payload));
                    }
                    CLOSE => {
                        closed = heard.close_code();
                        self.answer(&frame(FIN | CLOSE, &close_payload(1001, "")));
                    }
                    _ => messages.push(heard.payload),
                }
            }
            if messages.len() >= count || !self.read_some() {
                let (pings, read, took) = (self.pings, self.read, self.begun.elapsed());
                return Story { messages, closed, pings, read, took };
            }
        }
    }

    /// Sends this behind what is to be sent already. The server may have gone meanwhile.
    pub(crate) fn answer(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
        self.send_some();
    }

    /// Sends this when it begins to read.
    pub(crate) fn queue(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
    }

    fn send_some(&mut self) {
        while !self.to_send.is_empty() {
            let sent = send(&self.stream, self.to_send.as_slices().0, SendFlags::DONTWAIT);
            match sent {
                Ok(len) => drop(self.to_send.drain(..len)),
                Err(_) => return,
            }
        }
    }

    pub(crate) fn follow(self, count: usize) -> thread::JoinHandle<Story> {
        thread::spawn(move || self.read_messages(count))
    }
}
