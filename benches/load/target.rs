//! Where to connect: a `ws://` URL, taken apart and resolved.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A server and what to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The value of the Host header: host, and port if it is not 80.
    pub(crate) authority: String,
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// TCP port.
    pub(crate) port: u16,
    /// Path and query, starting with `/`.
    pub(crate) path: String,
}

/// Why a URL cannot be used, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadUrl(String);

impl fmt::Display for BadUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadUrl {}

impl FromStr for Target {
    type Err = BadUrl;

    fn from_str(url: &str) -> Result<Self, BadUrl> {
        let bad = |why: &str| BadUrl(format!("{why} (got {url:?}, want ws://HOST:PORT/PATH)"));
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(bad("the URL has no scheme"));
        };
        match scheme.to_ascii_lowercase().as_str() {
            "ws" => {}
            "wss" => {
                return Err(bad("wss:// is not supported: aim at the plain listener behind the \
                                TLS proxy with ws://"));
            }
            _ => return Err(bad("the scheme must be ws://")),
        }
        if !rest.is_ascii() || rest.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(bad("spaces, control and non-ASCII characters must be percent-encoded"));
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        if authority.contains('@') {
            return Err(bad("user names in the URL are not supported"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| bad("the port is not a number"))?;
        if host.is_empty() {
            return Err(bad("the URL has no host"));
        }
        let path = match path {
            "" => String::from("/"),
            query if query.starts_with('?') => format!("/{query}"),
            path => String::from(path),
        };
        Ok(Self { authority: String::from(authority), host: String::from(host), port, path })
    }
}

impl Target {
    /// The same server, asked for what `other` is asked for if this names nothing.
    pub(crate) fn or_path_of(self, other: &Self) -> Self {
        if self.path == "/" { Self { path: other.path.clone(), ..self } } else { self }
    }

    /// The first address of the host.
    ///
    /// # Errors
    /// The name does not resolve.
    pub(crate) fn resolve(&self) -> Result<SocketAddr, String> {
        let fail = |why: String| {
            format!("cannot resolve {:?}: {why}; use an address, or check DNS", self.host)
        };
        (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| fail(error.to_string()))?
            .next()
            .ok_or_else(|| fail(String::from("the name has no address")))
    }
}

fn split_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Ok(80), str::parse).ok().filter(|port| *port != 0)?;
    Some((host, port))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_name_a_server() {
        for (url, host, port, path) in [
            ("ws://127.0.0.1:8080/ws?channel=a", "127.0.0.1", 8080, "/ws?channel=a"),
            ("WS://example.org", "example.org", 80, "/"),
            ("ws://example.org?x=1", "example.org", 80, "/?x=1"),
            ("ws://[::1]:9/echo#part", "::1", 9, "/echo"),
            ("ws://[::1]/", "::1", 80, "/"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(
                (target.host.as_str(), target.port, target.path.as_str()),
                (host, port, path),
                "{url}"
            );
        }
    }

    #[test]
    fn a_server_without_a_path_is_asked_for_the_same() {
        let own: Target = "ws://a:1/ws?channel=x".parse().unwrap();
        let path = |url: &str| url.parse::<Target>().unwrap().or_path_of(&own).path;
        assert_eq!(path("ws://b:2"), "/ws?channel=x");
        assert_eq!(path("ws://b:2/"), "/ws?channel=x");
        assert_eq!(path("ws://b:2/other"), "/other");
    }

    #[test]
    fn urls_that_do_not_say_why() {
        for (url, why) in [
            ("127.0.0.1:8080", "no scheme"),
            ("wss://example.org/", "wss://"),
            ("http://example.org/", "must be ws://"),
            ("ws:///path", "no host"),
            ("ws://host:port/", "port"),
            ("ws://host:0/", "port"),
            ("ws://host:70000/", "port"),
            ("ws://me@host/", "user names"),
            ("ws://host/a b", "percent-encoded"),
        ] {
            let error = url.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
    }
}
