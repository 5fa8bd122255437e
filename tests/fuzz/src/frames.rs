//! Frame streams: the same bytes in any chunks are the same events, and tungstenite sees the same
//! as long as it is as strict.

use std::io::{Read, Write};

use tidegate::websocket::deflate::Inflater;
use tidegate::websocket::frame::Role;
use tidegate::websocket::{Event, Incoming, Rules, Violation};
use tungstenite::protocol::{self, WebSocketConfig};
use tungstenite::{Message, WebSocket};

/// An event without borrowing.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Seen {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.into()),
            Event::Binary(bytes) => Self::Binary(bytes.into()),
            Event::Ping(bytes) => Self::Ping(bytes.into()),
            Event::Pong(bytes) => Self::Pong(bytes.into()),
            Event::Close { code, reason } => Self::Close(code, reason.into()),
        }
    }
}

/// The events, and whether something is left open, or what was wrong.
type Outcome = (Vec<Seen>, Result<bool, Violation>);

/// Options, the size of a chunk, and the bytes.
pub fn run(input: &[u8]) {
    let [options, step, bytes @ ..] = input else { return };
    let role = if options & 1 == 0 { Role::Server } else { Role::Client };
    let compresses = options & 2 != 0;
    let max_message_bytes = if options & 4 == 0 { 1 << 16 } else { usize::from(options >> 3) };
    let rules = Rules { role, max_message_bytes };
    let whole = read(bytes, bytes.len().max(1), rules, compresses);
    assert_eq!(whole, read(bytes, 1 + usize::from(*step), rules, compresses));
    let (events, _) = &whole;
    for event in events {
        match event {
            Seen::Text(text) => assert!(text.len() <= max_message_bytes),
            Seen::Binary(bytes) => assert!(bytes.len() <= max_message_bytes),
            Seen::Ping(bytes) | Seen::Pong(bytes) => assert!(bytes.len() <= 125),
            Seen::Close(code, reason) => {
                assert!(reason.len() <= 123);
                assert!(code.is_none_or(|code| (1000..5000).contains(&code)));
            }
        }
    }
    if !compresses {
        compare(&whole, &tungstenite_reads(bytes, rules));
    }
}

fn read(bytes: &[u8], step: usize, rules: Rules, compresses: bool) -> Outcome {
    let (mut partial, mut events, mut inflater) = (None, Vec::new(), Inflater::default());
    for chunk in bytes.chunks(step) {
        let mut chunk = chunk.to_vec();
        let mut incoming = Incoming::new(&mut chunk, &mut partial, rules);
        if compresses {
            incoming = incoming.inflating(&mut inflater);
        }
        loop {
            match incoming.next() {
                Ok(Some(event)) => events.push(Seen::from(event)),
                Ok(None) => break,
                Err(violation) => return (events, Err(violation)),
            }
        }
        if matches!(events.last(), Some(Seen::Close(..))) {
            break;
        }
    }
    (events, Ok(partial.is_some()))
}

struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        Ok(buffer.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The events, and whether it ended in an error of the protocol.
fn tungstenite_reads(bytes: &[u8], rules: Rules) -> (Vec<Seen>, bool) {
    let role = match rules.role {
        Role::Server => protocol::Role::Server,
        Role::Client => protocol::Role::Client,
    };
    // It counts control frames against the limit as well.
    let config = WebSocketConfig::default()
        .read_buffer_size(4096)
        .max_frame_size(Some(rules.max_message_bytes.max(125)))
        .max_message_size(Some(rules.max_message_bytes));
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), role, Some(config));
    let mut events = Vec::new();
    loop {
        let message = match socket.read() {
            Ok(message) => message,
            // The end of the bytes is none.
            Err(tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed) => {
                return (events, false);
            }
            Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )) => return (events, false),
            Err(_) => return (events, true),
        };
        events.push(match message {
            Message::Text(text) => Seen::Text(text.as_str().into()),
            Message::Binary(bytes) => Seen::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Seen::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Seen::Pong(bytes.to_vec()),
            Message::Close(close) => Seen::Close(
                close.as_ref().map(|close| close.code.into()),
                close.map(|close| close.reason.as_str().into()).unwrap_or_default(),
            ),
            Message::Frame(_) => unreachable!("only written, never read"),
        });
    }
}

/// The same events as far as both go on, and the explained differences:
/// - it takes lengths that are not in their shortest form, those of control frames as well, and such
///   with the top bit set as a very long frame;
/// - of a frame that is cut off it has not seen what is wrong, if it looks only at whole frames;
/// - it counts no empty fragments;
/// - it looks at what comes after a Close, and finds that wrong;
/// - it answers a close code that may not be sent with an event of its own, and 1014 as well, which
///   is registered by now.
fn compare((ours, end): &Outcome, (theirs, failed): &(Vec<Seen>, bool)) {
    for (ours, theirs) in ours.iter().zip(theirs) {
        match ours {
            Seen::Close(Some(1014), _) => assert!(matches!(theirs, Seen::Close(Some(1002), _))),
            _ => assert_eq!(ours, theirs),
        }
    }
    match end {
        Ok(_) => {
            assert_eq!(ours.len(), theirs.len());
            assert!(!failed || matches!(ours.last(), Some(Seen::Close(..))));
        }
        // We gave up. What it still sees, it sees because it is more lenient.
        Err(
            Violation::NonMinimalLength
            | Violation::LongControl
            | Violation::LengthTopBit
            | Violation::MessageTooBig
            | Violation::CloseCode
            | Violation::CloseReasonUtf8
            | Violation::CloseLength
            | Violation::InvalidUtf8,
        ) => assert!(theirs.len() >= ours.len()),
        Err(_) => assert_eq!(ours.len(), theirs.len()),
    }
}
