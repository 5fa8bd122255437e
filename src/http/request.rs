//! The head of a request: finding its end as the bytes arrive, and, for the load tool, writing
//! one.

use super::refusal::{Refusal, Status};

/// How far a head has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// More bytes are needed.
    Incomplete,
    /// The head ends here; what follows it is not a part of it.
    Complete {
        /// Length of the head in bytes, its blank line included.
        len: usize,
    },
}

/// Finds the end of a head without looking at a byte twice, and refuses what no later byte can
/// mend as soon as it is seen. The outcome does not depend on how the bytes were cut into reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadScanner {
    scanned: u32,
    at: At,
}

/// What the byte before the next one was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum At {
    /// Nothing, or the end of an empty line before the request line.
    #[default]
    Start,
    /// The CR of an empty line before the request line.
    StartCr,
    /// A byte of a line.
    Line,
    /// The CR that ends a line.
    LineCr,
    /// The LF that ends a line.
    LineEnd,
    /// The CR of the blank line.
    BlankCr,
}

const _: () = assert!(size_of::<HeadScanner>() == 8, "one per connection that is not upgraded");

impl HeadScanner {
    /// Looks at the bytes that are new in `bytes`: everything received on the connection so far,
    /// frames that follow the head included. Not to be called again once it has said `Complete`.
    /// The head may have `most` bytes, at every call the same.
    ///
    /// # Errors
    /// As [`scan_next`](Self::scan_next).
    pub fn scan(&mut self, bytes: &[u8], most: usize) -> Result<Head, Refusal> {
        self.scan_next(bytes.get(self.scanned()..).unwrap_or_default(), most)
    }

    /// Looks at the next bytes of a head of which the earlier ones need not be there any more; the
    /// length of a complete head counts from its first byte. The rest as for [`scan`](Self::scan).
    ///
    /// Empty lines before the request line are skipped (RFC 9112 section 2.2).
    ///
    /// # Errors
    /// 400 for a line that ends in a bare LF or contains a bare CR, for NUL and the other control
    /// characters, for a folded header (RFC 9112 section 5.2), and for the first byte of a TLS
    /// handshake; 431 when the head is longer than `most`.
    pub fn scan_next(&mut self, bytes: &[u8], most: usize) -> Result<Head, Refusal> {
        let mut rest = &bytes[..bytes.len().min(most.saturating_sub(self.scanned()))];
        while let Some((&next, others)) = rest.split_first() {
            match (self.at, next) {
                (At::Line, _) => {
                    let len = self.scan_line(rest)?;
                    rest = &rest[len..];
                    continue;
                }
                (At::Start, 0x16) if self.scanned == 0 => return Err(TLS),
                (At::Start, b'\r') => self.at = At::StartCr,
                (At::LineEnd, b'\r') => self.at = At::BlankCr,
                (At::StartCr, b'\n') => self.at = At::Start,
                (At::LineCr, b'\n') => self.at = At::LineEnd,
                (At::BlankCr, b'\n') => return Ok(Head::Complete { len: self.scanned() + 1 }),
                (At::StartCr | At::LineCr | At::BlankCr, _) => return Err(BARE_CR),
                (At::LineEnd, b' ' | b'\t') => return Err(FOLDED),
                (At::Start | At::LineEnd, _) => {
                    self.at = At::Line;
                    continue;
                }
            }
            self.scanned += 1;
            rest = others;
        }
        if self.scanned() == most { Err(TOO_LONG) } else { Ok(Head::Incomplete) }
    }

    /// Goes on to the CR that ends the line, or to the end of what has arrived. Returns how many
    /// bytes it has passed.
    fn scan_line(&mut self, rest: &[u8]) -> Result<usize, Refusal> {
        let end = memchr::memchr(b'\r', rest);
        let line = &rest[..end.unwrap_or(rest.len())];
        // A fold over all bytes, which the compiler vectorises; which byte it was is for the
        // rare line that has one.
        if line.iter().fold(false, |found, &byte| found | is_forbidden(byte)) {
            let first = line.iter().find(|&&byte| is_forbidden(byte));
            return Err(if first == Some(&b'\n') { BARE_LF } else { CONTROL });
        }
        let passed = line.len() + usize::from(end.is_some());
        self.scanned += passed as u32;
        if end.is_some() {
            self.at = At::LineCr;
        }
        Ok(passed)
    }

    fn scanned(&self) -> usize {
        self.scanned as usize
    }
}

/// Control characters but the tab. Bytes above 0x7f are legal in a header's value (`obs-text`).
fn is_forbidden(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

const TLS: Refusal =
    Refusal::bad_request("this is a TLS handshake; the listener speaks plain HTTP");
const BARE_CR: Refusal = Refusal::bad_request("CR without LF");
const BARE_LF: Refusal = Refusal::bad_request("LF without CR");
const CONTROL: Refusal = Refusal::bad_request("control character in the head");
const FOLDED: Refusal = Refusal::bad_request("folded header");
const TOO_LONG: Refusal =
    Refusal::new(Status::HeaderFieldsTooLarge, "head longer than handshake.max_head_bytes");

/// The values of every header with this name in a complete head, in order, without surrounding
/// white space. Case does not matter. Nothing else of the request is judged.
pub fn header_values<'a, 'n>(
    head: &'a [u8],
    name: &'n str,
) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
    values_in(header_lines(head), name)
}

/// The same of header lines.
pub(super) fn values_in<'a, 'n>(
    lines: &'a [u8],
    name: &'n str,
) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a, 'n> {
    lines.split(|&byte| byte == b'\n').filter_map(move |line| {
        let colon = memchr::memchr(b':', line)?;
        let (line_name, value) = line.split_at(colon);
        let is_wanted = line_name.eq_ignore_ascii_case(name.as_bytes());
        is_wanted.then(|| value[1..].trim_ascii())
    })
}

/// What follows the request line.
pub(super) fn header_lines(head: &[u8]) -> &[u8] {
    let start = head.trim_ascii_start();
    memchr::memchr(b'\n', start).map_or(&[], |end| &start[end + 1..])
}

/// Appends a client's upgrade request to `out` (RFC 6455 section 4.1). `key` is the base64 form
/// of 16 random bytes; `host` and `path_and_query` are written as they are.
pub fn client_upgrade(host: &str, path_and_query: &str, key: &str, out: &mut Vec<u8>) {
    for part in [
        "GET ",
        path_and_query,
        " HTTP/1.1\r\nHost: ",
        host,
        "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ",
        key,
        "\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::HEAD_BYTES;
    use proptest::prelude::*;

    fn scan(bytes: &[u8]) -> Result<Head, Refusal> {
        HeadScanner::default().scan(bytes, HEAD_BYTES)
    }

    #[test]
    fn the_end_of_the_head_is_found_and_what_follows_is_left() {
        let head = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(scan(head), Ok(Head::Complete { len: head.len() }));
        let with_frame = [&head[..], b"\x81\x80\x00\x00\x00\x00\n\r"].concat();
        assert_eq!(scan(&with_frame), Ok(Head::Complete { len: head.len() }));
        let after_empty_lines = [b"\r\n\r\n", &head[..]].concat();
        assert_eq!(scan(&after_empty_lines), Ok(Head::Complete { len: head.len() + 4 }));
        assert_eq!(scan(b""), Ok(Head::Incomplete));
    }

    #[test]
    fn what_cannot_be_mended_is_refused_at_its_byte() {
        let cases: [(&str, &[u8], Refusal); 12] = [
            ("tls", b"\x16", TLS),
            ("bare lf", b"GET / HTTP/1.1\n", BARE_LF),
            ("bare lf at the start", b"\n", BARE_LF),
            ("bare lf for the blank line", b"GET / HTTP/1.1\r\n\n", BARE_LF),
            ("bare cr", b"GET / HTTP/1.1\rH", BARE_CR),
            ("two crs", b"GET / HTTP/1.1\r\r", BARE_CR),
            ("cr and no blank line", b"GET / HTTP/1.1\r\n\rH", BARE_CR),
            ("nul", b"GET /\0", CONTROL),
            ("delete", b"GET /\x7f", CONTROL),
            ("escape", b"\x1b", CONTROL),
            ("0x16 later", b"GET \x16", CONTROL),
            ("folded", b"GET / HTTP/1.1\r\nA: b\r\n ", FOLDED),
        ];
        for (name, bytes, refusal) in cases {
            assert_eq!(scan(&bytes[..bytes.len() - 1]), Ok(Head::Incomplete), "{name}, before");
            assert_eq!(scan(bytes), Err(refusal), "{name}");
            let more = [bytes, b"\r\n\r\n"].concat();
            assert_eq!(scan(&more), Err(refusal), "{name}, more behind it");
        }
    }

    #[test]
    fn a_head_may_be_as_long_as_the_limit_and_no_longer() {
        for most in [1_024, HEAD_BYTES, 65_536] {
            let scan = |bytes: &[u8]| HeadScanner::default().scan(bytes, most);
            let mut head = b"GET / HTTP/1.1\r\nA: ".to_vec();
            head.resize(most - 4, b'a');
            head.extend(b"\r\n\r\n");
            assert_eq!(scan(&head), Ok(Head::Complete { len: most }));
            head.insert(30, b'a');
            assert_eq!(scan(&head), Err(TOO_LONG));
            assert_eq!(scan(&head[..most]), Err(TOO_LONG));
            assert_eq!(scan(&head[..most - 1]), Ok(Head::Incomplete));
            assert_eq!(scan(&b"\r\n".repeat(most)), Err(TOO_LONG));
        }
    }

    const PIECES: [&str; 9] =
        ["\r\n", "GET / HTTP/1.1", "A: b", "\r", "\n", "\0", " ", "\x16", "\r\n\r\n"];

    proptest! {
        #[test]
        fn cuts_change_nothing(
            parts in prop::collection::vec(
                prop::sample::select(&PIECES[..]),
                0..12,
            ),
            cuts in prop::collection::vec(0usize..100, 0..8),
        ) {
            let bytes = parts.concat().into_bytes();
            let whole = scan(&bytes);
            let mut scanner = HeadScanner::default();
            let mut ends: Vec<usize> = cuts.iter().map(|&cut| cut.min(bytes.len())).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let split = ends.iter().map(|&end| scanner.scan(&bytes[..end], HEAD_BYTES))
                .find(|outcome| *outcome != Ok(Head::Incomplete))
                .unwrap_or(Ok(Head::Incomplete));
            prop_assert_eq!(whole, split);
            let (mut scanner, mut begin) = (HeadScanner::default(), 0);
            let pieces = ends.iter().map(|&end| &bytes[std::mem::replace(&mut begin, end)..end]);
            let discarded = pieces.map(|piece| scanner.scan_next(piece, HEAD_BYTES))
                .find(|outcome| *outcome != Ok(Head::Incomplete))
                .unwrap_or(Ok(Head::Incomplete));
            prop_assert_eq!(whole, discarded, "without what came before");
        }
    }
}
