//! HTTP and WebSocket as they are on the wire, written and read without any of the server's code
//! and without a library that would refuse to send what a test wants to send.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use super::{PATIENCE, socket};

pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// RSV1, as it is combined with an opcode: the message is compressed.
pub(crate) const COMPRESSED: u8 = 0x40;

/// FIN, as it is combined with an opcode.
pub(crate) const FIN: u8 = 0x80;

/// Any key would do; this one changes every byte.
const MASK: [u8; 4] = [0x5a, 0xc3, 0x81, 0x7e];

/// RFC 6455's own example key.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer that the RFC gives for it.
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A valid upgrade request.
pub(crate) fn upgrade_request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// The same with these header lines more.
pub(crate) fn upgrade_request_with(path: &str, headers: &[&str]) -> Vec<u8> {
    let mut request = upgrade_request(path);
    request.truncate(request.len() - 2);
    headers.iter().for_each(|header| request.extend(format!("{header}\r\n").bytes()));
    request.extend(b"\r\n");
    request
}

/// A masked frame whose first byte is `first`: opcode, FIN, reserved bits.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, true);
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A frame without a mask.
pub(crate) fn unmasked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64, false);
    bytes.extend(payload);
    bytes
}

/// The header of a frame up to its mask, the length in its shortest form.
pub(crate) fn header(first: u8, len: u64, masked: bool) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match len {
        0..=125 => bytes.push(mask | len as u8),
        126..=0xffff => {
            bytes.push(mask | 126);
            bytes.extend((len as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend(len.to_be_bytes());
        }
    }
    bytes
}

/// The payload of a Close frame.
pub(crate) fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// A frame that the server sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Opcode, FIN and reserved bits.
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    /// The code of a Close frame; none if it is another frame or has no payload.
    pub(crate) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk()?;
        (self.opcode() == CLOSE).then(|| u16::from_be_bytes(*code))
    }

    pub(crate) fn text(&self) -> &str {
        assert_eq!(self.first, FIN | TEXT, "{self:?}");
        std::str::from_utf8(&self.payload).expect("the server sends UTF-8")
    }
}

/// Takes one frame off the front of `bytes`, with its length; `None` if it is not complete.
///
/// # Errors
/// What no server may send: a mask, reserved bits, a control frame that is long or fragmented,
/// a length that is not in its shortest form.
pub(crate) fn parse_server_frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, String> {
    parse_frame(bytes, false)
}

/// The same; with `compression`, data frames may have RSV1.
fn parse_frame(bytes: &[u8], compression: bool) -> Result<Option<(Frame, usize)>, String> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    if second & 0x80 != 0 {
        return Err("masked".to_owned());
    }
    let compressed = compression && matches!(first & 0x7f, 0x41 | 0x42);
    if first & 0x70 != 0 && !compressed {
        return Err(format!("reserved bits: {first:#04x}"));
    }
    let (len, start) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(len) => (u64::from(u16::from_be_bytes(*len)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(len) => (u64::from_be_bytes(*len), 10),
            None => return Ok(None),
        },
        len => (u64::from(*len), 2),
    };
    if header(*first, len, false).len() != start {
        return Err(format!("length {len} in {start} bytes"));
    }
    let opcode = first & 0x0f;
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(format!("opcode {opcode}"));
    }
    if opcode >= CLOSE && (len > 125 || first & FIN == 0) {
        return Err(format!("control frame {first:#04x} of {len} bytes"));
    }
    let end = start + usize::try_from(len).map_err(|error| error.to_string())?;
    let frame = |payload: &[u8]| Frame { first: *first, payload: payload.to_vec() };
    Ok(bytes.get(start..end).map(|payload| (frame(payload), end)))
}

/// The head of an answer and what came behind it.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) rest: Vec<u8>,
}

impl Response {
    /// Splits what was received; `None` if the head is not complete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some(Self { status, head, rest: bytes[end..].to_vec() })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body, which must be as long as the head says and the last thing sent.
    #[track_caller]
    pub(crate) fn body(&self) -> &str {
        let announced = self.header("content-length").expect("Content-Length").parse();
        assert_eq!(announced, Ok(self.rest.len()), "{self:?}");
        std::str::from_utf8(&self.rest).expect("a body in UTF-8")
    }
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server ended its side in order.
    Closed,
    /// RST.
    Reset,
}

/// Reads until the connection ends.
///
/// # Errors
/// If it does not end in time.
pub(crate) fn read_to_end(stream: &mut TcpStream) -> io::Result<(Vec<u8>, End)> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => Ok((bytes, End::Closed)),
        Err(error) if is_reset(&error) => Ok((bytes, End::Reset)),
        Err(error) => Err(error),
    }
}

/// True for the errors with which a connection that the other side has cut shows itself.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Sends `request` on a connection of its own and returns the answer, for a request that is
/// answered and closed.
///
/// # Errors
/// If it is not.
pub(crate) fn exchange(server: SocketAddr, request: &[u8]) -> io::Result<(Response, End)> {
    exchange_from(Ipv4Addr::LOCALHOST, server, request)
}

/// The same from another address.
///
/// # Errors
/// As [`exchange`].
pub(crate) fn exchange_from(
    source: Ipv4Addr,
    server: SocketAddr,
    request: &[u8],
) -> io::Result<(Response, End)> {
    let mut stream = socket::connect_from(source, server)?;
    stream.write_all(request)?;
    let (bytes, end) = read_to_end(&mut stream)?;
    let response = Response::parse(&bytes)
        .ok_or_else(|| io::Error::other(format!("{end:?} after {bytes:?}")))?;
    Ok((response, end))
}

/// A WebSocket client that sends whatever it is told to.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
    compression: bool,
}

/// What a client gets next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Frame(Frame),
    End(End),
}

impl Client {
    /// An upgraded connection.
    #[track_caller]
    pub(crate) fn connect(server: SocketAddr, path: &str) -> Self {
        Self::try_connect_from(Ipv4Addr::LOCALHOST, server, path)
            .expect("a connection")
            .unwrap_or_else(|response| panic!("not upgraded: {response:?}"))
    }

    /// An upgraded connection, or the answer that refused it.
    ///
    /// # Errors
    /// If there is neither.
    pub(crate) fn try_connect(
        server: SocketAddr,
        path: &str,
    ) -> io::Result<Result<Self, Response>> {
        Self::try_connect_from(Ipv4Addr::LOCALHOST, server, path)
    }

    /// The same from another address.
    ///
    /// # Errors
    /// If there is neither.
    pub(crate) fn try_connect_from(
        source: Ipv4Addr,
        server: SocketAddr,
        path: &str,
    ) -> io::Result<Result<Self, Response>> {
        Self::upgrade(socket::connect_from(source, server)?, path)
    }

    /// Upgrades a connection that there is already.
    ///
    /// # Errors
    /// If it is neither upgraded nor refused.
    pub(crate) fn upgrade(mut stream: TcpStream, path: &str) -> io::Result<Result<Self, Response>> {
        stream.write_all(&upgrade_request(path))?;
        Self::read_answer(stream)
    }

    /// Reads the answer to an upgrade request that has been sent with [`KEY`].
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn read_answer(stream: TcpStream) -> io::Result<Result<Self, Response>> {
        Self::read_answer_with(ACCEPT, stream)
    }

    /// The same for another key, whose answer is `accept`.
    ///
    /// # Errors
    /// If there is none.
    pub(crate) fn read_answer_with(
        accept: &str,
        mut stream: TcpStream,
    ) -> io::Result<Result<Self, Response>> {
        let mut received = Vec::new();
        let mut response = loop {
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Err(io::Error::other(format!("no answer, but {received:?}"))),
                len => received.extend(&chunk[..len]),
            }
            if let Some(response) = Response::parse(&received) {
                break response;
            }
        };
        if response.status == 101 {
            assert_eq!(response.header("sec-websocket-accept"), Some(accept));
            let compression = response.header("sec-websocket-extensions").is_some();
            return Ok(Ok(Self { stream, received: response.rest, compression }));
        }
        let (rest, _) = read_to_end(&mut stream)?;
        response.rest.extend(rest);
        Ok(Err(response))
    }

    /// A connection on which nothing has been said.
    pub(crate) fn silent(stream: TcpStream) -> Self {
        Self { stream, received: Vec::new(), compression: false }
    }

    /// Writes bytes as they are.
    #[track_caller]
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    /// Ends this side; the server's stays open.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("an open connection");
    }

    /// The next frame, or the end. Waits for it no longer than the tests' patience.
    ///
    /// # Panics
    /// If nothing comes, or what comes is not what a server may send.
    #[track_caller]
    pub(crate) fn next(&mut self) -> Next {
        self.next_within(PATIENCE).expect("the server sends, or ends the connection")
    }

    /// The same, with a bound; `None` if nothing came in that time.
    #[track_caller]
    pub(crate) fn next_within(&mut self, bound: Duration) -> Option<Next> {
        self.stream.set_read_timeout(Some(bound)).expect("a timeout");
        loop {
            match parse_frame(&self.received, self.compression) {
                Ok(None) => {}
                Ok(Some((frame, len))) => {
                    self.received.drain(..len);
                    return Some(Next::Frame(frame));
                }
                Err(what) => panic!("the server sent a frame that it may not: {what}"),
            }
            let mut chunk = vec![0; 64 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    assert!(self.received.is_empty(), "the server ended within a frame");
                    return Some(Next::End(End::Closed));
                }
                Ok(len) => self.received.extend(&chunk[..len]),
                Err(error) if is_reset(&error) => return Some(Next::End(End::Reset)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next frame.
    #[track_caller]
    pub(crate) fn frame(&mut self) -> Frame {
        match self.next() {
            Next::Frame(frame) => frame,
            Next::End(end) => panic!("{end:?} instead of a frame"),
        }
    }

    /// The frames up to and with the server's Close, and how the connection ended after it.
    #[track_caller]
    pub(crate) fn read_to_close(&mut self) -> (Vec<Frame>, End) {
        let mut frames = Vec::new();
        loop {
            match self.next() {
                Next::Frame(frame) => {
                    let last = frames.last().map(Frame::opcode);
                    assert_ne!(last, Some(CLOSE), "{frame:?} after Close");
                    frames.push(frame);
                }
                Next::End(end) => return (frames, end),
            }
        }
    }

    /// Sends a text and expects it back.
    #[track_caller]
    pub(crate) fn echo(&mut self, text: &str) {
        self.send(&frame(FIN | TEXT, text.as_bytes()));
        assert_eq!(self.frame().text(), text);
    }

    /// Closes with 1000 and expects the answer and the end.
    #[track_caller]
    pub(crate) fn close(mut self) {
        self.send(&frame(FIN | CLOSE, &close_payload(1000, "")));
        assert_eq!(self.frame().close_code(), Some(1000));
        assert_eq!(self.next(), Next::End(End::Closed));
    }
}
