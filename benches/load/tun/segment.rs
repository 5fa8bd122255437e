//! IPv4 packets with TCP segments, as bytes and as values. Nothing else is understood: no
//! fragments, no IPv6, and of the options only the maximum segment size is said.

use std::net::{Ipv4Addr, SocketAddrV4};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;

const IP_HEADER: usize = 20;
const TCP_HEADER: usize = 20;
const PROTOCOL_TCP: u8 = 6;
/// What is left of 1,500 bytes.
pub(crate) const MSS: u16 = 1_460;
/// The window that is always offered: 64 KiB less one, without scaling.
const WINDOW: u16 = u16::MAX;

/// One segment. Sequence numbers are modulo 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment<'a> {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Reads a packet; `None` if it is not a whole TCP segment over IPv4. Checksums are not
    /// looked at: the packet comes from this machine, which often leaves them out.
    pub(crate) fn parse(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let whole = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
        let packet = packet.get(..whole)?;
        let is_tcp = packet.first()? >> 4 == 4 && *packet.get(9)? == PROTOCOL_TCP;
        let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
        if !is_tcp || header < IP_HEADER || fragment != 0 {
            return None;
        }
        let tcp = packet.get(header..)?;
        let offset = usize::from(tcp.get(12)? >> 4) * 4;
        if offset < TCP_HEADER {
            return None;
        }
        let address = |at: usize| -> Option<Ipv4Addr> {
            Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?))
        };
        let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
        let number =
            |at: usize| Some(u32::from_be_bytes(<[u8; 4]>::try_from(tcp.get(at..at + 4)?).ok()?));
        Some(Self {
            from: SocketAddrV4::new(address(12)?, port(0)?),
            to: SocketAddrV4::new(address(16)?, port(2)?),
            seq: number(4)?,
            ack: number(8)?,
            flags: *tcp.get(13)?,
            payload: tcp.get(offset..)?,
        })
    }

    /// Appends the packet.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let options: &[u8] = match self.flags & SYN {
            0 => &[],
            _ => &[2, 4, (MSS >> 8) as u8, MSS as u8],
        };
        let tcp_len = TCP_HEADER + options.len() + self.payload.len();
        let total = (IP_HEADER + tcp_len) as u16;
        let start = out.len();
        // Don't fragment; 64 hops; the checksum is filled in below.
        out.extend_from_slice(&[0x45, 0, (total >> 8) as u8, total as u8, 0, 0, 0x40, 0, 64]);
        out.extend_from_slice(&[PROTOCOL_TCP, 0, 0]);
        out.extend_from_slice(&self.from.ip().octets());
        out.extend_from_slice(&self.to.ip().octets());
        let checksum = finish(sum(&out[start..]));
        out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());

        let tcp = out.len();
        out.extend_from_slice(&self.from.port().to_be_bytes());
        out.extend_from_slice(&self.to.port().to_be_bytes());
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.ack.to_be_bytes());
        let offset = ((TCP_HEADER + options.len()) / 4) as u8;
        out.extend_from_slice(&[offset << 4, self.flags]);
        out.extend_from_slice(&WINDOW.to_be_bytes());
        out.extend_from_slice(&[0, 0, 0, 0]);
        out.extend_from_slice(options);
        out.extend_from_slice(self.payload);
        let checksum = finish(self.pseudo_header(tcp_len) + sum(&out[tcp..]));
        out[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
    }

    fn pseudo_header(&self, tcp_len: usize) -> u64 {
        sum(&self.from.ip().octets())
            + sum(&self.to.ip().octets())
            + u64::from(PROTOCOL_TCP)
            + tcp_len as u64
    }
}

/// Packets to send, one behind the other.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Packets {
    pub(super) fn push(&mut self, segment: &Segment<'_>) {
        segment.write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The sum of all 16-bit words (RFC 1071), not yet folded.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let last = rest.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_known_packet() {
        // 10.0.0.1:4000 to 10.0.0.2:80, SYN; the sums were computed by hand from RFC 1071.
        let segment = Segment {
            from: "10.0.0.1:4000".parse().unwrap(),
            to: "10.0.0.2:80".parse().unwrap(),
            seq: 1,
            ack: 0,
            flags: SYN,
            payload: &[],
        };
        let mut packet = Vec::new();
        segment.write(&mut packet);
        assert_eq!(packet.len(), 44);
        assert_eq!(finish(sum(&packet[..20])), 0, "a correct header adds up to nothing");
        assert_eq!(finish(segment.pseudo_header(24) + sum(&packet[20..])), 0);
        assert_eq!(&packet[40..], [2, 4, 0x05, 0xb4], "1,460 bytes a segment");
    }

    #[test]
    fn other_packets_are_none_of_ours() {
        let mut packet = Vec::new();
        let at: SocketAddrV4 = "10.0.0.1:1".parse().unwrap();
        Segment { from: at, to: at, seq: 0, ack: 0, flags: ACK, payload: b"x" }.write(&mut packet);
        for (place, value) in [(0, 0x60), (0, 0x43), (9, 17), (6, 0x20), (3, 0xff), (32, 0x10)] {
            let mut other = packet.clone();
            other[place] = value;
            assert_eq!(Segment::parse(&other), None, "byte {place}");
        }
        for len in 0..packet.len() {
            assert_eq!(Segment::parse(&packet[..len]), None, "cut to {len}");
        }
        packet.extend_from_slice(b"padding");
        assert_eq!(Segment::parse(&packet).unwrap().payload, b"x");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            from in any::<(u32, u16)>(), to in any::<(u32, u16)>(), seq in any::<u32>(),
            ack in any::<u32>(), flags in 0..32_u8,
            payload in proptest::collection::vec(any::<u8>(), 0..1460),
        ) {
            let address = |(ip, port)| SocketAddrV4::new(Ipv4Addr::from_bits(ip), port);
            let (from, to) = (address(from), address(to));
            let segment = Segment { from, to, seq, ack, flags, payload: &payload };
            let mut packet = Vec::new();
            segment.write(&mut packet);
            prop_assert_eq!(Segment::parse(&packet), Some(segment));
            let tcp_len = packet.len() - IP_HEADER;
            prop_assert_eq!(finish(segment.pseudo_header(tcp_len) + sum(&packet[IP_HEADER..])), 0);
        }

        #[test]
        fn no_packet_is_too_strange(packet in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Segment::parse(&packet);
        }
    }
}
