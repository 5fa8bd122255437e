//! Which client has which address: arithmetic, so that no table is needed.

use std::net::{Ipv4Addr, SocketAddrV4};

/// The first port of each source.
const FIRST_PORT: u16 = 1_024;
/// Ports of one source.
pub(crate) const PORTS: u64 = 64_000;

/// Where clients live unless the command line says otherwise: the range for sharing behind
/// carriers' translators (RFC 6598), which no host has of its own. Four million addresses.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const CLIENTS_BITS: u32 = 22;
/// The range for measurements (RFC 2544), for the two ends of the way to the clients.
const ENDS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
const ENDS_BITS: u32 = 17;

/// The addresses of one run. Runs at the same time have others, as far as their numbers differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// The first client's.
    pub(crate) first: Ipv4Addr,
    /// The network that all clients are in, and its prefix.
    pub(crate) clients: (Ipv4Addr, u32),
    /// The server's end of the way, and the other; a network of four addresses.
    pub(crate) host: Ipv4Addr,
    pub(crate) inside: Ipv4Addr,
}

impl Ranges {
    /// For so many clients, `per_source` at each address. `run` is any number of the run's own.
    pub(crate) fn new(clients: u64, per_source: u64, first: Option<Ipv4Addr>, run: u32) -> Self {
        let sources = clients.div_ceil(per_source.clamp(1, PORTS));
        // Room for an address in front of the first, and for a first that is not aligned.
        let bits = (sources + 2).next_power_of_two().ilog2().min(CLIENTS_BITS);
        let own = CLIENTS.to_bits() + ((run << bits) & ((1 << CLIENTS_BITS) - 1)) + 1;
        let first = first.map_or(own, Ipv4Addr::to_bits);
        let last = first.wrapping_add(sources as u32);
        let common = (first ^ last).leading_zeros();
        let network = first & u32::MAX.checked_shl(32 - common).unwrap_or_default();
        let ends = ENDS.to_bits() + ((run << 2) & ((1 << ENDS_BITS) - 1));
        Self {
            first: first.into(),
            clients: (network.into(), common),
            host: (ends + 1).into(),
            inside: (ends + 2).into(),
        }
    }
}

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

    proptest! {
        #[test]
        fn all_clients_are_in_the_network_of_the_run(
            clients in 1..4_000_000_u64, per_source in 1..70_000_u64, run in any::<u32>(),
        ) {
            let ranges = Ranges::new(clients, per_source, None, run);
            let (network, prefix) = ranges.clients;
            let network = ipnet::Ipv4Net::new(network, prefix as u8).unwrap();
            let server = SocketAddrV4::new(ranges.host, 80);
            let addresses = Addresses::new(server, ranges.first, per_source);
            for index in [0, clients - 1] {
                prop_assert!(network.contains(addresses.of(index as u32).ip()), "{ranges:?}");
            }
            prop_assert!(!network.contains(&ranges.host));
        }
    }

    #[test]
    fn runs_at_the_same_time_do_not_meet() {
        let (one, other) = (Ranges::new(4_000, 500, None, 7), Ranges::new(4_000, 500, None, 8));
        assert_ne!(one.clients, other.clients);
        assert_ne!(one.host, other.host);
        let named = Ranges::new(4_000, 500, Some("10.9.0.1".parse().unwrap()), 7);
        assert_eq!(named.first, "10.9.0.1".parse::<Ipv4Addr>().unwrap());
        assert_eq!(named.clients, ("10.9.0.0".parse().unwrap(), 28));
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
