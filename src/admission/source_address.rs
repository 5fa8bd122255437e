//! Whom a connection is counted for: a source address without the bits that its user can choose.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How many leading bits of an address tell sources apart.
///
/// An IPv6 user usually has a whole /64 to choose addresses from (RFC 6177, RFC 7421), so
/// nothing below it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes {
    v4: u8,
    v6: u8,
}

impl Default for Prefixes {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// A source, in the form that the buckets are keyed by. Two addresses have the same key exactly
/// when their prefixes are the same.
///
/// An IPv6 key is the upper half of the address. An IPv4 key is the address behind 32 one bits:
/// as IPv6 that is a multicast address, which cannot be the source of a connection (RFC 4291
/// section 2.7), so the two families do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceKey(u64);

const V4_MARK: u64 = 0xffff_ffff << 32;

impl Prefixes {
    /// Lengths in bits: `v4` at most 32, `v6` at most 64; `None` otherwise.
    pub fn new(v4: u8, v6: u8) -> Option<Self> {
        (v4 <= 32 && v6 <= 64).then_some(Self { v4, v6 })
    }

    /// The source this address belongs to. An IPv4 address mapped to IPv6 (`::ffff:a.b.c.d`),
    /// which is what a dual-stack socket reports, counts as IPv4.
    pub fn key(self, address: IpAddr) -> SourceKey {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let mask = leading_ones(self.v4) >> 32;
                SourceKey(V4_MARK | (u64::from(v4.to_bits()) & mask))
            }
            IpAddr::V6(v6) => SourceKey((v6.to_bits() >> 64) as u64 & leading_ones(self.v6)),
        }
    }

    /// The bits of an IPv4 address that count, and those of the upper half of an IPv6 address.
    pub(super) fn masks(self) -> (u32, u64) {
        ((leading_ones(self.v4) >> 32) as u32, leading_ones(self.v6))
    }
}

pub(super) fn leading_ones(count: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(count)).unwrap_or(0)
}

impl SourceKey {
    /// The key as a number, to send to another shard.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Whether the source is an IPv4 address.
    pub fn is_v4(self) -> bool {
        self.0 & V4_MARK == V4_MARK
    }

    /// The key that [`to_bits`](Self::to_bits) gave.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// The first address of the source's prefix.
impl fmt::Display for SourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v4() {
            Ipv4Addr::from_bits(self.0 as u32).fmt(f)
        } else {
            Ipv6Addr::from_bits(u128::from(self.0) << 64).fmt(f)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(address: &str) -> SourceKey {
        Prefixes::default().key(address.parse().unwrap())
    }

    #[test]
    fn what_counts_as_one_source() {
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
        assert_eq!(key("192.0.2.1"), key("::ffff:192.0.2.1"));
        assert_eq!(key("2001:db8:0:1::1"), key("2001:db8:0:1:ffff::2"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8:0:2::1"));
    }

    #[test]
    fn the_families_do_not_meet() {
        for v6 in ["::", "::1", "0:0:c000:201::", "64:ff9b::c000:201", "fe80::1", "fd00::1"] {
            assert_ne!(key(v6), key("192.0.2.1"), "{v6}");
            assert_ne!(key(v6), key("0.0.0.0"), "{v6}");
        }
        assert_eq!(key("255.255.255.255").to_bits(), u64::MAX);
    }

    #[test]
    fn logs_show_an_address() {
        for shown in ["192.0.2.1", "0.0.0.0", "2001:db8:0:1::", "::"] {
            assert_eq!(key(shown).to_string(), shown);
            assert_eq!(SourceKey::from_bits(key(shown).to_bits()), key(shown));
        }
    }

    #[test]
    fn shorter_prefixes_join_sources() {
        let wide = Prefixes::new(24, 48).unwrap();
        let key = |address: &str| wide.key(address.parse().unwrap());
        assert_eq!(key("192.0.2.1"), key("192.0.2.255"));
        assert_ne!(key("192.0.2.1"), key("192.0.3.1"));
        assert_eq!(key("2001:db8:1:2::"), key("2001:db8:1:3::"));
        let all = Prefixes::new(0, 0).unwrap();
        assert_eq!(all.key([1, 2, 3, 4].into()), all.key([9, 9, 9, 9].into()));
        assert!(Prefixes::new(33, 64).is_none() && Prefixes::new(32, 65).is_none());
    }
}
