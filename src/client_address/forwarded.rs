//! The header in which a proxy says whom it forwards: `X-Forwarded-For`, `Forwarded` of RFC 7239,
//! or one that has a single address in it, as `X-Real-IP`. One of them is believed, others are not
//! looked at: a proxy that writes one kind passes on the others as its client sent them.
//!
//! Every proxy adds its own peer to a list at the right, so the rightmost entry is the word of the
//! proxy that is connected, and everything left of the first entry that is not a trusted proxy could
//! have been written by anybody. Lists are therefore read from the right only, and nothing that
//! stands further left can change how an entry is understood.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{ClientAddress, Provenance, TrustedProxies, is_possible};
use crate::http::request::header_values;
use crate::limits;

/// The header that is believed (`server.forwarded_header`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` or `Forwarded`, whichever a request has; one that has both is refused.
    #[default]
    EitherList,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`.
    Forwarded,
    /// No header: only a PROXY header says who the client is.
    Nothing,
    /// The header of this name, in lower case, whose value is one address.
    Single(String),
}

impl ForwardedHeader {
    /// Of a name; of an empty one the default.
    pub fn named(name: &str) -> Self {
        match name.to_ascii_lowercase() {
            name if name.is_empty() => Self::EitherList,
            name if name == X_FORWARDED_FOR => Self::XForwardedFor,
            name if name == FORWARDED => Self::Forwarded,
            name if name == NONE => Self::Nothing,
            name => Self::Single(name),
        }
    }

    /// Its name, as it is configured.
    pub fn name(&self) -> &str {
        match self {
            Self::EitherList => "",
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => FORWARDED,
            Self::Nothing => NONE,
            Self::Single(name) => name,
        }
    }
}

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED: &str = "forwarded";
const NONE: &str = "none";

/// Why nobody can tell who the client is, although a proxy says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ambiguous {
    /// `X-Forwarded-For` and `Forwarded`: one of them is not the proxy's but was sent by the client
    /// and passed on.
    BothLists,
    /// A header for a single address that is there twice, or has none or several in it.
    NotOneAddress,
}

/// The client of a request whose `head` came from the trusted proxy `peer`, as `header` has it; if
/// that is absent it is `peer`.
///
/// In a list it is the first entry from the right that is not a trusted proxy itself. An entry that
/// cannot be read, the left end of the list and the limit of entries all end the search: then it
/// is the last entry that could be read, or else `peer`. Entries that are met on the way are the
/// words of trusted proxies, so no client can bring that about.
///
/// # Errors
/// What a client could bring about, and what no proxy writes that is configured as it should be.
pub fn client(
    head: &[u8],
    peer: SocketAddr,
    trusted: &TrustedProxies,
    header: &ForwardedHeader,
) -> Result<ClientAddress, Ambiguous> {
    let (found, provenance) = match header {
        ForwardedHeader::EitherList => {
            match (x_forwarded_for(head, trusted), forwarded(head, trusted)) {
                (Some(_), Some(_)) => return Err(Ambiguous::BothLists),
                (Some(found), None) => (found, Provenance::XForwardedFor),
                (None, Some(found)) => (found, Provenance::Forwarded),
                (None, None) => (Found(None), Provenance::Peer),
            }
        }
        ForwardedHeader::XForwardedFor => {
            (x_forwarded_for(head, trusted).unwrap_or(Found(None)), Provenance::XForwardedFor)
        }
        ForwardedHeader::Forwarded => {
            (forwarded(head, trusted).unwrap_or(Found(None)), Provenance::Forwarded)
        }
        ForwardedHeader::Nothing => (Found(None), Provenance::Peer),
        ForwardedHeader::Single(name) => (single(head, name)?, Provenance::SingleHeader),
    };
    Ok(match found.0 {
        Some(Node { ip, port }) => ClientAddress { ip, port, provenance },
        None => ClientAddress::of_peer(peer),
    })
}

/// What a header led to.
struct Found(Option<Node>);

/// An address, and a port if there was one; otherwise 0.
#[derive(Clone, Copy)]
struct Node {
    ip: IpAddr,
    port: u16,
}

/// `None` if there is no such header.
fn x_forwarded_for(head: &[u8], trusted: &TrustedProxies) -> Option<Found> {
    let values = || header_values(head, X_FORWARDED_FOR).rev();
    values().next()?;
    let entries = values()
        .flat_map(|value| value.rsplit(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|entry| !entry.is_empty());
    Some(search(entries.map(read_address), trusted))
}

/// `None` if there is no such header.
fn forwarded(head: &[u8], trusted: &TrustedProxies) -> Option<Found> {
    let values = || header_values(head, FORWARDED).rev();
    values().next()?;
    let entries = values()
        .flat_map(|value| FromRight { rest: Some(value), separator: b',' })
        .filter(|entry| !matches!(entry, Ok(entry) if entry.is_empty()));
    Some(search(entries.map(|entry| read_element(entry.ok()?)), trusted))
}

/// A header of this name that is there once and has one address in it.
fn single(head: &[u8], name: &str) -> Result<Found, Ambiguous> {
    let mut values = header_values(head, name);
    let Some(value) = values.next() else { return Ok(Found(None)) };
    match (read_address(value), values.next()) {
        (Some(node), None) => Ok(Found(Some(node))),
        _ => Err(Ambiguous::NotOneAddress),
    }
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
    if let Some(ip) = read_v6(text) {
        return possible(ip.into(), 0);
    }
    read_with_port(text)
}

/// An IPv6 address. One of a link may have the zone behind it in which the proxy saw it (RFC 4007
/// section 11), which says nothing here.
fn read_v6(text: &str) -> Option<Ipv6Addr> {
    let Some((address, zone)) = text.split_once('%') else { return text.parse().ok() };
    let is_zone = (1..=ZONE_CHARS_MAX).contains(&zone.len())
        && zone.bytes().all(|b| b.is_ascii_graphic() && !b"%/,;\"".contains(&b));
    address.parse().ok().filter(|ip: &Ipv6Addr| is_zone && ip.is_unicast_link_local())
}

/// The longest zone: the name of an interface, whose end the kernel counts among its 16 bytes.
const ZONE_CHARS_MAX: usize = 15;

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
    possible(read_v6(ip)?.into(), read_port(port)?)
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
