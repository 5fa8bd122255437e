//! Every known way in which clients make a server hold memory, in a table: what they do, and from
//! where. Sources are addresses of 127.0.0.0/8, a block of its own for each way, so that a port is
//! never short; [`SETTINGS`] says what the server has to think of some of them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use flate2::{Compress, Compression, FlushCompress};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::load::Load;
use super::socket;
use super::wire::{
    BINARY, COMPRESSED, CONTINUATION, Client, FIN, TEXT, frame, header, upgrade_request,
    upgrade_request_with,
};

/// How the server must be set up: whom it refuses, which proxies it believes, and how soon it
/// forgets a session.
pub(crate) const SETTINGS: [&str; 4] = [
    "admission.deny=127.10.0.0/15",
    "server.trusted_proxies=127.12.0.0/15",
    "server.proxy_protocol=accept",
    "sessions.expiry_ms=1000",
];

/// Threads that connect and send at the same time.
const WORKERS: usize = 32;

/// How long a client waits for a server that takes nothing, before it turns to its next connection.
const PATIENCE: Duration = Duration::from_millis(200);

/// Whom it is done to, and how much of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Where clients connect.
    pub(crate) clients: SocketAddr,
    /// The admin API.
    pub(crate) admin: SocketAddr,
    /// So many addresses take part.
    pub(crate) sources: usize,
    /// Connections of a way that needs many of them.
    pub(crate) many: usize,
    /// Connections that the server can hold.
    pub(crate) capacity: u64,
}

/// What is held at its end.
#[derive(Default)]
pub(crate) struct Held {
    streams: Vec<TcpStream>,
    load: Option<Load>,
    /// Connections that `load` has opened.
    loaded: usize,
}

impl Held {
    /// Connections, the ended ones among them.
    pub(crate) fn connections(&self) -> usize {
        self.streams.len() + self.loaded
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // No port of a source has to wait for its last segment.
        self.streams.drain(..).for_each(socket::reset);
    }
}

/// One way to make the server hold memory.
pub(crate) struct Way {
    /// What is done.
    pub(crate) name: &'static str,
    /// The second byte of its sources' addresses.
    block: u8,
    act: fn(&Way, &Target) -> Held,
}

impl Way {
    /// Does it.
    pub(crate) fn hold(&self, target: &Target) -> Held {
        (self.act)(self, target)
    }

    fn source(&self, nth: usize, target: &Target) -> Ipv4Addr {
        let nth = (nth % target.sources) as u32;
        Ipv4Addr::from(u32::from(Ipv4Addr::new(127, self.block, 0, 1)) + nth)
    }

    /// So many connections, each served by `act`; what that leaves is held.
    fn each(
        &self,
        target: &Target,
        count: usize,
        act: impl Fn(TcpStream) -> Option<TcpStream> + Sync,
    ) -> Held {
        let (next, streams) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
        thread::scope(|scope| {
            for _ in 0..WORKERS.min(count) {
                scope.spawn(|| {
                    loop {
                        let nth = next.fetch_add(1, Ordering::Relaxed);
                        if nth >= count {
                            return;
                        }
                        let stream = connect(self.source(nth, target), target.clients);
                        if let Some(stream) = stream.and_then(&act) {
                            streams.lock().expect("no panic").push(stream);
                        }
                    }
                });
            }
        });
        Held { streams: streams.into_inner().expect("no panic"), load: None, loaded: 0 }
    }

    /// The same, of connections that are upgraded.
    fn each_upgraded(
        &self,
        target: &Target,
        count: usize,
        request: &[u8],
        act: impl Fn(&TcpStream) + Sync,
    ) -> Held {
        self.each(target, count, |mut stream| {
            stream.write_all(request).ok()?;
            let client = Client::read_answer(stream).ok()?.ok()?;
            act(&client.stream);
            Some(client.stream)
        })
    }
}

/// An honest client that uses what the server makes room for once: it sends and reads a long message
/// that is compressed.
pub(crate) fn use_everything(clients: SocketAddr, nth: u8) {
    let Some(stream) = connect(Ipv4Addr::new(127, 0, 7, nth + 1), clients) else { return };
    let message = frame(FIN | COMPRESSED | BINARY, &deflated(&vec![7; 1_000_000]));
    push(&stream, &[&offer()[..], &message].concat());
    let mut echo = Vec::new();
    let _ = stream.take(1 << 10).read_to_end(&mut echo);
}

fn connect(source: Ipv4Addr, server: SocketAddr) -> Option<TcpStream> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).ok()?;
    // Connecting takes as long at most.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE)).ok()?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(2 * PATIENCE)).ok()?;
    rustix::net::bind(&socket, &SocketAddr::new(source.into(), 0)).ok()?;
    rustix::net::connect(&socket, &server).ok()?;
    Some(TcpStream::from(socket))
}

/// Sends as much as the server takes at once; it may have had enough.
fn push(mut stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

/// The beginning of a request, as long as it may be.
fn unfinished_head(before: &[u8]) -> Vec<u8> {
    let mut head = [before, b"GET /echo HTTP/1.1\r\nHost: a\r\nCookie: "].concat();
    head.resize(before.len() + 8_000, b'c');
    head
}

fn sends(way: &Way, target: &Target, count: usize, bytes: &[u8]) -> Held {
    way.each(target, count, |stream| {
        push(&stream, bytes);
        Some(stream)
    })
}

fn heads(way: &Way, target: &Target) -> Held {
    sends(way, target, target.many, &unfinished_head(b""))
}

/// Heads whose last bytes come one by one.
fn slow_heads(way: &Way, target: &Target) -> Held {
    let held = sends(way, target, target.many / 4, b"\r\n\r\nGET /ec");
    for byte in b"ho HTTP" {
        held.streams.iter().for_each(|stream| push(stream, &[*byte]));
    }
    held
}

fn uploads(way: &Way, target: &Target) -> Held {
    let mut upload = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n".to_vec();
    upload.resize(512 << 10, b'u');
    sends(way, target, target.many / 4, &upload)
}

fn hellos(way: &Way, target: &Target) -> Held {
    let mut hello = b"\x16\x03\x01\x40\x00\x01".to_vec();
    hello.resize(64 << 10, 0);
    sends(way, target, target.many / 4, &hello)
}

/// A header of version 2 that announces 520 bytes and ends before them.
fn proxy_headers(way: &Way, target: &Target) -> Held {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\x08".to_vec();
    header.resize(530, 0);
    sends(way, target, target.many, &header)
}

fn heads_behind_proxy_headers(way: &Way, target: &Target) -> Held {
    let next = AtomicUsize::new(0);
    way.each(target, target.many, |stream| {
        let nth = next.fetch_add(1, Ordering::Relaxed) % target.sources;
        let client = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + nth as u32);
        let header = format!("PROXY TCP4 {client} 10.9.9.9 1 2\r\n");
        push(&stream, &unfinished_head(header.as_bytes()));
        Some(stream)
    })
}

fn silent(way: &Way, target: &Target) -> Held {
    sends(way, target, target.many, b"")
}

fn unfinished_messages(way: &Way, target: &Target) -> Held {
    let mut message = frame(FIN | BINARY, &vec![7; 900 << 10]);
    message.pop();
    way.each_upgraded(target, 400, &upgrade_request("/echo"), |stream| push(stream, &message))
}

fn fragments(way: &Way, target: &Target) -> Held {
    let first = frame(TEXT, b"");
    let fragments = frame(CONTINUATION, b"f").repeat(40_000);
    let message = [first, fragments].concat();
    way.each_upgraded(target, 400, &upgrade_request("/echo"), |stream| push(stream, &message))
}

fn unread(way: &Way, target: &Target) -> Held {
    let messages = frame(FIN | BINARY, &vec![7; 900 << 10]).repeat(3);
    way.each_upgraded(target, 400, &upgrade_request("/echo"), |stream| push(stream, &messages))
}

fn offer() -> Vec<u8> {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits";
    upgrade_request_with("/echo", &[offer])
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::new(9), false);
    let mut bytes = Vec::with_capacity(message.len() + 1_000);
    compress.compress_vec(message, &mut bytes, FlushCompress::Sync).expect("room");
    bytes.truncate(bytes.len() - 4);
    bytes
}

/// Messages of a thousand times their length, whose replies nobody reads, and one that never ends.
fn compressed(way: &Way, target: &Target) -> Held {
    let bomb = frame(FIN | COMPRESSED | BINARY, &deflated(&vec![0; 1_000_000]));
    let mut messages = bomb.repeat(64);
    messages.extend(frame(COMPRESSED | BINARY, &deflated(&vec![1; 900_000])));
    way.each_upgraded(target, 200, &offer(), |stream| push(stream, &messages))
}

/// Names of channels that nobody else has, as many as a connection may have of this length.
fn channel_names(way: &Way, target: &Target) -> Held {
    let next = AtomicUsize::new(0);
    way.each(target, target.many / 4, |mut stream| {
        let nth = next.fetch_add(1, Ordering::Relaxed);
        let names = (0..16).map(|name| format!("channel={nth:x}-{name}-{:c>240}", ""));
        let path = format!("/ws?{}", names.collect::<Vec<_>>().join("&"));
        stream.write_all(&upgrade_request(&path)).ok()?;
        Some(Client::read_answer(stream).ok()?.ok()?.stream)
    })
}

/// Sessions whose connections have gone.
fn sessions(way: &Way, target: &Target) -> Held {
    let next = AtomicUsize::new(0);
    way.each(target, target.many, |mut stream| {
        let nth = next.fetch_add(1, Ordering::Relaxed);
        let path = format!("/ws?session=new&channel={nth:x}-{:s>200}", "");
        stream.write_all(&upgrade_request(&path)).ok()?;
        let client = Client::read_answer(stream).ok()?.ok()?;
        socket::reset(client.stream);
        None
    })
}

/// More than the server can hold.
fn idle(_: &Way, target: &Target) -> Held {
    let url = format!("ws://{}/ws?channel=all", target.clients);
    let more = (target.capacity + target.capacity / 10).to_string();
    let per_source = (target.capacity / target.sources as u64 + 2).min(20_000).to_string();
    let most = ["--connections", &more, "--per-source", &per_source, "--expect-admitted", "1"];
    let others = ["--source-base", "127.30.0.1", "--allow-closed", "--abandon"];
    let mut load = Load::start("hold", &url, &[&most[..], &others].concat());
    let loaded = load.opened() as usize;
    Held { streams: Vec::new(), load: Some(load), loaded }
}

/// Heads, bodies that stop before their end, and answers that nobody reads.
fn admin(way: &Way, target: &Target) -> Held {
    let target = Target { clients: target.admin, ..*target };
    let mut body =
        b"POST /api/publish HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n".to_vec();
    body.resize(4_000_000, b' ');
    let answers = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n".repeat(64);
    let mut head = b"GET /metrics HTTP/1.1\r\nHost: a\r\nCookie: ".to_vec();
    head.resize(16_000, b'c');
    let next = AtomicUsize::new(0);
    way.each(&target, 1_200, |stream| {
        match next.fetch_add(1, Ordering::Relaxed) % 3 {
            0 => push(&stream, &body),
            1 => push(&stream, &answers),
            _ => push(&stream, &head),
        }
        Some(stream)
    })
}

/// Many messages whose headers say that they are long, and nothing behind.
fn announced(way: &Way, target: &Target) -> Held {
    let mut announced = header(FIN | BINARY, 1_000_000, true);
    announced.extend([1, 2, 3, 4]);
    way.each_upgraded(target, target.many / 4, &upgrade_request("/echo"), |stream| {
        push(stream, &announced);
    })
}

/// All of them.
pub(crate) static WAYS: [Way; 18] = [
    Way { name: "unfinished heads", block: 20, act: heads },
    Way { name: "slow heads", block: 21, act: slow_heads },
    Way { name: "silent connections", block: 22, act: silent },
    Way { name: "refused, unfinished heads", block: 10, act: heads },
    Way { name: "refused, uploads", block: 11, act: uploads },
    Way { name: "uploads", block: 23, act: uploads },
    Way { name: "TLS hellos", block: 24, act: hellos },
    Way { name: "PROXY headers", block: 12, act: proxy_headers },
    Way { name: "heads behind PROXY headers", block: 13, act: heads_behind_proxy_headers },
    Way { name: "unfinished messages", block: 25, act: unfinished_messages },
    Way { name: "fragments", block: 26, act: fragments },
    Way { name: "announced messages", block: 27, act: announced },
    Way { name: "replies unread", block: 28, act: unread },
    Way { name: "compressed messages", block: 29, act: compressed },
    Way { name: "channel names", block: 31, act: channel_names },
    Way { name: "sessions", block: 32, act: sessions },
    Way { name: "admin connections", block: 33, act: admin },
    Way { name: "idle connections", block: 30, act: idle },
];

/// The one of this name.
#[track_caller]
pub(crate) fn way(name: &str) -> &'static Way {
    WAYS.iter().find(|way| way.name == name).expect("a way of this name")
}
