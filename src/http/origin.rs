//! Which web pages may connect: the allow-list for the `Origin` header (RFC 6455 section 10.2).
//!
//! A browser sends `Origin` with every WebSocket request and lets no page change it; without
//! the list, any page a user opens can connect in that user's name (CWE-1385). Other clients
//! can send what they like or nothing, so this protects users of browsers and nothing else:
//! a request without the header is not from a browser and passes.

use std::fmt;

/// The origins that may connect. An empty list allows every origin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    patterns: Vec<Pattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`
    Any,
    /// `null`: sandboxed frames, files and some redirects, whoever wrote them.
    Null,
    /// `https://example.com`; the host is empty in `file://`.
    Exact { scheme: String, host: String },
    /// `https://*.example.com`: the suffix begins with the dot.
    Subdomains { scheme: String, suffix: String },
}

/// An entry of the list that names no origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidOrigin {
    /// The entry as it was written.
    pub entry: String,
}

impl fmt::Display for InvalidOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is not an origin: write https://example.com, https://*.example.com, null or *, \
             without a path",
            self.entry
        )
    }
}

impl std::error::Error for InvalidOrigin {}

impl AllowedOrigins {
    /// Reads the entries of a list: `https://example.com` for exactly that origin,
    /// `https://*.example.com` for its subdomains at any depth and not for itself, `file://`,
    /// `null`, or `*` for every origin. Case does not matter, and neither does a port that is the scheme's
    /// own (443 for https and wss, 80 for http and ws).
    ///
    /// # Errors
    /// The first entry that is none of these.
    pub fn new<S: AsRef<str>>(entries: &[S]) -> Result<Self, InvalidOrigin> {
        let patterns = entries.iter().map(|entry| {
            let entry = entry.as_ref();
            parse_pattern(entry).ok_or_else(|| InvalidOrigin { entry: entry.to_owned() })
        });
        Ok(Self { patterns: patterns.collect::<Result<_, _>>()? })
    }

    /// Whether a request with this `Origin` may connect.
    pub fn allows(&self, origin: &str) -> bool {
        self.patterns.is_empty() || self.patterns.iter().any(|pattern| pattern.matches(origin))
    }
}

impl Pattern {
    fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Null => origin == "null",
            Self::Exact { scheme, host } => split_origin(origin).is_some_and(|(s, h)| {
                s.eq_ignore_ascii_case(scheme) && h.eq_ignore_ascii_case(host)
            }),
            Self::Subdomains { scheme, suffix } => split_origin(origin)
                .is_some_and(|(s, h)| s.eq_ignore_ascii_case(scheme) && is_subdomain(h, suffix)),
        }
    }
}

fn parse_pattern(entry: &str) -> Option<Pattern> {
    match entry {
        "*" => return Some(Pattern::Any),
        "null" => return Some(Pattern::Null),
        _ => {}
    }
    let (scheme, host) = split_origin(entry)?;
    let scheme = scheme.to_ascii_lowercase();
    match host.strip_prefix("*.") {
        Some(domain) if is_host(domain) => {
            Some(Pattern::Subdomains { scheme, suffix: host[1..].to_ascii_lowercase() })
        }
        None if is_host(host) || (host.is_empty() && !is_web(&scheme)) => {
            Some(Pattern::Exact { scheme, host: host.to_ascii_lowercase() })
        }
        _ => None,
    }
}

/// Scheme, and host with its port unless that is the scheme's own.
fn split_origin(origin: &str) -> Option<(&str, &str)> {
    let (scheme, host) = origin.split_once("://")?;
    let own_port = match scheme.as_bytes() {
        scheme if scheme.eq_ignore_ascii_case(b"https") || scheme.eq_ignore_ascii_case(b"wss") => {
            ":443"
        }
        scheme if scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"ws") => {
            ":80"
        }
        scheme if !scheme.is_empty() && scheme.iter().all(u8::is_ascii_graphic) => "",
        _ => return None,
    };
    Some((scheme, host.strip_suffix(own_port).unwrap_or(host)))
}

fn is_subdomain(host: &str, suffix: &str) -> bool {
    let Some(at) = host.len().checked_sub(suffix.len()).filter(|&at| at > 0) else { return false };
    // The bytes and not the text: the cut may fall inside a character.
    let (labels, end) = host.as_bytes().split_at(at);
    end.eq_ignore_ascii_case(suffix.as_bytes())
        && labels.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
}

/// Schemes whose origins have a host.
fn is_web(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"].contains(&scheme)
}

fn is_host(host: &str) -> bool {
    !host.contains('*') && super::target::is_authority(host)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_empty_list_allows_everything() {
        assert!(AllowedOrigins::default().allows("https://anything"));
        assert!(AllowedOrigins::default().allows("null"));
    }

    #[test]
    fn listed_origins_and_no_others() {
        let list = AllowedOrigins::new(&[
            "https://example.com",
            "https://*.example.org",
            "http://localhost:3000",
            "https://*.example.net:8443",
            "https://default.example:443",
            "file://",
            "app://.",
        ])
        .unwrap();
        for allowed in [
            "https://example.com",
            "HTTPS://EXAMPLE.COM",
            "https://example.com:443",
            "https://a.example.org",
            "https://a.b.example.org",
            "http://localhost:3000",
            "https://a.example.net:8443",
            "https://default.example",
            "file://",
            "app://.",
        ] {
            assert!(list.allows(allowed), "{allowed}");
        }
        for refused in [
            "",
            "null",
            "http://example.com",
            "https://example.com:8443",
            "https://a.example.com",
            "https://example.com.evil",
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "https://evil/.example.org",
            "https://evil@.example.org",
            "https://\u{e9}.example.org",
            "http://localhost",
            "https://a.example.net",
            "example.com",
            "https://example.com/",
            "file:///",
            "file://localhost",
            "files://",
            "app://",
            "app://a",
        ] {
            assert!(!list.allows(refused), "{refused}");
        }
    }

    #[test]
    fn any_and_null_must_be_asked_for() {
        assert!(AllowedOrigins::new(&["*"]).unwrap().allows("https://x"));
        assert!(AllowedOrigins::new(&["null"]).unwrap().allows("null"));
        assert!(!AllowedOrigins::new(&["https://x"]).unwrap().allows("null"));
    }

    #[test]
    fn entries_that_are_no_origin() {
        for bad in [
            "",
            "example.com",
            "https://",
            "https://a/",
            "https://*",
            "https://a.*.b",
            "https://*.",
        ] {
            let error = AllowedOrigins::new(&[bad]).unwrap_err();
            assert!(error.to_string().contains("is not an origin"), "{bad}");
        }
    }
}
