//! Source addresses: one address has only about 28,000 ports, and servers limit by address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The first source address on loopback.
const FIRST: Ipv4Addr = Ipv4Addr::new(127, 0, 1, 1);

/// How connections are spread over source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spread {
    /// This many connections from one address, then the next.
    PerSource(u64),
    /// This many addresses, in turn.
    Sources(u64),
}

/// Chooses the source address of each connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sources {
    first: Option<Ipv4Addr>,
    spread: Spread,
}

impl Sources {
    /// For a target on 127.0.0.0/8 the sources are 127.0.1.1 and up. Elsewhere the kernel
    /// chooses, unless `first` names the first of several addresses that the machine has.
    pub(crate) fn new(target: SocketAddr, first: Option<Ipv4Addr>, spread: Spread) -> Self {
        let first = match target.ip() {
            IpAddr::V4(ip) if ip.is_loopback() => Some(first.unwrap_or(FIRST)),
            IpAddr::V4(_) => first,
            IpAddr::V6(_) => None,
        };
        Self { first, spread }
    }

    /// The source of connection number `index`; `None` leaves it to the kernel.
    pub(crate) fn of(&self, index: u64) -> Option<SocketAddr> {
        let first = self.first?;
        let step = match self.spread {
            Spread::PerSource(count) => index / count.max(1),
            Spread::Sources(count) => index % count.max(1),
        };
        // Stays in the network of the first address, whatever the number of connections.
        let host = (u64::from(first.to_bits() & 0x00ff_ffff) + step) % 0x00ff_ffff;
        let ip = Ipv4Addr::from_bits(first.to_bits() & 0xff00_0000 | host.max(1) as u32);
        Some(SocketAddr::from((ip, 0)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn source(target: &str, spread: Spread, index: u64) -> Option<String> {
        let sources = Sources::new(target.parse().unwrap(), None, spread);
        sources.of(index).map(|address| address.ip().to_string())
    }

    #[test]
    fn loopback_targets_get_many_sources() {
        let spread = Spread::PerSource(500);
        assert_eq!(source("127.0.0.1:80", spread, 0).unwrap(), "127.0.1.1");
        assert_eq!(source("127.0.0.1:80", spread, 499).unwrap(), "127.0.1.1");
        assert_eq!(source("127.0.0.1:80", spread, 500).unwrap(), "127.0.1.2");
        assert_eq!(source("127.0.0.1:80", spread, 500 * 255).unwrap(), "127.0.2.0");
        assert_eq!(source("127.0.0.1:80", Spread::Sources(3), 5).unwrap(), "127.0.1.3");
        assert_eq!(source("127.0.0.1:80", Spread::PerSource(0), 1).unwrap(), "127.0.1.2");
    }

    #[test]
    fn other_targets_leave_it_to_the_kernel() {
        assert_eq!(source("192.0.2.1:80", Spread::Sources(3), 5), None);
        assert_eq!(source("[::1]:80", Spread::Sources(3), 5), None);
    }

    #[test]
    fn sources_stay_in_the_loopback_network() {
        let sources = Sources::new("127.0.0.1:1".parse().unwrap(), None, Spread::PerSource(1));
        for index in [0, 1 << 24, u64::from(u32::MAX), (1 << 24) - 2] {
            assert!(sources.of(index).unwrap().ip().is_loopback());
        }
    }
}
