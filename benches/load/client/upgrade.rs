//! The client's half of the upgrade: the request, and what the answer means.

use std::net::Ipv4Addr;

use tidegate::http::{request, response};
use tungstenite::handshake::client::generate_key;

use super::core::Manner;
use crate::target::Target;

/// The first client of a proxy, 1.0.0.0; the rest follow it.
const FIRST_CLIENT: u32 = 1 << 24;

/// What has been answered so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The head is not complete.
    Incomplete,
    /// 101 that fits the request; frames begin at this byte.
    Admitted(usize),
    /// Another status, and Retry-After where it is a number.
    Refused { status: u16, retry_after_s: Option<u32> },
    /// Not HTTP, or a 101 that does not fit the request.
    Bad,
}

/// Appends the upgrade request of connection `index` to `out` and returns its key.
pub(super) fn ask(
    target: &Target,
    path: &str,
    manner: &Manner,
    index: u64,
    out: &mut Vec<u8>,
) -> String {
    let key = manner.key.as_deref().map_or_else(generate_key, str::to_owned);
    request::client_upgrade(&target.authority, path, &key, out);
    if let Some(origin) = &manner.origin {
        add_header(out, "Origin", origin);
    }
    if manner.clients > 0 {
        let client = FIRST_CLIENT + (index % u64::from(manner.clients)) as u32;
        add_header(out, "X-Forwarded-For", &Ipv4Addr::from_bits(client).to_string());
    }
    key
}

/// In front of the empty line that ends the head.
fn add_header(head: &mut Vec<u8>, name: &str, value: &str) {
    head.truncate(head.len() - 2);
    for part in [name, ": ", value, "\r\n\r\n"] {
        head.extend_from_slice(part.as_bytes());
    }
}

/// Reads the answer to the request with `key`.
pub(super) fn read(answer: &[u8], key: &str) -> Answer {
    match response::parse_client(answer) {
        Ok(None) => Answer::Incomplete,
        Ok(Some(response)) if response.accepts(key) => Answer::Admitted(response.head_len),
        Ok(Some(response)) if response.status == 101 => Answer::Bad,
        Ok(Some(response)) => {
            Answer::Refused { status: response.status, retry_after_s: response.retry_after_s }
        }
        Err(_) => Answer::Bad,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ADMITTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
        Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x00";

    #[test]
    fn frames_begin_behind_the_head() {
        assert_eq!(read(ADMITTED, KEY), Answer::Admitted(ADMITTED.len() - 2));
        for cut in 0..ADMITTED.len() - 2 {
            assert_eq!(read(&ADMITTED[..cut], KEY), Answer::Incomplete, "{cut}");
        }
    }

    #[test]
    fn what_a_request_says_of_itself_is_part_of_the_head() {
        let target: Target = "ws://127.0.0.1:1/ws".parse().unwrap();
        let mut request = Vec::new();
        let origin = Some("https://a.example".into());
        let manner = Manner { origin, key: Some(KEY.into()), clients: 300 };
        assert_eq!(ask(&target, &target.path, &manner, 559, &mut request), KEY);
        let text = String::from_utf8(request).unwrap();
        let end = "\r\nOrigin: https://a.example\r\nX-Forwarded-For: 1.0.1.3\r\n\r\n";
        assert!(text.ends_with(end), "{text}");
        assert!(text.contains(&format!("\r\nSec-WebSocket-Key: {KEY}\r\n")), "{text}");
        assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }

    #[test]
    fn other_answers() {
        assert_eq!(read(ADMITTED, "x"), Answer::Bad, "an accept value for another key");
        let busy = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(read(busy, KEY), Answer::Refused { status: 503, retry_after_s: Some(1) });
        assert_eq!(read(b"SSH-2.0-x\r\n\r\n", KEY), Answer::Bad);
    }
}
