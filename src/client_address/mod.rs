//! Who the client is when proxies stand in front of the server: bytes in, an address out.
//!
//! A connection's peer is whoever opened it. If that is a trusted proxy, the client is whom the
//! proxy names: in a PROXY header before the first byte of HTTP ([`proxy_header`]), or else in
//! the one header that is believed ([`forwarded`]). Nothing that anybody else says is looked
//! at, and nobody is trusted unless the operator said so.
//!
//! Pure: no system call, no clock. Not here: what the address is good for (`admission`), and
//! what waits until it is known (`shard`).

pub mod forwarded;
pub mod proxy_header;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

/// The networks whose word about their clients is taken.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Of these networks; of none, nobody is trusted.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(IpNet::aggregate(&networks.to_vec()))
    }

    /// Whether `address` is one of them. An IPv4 address mapped to IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// Where the address of a client was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Provenance {
    /// The connection itself.
    #[default]
    Peer,
    /// A PROXY header in text.
    ProxyProtocolV1,
    /// A PROXY header in binary.
    ProxyProtocolV2,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// The header for a single address that `server.forwarded_header` names.
    SingleHeader,
}

impl Provenance {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 6] = [
        Self::Peer,
        Self::ProxyProtocolV1,
        Self::ProxyProtocolV2,
        Self::XForwardedFor,
        Self::Forwarded,
        Self::SingleHeader,
    ];

    /// Position in [`ALL`](Self::ALL).
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The word for it in logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::ProxyProtocolV1 => "proxy_protocol_v1",
            Self::ProxyProtocolV2 => "proxy_protocol_v2",
            Self::XForwardedFor => "x_forwarded_for",
            Self::Forwarded => "forwarded",
            Self::SingleHeader => "single_header",
        }
    }
}

/// A client's address, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 if nobody said.
    pub port: u16,
    /// Who says so.
    pub provenance: Provenance,
}

impl ClientAddress {
    /// The peer is the client.
    pub fn of_peer(peer: SocketAddr) -> Self {
        Self { ip: peer.ip(), port: peer.port(), provenance: Provenance::Peer }
    }
}

/// Whether a connection can come from `address` at all. One that cannot was not seen by a proxy,
/// and as a source it could be mistaken for another (see `admission::SourceKey`).
fn is_possible(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !address.is_unspecified() && !address.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn nobody_is_trusted_unless_named() {
        let nobody = TrustedProxies::default();
        let some = TrustedProxies::new(
            &["10.0.0.0/8", "192.0.2.7/32", "fd00::/8"].map(|network| network.parse().unwrap()),
        );
        for (address, trusted) in [
            ("10.255.0.1", true),
            ("::ffff:10.0.0.1", true),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("11.0.0.1", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("127.0.0.1", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(some.contains(address), trusted, "{address}");
            assert!(!nobody.contains(address));
        }
    }

    #[test]
    fn the_index_is_the_position_in_all() {
        for (position, provenance) in Provenance::ALL.into_iter().enumerate() {
            assert_eq!(provenance.index(), position);
        }
    }

    #[test]
    fn some_addresses_are_nobodys() {
        let nobodys =
            ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:0.0.0.0"];
        for address in nobodys {
            assert!(!is_possible(address.parse().unwrap()), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.255", "2001:db8::1", "fe80::1"] {
            assert!(is_possible(address.parse().unwrap()), "{address}");
        }
    }
}
