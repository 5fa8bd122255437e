//! The PROXY protocol, versions 1 and 2 (haproxy.org, `doc/proxy-protocol.txt`): the header with
//! which a proxy opens a connection to say for whom.
//!
//! Only streams over IPv4 and IPv6 are taken, and the forms that name nobody (`UNKNOWN`, LOCAL,
//! UNSPEC). Everything has its exact form and a bounded length. No byte is searched twice, and
//! what is found does not depend on how the bytes were cut.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::{ClientAddress, Provenance, is_possible};

/// The longest header of version 1 in bytes, its CRLF included.
pub const V1_BYTES_MAX: usize = 107;

/// The longest header of version 2 in bytes: what the specification lets a sender rely on. It
/// has room for 484 bytes of TLVs behind a pair of IPv6 addresses.
pub const V2_BYTES_MAX: usize = 536;

const V1_START: &[u8] = b"PROXY ";
const V2_START: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part of version 2: start, version and command, family, length.
const V2_FIXED: usize = V2_START.len() + 4;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The beginning of a header, or too few bytes to tell.
    Incomplete,
    /// Not a PROXY header: all bytes belong to what follows.
    Absent,
    /// A header of `len` bytes; what follows is not a part of it.
    Complete {
        /// Its length.
        len: usize,
        /// Whom it names; nobody if the proxy speaks for itself or does not know.
        client: Option<ClientAddress>,
    },
}

/// It begins as a header and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads one header as its bytes arrive.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeaderReader {
    /// Bytes that have no LF among them.
    searched: usize,
}

impl HeaderReader {
    /// Looks at the bytes that are new in `bytes`: all that was received so far, what follows
    /// the header included. Not to be called again once it has said anything but `Incomplete`.
    ///
    /// # Errors
    /// What begins as a header and is not one, or is longer than allowed.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Header, Malformed> {
        if bytes.starts_with(V1_START) {
            self.read_v1(bytes)
        } else if bytes.starts_with(V2_START) {
            read_v2(bytes)
        } else if V1_START.starts_with(bytes) || V2_START.starts_with(bytes) {
            Ok(Header::Incomplete)
        } else {
            Ok(Header::Absent)
        }
    }

    fn read_v1(&mut self, bytes: &[u8]) -> Result<Header, Malformed> {
        let bounded = &bytes[..bytes.len().min(V1_BYTES_MAX)];
        let Some(at) = memchr::memchr(b'\n', &bounded[self.searched..]) else {
            self.searched = bounded.len();
            let too_long = bounded.len() == V1_BYTES_MAX;
            return if too_long { Err(Malformed) } else { Ok(Header::Incomplete) };
        };
        let end = self.searched + at;
        let line = bounded[V1_START.len()..end].strip_suffix(b"\r").ok_or(Malformed)?;
        Ok(Header::Complete { len: end + 1, client: read_line(line)? })
    }
}

/// `TCP4 SOURCE DESTINATION PORT PORT`, or `UNKNOWN` and anything.
fn read_line(line: &[u8]) -> Result<Option<ClientAddress>, Malformed> {
    if let Some(rest) = line.strip_prefix(b"UNKNOWN") {
        let ignored = rest.is_empty() || rest.starts_with(b" ");
        return if ignored && !rest.contains(&b'\r') { Ok(None) } else { Err(Malformed) };
    }
    let line = std::str::from_utf8(line).map_err(|_| Malformed)?;
    let mut parts = line.split(' ');
    let mut part = || parts.next().ok_or(Malformed);
    let (family, source, destination) = (part()?, part()?, part()?);
    let (port, _destination_port) = (read_port(part()?)?, read_port(part()?)?);
    let ip = match family {
        "TCP4" => IpAddr::V4(both::<Ipv4Addr>(source, destination)?),
        "TCP6" => IpAddr::V6(both::<Ipv6Addr>(source, destination)?),
        _ => return Err(Malformed),
    };
    if parts.next().is_some() {
        return Err(Malformed);
    }
    named(ip, port, Provenance::ProxyProtocolV1)
}

/// The source, if both are addresses of this family.
fn both<A: FromStr>(source: &str, destination: &str) -> Result<A, Malformed> {
    destination.parse::<A>().map_err(|_| Malformed)?;
    source.parse().map_err(|_| Malformed)
}

/// Decimal digits without a leading zero; the library's parser takes a sign too.
fn read_port(text: &str) -> Result<u16, Malformed> {
    let port = text.parse::<u16>().map_err(|_| Malformed)?;
    let canonical = text.starts_with(|first: char| first.is_ascii_digit())
        && (text.len() == 1 || !text.starts_with('0'));
    if canonical { Ok(port) } else { Err(Malformed) }
}

fn read_v2(bytes: &[u8]) -> Result<Header, Malformed> {
    let command = bytes.get(V2_START.len()).copied();
    if command.is_some_and(|byte| !matches!(byte, 0x20 | 0x21)) {
        return Err(Malformed);
    }
    let Some(&[command, family, high, low]) = bytes.get(V2_START.len()..V2_FIXED) else {
        return Ok(Header::Incomplete);
    };
    let len = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if len > V2_BYTES_MAX {
        return Err(Malformed);
    }
    let Some(body) = bytes.get(V2_FIXED..len) else { return Ok(Header::Incomplete) };
    let client = match (command, family) {
        // LOCAL: the proxy itself, for example its health check. The rest has no meaning.
        (0x20, _) | (_, 0x00) => None,
        (_, 0x11) => {
            let (addresses, _) = body.split_first_chunk::<12>().ok_or(Malformed)?;
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
            let port = u16::from_be_bytes([high, low]);
            named(Ipv4Addr::new(a, b, c, d).into(), port, Provenance::ProxyProtocolV2)?
        }
        (_, 0x21) => {
            let (addresses, _) = body.split_first_chunk::<36>().ok_or(Malformed)?;
            let (source, rest) = addresses.split_first_chunk::<16>().ok_or(Malformed)?;
            let port = u16::from_be_bytes([rest[16], rest[17]]);
            named(Ipv6Addr::from(*source).into(), port, Provenance::ProxyProtocolV2)?
        }
        // Datagrams, Unix sockets, and what does not exist.
        _ => return Err(Malformed),
    };
    Ok(Header::Complete { len, client })
}

fn named(
    ip: IpAddr,
    port: u16,
    provenance: Provenance,
) -> Result<Option<ClientAddress>, Malformed> {
    if !is_possible(ip) {
        return Err(Malformed);
    }
    Ok(Some(ClientAddress { ip, port, provenance }))
}

#[cfg(test)]
mod tests;
