//! The request target (RFC 9112 section 3.2) and the authority it or `Host` names.

use super::refusal::Refusal;

/// A target in origin-form or absolute-form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target<'a> {
    /// Of an absolute-form target; it then overrides `Host` (RFC 9112 section 3.2.2).
    pub(super) authority: Option<&'a str>,
    /// Begins with `/`; percent-encoding untouched.
    pub(super) path: &'a str,
    /// Without its `?`; empty when there is none.
    pub(super) query: &'a str,
}

/// Splits a target. Authority-form and asterisk-form belong to methods that are not served.
///
/// Characters that browsers leave as they are in a query (such as `|` or `{`) are accepted
/// although RFC 3986 would have them encoded.
pub(super) fn parse(target: &str) -> Result<Target<'_>, Refusal> {
    if target.bytes().any(|byte| !byte.is_ascii_graphic() || b"\"<>#".contains(&byte)) {
        return Err(Refusal::bad_request("character not allowed in the request target"));
    }
    let (authority, rest) = match target.split_once("://") {
        _ if target.starts_with('/') => (None, target),
        Some((scheme, rest)) if is_served_scheme(scheme) => {
            let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
            if !is_authority(authority) {
                return Err(Refusal::bad_request("invalid authority in the request target"));
            }
            (Some(authority), rest)
        }
        _ => return Err(Refusal::bad_request("request target is neither a path nor a URI")),
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    Ok(Target { authority, path: if path.is_empty() { "/" } else { path }, query })
}

fn is_served_scheme(scheme: &str) -> bool {
    ["http", "https", "ws", "wss"].iter().any(|served| scheme.eq_ignore_ascii_case(served))
}

/// Whether this is `uri-host [ ":" port ]` (RFC 9110 section 7.2) with a host that is not empty.
pub(super) fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.strip_prefix('[') {
        Some(literal) => match literal.split_once(']') {
            Some((address, rest)) if is_ip_literal(address) => {
                (address, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
            }
            _ => return false,
        },
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let is_name = authority.starts_with('[') || host.bytes().all(is_reg_name);
    let is_port =
        port.is_some_and(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()));
    !host.is_empty() && is_name && is_port
}

fn is_ip_literal(address: &str) -> bool {
    address.bytes().all(|byte| byte == b':' || is_reg_name(byte))
}

/// `unreserved`, `sub-delims` and the percent sign (RFC 3986 section 3.2.2).
fn is_reg_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Authority, path, query.
    type Parts = (Option<&'static str>, &'static str, &'static str);

    #[test]
    fn targets() {
        let cases: [(&str, Option<Parts>); 17] = [
            ("/", Some((None, "/", ""))),
            ("/ws?channel=a%20b&x=1", Some((None, "/ws", "channel=a%20b&x=1"))),
            ("/a?b?c", Some((None, "/a", "b?c"))),
            ("//double", Some((None, "//double", ""))),
            ("/x?u=http://y", Some((None, "/x", "u=http://y"))),
            ("/q?a={b|c}", Some((None, "/q", "a={b|c}"))),
            ("http://h/ws", Some((Some("h"), "/ws", ""))),
            ("WSS://h:443?x", Some((Some("h:443"), "/", "x"))),
            ("ws://[::1]:80", Some((Some("[::1]:80"), "/", ""))),
            ("http:///ws", None),
            ("http://user@h/", None),
            ("ftp://h/", None),
            ("h:80", None),
            ("*", None),
            ("ws", None),
            ("/a#b", None),
            ("/a\u{e9}", None),
        ];
        for (target, expected) in cases {
            let parsed = parse(target).ok().map(|t| (t.authority, t.path, t.query));
            assert_eq!(parsed, expected, "{target}");
        }
    }

    #[test]
    fn authorities() {
        for good in ["a", "a.example:8080", "127.0.0.1", "[::1]", "[fe80::1]:1", "a:", "x_y"] {
            assert!(is_authority(good), "{good}");
        }
        for bad in ["", ":80", "a:b", "a:1:2", "a b", "a/b", "u@a", "[::1", "[::1]x", "a:123456"] {
            assert!(!is_authority(bad), "{bad}");
        }
    }
}
