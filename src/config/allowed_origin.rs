//! The form of one entry of `server.allowed_origins`.
//!
//! A browser sends its origin in one spelling (RFC 6454, section 6.2: lower case, no path, no
//! default port). An entry in any other spelling would never match, so it is refused here instead
//! of locking out every client at run time.
//!
//! What is no page of the web has another form: `null` stands for sandboxed frames and redirects
//! of whatever page, and for files in some browsers; `file://` for files in the others; and an
//! embedded browser sends the scheme of its program, with whatever it has for a host or without
//! one (`app://.`, `capacitor://localhost`).

/// Says what is wrong with `origin`, if anything is.
pub(super) fn check(origin: &str) -> Result<(), &'static str> {
    if origin == "*" {
        return Err("leave the list empty to allow every origin");
    }
    if origin == "null" {
        return Ok(());
    }
    let Some((scheme, authority)) = origin.split_once("://") else {
        return Err("write the scheme too, as in https://example.com");
    };
    check_scheme(scheme)?;
    if authority.contains(['/', '?', '#']) {
        return Err("an origin ends after the host and port, without a slash or a path");
    }
    let is_web = ["http", "https", "ws", "wss"].iter().any(|web| scheme.eq_ignore_ascii_case(web));
    if !is_web && !authority.contains(['*', ':', '[']) {
        return check_opaque(authority);
    }
    if origin.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("browsers send origins in lower case, so this never matches");
    }
    let (host, port) = split_port(authority)?;
    if let Some(port) = port {
        check_port(scheme, port)?;
    }
    check_host(host)
}

/// RFC 3986, section 3.1; other schemes than http and https exist in embedded browsers.
fn check_scheme(scheme: &str) -> Result<(), &'static str> {
    let starts_well = scheme.starts_with(|first: char| first.is_ascii_alphabetic());
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    if starts_well && scheme.bytes().all(allowed) {
        Ok(())
    } else {
        Err("what stands before :// is not a scheme such as https")
    }
}

/// A host that is the matter of its scheme; it may be empty.
fn check_opaque(host: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()+,;=".contains(&byte);
    if host.bytes().all(allowed) {
        Ok(())
    } else {
        Err("what stands behind :// has characters that no origin has")
    }
}

/// What whoever allows `origin` should know, if it lets in more than a page of somebody's own.
pub(super) fn warning(origin: &str) -> Option<&'static str> {
    match origin {
        "null" => Some(
            "every page can have this origin, by a sandboxed frame or a redirect, and so connect \
             in its visitor's name",
        ),
        "file://" => Some(
            "every file that somebody opens in a browser has this origin, attachments of mails \
             among them, and can connect in its reader's name",
        ),
        _ => None,
    }
}

/// Splits `host:port`, where a host in brackets has colons of its own.
fn split_port(authority: &str) -> Result<(&str, Option<&str>), &'static str> {
    if let Some(end) = authority.find(']') {
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("a port is written after a colon"),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn check_port(scheme: &str, port: &str) -> Result<(), &'static str> {
    let number = port.parse::<u16>().ok().filter(|number| *number != 0);
    // `+443` and `0443` parse, and are not how a browser writes a port.
    match number {
        Some(number) if number.to_string() == port => match (scheme, number) {
            ("https", 443) | ("http", 80) => {
                Err("browsers leave out the scheme's own port, so this never matches")
            }
            _ => Ok(()),
        },
        _ => Err("the port must be a number from 1 to 65535"),
    }
}

fn check_host(host: &str) -> Result<(), &'static str> {
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inside.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("what stands in brackets is not an IPv6 address"),
        };
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if name.contains('*') {
        return Err("a star may only stand for the whole first label, as in *.example.com");
    }
    if host != name && !name.contains('.') {
        return Err("a star below a top-level name would allow half of the internet");
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.split('.').all(|label| !label.is_empty() && label.bytes().all(allowed)) {
        Ok(())
    } else {
        Err("the host is not a name or an address (international names are written as xn--)")
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn takes_what_a_browser_sends() {
        for origin in [
            "https://example.com",
            "http://localhost:3000",
            "https://a.b-c.example.com:8443",
            "https://*.example.com",
            "https://*.example.com:8443",
            "http://127.0.0.1",
            "http://[::1]:3000",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
            "null",
            "file://",
            "app://",
            "app://.",
            "vscode-webview://1aBc",
            "capacitor://localhost:8080",
            "http://xn--bcher-kva.example",
        ] {
            assert_eq!(check(origin), Ok(()), "{origin}");
        }
    }

    #[test]
    fn refuses_what_would_never_match_or_allow_too_much() {
        for origin in [
            "",
            "*",
            "Null",
            "file:///",
            "file:///tmp/page.html",
            "app://user@host",
            "app://a b",
            "app://*",
            "://",
            "example.com",
            "https://",
            "https://example.com/",
            "https://example.com/chat",
            "https://example.com?",
            "https://Example.com",
            "HTTPS://example.com",
            "https://example.com:443",
            "http://example.com:80",
            "https://example.com:",
            "https://example.com:0",
            "https://example.com:+1",
            "https://example.com:08443",
            "https://example.com:65536",
            "https://exa mple.com",
            "https://user@example.com",
            "https://b\u{fc}cher.example",
            "https://*.com",
            "https://*",
            "https://a.*.example.com",
            "https://*a.example.com",
            "https://example..com",
            "https://[::1",
            "https://[::1]x",
            "https://[zz]",
            "1https://example.com",
            "://example.com",
        ] {
            assert!(check(origin).is_err(), "{origin}");
        }
    }
}
