//! Behaviour of the decoder, chunk by chunk.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::websocket::partial::EMPTY_FRAGMENT_CHARGE;
use proptest::prelude::*;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MAX: usize = 1 << 16;
const RULES: Rules = Rules { role: Role::Server, max_message_bytes: MAX };

/// An event without borrowing, to compare.
#[derive(Debug, Clone, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Owned {
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

type Outcome = (Vec<Owned>, Result<Option<Box<Partial>>, Violation>);

/// What a connection sees that gets these chunks, up to the first violation or Close.
fn read(chunks: &[&[u8]], rules: Rules) -> Outcome {
    read_with(chunks, rules, None)
}

/// The same of a connection that has negotiated compression, if there is an inflater.
fn read_with(chunks: &[&[u8]], rules: Rules, mut inflater: Option<&mut Inflater>) -> Outcome {
    let (mut partial, mut events) = (None, Vec::new());
    for chunk in chunks {
        let mut chunk = chunk.to_vec();
        let mut incoming = Incoming::new(&mut chunk, &mut partial, rules);
        if let Some(inflater) = inflater.as_deref_mut() {
            incoming = incoming.inflating(inflater);
        }
        loop {
            match incoming.next() {
                Ok(Some(event)) => events.push(Owned::from(event)),
                Ok(None) => break,
                Err(violation) => return (events, Err(violation)),
            }
        }
        if matches!(events.last(), Some(Owned::Close(..))) {
            break;
        }
    }
    (events, Ok(partial))
}

/// A masked frame with the given first byte.
fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::encode_masked(OpCode::Data(Data::Binary), payload, KEY, &mut out);
    out[0] = first;
    out
}

fn text(s: &str) -> Owned {
    Owned::Text(s.into())
}

/// Reads the bytes whole, byte by byte, and cut in two at every place; the outcome must be the
/// same each time and is returned.
fn read_every_way(bytes: &[u8], rules: Rules) -> (Vec<Owned>, Result<bool, Violation>) {
    every_way(bytes, |chunks| read(chunks, rules))
}

fn every_way(
    bytes: &[u8],
    mut read: impl FnMut(&[&[u8]]) -> Outcome,
) -> (Vec<Owned>, Result<bool, Violation>) {
    let mut read = |chunks: &[&[u8]]| {
        let (events, end) = read(chunks);
        (events, end.map(|partial| partial.is_some()))
    };
    let whole = read(&[bytes]);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single), whole, "byte by byte");
    for cut in 0..=bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(read(&[a, b]), whole, "cut at {cut}");
    }
    whole
}

#[test]
fn a_whole_frame_is_a_slice_of_the_chunk() {
    let mut chunk = [raw(0x81, b"one"), raw(0x82, b"two")].concat();
    let range = chunk.as_ptr_range();
    let mut partial = None;
    let mut incoming = Incoming::new(&mut chunk, &mut partial, RULES);
    let Some(Event::Text(one)) = incoming.next().unwrap() else { panic!("no text") };
    assert!(one == "one" && range.contains(&one.as_ptr()));
    let Some(Event::Binary(two)) = incoming.next().unwrap() else { panic!("no binary") };
    assert!(two == b"two" && range.contains(&two.as_ptr()));
    assert_eq!(incoming.next(), Ok(None));
    assert!(partial.is_none());
}

/// Frames, and what they must be read as.
type ValidStream = (&'static str, Vec<Vec<u8>>, Vec<Owned>);

#[test]
fn valid_streams() {
    let cases: [ValidStream; 12] = [
        ("empty text", vec![raw(0x81, b"")], vec![text("")]),
        ("text", vec![raw(0x81, b"hi")], vec![text("hi")]),
        ("fragments", vec![raw(0x01, b"a"), raw(0x00, b"b"), raw(0x80, b"c")], vec![text("abc")]),
        ("final fragment empty", vec![raw(0x01, b"a"), raw(0x80, b"")], vec![text("a")]),
        ("all fragments empty", vec![raw(0x02, b""), raw(0x80, b"")], vec![Owned::Binary(vec![])]),
        (
            "a character over two fragments",
            vec![raw(0x01, b"\xe2\x82"), raw(0x80, b"\xac")],
            vec![text("€")],
        ),
        (
            "control frames inside a message",
            vec![raw(0x01, b"a"), raw(0x89, b"p"), raw(0x8a, b""), raw(0x80, b"b")],
            vec![Owned::Ping(b"p".to_vec()), Owned::Pong(vec![]), text("ab")],
        ),
        (
            "control frame inside a character",
            vec![raw(0x01, b"\xf0\x9f"), raw(0x89, b"p"), raw(0x80, b"\x98\x80")],
            vec![Owned::Ping(b"p".to_vec()), text("😀")],
        ),
        ("longest ping", vec![raw(0x89, &[7; 125])], vec![Owned::Ping(vec![7; 125])]),
        ("16-bit length", vec![raw(0x82, &[1; 300])], vec![Owned::Binary(vec![1; 300])]),
        ("close without code", vec![raw(0x88, b"")], vec![Owned::Close(None, String::new())]),
        (
            "nothing after a close",
            vec![raw(0x01, b"a"), raw(0x88, b"\x03\xe8bye"), raw(0x81, b"late"), raw(0xff, b"")],
            vec![Owned::Close(Some(1000), "bye".into())],
        ),
    ];
    for (name, frames, expected) in cases {
        let (events, end) = read_every_way(&frames.concat(), RULES);
        assert_eq!(events, expected, "{name}");
        assert_eq!(end, Ok(false), "{name}: nothing may be held");
    }
}

#[test]
fn broken_streams() {
    use Violation as V;
    let small = Rules { max_message_bytes: 64, ..RULES };
    let empty = raw(0x00, b"");
    let cases: [(&str, Vec<Vec<u8>>, usize, Violation); 19] = [
        ("continuation first", vec![raw(0x80, b"a")], 0, V::NothingToContinue),
        ("open continuation first", vec![raw(0x00, b"")], 0, V::NothingToContinue),
        (
            "continuation after the end",
            vec![raw(0x01, b"a"), raw(0x80, b"b"), raw(0x80, b"c")],
            1,
            V::NothingToContinue,
        ),
        ("text in text", vec![raw(0x01, b"a"), raw(0x81, b"b")], 0, V::MessageInProgress),
        ("binary in text", vec![raw(0x01, b""), raw(0x02, b"b")], 0, V::MessageInProgress),
        ("bad text", vec![raw(0x81, b"ok"), raw(0x81, b"\xff")], 1, V::InvalidUtf8),
        ("text ends in a character", vec![raw(0x81, b"\xe2\x82")], 0, V::InvalidUtf8),
        (
            "fragmented text ends in a character",
            vec![raw(0x01, b"\xe2"), raw(0x80, b"\x82")],
            0,
            V::InvalidUtf8,
        ),
        ("bad in the first fragment", vec![raw(0x01, b"\xf4\x90")], 0, V::InvalidUtf8),
        ("surrogate", vec![raw(0x01, b"\xed"), raw(0x00, b"\xa0")], 0, V::InvalidUtf8),
        ("one byte over", vec![raw(0x82, &[0; 65])], 0, V::MessageTooBig),
        ("total over", vec![raw(0x02, &[0; 40]), raw(0x80, &[0; 25])], 0, V::MessageTooBig),
        ("five empty", [vec![raw(0x02, b"")], vec![empty; 4]].concat(), 0, V::MessageTooBig),
        ("close of one byte", vec![raw(0x88, b"\x03")], 0, V::CloseLength),
        ("close 1005", vec![raw(0x88, b"\x03\xed")], 0, V::CloseCode),
        ("close reason", vec![raw(0x88, b"\x03\xe8\xc3\x28")], 0, V::CloseReasonUtf8),
        ("ping then rsv", vec![raw(0x89, b"x"), raw(0xc1, b"")], 1, V::ReservedBits),
        ("opcode 5", vec![raw(0x01, b"a"), raw(0x85, b"")], 0, V::ReservedOpcode),
        ("open ping in a message", vec![raw(0x01, b"a"), raw(0x09, b"")], 0, V::FragmentedControl),
    ];
    for (name, frames, events_before, violation) in cases {
        let (events, end) = read_every_way(&frames.concat(), small);
        assert_eq!(end, Err(violation), "{name}");
        assert_eq!(events.len(), events_before, "{name}");
    }
}

#[test]
fn bad_text_is_refused_before_its_frame_is_complete() {
    let bytes = raw(0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited");
    for cut in 0..bytes.len() {
        let (_, end) = read(&[&bytes[..cut]], RULES);
        // Header of 6 bytes, then the byte after F4 is the first bad one.
        assert_eq!(end.is_err(), cut >= 6 + 13, "cut at {cut}");
    }
}

#[test]
fn memory_follows_what_arrived_and_not_what_was_declared() {
    let mut frame = raw(0x82, &[0; 60_000]);
    frame.truncate(100);
    let (_, end) = read(&[&frame], RULES);
    let held = end.unwrap().unwrap().held_bytes();
    assert!(held <= 100 + size_of::<Partial>(), "{held}");

    let (_, end) = read(&[&frame[..3]], RULES);
    assert_eq!(end.unwrap().unwrap().held_bytes(), size_of::<Partial>());
}

#[test]
fn fragments_cost_no_memory_of_their_own() {
    let bytes: Vec<u8> = std::iter::once(raw(0x01, b"x"))
        .chain((0..10_000).map(|_| raw(0x00, b"x")))
        .flatten()
        .collect();
    let (events, end) = read(&[&bytes], RULES);
    let partial = end.unwrap().unwrap();
    assert!(events.is_empty() && partial.mid_message() && !partial.mid_frame());
    assert!(partial.held_bytes() <= 2 * 10_001 + size_of::<Partial>());
}

#[test]
fn many_small_fragments_may_make_a_large_message() {
    // Autobahn 9.3.1: 4 MiB in fragments of 64 bytes, against a limit of 16 MiB.
    let rules = Rules { max_message_bytes: 16 << 20, ..RULES };
    let fragments = (4 << 20) / 64;
    let bytes: Vec<u8> = (0..fragments)
        .flat_map(|i| raw(if i == 0 { 1 } else { 0 }, &[b'*'; 64]))
        .chain(raw(0x80, b""))
        .collect();
    let chunks: Vec<&[u8]> = bytes.chunks(4096).collect();
    let (events, end) = read(&chunks, rules);
    assert!(end.unwrap().is_none());
    assert_eq!(events, [text(&"*".repeat(4 << 20))]);
}

#[test]
fn endless_empty_fragments_reach_the_limit() {
    let allowed = MAX / EMPTY_FRAGMENT_CHARGE;
    let stream = |empty: usize| {
        let mut bytes = raw(0x02, b"");
        bytes.extend(raw(0x00, b"").repeat(empty - 1));
        read(&[&bytes], RULES).1.map(|partial| partial.is_some())
    };
    assert_eq!(stream(allowed), Ok(true));
    assert_eq!(stream(allowed + 1), Err(Violation::MessageTooBig));
}

#[test]
fn the_limit_counts_each_message_anew() {
    let full = raw(0x82, &[1; MAX]);
    let fragmented = [raw(0x02, &[1; MAX - 1]), raw(0x80, &[1; 1])].concat();
    let (events, end) = read(&[&full, &fragmented, &full], RULES);
    assert_eq!((events.len(), end.unwrap().is_some()), (3, false));
}

#[test]
fn a_client_reads_what_a_server_writes() {
    let mut bytes = Vec::new();
    frame::encode(OpCode::Data(Data::Text), b"hello", &mut bytes);
    close_frame::encode(1001, "later", &mut bytes);
    let rules = Rules { role: Role::Client, ..RULES };
    let (events, end) = read_every_way(&bytes, rules);
    assert_eq!(events, [text("hello"), Owned::Close(Some(1001), "later".into())]);
    assert_eq!(end, Ok(false));
}

/// "Hello" compressed (RFC 7692 7.2.3.1).
const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[test]
fn compressed_streams() {
    use Violation as V;
    let small = Rules { max_message_bytes: 10, ..RULES };
    let hello = || raw(0xc1, &HELLO);
    type Row = (&'static str, Vec<Vec<u8>>, Vec<Owned>, Option<Violation>);
    let cases: [Row; 16] = [
        ("one frame", vec![hello()], vec![text("Hello")], None),
        ("twice", vec![hello(), hello()], vec![text("Hello"), text("Hello")], None),
        ("binary", vec![raw(0xc2, &HELLO)], vec![Owned::Binary(b"Hello".to_vec())], None),
        (
            "fragments, and a ping between them",
            vec![raw(0x41, &HELLO[..3]), raw(0x89, b"p"), raw(0x00, b""), raw(0x80, &HELLO[3..])],
            vec![Owned::Ping(b"p".to_vec()), text("Hello")],
            None,
        ),
        ("not compressed", vec![raw(0x81, b"hi"), hello()], vec![text("hi"), text("Hello")], None),
        ("empty", vec![raw(0xc1, &[0])], vec![text("")], None),
        ("without payload", vec![raw(0xc2, b"")], vec![Owned::Binary(vec![])], None),
        (
            "rsv1 on a continuation",
            vec![raw(0x41, b""), raw(0xc0, b"")],
            vec![],
            Some(V::ReservedBits),
        ),
        ("rsv1 on a ping", vec![raw(0xc9, b"")], vec![], Some(V::ReservedBits)),
        ("rsv1 on a close", vec![raw(0xc8, b"")], vec![], Some(V::ReservedBits)),
        ("rsv1 and rsv2", vec![raw(0xe1, &HELLO)], vec![], Some(V::ReservedBits)),
        (
            "no deflate",
            vec![hello(), raw(0xc1, b"Hello")],
            vec![text("Hello")],
            Some(V::InvalidDeflate),
        ),
        (
            "stored bytes that are not UTF-8",
            vec![raw(0xc1, b"\x00\x01\x00\xfe\xff\xff\x00")],
            vec![],
            Some(V::InvalidUtf8),
        ),
        (
            "eleven bytes of ten",
            vec![
                raw(0xc2, &[0x4a, 0x4c, 0x84, 0x02, 0x00]),
                raw(0xc2, &[&[0, 11, 0, 0xf4, 0xff][..], &[7; 11], &[0]].concat()),
            ],
            vec![Owned::Binary(b"aaaaaaaaa".to_vec())],
            Some(V::MessageTooBig),
        ),
        ("far too long for ten bytes", vec![raw(0xc2, &[0; 76])], vec![], Some(V::MessageTooBig)),
        (
            "far too long in sum",
            vec![raw(0x42, &[0; 70]), raw(0x80, &[0; 6])],
            vec![],
            Some(V::MessageTooBig),
        ),
    ];
    let mut inflater = Inflater::default();
    for (name, frames, expected, violation) in cases {
        let (events, end) =
            every_way(&frames.concat(), |chunks| read_with(chunks, small, Some(&mut inflater)));
        assert_eq!(events, expected, "{name}");
        assert_eq!(end, violation.map_or(Ok(false), Err), "{name}");
    }
}

#[test]
fn what_is_held_of_a_compressed_message_is_what_was_sent() {
    let zeros = vec![0; MAX];
    let mut compressor = deflate::Compressor::default();
    let payload = compressor.compress(&zeros, deflate::Window::FULL).unwrap().to_vec();
    let mut inflater = Inflater::default();
    let (events, end) = read_with(&[&raw(0x42, &payload)], RULES, Some(&mut inflater));
    let held = end.unwrap().unwrap().held_bytes();
    assert!(events.is_empty() && held <= payload.len() + size_of::<Partial>(), "{held}");
    let rest = [raw(0x42, &payload), raw(0x80, b"")].concat();
    let (events, _) = read_with(&[&rest], RULES, Some(&mut inflater));
    assert_eq!(events, [Owned::Binary(zeros)]);
}

/// A message cut into fragments, with control frames between them.
#[derive(Debug, Clone)]
struct Sent {
    binary: bool,
    /// The fragments are those of its compressed form.
    compressed: bool,
    fragments: Vec<Vec<u8>>,
    pings: Vec<Vec<u8>>,
}

impl Sent {
    fn encode(&self, out: &mut Vec<u8>) {
        let last = self.fragments.len() - 1;
        for (i, fragment) in self.fragments.iter().enumerate() {
            let first = 1 + u8::from(self.binary) + if self.compressed { 0x40 } else { 0 };
            let opcode = if i > 0 { 0 } else { first };
            out.extend(raw(opcode | if i == last { 0x80 } else { 0 }, fragment));
            if let Some(ping) = self.pings.get(i) {
                out.extend(raw(0x89 + u8::from(ping.len() % 2 == 1), ping));
            }
        }
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let body = prop_oneof![
        prop::collection::vec(any::<char>(), 0..60)
            .prop_map(|chars| (false, chars.into_iter().collect::<String>().into_bytes())),
        prop::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| (true, bytes)),
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let pings = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..=125), 0..3);
    (body, cuts, pings).prop_map(|((binary, bytes), cuts, pings)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let fragments = cuts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
        Sent { binary, compressed: false, fragments, pings }
    })
}

/// The same, compressed where that makes it shorter.
fn sent_compressed() -> impl Strategy<Value = Sent> {
    sent().prop_map(|sent| {
        let whole = sent.fragments.concat().repeat(2);
        let mut compressor = deflate::Compressor::default();
        let Some(payload) = compressor.compress(&whole, deflate::Window::FULL) else { return sent };
        let len = payload.len().div_ceil(sent.fragments.len());
        let fragments = payload.chunks(len).map(<[u8]>::to_vec).collect();
        Sent { compressed: true, fragments, ..sent }
    })
}

fn split<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2).map(|w| &bytes[w[0]..w[1]]).collect()
}

/// What tungstenite makes of a client's bytes, up to the end of them.
fn tungstenite_reads(bytes: &[u8]) -> Vec<Owned> {
    use tungstenite::{Message, WebSocket, protocol::Role};
    struct Wire<'a>(&'a [u8]);
    impl std::io::Read for Wire<'_> {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(buf)
        }
    }
    impl std::io::Write for Wire<'_> {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut socket = WebSocket::from_raw_socket(Wire(bytes), Role::Server, None);
    let mut events = Vec::new();
    while let Ok(message) = socket.read() {
        events.push(match message {
            Message::Text(text) => Owned::Text(text.as_str().into()),
            Message::Binary(bytes) => Owned::Binary(bytes.to_vec()),
            Message::Ping(bytes) => Owned::Ping(bytes.to_vec()),
            Message::Pong(bytes) => Owned::Pong(bytes.to_vec()),
            Message::Close(close) => Owned::Close(
                close.as_ref().map(|close| close.code.into()),
                close.map(|close| close.reason.as_str().into()).unwrap_or_default(),
            ),
            Message::Frame(_) => unreachable!("only written, never read"),
        });
    }
    events
}

proptest! {
    #[test]
    fn valid_streams_read_as_tungstenite_reads_them(
        messages in prop::collection::vec(sent(), 0..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        close in prop::option::of((prop_oneof![Just(1000u16), 3000u16..5000], "[a-zé€]{0,30}")),
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        if let Some((code, reason)) = &close {
            close_frame::encode_masked(*code, reason, KEY, &mut bytes);
        }
        let (events, end) = read(&split(&bytes, &cuts), RULES);
        prop_assert!(matches!(end, Ok(None)), "{:?}", end);
        prop_assert_eq!(events, tungstenite_reads(&bytes));
    }

    #[test]
    fn any_bytes_split_in_any_way_give_the_same(
        messages in prop::collection::vec(prop_oneof![sent(), sent_compressed()], 0..4),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        max_message_bytes in prop_oneof![Just(MAX), 0usize..300],
    ) {
        let mut bytes = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut bytes));
        for (at, byte) in edits {
            let len = bytes.len();
            if len > 0 {
                bytes[at.index(len)] = byte;
            }
        }
        let rules = Rules { max_message_bytes, ..RULES };
        for compresses in [false, true] {
            let (mut one, mut other) = (Inflater::default(), Inflater::default());
            let (events, end) = read_with(&[&bytes], rules, compresses.then_some(&mut one));
            let (split_events, split_end) =
                read_with(&split(&bytes, &cuts), rules, compresses.then_some(&mut other));
            prop_assert_eq!(events, split_events);
            prop_assert_eq!(end.map(|partial| partial.is_some()), split_end.map(|p| p.is_some()));
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for role in [Role::Server, Role::Client] {
            let rules = Rules { role, max_message_bytes: 1000 };
            let (_, end) = read(&[&bytes], rules);
            if let Ok(Some(partial)) = end {
                prop_assert!(!partial.is_idle());
            }
        }
    }
}
