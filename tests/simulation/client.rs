//! A client of the simulated server, honest or not, and what it holds the server to: replies in
//! order, publications of a channel in order and without a gap, nothing behind a Close, no 101
//! for what is no upgrade.

use std::collections::VecDeque;

use super::kernel::{Kernel, MS, SocketId};
use super::random::Random;

/// An honest client that has sent and read everything has its echo within this time.
const ANSWERED_NS: u64 = 4_000 * MS;

/// Channels that clients subscribe to.
pub(crate) const CHANNELS: usize = 3;

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Sends messages to `/echo` and waits for them to come back.
    Echo,
    /// Subscribes to a channel and answers pings.
    Subscriber,
    /// Connects and says nothing.
    Silent,
    /// Sends its head byte by byte, and may not get to its end.
    Slow,
    /// Sends a head that is refused.
    BadHead,
    /// Sends random bytes after the upgrade.
    Garbage,
    /// Subscribes, sends and never reads.
    Deaf,
    /// Never answers a Close.
    Stubborn,
    /// Ends its side and reads on.
    HalfClosing,
    /// Resets the connection in the middle of something.
    Resetting,
}

impl Manner {
    pub(crate) const ALL: [Self; 10] = [
        Self::Echo,
        Self::Subscriber,
        Self::Silent,
        Self::Slow,
        Self::BadHead,
        Self::Garbage,
        Self::Deaf,
        Self::Stubborn,
        Self::HalfClosing,
        Self::Resetting,
    ];
}

/// How a connection stands, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The head is on its way.
    Head,
    /// Upgraded.
    Open,
    /// A Close has come or gone.
    Closing,
    /// Over.
    Done,
}

/// How a connection ended, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// An HTTP answer that is no 101.
    Refused(u16),
    /// A Close with this code came.
    Closed(u16),
    /// The stream ended without one.
    Ended,
    /// RST.
    Reset,
}

/// One client with one connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) manner: Manner,
    pub(crate) ring: usize,
    pub(crate) socket: SocketId,
    pub(crate) standing: Standing,
    pub(crate) end: Option<End>,
    pub(crate) next_ns: u64,
    channel: usize,
    to_send: VecDeque<u8>,
    received: Vec<u8>,
    /// Echoes that are awaited.
    awaited: VecDeque<Vec<u8>>,
    /// Since when it is not the client that anything waits for.
    idle_since_ns: u64,
    sent_messages: u64,
    /// The number of the last publication of its channel.
    last_publication: Option<u64>,
    pub(crate) publications: u64,
    /// Bytes after which a resetting client resets.
    patience_bytes: usize,
    sent_bytes: usize,
}

impl Client {
    pub(crate) fn new(
        manner: Manner,
        ring: usize,
        socket: SocketId,
        now_ns: u64,
        random: &mut Random,
    ) -> Self {
        let channel = random.below(CHANNELS);
        let mut client = Self {
            manner,
            ring,
            socket,
            standing: Standing::Head,
            end: None,
            next_ns: now_ns,
            channel,
            to_send: VecDeque::new(),
            received: Vec::new(),
            awaited: VecDeque::new(),
            idle_since_ns: now_ns,
            sent_messages: 0,
            last_publication: None,
            publications: 0,
            patience_bytes: random.below(600),
            sent_bytes: 0,
        };
        client.write_head(random);
        client
    }

    fn write_head(&mut self, random: &mut Random) {
        let target = match self.manner {
            Manner::Silent => return,
            Manner::Echo | Manner::HalfClosing | Manner::Garbage | Manner::Resetting => {
                "/echo".to_owned()
            }
            _ => format!("/ws?channel=c{}", self.channel),
        };
        let (version, target) = match self.manner {
            Manner::BadHead if random.one_in(2) => ("12", target),
            Manner::BadHead => ("13", "/nowhere".to_owned()),
            _ => ("13", target),
        };
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: {version}\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.to_send.extend(head.as_bytes());
        // Frames may come in one segment with the head.
        if self.manner == Manner::Echo && random.one_in(4) {
            self.say_something(random);
        }
    }

    /// Whether it does what it should, so that the server owes it an answer.
    fn is_honest(&self) -> bool {
        matches!(self.manner, Manner::Echo | Manner::Subscriber)
    }

    /// One step: sends some of what it has to, reads some of what has come.
    pub(crate) fn act(&mut self, kernel: &mut Kernel) {
        let now_ns = kernel.now_ns;
        let mut random = Random::new(kernel.random.next());
        self.next_ns = now_ns + self.pause(&mut random);
        if self.standing == Standing::Done {
            return;
        }
        self.send(kernel, &mut random);
        self.misbehave(kernel, &mut random);
        self.read(kernel, &mut random);
        if self.standing == Standing::Open {
            self.live(&mut random);
        }
        if !self.to_send.is_empty() || !kernel.sockets[self.socket].to_client.is_empty() {
            self.idle_since_ns = now_ns;
        }
        if let Some(message) = self.awaited.front()
            && self.is_honest()
            && self.standing == Standing::Open
            && now_ns > self.idle_since_ns + ANSWERED_NS
        {
            let what = format!(
                "{} bytes were not echoed within {ANSWERED_NS} ns on shard {}; {} left to send",
                message.len(),
                self.ring,
                self.to_send.len(),
            );
            kernel.violated(what);
        }
    }

    fn pause(&self, random: &mut Random) -> u64 {
        let slow = self.manner == Manner::Slow && self.standing == Standing::Head;
        match random.below(20) {
            0 => random.below(900 * MS as usize) as u64,
            1..5 => random.below(60 * MS as usize) as u64,
            _ if slow => random.below(20 * MS as usize) as u64,
            _ => 1_000 + random.below(3 * MS as usize) as u64,
        }
    }

    fn send(&mut self, kernel: &mut Kernel, random: &mut Random) {
        let socket = &mut kernel.sockets[self.socket];
        if socket.client_fin || socket.client_reset || socket.server_reset {
            return;
        }
        let most = match self.manner {
            Manner::Slow => 1 + random.below(9),
            _ => random.of(&[1, 10, 100, 100_000]),
        };
        let len = most.min(self.to_send.len());
        socket.to_server.extend(self.to_send.drain(..len));
        self.sent_bytes += len;
        if socket.gone {
            // Nobody takes it: the kernel answers with RST.
            if len > 0 {
                socket.server_reset = true;
                socket.to_client.clear();
            }
            socket.to_server.clear();
        }
    }

    fn misbehave(&mut self, kernel: &mut Kernel, random: &mut Random) {
        let socket = &mut kernel.sockets[self.socket];
        let resets = self.manner == Manner::Resetting && self.sent_bytes >= self.patience_bytes;
        if resets && random.one_in(3) {
            socket.client_reset = true;
            socket.to_server.clear();
            socket.to_client.clear();
            self.finish(End::Reset);
        } else if self.manner == Manner::HalfClosing
            && self.to_send.is_empty()
            && self.standing != Standing::Head
            && random.one_in(6)
        {
            socket.client_fin = true;
        }
    }

    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.standing = Standing::Done;
    }

    fn read(&mut self, kernel: &mut Kernel, random: &mut Random) {
        if self.standing == Standing::Done || self.manner == Manner::Deaf {
            return;
        }
        let socket = &mut kernel.sockets[self.socket];
        if socket.server_reset {
            return self.finish(End::Reset);
        }
        let most = random.of(&[1, 20, 1_000, 100_000]);
        let len = most.min(socket.to_client.len());
        self.received.extend(socket.to_client.drain(..len));
        let ended = socket.server_fin && socket.to_client.is_empty();
        if let Err(what) = self.take(kernel.now_ns) {
            let manner = self.manner;
            return kernel.violated(format!("{manner:?} client of shard {}: {what}", self.ring));
        }
        if ended && self.standing != Standing::Done {
            let socket = &mut kernel.sockets[self.socket];
            socket.client_fin = true;
            self.finish(End::Ended);
        }
    }

    /// Takes whatever is complete of what was received.
    fn take(&mut self, now_ns: u64) -> Result<(), String> {
        if self.standing == Standing::Head {
            let Some(end) = find(&self.received, b"\r\n\r\n") else { return Ok(()) };
            let head: Vec<u8> = self.received.drain(..end + 4).collect();
            let head = String::from_utf8(head).map_err(|_| "a head that is not text".to_owned())?;
            let status = head.get(9..12).and_then(|code| code.parse().ok()).unwrap_or(0);
            if status != 101 {
                self.standing = Standing::Closing;
                self.end = Some(End::Refused(status));
                self.received.clear();
                return Ok(());
            }
            if matches!(self.manner, Manner::BadHead | Manner::Silent) {
                return Err("101 for what is no upgrade".to_owned());
            }
            self.standing = Standing::Open;
        }
        if matches!(self.end, Some(End::Refused(_))) {
            self.received.clear();
            return Ok(());
        }
        while let Some((opcode, payload)) = next_frame(&mut self.received)? {
            if matches!(self.end, Some(End::Closed(_))) {
                return Err(format!("a frame with opcode {opcode} behind a Close"));
            }
            self.on_frame(opcode, &payload, now_ns)?;
        }
        Ok(())
    }

    fn on_frame(&mut self, opcode: u8, payload: &[u8], now_ns: u64) -> Result<(), String> {
        match opcode {
            1 => self.on_text(payload),
            2 => self.on_echo(payload),
            8 => {
                let code = match payload {
                    [high, low, ..] => u16::from_be_bytes([*high, *low]),
                    _ => 1005,
                };
                self.end = Some(End::Closed(code));
                self.standing = Standing::Closing;
                if self.manner != Manner::Stubborn {
                    self.to_send.clear();
                    write_frame(8, &payload[..payload.len().min(2)], &mut self.to_send);
                }
                Ok(())
            }
            9 => {
                if self.standing == Standing::Open {
                    write_frame(10, payload, &mut self.to_send);
                }
                Ok(())
            }
            10 => Ok(()),
            other => Err(format!("opcode {other} at {now_ns}")),
        }
    }

    fn on_echo(&mut self, payload: &[u8]) -> Result<(), String> {
        match self.awaited.pop_front() {
            Some(expected) if expected == payload => Ok(()),
            Some(expected) => Err(format!(
                "an echo of {} bytes where {} were sent",
                payload.len(),
                expected.len()
            )),
            None if self.manner == Manner::Garbage => Ok(()),
            None => Err("an echo of nothing".to_owned()),
        }
    }

    fn on_text(&mut self, payload: &[u8]) -> Result<(), String> {
        let text = std::str::from_utf8(payload).map_err(|_| "text that is not UTF-8".to_owned())?;
        if let Some(number) = text.strip_prefix(&format!("c{}:", self.channel)) {
            let number: u64 = number.parse().map_err(|_| format!("{text:?}"))?;
            if let Some(last) = self.last_publication.replace(number)
                && number != last + 1
            {
                return Err(format!("publication {number} behind {last}"));
            }
            self.publications += 1;
        } else if text.starts_with('c') {
            return Err(format!("{text:?} of a channel that was not asked for"));
        } else if self.manner != Manner::Garbage
            && !text.contains("server.shutdown")
            && !text.contains("bye")
        {
            return Err(format!("{text:?}"));
        }
        Ok(())
    }

    /// What an upgraded client does besides.
    fn live(&mut self, random: &mut Random) {
        let talks = matches!(self.manner, Manner::Echo | Manner::Resetting | Manner::HalfClosing);
        if self.manner == Manner::Garbage {
            let len = random.below(40);
            self.to_send.extend((0..len).map(|_| random.next() as u8));
        } else if talks && self.awaited.len() < 8 && random.one_in(2) {
            self.say_something(random);
        } else if self.manner == Manner::Deaf && self.to_send.len() < 2_000 {
            write_frame(1, b"nobody reads what comes of it", &mut self.to_send);
        }
        if random.one_in(400) {
            write_frame(9, b"client", &mut self.to_send);
        }
        if random.one_in(300) && self.to_send.is_empty() {
            write_frame(8, &1000_u16.to_be_bytes(), &mut self.to_send);
            self.standing = Standing::Closing;
        }
    }

    fn say_something(&mut self, random: &mut Random) {
        let len = random.of(&[0, 5, 125, 126, 700, 5_000]);
        self.sent_messages += 1;
        let message: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if len > 10 && random.one_in(4) {
            let cut = random.below(len);
            write_fragment(2, false, &message[..cut], &mut self.to_send);
            write_fragment(0, true, &message[cut..], &mut self.to_send);
        } else {
            write_frame(2, &message, &mut self.to_send);
        }
        self.awaited.push_back(message);
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn write_frame(opcode: u8, payload: &[u8], to: &mut VecDeque<u8>) {
    write_fragment(opcode, true, payload, to);
}

/// A masked frame of RFC 6455 5.2.
fn write_fragment(opcode: u8, last: bool, payload: &[u8], to: &mut VecDeque<u8>) {
    const KEY: [u8; 4] = [1, 2, 3, 4];
    to.push_back(if last { 0x80 | opcode } else { opcode });
    match payload.len() {
        len @ 0..126 => to.push_back(0x80 | len as u8),
        len => {
            to.push_back(0x80 | 126);
            to.extend((len as u16).to_be_bytes());
        }
    }
    to.extend(KEY);
    to.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

/// Takes the next whole frame of a server.
fn next_frame(bytes: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, String> {
    let [first, second, rest @ ..] = bytes.as_slice() else { return Ok(None) };
    if first & 0x70 != 0 || second & 0x80 != 0 || first & 0x80 == 0 {
        return Err(format!("a frame that begins with {first:#04x} {second:#04x}"));
    }
    let (opcode, short) = (first & 0x0f, usize::from(second & 0x7f));
    let (len, header) = match (short, rest) {
        (126, [high, low, ..]) => (usize::from(u16::from_be_bytes([*high, *low])), 4),
        (127, [_, _, _, _, a, b, c, d, ..]) => (u32::from_be_bytes([*a, *b, *c, *d]) as usize, 10),
        (126 | 127, _) => return Ok(None),
        (len, _) => (len, 2),
    };
    if bytes.len() < header + len {
        return Ok(None);
    }
    let payload = bytes[header..header + len].to_vec();
    bytes.drain(..header + len);
    Ok(Some((opcode, payload)))
}
