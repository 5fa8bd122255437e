//! Who may ask: the token, and without one, only what is not a web page's doing.
//!
//! Whoever reaches this listener can end the server. With a token every request must bring it,
//! except probes. Without one the listener is on loopback, where the one stranger is a web page
//! in a browser on the same machine: it can send requests here, but its Origin is foreign, or,
//! if it made its own name resolve to 127.0.0.1, its Host is not loopback. Both are refused.
//! (A form or a script can also send no Origin in old browsers; what changes something wants
//! `content-type: application/json`, which such a request cannot have.)

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use hyper::{Uri, Version};

use super::error::{ApiError, ErrorKind, quoted};
use crate::config::Secret;

const API_KEY: &str = "x-api-key";

/// Why a request is not answered.
#[derive(Debug)]
pub(super) enum Denied {
    /// 401.
    Unauthorized {
        /// There is a token, but not the right one.
        has_token: bool,
        error: ApiError,
    },
    Other(ApiError),
}

impl From<ApiError> for Denied {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

/// Checks whether a request may be answered; `open` if it is for a probe.
///
/// # Errors
/// 400 for a request without exactly one host, 401 without the right token, 403 for a foreign
/// origin or host.
pub(super) fn check(
    token: Option<&Secret>,
    open: bool,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), Denied> {
    let host = host(version, uri, headers)?;
    match token {
        Some(_) if open => Ok(()),
        Some(token) => check_token(token, headers),
        None => Ok(check_local(host, headers)?),
    }
}

/// The host that the request is for. RFC 9112 3.2: exactly one Host header, which a target in
/// absolute form overrides. HTTP/1.0 has none; no browser speaks it.
fn host<'a>(
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<Option<&'a [u8]>, ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(ApiError::bad_request("the request has more than one Host header"));
    }
    if first.is_none() && version >= Version::HTTP_11 {
        return Err(ApiError::bad_request("the request has no Host header"));
    }
    let target = uri.authority().map(|authority| authority.as_str().as_bytes());
    Ok(target.or(first.map(HeaderValue::as_bytes)))
}

fn check_token(token: &Secret, headers: &HeaderMap) -> Result<(), Denied> {
    let bearer = headers.get_all(AUTHORIZATION).iter().filter_map(|value| {
        let (scheme, token) = value.as_bytes().split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
    });
    let key = headers.get_all(API_KEY).iter().map(HeaderValue::as_bytes);
    let mut has_token = false;
    for candidate in bearer.chain(key) {
        has_token = true;
        if same(candidate, token.expose().as_bytes()) {
            return Ok(());
        }
    }
    let message = if has_token {
        "the token is not admin.token"
    } else {
        "this needs admin.token, as `Authorization: Bearer TOKEN` or `X-API-Key: TOKEN`"
    };
    let error = ApiError::new(ErrorKind::Unauthorized, message);
    Err(Denied::Unauthorized { has_token, error })
}

/// Compares in a time that depends on what was presented, not on how much of it is right.
fn same(presented: &[u8], secret: &[u8]) -> bool {
    let mut difference = presented.len() ^ secret.len();
    for (at, byte) in presented.iter().enumerate() {
        let expected = secret.get(at).copied().unwrap_or(0);
        difference |= usize::from(byte ^ expected);
    }
    black_box(difference) == 0
}

fn check_local(host: Option<&[u8]>, headers: &HeaderMap) -> Result<(), ApiError> {
    let host = match host.map(std::str::from_utf8) {
        None => None,
        Some(Ok(host)) if is_loopback(host) => Some(host),
        Some(host) => {
            let host = quoted(host.unwrap_or("(not text)"));
            return Err(ApiError::new(
                ErrorKind::Forbidden,
                format!(
                    "Host {host} is not loopback (localhost, 127.0.0.0/8, [::1]); set admin.token \
                     to use another name"
                ),
            ));
        }
    };
    for origin in headers.get_all(ORIGIN) {
        if !origin.to_str().is_ok_and(|origin| is_origin_of(origin, host)) {
            let origin = quoted(origin.to_str().unwrap_or("(not text)"));
            return Err(ApiError::new(
                ErrorKind::Forbidden,
                format!(
                    "Origin {origin} is another site than this one; set admin.token to allow \
                         requests of web pages that know it"
                ),
            ));
        }
    }
    Ok(())
}

/// Whether `origin` is the site that `host` names: a page that came from here.
fn is_origin_of(origin: &str, host: Option<&str>) -> bool {
    let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    matches!((site, host), (Some(site), Some(host)) if site.eq_ignore_ascii_case(host))
}

/// Whether the name or address in `host` can only mean this machine; any port.
fn is_loopback(host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':').unwrap_or("?"))),
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if !port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    if host.starts_with('[') {
        return name.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
    }
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ask(token: Option<&str>, open: bool, target: &str, headers: &[(&str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let token = token.map(|token| Secret::new(token.to_owned()));
        let uri = target.parse().unwrap();
        match check(token.as_ref(), open, Version::HTTP_11, &uri, &map) {
            Ok(()) => 200,
            Err(Denied::Unauthorized { error, .. } | Denied::Other(error)) => error.kind.status(),
        }
    }

    #[test]
    fn the_token_is_taken_from_either_header() {
        const TOKEN: Option<&str> = Some("0123456789abcdef");
        let host = ("host", "admin.example");
        let ask = |open, header: (&str, &str)| ask(TOKEN, open, "/metrics", &[host, header]);
        assert_eq!(ask(false, ("authorization", "Bearer 0123456789abcdef")), 200);
        assert_eq!(ask(false, ("authorization", "bearer  0123456789abcdef ")), 200);
        assert_eq!(ask(false, ("x-api-key", "0123456789abcdef")), 200);
        assert_eq!(ask(true, ("x-other", "1")), 200, "probes have no token");
        for wrong in ["", "0", "0123456789abcdee", "0123456789abcdef0", "0123456789abcde\u{1}"] {
            let wrong = wrong.replace('\u{1}', "é");
            assert_eq!(ask(false, ("x-api-key", &wrong)), 401, "{wrong:?}");
            assert_eq!(ask(false, ("authorization", &format!("Bearer {wrong}"))), 401);
        }
        assert_eq!(ask(false, ("authorization", "Basic 0123456789abcdef")), 401);
        assert_eq!(ask(false, ("authorization", "Bearé")), 401);
    }

    #[test]
    fn without_a_token_only_loopback_hosts_are_served() {
        for host in [
            "localhost",
            "LocalHost:8081",
            "127.0.0.1",
            "127.9.8.7:1",
            "[::1]",
            "[::1]:8081",
            "[::ffff:127.0.0.1]:80",
        ] {
            assert_eq!(ask(None, false, "/metrics", &[("host", host)]), 200, "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "[::2]",
            "::1",
            "[::1",
            "[::1]x",
            "localhost:",
            "localhost:80a",
            "a@localhost",
            "127.1",
            "[127.0.0.1]",
            "localhost:80:80",
            "0.0.0.0",
        ] {
            assert_eq!(ask(None, false, "/metrics", &[("host", host)]), 403, "{host:?}");
            assert_eq!(ask(None, true, "/livez", &[("host", host)]), 403, "{host:?}");
        }
        let local = ("host", "localhost");
        assert_eq!(ask(None, false, "http://evil.example/metrics", &[local]), 403);
        assert_eq!(ask(None, false, "http://127.0.0.1:8081/metrics", &[local]), 200);
        assert_eq!(ask(None, false, "/metrics", &[local, local]), 400);
        assert_eq!(ask(None, false, "/metrics", &[]), 400);
    }

    #[test]
    fn without_a_token_foreign_pages_are_refused() {
        let ask = |origin| {
            let headers = [("host", "localhost:8081"), ("origin", origin)];
            ask(None, false, "/api/v1/shutdown/shutdown", &headers)
        };
        assert_eq!(ask("http://localhost:8081"), 200);
        assert_eq!(ask("https://LOCALHOST:8081"), 200);
        for foreign in [
            "null",
            "",
            "http://localhost:3000",
            "http://localhost",
            "http://evil.example",
            "http://evil.example:8081",
            "http://127.0.0.1:8081",
            "file://",
            "localhost:8081",
            "http://localhost:8081/",
            "http://localhost:8081 http://evil.example",
        ] {
            assert_eq!(ask(foreign), 403, "{foreign:?}");
        }
    }
}
