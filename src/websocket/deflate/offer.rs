//! Negotiating permessage-deflate (RFC 7692 sections 5 and 7.1).
//!
//! The first offer that can be met is accepted; one that is malformed, names an unknown parameter
//! or gives one twice is declined, as section 7 asks, and the next is looked at. The header is
//! read in one pass, so the work is linear in its length whatever it holds.

use std::fmt::Write as _;

use super::Window;

/// What was agreed on with a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// `server_max_window_bits` as the client gave it, 8 to 15.
    server_bits: Option<u8>,
}

impl Agreement {
    /// The first acceptable of the offers in all `Sec-WebSocket-Extensions` headers of a request,
    /// which together are one list (RFC 6455 section 11.3.2, erratum 3433).
    pub fn from_offers<'a>(headers: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        headers.flat_map(|header| Split::new(header, b',')).find_map(accept)
    }

    /// The window that our messages are compressed with.
    pub fn window(self) -> Window {
        self.server_bits.and_then(Window::of_bits).unwrap_or(Window::FULL)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer.
    ///
    /// No context takeover is asked for and promised in any case; a server may do so without the
    /// client having offered it (sections 7.1.1.1 and 7.1.1.2). The client's window is not
    /// narrowed: nothing would be gained by it.
    pub fn response(self) -> String {
        let mut text = String::from(
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
        );
        if let Some(bits) = self.server_bits {
            // Writing to a String cannot fail.
            let _ = write!(text, "; server_max_window_bits={bits}");
        }
        text
    }
}

/// The agreement that follows from one offer; `None` declines it.
fn accept(offer: &[u8]) -> Option<Agreement> {
    let mut parts = Split::new(offer, b';');
    if !parts.next()?.eq_ignore_ascii_case(b"permessage-deflate") {
        return None;
    }
    let mut seen = Seen::default();
    parts.try_for_each(|parameter| seen.take(parameter))?;
    Some(Agreement { server_bits: seen.server_bits })
}

/// The parameters of one offer so far.
#[derive(Debug, Default)]
struct Seen {
    server_no_context: bool,
    client_no_context: bool,
    client_bits: bool,
    server_bits: Option<u8>,
}

impl Seen {
    fn take(&mut self, parameter: &[u8]) -> Option<()> {
        let (name, value) = match parameter.iter().position(|&byte| byte == b'=') {
            Some(at) => (parameter[..at].trim_ascii_end(), Some(parameter[at + 1..].trim_ascii())),
            None => (parameter, None),
        };
        let is = |known: &[u8]| name.eq_ignore_ascii_case(known);
        if is(b"server_no_context_takeover") && value.is_none() {
            once(&mut self.server_no_context)
        } else if is(b"client_no_context_takeover") && value.is_none() {
            once(&mut self.client_no_context)
        } else if is(b"client_max_window_bits") {
            value.map_or(Some(0), bits)?;
            once(&mut self.client_bits)
        } else if is(b"server_max_window_bits") && self.server_bits.is_none() {
            self.server_bits = Some(bits(value?)?);
            Some(())
        } else {
            None
        }
    }
}

fn once(seen: &mut bool) -> Option<()> {
    (!std::mem::replace(seen, true)).then_some(())
}

/// 8 to 15 in decimal without leading zeros, perhaps in quotation marks (RFC 6455 section 9.1).
fn bits(value: &[u8]) -> Option<u8> {
    let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
    match *value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The parts of `rest` between separators that are not in quotation marks, trimmed.
struct Split<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Split<'a> {
    fn new(text: &'a [u8], separator: u8) -> Self {
        Self { rest: Some(text), separator }
    }
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (mut quoted, mut escaped) = (false, false);
        let end = rest.iter().position(|&byte| {
            let found = byte == self.separator && !quoted;
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
            found
        });
        self.rest = end.map(|end| &rest[end + 1..]);
        Some(rest[..end.unwrap_or(rest.len())].trim_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(header: &str) -> Option<Option<u8>> {
        let agreement = Agreement::from_offers(std::iter::once(header.as_bytes()));
        agreement.map(|agreement| agreement.server_bits)
    }

    #[test]
    fn offers_that_are_met() {
        let cases = [
            ("permessage-deflate", None),
            ("PerMessage-Deflate", None),
            (" permessage-deflate ; client_max_window_bits ", None),
            ("permessage-deflate;client_max_window_bits=8", None),
            ("permessage-deflate; client_max_window_bits=\"15\"", None),
            ("permessage-deflate; server_no_context_takeover; client_no_context_takeover", None),
            ("permessage-deflate; server_max_window_bits=8", Some(8)),
            ("permessage-deflate; server_max_window_bits = 10", Some(10)),
            ("permessage-deflate; SERVER_MAX_WINDOW_BITS=\"12\"", Some(12)),
            ("x-webkit-deflate-frame, permessage-deflate", None),
            ("foo; bar=\"a, permessage-deflate; b\\\", c\", permessage-deflate", None),
            (", ,permessage-deflate", None),
            // The first that can be met.
            ("permessage-deflate; unknown, permessage-deflate; server_max_window_bits=9", Some(9)),
            ("permessage-deflate; server_max_window_bits=16, permessage-deflate", None),
            ("permessage-deflate; server_max_window_bits=11, permessage-deflate", Some(11)),
        ];
        for (header, server_bits) in cases {
            assert_eq!(agreed(header), Some(server_bits), "{header}");
        }
    }

    #[test]
    fn offers_that_are_declined() {
        for header in [
            "",
            ",",
            ";",
            "deflate",
            "permessage-deflated",
            "permessage-deflate; ",
            "permessage-deflate;;client_max_window_bits",
            "permessage-deflate; foo",
            "permessage-deflate; foo=1",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover=",
            "permessage-deflate; client_no_context_takeover=true",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=9; client_max_window_bits",
            "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=16",
            "permessage-deflate; server_max_window_bits=08",
            "permessage-deflate; server_max_window_bits=+9",
            "permessage-deflate; server_max_window_bits=1e1",
            "permessage-deflate; server_max_window_bits=99999999999999999999",
            "permessage-deflate; server_max_window_bits=\"9",
            "permessage-deflate; server_max_window_bits=-1",
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=",
            "\"permessage-deflate",
        ] {
            assert_eq!(agreed(header), None, "{header}");
        }
    }

    #[test]
    fn repeated_headers_are_one_list() {
        let headers = ["foo", "permessage-deflate; server_max_window_bits=9", "permessage-deflate"];
        let agreement = Agreement::from_offers(headers.iter().map(|header| header.as_bytes()));
        let response = agreement.map(Agreement::response).unwrap_or_default();
        assert!(response.ends_with("client_no_context_takeover; server_max_window_bits=9"));
    }

    #[test]
    fn the_smallest_window_a_client_can_ask_for_is_named_as_it_was_asked_for() {
        let offer = b"permessage-deflate; server_max_window_bits=8".as_slice();
        let agreement = Agreement::from_offers(std::iter::once(offer));
        assert_eq!(agreement.map(Agreement::window), Some(Window::SMALLEST));
        assert!(agreement.is_some_and(|a| a.response().ends_with("server_max_window_bits=8")));
    }
}
