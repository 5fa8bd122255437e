//! The two answers to an upgrade request, and, for the load tool, reading them.

use std::fmt::{self, Write as _};
use std::mem::MaybeUninit;

use tungstenite::handshake::derive_accept_key;

use super::fields;
use super::refusal::{Body, Refusal, Status};
use super::upgrade::HEADERS_MAX;

/// Appends the 101 for a request with this key (RFC 6455 section 4.2.2). `protocol` is one of
/// those the client offered, `extensions` what was agreed on of its offers.
pub fn switching_protocols(
    key: &str,
    protocol: Option<&str>,
    extensions: Option<&str>,
    out: &mut Vec<u8>,
) {
    let accept = derive_accept_key(key.as_bytes());
    put(
        out,
        &[
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: ",
            &accept,
            "\r\n",
        ],
    );
    if let Some(protocol) = protocol {
        put(out, &["Sec-WebSocket-Protocol: ", protocol, "\r\n"]);
    }
    if let Some(extensions) = extensions {
        put(out, &["Sec-WebSocket-Extensions: ", extensions, "\r\n"]);
    }
    put(out, &["\r\n"]);
}

/// Appends a complete response that refuses the request and ends the connection.
///
/// It has no `Date`: this code has no clock (RFC 9110 section 6.6.1).
pub fn refuse(refusal: &Refusal, out: &mut Vec<u8>) {
    let mut text = String::with_capacity(512);
    // Writing to a String cannot fail.
    let _ = write_refusal(refusal, &mut text);
    out.extend_from_slice(text.as_bytes());
}

fn write_refusal(refusal: &Refusal, out: &mut String) -> fmt::Result {
    let Refusal { status, detail, reason, key, retry_after_s, body } = *refusal;
    write!(out, "HTTP/1.1 {} {}\r\n", status.code(), status.phrase())?;
    match status {
        // A sender of Upgrade has to name it in Connection too (RFC 9110 section 7.8).
        Status::UpgradeRequired => out.push_str(
            "Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
        ),
        Status::MethodNotAllowed => out.push_str("Connection: close\r\nAllow: GET\r\n"),
        _ => out.push_str("Connection: close\r\n"),
    }
    if let Some(seconds) = retry_after_s {
        write!(out, "Retry-After: {seconds}\r\n")?;
    }
    let (content_type, content) = match body {
        Body::Text => ("text/plain; charset=utf-8", format!("{detail}\n")),
        Body::Json | Body::Empty => ("application/json", json_line(status, detail, reason, key)?),
    };
    write!(out, "Content-Type: {content_type}\r\nContent-Length: {}\r\n\r\n", content.len())?;
    if body != Body::Empty {
        out.push_str(&content);
    }
    Ok(())
}

/// `reason` and `key` are words of ours, which need no escapes.
fn json_line(
    status: Status,
    detail: &str,
    reason: Option<&str>,
    key: Option<&str>,
) -> Result<String, fmt::Error> {
    let mut line = String::from("{\"error\":\"");
    for character in detail.chars() {
        match character {
            '"' | '\\' => line.extend(['\\', character]),
            control if control < ' ' => write!(line, "\\u{:04x}", u32::from(control))?,
            other => line.push(other),
        }
    }
    write!(line, "\",\"status\":{}", status.code())?;
    for (name, value) in [("reason", reason), ("key", key)] {
        if let Some(value) = value {
            write!(line, ",\"{name}\":\"{value}\"")?;
        }
    }
    line.push_str("}\n");
    Ok(line)
}

fn put(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

/// What a server answered to an upgrade request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientResponse<'a> {
    /// 101, or why not.
    pub status: u16,
    /// `Sec-WebSocket-Accept`.
    pub accept: Option<&'a str>,
    /// `Retry-After` in seconds, where it is a number.
    pub retry_after_s: Option<u32>,
    /// `Upgrade` names `websocket` and `Connection` names `upgrade`.
    pub names_websocket: bool,
    /// Length of the head in bytes; frames or a body follow it.
    pub head_len: usize,
}

impl ClientResponse<'_> {
    /// Whether the connection is a WebSocket now, for a request that carried this key (RFC 6455
    /// section 4.1).
    pub fn accepts(&self, key: &str) -> bool {
        self.status == 101
            && self.names_websocket
            && self.accept == Some(derive_accept_key(key.as_bytes()).as_str())
    }
}

/// The longest head of a response that the load tool reads, in bytes.
const RESPONSE_HEAD_BYTES: usize = 8_192;

/// A response that is not HTTP/1.1, or whose head has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadResponse {
    /// What the parser said.
    Malformed(httparse::Error),
    /// No end after 8 KiB.
    TooLong,
}

impl fmt::Display for BadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "malformed response: {error}"),
            Self::TooLong => write!(f, "response head longer than {RESPONSE_HEAD_BYTES} bytes"),
        }
    }
}

impl std::error::Error for BadResponse {}

/// Reads the head of a response from everything received so far; `None` while it is incomplete.
/// It starts over at every call, which is cheap for answers that arrive in one piece.
///
/// # Errors
/// The response is malformed or too long.
pub fn parse_client(bytes: &[u8]) -> Result<Option<ClientResponse<'_>>, BadResponse> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let head = &bytes[..bytes.len().min(RESPONSE_HEAD_BYTES)];
    let head_len =
        match config.parse_response_with_uninit_headers(&mut response, head, &mut headers) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if head.len() == RESPONSE_HEAD_BYTES => {
                return Err(BadResponse::TooLong);
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(BadResponse::Malformed(error)),
        };
    let value = |name: &str| {
        let mut headers = response.headers.iter();
        headers.find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
    };
    let text = |name: &str| value(name).and_then(|value| std::str::from_utf8(value).ok());
    let names = |name: &str, token: &[u8]| value(name).is_some_and(|v| fields::lists(v, token));
    Ok(Some(ClientResponse {
        status: response.code.unwrap_or_default(),
        accept: text("sec-websocket-accept"),
        retry_after_s: text("retry-after").and_then(|seconds| seconds.parse().ok()),
        names_websocket: names("upgrade", b"websocket") && names("connection", b"upgrade"),
        head_len,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn refused(refusal: Refusal) -> String {
        let mut out = Vec::new();
        refuse(&refusal, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut out = Vec::new();
        switching_protocols(KEY, Some("chat"), None, &mut out);
        assert_eq!(
            String::from_utf8(out.clone()).unwrap(),
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
             Sec-WebSocket-Protocol: chat\r\n\r\n"
        );
        let head_len = out.len();
        out.extend(b"\x81\x00");
        let response = parse_client(&out).unwrap().unwrap();
        assert_eq!((response.status, response.head_len), (101, head_len));
        assert!(response.accepts(KEY) && !response.accepts("AAAAAAAAAAAAAAAAAAAAAA=="));
        for cut in 0..head_len {
            assert_eq!(parse_client(&out[..cut]), Ok(None), "cut at {cut}");
        }
    }

    #[test]
    fn a_refusal_is_one_complete_response() {
        let refusal = Refusal::new(Status::ServiceUnavailable, "server is full").retry_after(7);
        assert_eq!(
            refused(refusal),
            "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 7\r\n\
             Content-Type: application/json\r\nContent-Length: 40\r\n\r\n\
             {\"error\":\"server is full\",\"status\":503}\n"
        );
        let text = refused(refusal);
        let response = parse_client(text.as_bytes()).unwrap().unwrap();
        assert_eq!((response.status, response.retry_after_s), (503, Some(7)));
        assert!(!response.accepts(KEY));
    }

    #[test]
    fn statuses_carry_the_headers_they_owe() {
        let upgrade = refused(Refusal::new(Status::UpgradeRequired, "x"));
        assert!(upgrade.contains("\r\nUpgrade: websocket\r\n"));
        assert!(upgrade.contains("\r\nSec-WebSocket-Version: 13\r\n"));
        assert!(upgrade.contains("\r\nConnection: close, Upgrade\r\n"));
        let method = refused(Refusal::new(Status::MethodNotAllowed, "x"));
        assert!(method.contains("\r\nAllow: GET\r\n"));
    }

    #[test]
    fn bodies() {
        let refusal = Refusal::bad_request("a \"b\" \\ \n");
        assert!(
            refused(refusal).ends_with("{\"error\":\"a \\\"b\\\" \\\\ \\u000a\",\"status\":400}\n")
        );
        let text = refused(refusal.with_body(Body::Text));
        assert!(text.contains("text/plain") && text.ends_with("\r\n\r\na \"b\" \\ \n\n"));
        let limited = refusal.because("per_ip_rate", Some("admission.x"));
        assert!(
            refused(limited)
                .ends_with(",\"status\":400,\"reason\":\"per_ip_rate\",\"key\":\"admission.x\"}\n")
        );
        let empty = refused(refusal.with_body(Body::Empty));
        assert!(empty.ends_with("\r\n\r\n") && !empty.contains("Content-Length: 0"));
    }

    #[test]
    fn responses_that_are_not_http() {
        assert!(matches!(parse_client(b"SSH-2.0-x\r\n"), Err(BadResponse::Malformed(_))));
        let endless = [&b"HTTP/1.1 101 x\r\nA: "[..], &[b'a'; RESPONSE_HEAD_BYTES]].concat();
        assert_eq!(parse_client(&endless), Err(BadResponse::TooLong));
    }
}
