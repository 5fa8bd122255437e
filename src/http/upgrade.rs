//! Reading an upgrade request (RFC 6455 section 4.2.1) and every rule it has to keep.
//!
//! Which refusal a request with several faults gets: malformed HTTP (400, 431), then the method
//! (405), `Host` and body (400), then what makes it a WebSocket request (426, 400), and last the
//! origin (403), so that 403 means nothing else was wrong.

use std::mem::MaybeUninit;

use super::fields::{self, Fields, Once};
use super::origin::AllowedOrigins;
use super::refusal::{Body, Refusal, Status};
use super::{request, target};
use crate::websocket::deflate::Agreement;

/// The most headers a request may have.
pub const HEADERS_MAX: usize = 64;

/// What an operator allows.
#[derive(Debug, Clone, Default)]
pub struct UpgradeRules {
    /// Origins that may connect. A request without `Origin` is not from a browser and passes.
    pub allowed_origins: AllowedOrigins,
    /// Subprotocols that are spoken; none of them is preferred.
    pub subprotocols: Vec<String>,
    /// Whether permessage-deflate is.
    pub compression: bool,
}

/// A request that may be answered with 101.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade<'a> {
    /// Begins with `/`; percent-encoding untouched.
    pub path: &'a str,
    /// Without its `?`; empty when there is none; percent-encoding untouched.
    pub query: &'a str,
    /// The authority the request is for: `Host`, or that of an absolute-form target.
    pub host: &'a str,
    /// The web page's origin, when a browser is the client.
    pub origin: Option<&'a str>,
    /// 24 characters, the base64 form of 16 bytes; for
    /// [`switching_protocols`](super::response::switching_protocols).
    pub key: &'a str,
    /// The header lines, each with its CRLF.
    lines: &'a [u8],
    /// One of them offers extensions; most clients that are not browsers offer none, and then
    /// nobody looks for them again.
    has_extensions: bool,
}

impl<'a> Upgrade<'a> {
    /// The values of every header with this name, in order, without surrounding white space.
    /// Case does not matter.
    pub fn header_values<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        request::values_in(self.lines, name)
    }

    /// The subprotocols the client offers, preferred first; tokens, repeated headers joined
    /// (RFC 6455 section 11.3.4).
    pub fn protocols(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.header_values("sec-websocket-protocol")
            .flat_map(fields::elements)
            .filter_map(|element| std::str::from_utf8(element).ok())
    }

    /// The first of the client's subprotocols that is spoken here. None is an answer too: the
    /// client decides what it makes of that (RFC 6455 section 4.2.2).
    pub fn protocol(&self, rules: &UpgradeRules) -> Option<&'a str> {
        if rules.subprotocols.is_empty() {
            return None;
        }
        let spoken = |offered: &&str| rules.subprotocols.iter().any(|spoken| spoken == offered);
        self.protocols().find(spoken)
    }

    /// What is agreed on about compression.
    pub fn compression(&self, rules: &UpgradeRules) -> Option<Agreement> {
        let asked = rules.compression && self.has_extensions;
        if asked { Agreement::from_offers(self.extensions()) } else { None }
    }

    /// The values of `Sec-WebSocket-Extensions`, which together are one list of offers (RFC 6455
    /// section 11.3.2, erratum 3433); not checked, as an offer that is not understood is declined.
    pub fn extensions(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.header_values("sec-websocket-extensions")
    }
}

/// Reads a complete head, as [`HeadScanner`](super::HeadScanner) found it.
///
/// # Errors
/// - 400: malformed HTTP, HTTP/1.0, `Host` missing, repeated or invalid, a body announced,
///   `Upgrade` without `websocket`, `Connection` without `upgrade`, a key that is missing,
///   repeated or not 16 bytes in base64, a repeated version or origin
/// - 403: an origin that is not allowed
/// - 405: a method other than GET
/// - 426: a version other than 13, or none (the drafts before hybi-04 sent none; the answer
///   names the version to use, section 4.4); or an ordinary GET, answered in plain text
/// - 431: more than [`HEADERS_MAX`] headers
pub fn parse<'a>(head: &'a [u8], rules: &UpgradeRules) -> Result<Upgrade<'a>, Refusal> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut headers) {
        Ok(httparse::Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(Refusal::bad_request("incomplete head")),
        Err(error) => return Err(malformed(error)),
    }
    if request.version != Some(1) {
        return Err(Refusal::bad_request("HTTP/1.1 is required"));
    }
    check_method(request.method)?;
    let fields = Fields::gather(request.headers);
    let target = target::parse(request.path.unwrap_or_default())?;
    let host = check_host(fields.host)?;
    check_body(&fields)?;
    check_websocket(&fields)?;
    let key = check_key(fields.key)?;
    let origin = check_origin(fields.origin, &rules.allowed_origins)?;
    Ok(Upgrade {
        path: target.path,
        query: target.query,
        host: target.authority.unwrap_or(host),
        origin,
        key,
        lines: request::header_lines(head),
        has_extensions: fields.has_extensions,
    })
}

fn malformed(error: httparse::Error) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => {
            Refusal::new(Status::HeaderFieldsTooLarge, "more than 64 headers")
        }
        httparse::Error::HeaderName => Refusal::bad_request("invalid header name"),
        httparse::Error::HeaderValue => Refusal::bad_request("invalid header value"),
        httparse::Error::Version => Refusal::bad_request("HTTP/1.1 is required"),
        _ => Refusal::bad_request("invalid request line"),
    }
}

fn check_method(method: Option<&str>) -> Result<(), Refusal> {
    let refusal = Refusal::new(Status::MethodNotAllowed, "only GET is served");
    match method {
        Some("GET") => Ok(()),
        Some("HEAD") => Err(refusal.with_body(Body::Empty)),
        _ => Err(refusal),
    }
}

/// RFC 9112 section 3.2: exactly one, and valid.
fn check_host(host: Once<'_>) -> Result<&str, Refusal> {
    let value = match host {
        Once::Given(value) => value,
        Once::Absent => return Err(Refusal::bad_request("no Host header")),
        Once::Repeated => return Err(Refusal::bad_request("more than one Host header")),
    };
    std::str::from_utf8(value)
        .ok()
        .filter(|host| target::is_authority(host))
        .ok_or(Refusal::bad_request("invalid Host header"))
}

/// An upgrade request has no body: what follows the head are frames, and nobody on the way may
/// see it otherwise.
fn check_body(fields: &Fields<'_>) -> Result<(), Refusal> {
    if fields.has_transfer_encoding {
        return Err(Refusal::bad_request("Transfer-Encoding on a request without a body"));
    }
    match fields.content_length {
        Once::Absent => Ok(()),
        Once::Given(value) if !value.is_empty() && value.iter().all(|&digit| digit == b'0') => {
            Ok(())
        }
        Once::Given(_) => Err(Refusal::bad_request("Content-Length is not 0")),
        Once::Repeated => Err(Refusal::bad_request("more than one Content-Length header")),
    }
}

fn check_websocket(fields: &Fields<'_>) -> Result<(), Refusal> {
    if fields.is_plain() {
        return Err(PLAIN_GET);
    }
    if !fields.names_websocket {
        return Err(Refusal::bad_request("Upgrade does not name websocket"));
    }
    if !fields.wants_upgrade {
        return Err(Refusal::bad_request("Connection does not name upgrade"));
    }
    match fields.version {
        Once::Given(b"13") => {}
        Once::Repeated => {
            return Err(Refusal::bad_request("more than one Sec-WebSocket-Version header"));
        }
        _ => return Err(OTHER_VERSION),
    }
    if !fields.protocols_are_tokens {
        return Err(Refusal::bad_request("invalid Sec-WebSocket-Protocol header"));
    }
    Ok(())
}

const OTHER_VERSION: Refusal =
    Refusal::new(Status::UpgradeRequired, "Sec-WebSocket-Version must be 13");

const PLAIN_GET: Refusal = Refusal::new(
    Status::UpgradeRequired,
    "This address speaks WebSocket, not plain HTTP. Connect with a WebSocket client, for example \
     new WebSocket(\"ws://HOST/PATH\") in a browser or websocat ws://HOST/PATH in a terminal.",
)
.with_body(Body::Text);

/// 16 bytes in base64: 22 characters and the padding. The lowest four bits of the last character
/// carry nothing and may be anything; RFC 6455's own example had them set (erratum 3150).
fn check_key(key: Once<'_>) -> Result<&str, Refusal> {
    let value = match key {
        Once::Given(value) => value,
        Once::Absent => return Err(Refusal::bad_request("no Sec-WebSocket-Key header")),
        Once::Repeated => {
            return Err(Refusal::bad_request("more than one Sec-WebSocket-Key header"));
        }
    };
    // A fold over all of them, which the compiler vectorises.
    let is_base64 =
        |all, byte: &u8| all & (byte.is_ascii_alphanumeric() | (*byte == b'+') | (*byte == b'/'));
    value
        .strip_suffix(b"==")
        .filter(|digits| digits.len() == 22 && digits.iter().fold(true, is_base64))
        .and_then(|_| std::str::from_utf8(value).ok())
        .ok_or(Refusal::bad_request("Sec-WebSocket-Key is not 16 bytes in base64"))
}

fn check_origin<'a>(
    origin: Once<'a>,
    allowed: &AllowedOrigins,
) -> Result<Option<&'a str>, Refusal> {
    let value = match origin {
        Once::Absent => return Ok(None),
        Once::Given(value) => value,
        Once::Repeated => return Err(Refusal::bad_request("more than one Origin header")),
    };
    let origin = std::str::from_utf8(value).map_err(|_| INVALID_ORIGIN)?;
    if allowed.allows(origin) {
        Ok(Some(origin))
    } else {
        Err(Refusal::new(Status::Forbidden, "origin not allowed"))
    }
}

const INVALID_ORIGIN: Refusal = Refusal::bad_request("invalid Origin header");

#[cfg(test)]
mod tests;
