//! Which client has which address: arithmetic, so that no table is needed.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The first port of each source.
const FIRST_PORT: u16 = 1_024;
/// Ports of one source.
pub(crate) const PORTS: u64 = 64_000;

/// The server, and its clients' addresses by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    server: SocketAddrV4,
    first: Ipv4Addr,
    per_source: u32,
}

impl Addresses {
    /// Clients from `first` on, `per_source` (at most [`PORTS`]) of them at each address.
    pub(crate) fn new(server: SocketAddrV4, first: Ipv4Addr, per_source: u64) -> Self {
        Self { server, first, per_source: per_source.clamp(1, PORTS) as u32 }
    }

    pub(crate) fn server(&self) -> SocketAddrV4 {
        self.server
    }

    /// The address of a client.
    pub(crate) fn of(&self, index: u32) -> SocketAddrV4 {
        let ip = self.first.to_bits().wrapping_add(index / self.per_source);
        SocketAddrV4::new(ip.into(), FIRST_PORT + (index % self.per_source) as u16)
    }

    /// The client at an address, whether it was opened or not.
    pub(crate) fn index_of(&self, address: SocketAddrV4) -> Option<u32> {
        let source = address.ip().to_bits().checked_sub(self.first.to_bits())?;
        let port = u32::from(address.port().checked_sub(FIRST_PORT)?);
        if port >= self.per_source {
            return None;
        }
        source.checked_mul(self.per_source)?.checked_add(port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_client_is_found_by_its_address(index in 0..4_000_000_u32, per_source in 1..70_000_u64) {
            let server = "10.0.0.1:80".parse().unwrap();
            let addresses = Addresses::new(server, "100.64.0.1".parse().unwrap(), per_source);
            prop_assert_eq!(addresses.index_of(addresses.of(index)), Some(index));
        }
    }

    #[test]
    fn other_addresses_are_nobody() {
        let server = "10.0.0.1:80".parse().unwrap();
        let addresses = Addresses::new(server, "100.64.0.1".parse().unwrap(), 500);
        for other in ["100.64.0.0:1024", "100.64.0.1:1023", "100.64.0.1:1524"] {
            assert_eq!(addresses.index_of(other.parse().unwrap()), None, "{other}");
        }
    }
}
