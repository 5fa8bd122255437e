//! `X-Forwarded-For`, and `Forwarded` of RFC 7239: whom the proxies on the way say they forward.
//!
//! Every proxy adds its own peer at the right, so the rightmost entry is the word of the proxy
//! that is connected, and everything left of the first entry that is not a trusted proxy could
//! have been written by anybody. Lists are therefore read from the right only, and nothing that
//! stands further left can change how an entry is understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ClientAddress, Provenance, TrustedProxies, is_possible};
use crate::http::request::header_values;
use crate::limits;

/// The client of a request whose `head` came from the trusted proxy `peer`.
///
/// That is the first entry from the right that is not a trusted proxy itself. An entry that
/// cannot be read, the left end of the list and the limit of entries all end the search: then it
/// is the last entry that could be read, or else `peer`.
///
/// If both headers are there and disagree, one of them is not the proxy's but was sent by the
/// client and passed on, and nobody can tell which: then it is `peer`.
pub fn client(head: &[u8], peer: SocketAddr, trusted: &TrustedProxies) -> ClientAddress {
    let x_forwarded_for = x_forwarded_for(head, trusted);
    let forwarded = forwarded(head, trusted);
    let (found, provenance) = match (x_forwarded_for, forwarded) {
        (Some(x_forwarded_for), None) => (x_forwarded_for, Provenance::XForwardedFor),
        (None, Some(forwarded)) => (forwarded, Provenance::Forwarded),
        (Some(Found(Some(one))), Some(Found(Some(other)))) if one.ip == other.ip => {
            (Found(Some(one)), Provenance::XForwardedFor)
        }
        _ => (Found(None), Provenance::Peer),
    };
    match found.0 {
        Some(Node { ip, port }) => ClientAddress { ip, port, provenance },
        None => ClientAddress::of_peer(peer),
    }
}

/// What a header that is there led to.
struct Found(Option<Node>);

/// An address, and a port if there was one; otherwise 0.
#[derive(Clone, Copy)]
struct Node {
    ip: IpAddr,
    port: u16,
}

/// `None` if there is no such header.
fn x_forwarded_for(head: &[u8], trusted: &TrustedProxies) -> Option<Found> {
    let values = || header_values(head, "x-forwarded-for").rev();
    values().next()?;
    let entries = values()
        .flat_map(|value| value.rsplit(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty());
    Some(search(entries.map(read_address), trusted))
}

/// `None` if there is no such header.
fn forwarded(head: &[u8], trusted: &TrustedProxies) -> Option<Found> {
    let values = || header_values(head, "forwarded").rev();
    values().next()?;
    let entries = values()
        .flat_map(|value| FromRight { rest: Some(value), separator: b',' })
        .filter(|entry| !matches!(entry, Ok(entry) if entry.is_empty()));
    Some(search(entries.map(|entry| read_element(entry.ok()?)), trusted))
}

/// The first of `entries`, from the right, that is not a trusted proxy.
fn search(entries: impl Iterator<Item = Option<Node>>, trusted: &TrustedProxies) -> Found {
    let mut last = None;
    for entry in entries.take(limits::FORWARDED_ENTRIES) {
        let Some(node) = entry else { break };
        last = Some(node);
        if !trusted.contains(node.ip) {
            break;
        }
    }
    Found(last)
}

/// The parts of a list from the right, without white space around them. A separator in quotation
/// marks is none. What has a backslash, or quotation marks that do not match, is an error and
/// the last part: no address needs them.
struct FromRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromRight<'a> {
    type Item = Result<&'a [u8], ()>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let mut quoted = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            match byte {
                b'"' => quoted = !quoted,
                b'\\' => return Some(Err(())),
                _ if byte == self.separator && !quoted => {
                    self.rest = Some(&rest[..at]);
                    return Some(Ok(rest[at + 1..].trim_ascii()));
                }
                _ => {}
            }
        }
        Some(if quoted { Err(()) } else { Ok(rest.trim_ascii()) })
    }
}

/// The `for` of one element (RFC 7239 section 4); an element without one, or with two, says
/// nothing.
fn read_element(element: &[u8]) -> Option<Node> {
    let mut node = None;
    for pair in (FromRight { rest: Some(element), separator: b';' }) {
        let pair = pair.ok()?;
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_at(memchr::memchr(b'=', pair)?);
        if name.eq_ignore_ascii_case(b"for") {
            if node.is_some() {
                return None;
            }
            node = Some(read_node(&value[1..])?);
        }
    }
    node
}

/// A node (section 6): an IPv4 address, or in quotation marks an address with a port or an IPv6
/// address in brackets. `unknown` and hidden names (`_x`) are nobody.
fn read_node(value: &[u8]) -> Option<Node> {
    match value.strip_prefix(b"\"") {
        Some(quoted) => {
            let inside = std::str::from_utf8(quoted.strip_suffix(b"\"")?).ok()?;
            // The port may be hidden.
            match inside.rsplit_once(":_") {
                Some((address, hidden)) if is_hidden(hidden) => read_with_port(address),
                _ => read_with_port(inside),
            }
        }
        None => {
            let ip = std::str::from_utf8(value).ok()?.parse::<Ipv4Addr>().ok()?;
            possible(ip.into(), 0)
        }
    }
}

/// The rest of a name that begins with `_`.
fn is_hidden(rest: &str) -> bool {
    !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// One entry of `X-Forwarded-For`, which nobody has specified: an address, in brackets if a port
/// follows an IPv6 address.
fn read_address(entry: &[u8]) -> Option<Node> {
    let text = std::str::from_utf8(entry).ok()?;
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return possible(ip.into(), 0);
    }
    read_with_port(text)
}

fn read_with_port(text: &str) -> Option<Node> {
    read_bracketed(text).or_else(|| read_v4(text))
}

/// `192.0.2.1` or `192.0.2.1:4660`.
fn read_v4(text: &str) -> Option<Node> {
    let (ip, port) = text.split_once(':').map_or((text, None), |(ip, port)| (ip, Some(port)));
    possible(ip.parse::<Ipv4Addr>().ok()?.into(), read_port(port)?)
}

/// `[2001:db8::1]` or `[2001:db8::1]:4660`.
fn read_bracketed(text: &str) -> Option<Node> {
    let (ip, rest) = text.strip_prefix('[')?.split_once(']')?;
    let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
    possible(ip.parse::<Ipv6Addr>().ok()?.into(), read_port(port)?)
}

/// One to five digits (section 6.3); 0 if there is none.
fn read_port(port: Option<&str>) -> Option<u16> {
    let Some(port) = port else { return Some(0) };
    let digits = port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit());
    if digits { port.parse().ok() } else { None }
}

fn possible(ip: IpAddr, port: u16) -> Option<Node> {
    is_possible(ip).then_some(Node { ip, port })
}

#[cfg(test)]
mod tests;
