//! Rules for blocks of addresses: who is denied, who is exempt, who has limits of its own.
//!
//! Of the rules whose block holds a source, that of the longest prefix counts, and it alone. The
//! search is one hash lookup for each prefix length that any rule of the family has, from the
//! longest on: it costs the same for ten rules as for a hundred thousand, at most 33 lookups for
//! IPv4 and 65 for IPv6, and nothing where there are no rules.

use ahash::RandomState;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::pace::Pace;
use super::source_address::{Prefixes, SourceKey, leading_ones};

/// The longest prefix that a rule for IPv6 can have: sources are not told apart below it.
pub const V6_PREFIX_MAX: u8 = 64;

/// In a key, the address of an IPv4 source is behind so many bits that are the same for all.
const V4_OFFSET: u8 = 32;

/// What a rule says about the sources of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// They are refused.
    Denied,
    /// The limits of sources do not hold for them; those of the whole server do.
    Exempt,
    /// These limits hold for each of them.
    Limited(Pace),
}

/// All rules. They never change; new ones replace them as a whole.
#[derive(Debug, Default)]
pub struct SourceRules {
    v4: Family,
    v6: Family,
}

/// The rules of one address family. Apart, because the keys of IPv4 sources are also those of
/// addresses that IPv6 reserves.
#[derive(Debug, Default)]
struct Family {
    /// The prefix lengths that there are, in bits of a key, the longest first.
    lengths: Vec<u8>,
    /// By the bits of the prefix, and its length.
    rules: HashMap<(u64, u8), Treatment, RandomState>,
}

impl SourceRules {
    /// Of two rules for the same block the later one counts; the configuration refuses such a
    /// pair. Bits behind a prefix are not looked at, and neither are IPv6 prefixes longer than
    /// [`V6_PREFIX_MAX`], which the configuration refuses too.
    pub fn new(rules: impl IntoIterator<Item = (IpNet, Treatment)>) -> Self {
        let mut all = Self::default();
        for (block, treatment) in rules {
            let key = Prefixes::default().key(block.network());
            match block {
                IpNet::V4(block) => all.v4.add(key, V4_OFFSET + block.prefix_len(), treatment),
                IpNet::V6(block) => {
                    all.v6.add(key, block.prefix_len().min(V6_PREFIX_MAX), treatment);
                }
            }
        }
        all
    }

    /// The rule that counts for `source`.
    #[inline]
    pub fn find(&self, source: SourceKey) -> Option<Treatment> {
        if source.is_v4() { self.v4.find(source) } else { self.v6.find(source) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.rules.len() + self.v6.rules.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Family {
    fn add(&mut self, key: SourceKey, length: u8, treatment: Treatment) {
        self.rules.insert((key.to_bits() & leading_ones(length), length), treatment);
        if let Err(at) = self.lengths.binary_search_by(|other| length.cmp(other)) {
            self.lengths.insert(at, length);
        }
    }

    fn find(&self, source: SourceKey) -> Option<Treatment> {
        let bits = source.to_bits();
        self.lengths
            .iter()
            .find_map(|length| self.rules.get(&(bits & leading_ones(*length), *length)).copied())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    const PACE: Treatment = Treatment::Limited(Pace::UNLIMITED);

    fn rules(written: &[(&str, Treatment)]) -> SourceRules {
        SourceRules::new(written.iter().map(|(block, rule)| (block.parse().unwrap(), *rule)))
    }

    fn found(rules: &SourceRules, address: &str) -> Option<Treatment> {
        rules.find(Prefixes::default().key(address.parse().unwrap()))
    }

    #[test]
    fn the_longest_prefix_counts_whatever_it_says() {
        let rules = rules(&[
            ("10.0.0.0/8", Treatment::Denied),
            ("10.1.0.0/16", PACE),
            ("10.1.2.0/24", Treatment::Exempt),
            ("10.1.2.3/32", Treatment::Denied),
            ("2001:db8::/32", Treatment::Denied),
            ("2001:db8:0:1::/64", Treatment::Exempt),
        ]);
        for (address, expected) in [
            ("9.255.255.255", None),
            ("10.0.0.1", Some(Treatment::Denied)),
            ("10.1.0.1", Some(PACE)),
            ("10.1.2.4", Some(Treatment::Exempt)),
            ("10.1.2.3", Some(Treatment::Denied)),
            ("::ffff:10.1.2.3", Some(Treatment::Denied)),
            ("11.0.0.0", None),
            ("2001:db8::1", Some(Treatment::Denied)),
            ("2001:db8:0:1:ffff::2", Some(Treatment::Exempt)),
            ("2001:db9::1", None),
        ] {
            assert_eq!(found(&rules, address), expected, "{address}");
        }
        assert_eq!(rules.len(), 6);
    }

    #[test]
    fn a_rule_for_everybody_is_for_one_family() {
        let v4 = rules(&[("0.0.0.0/0", Treatment::Denied)]);
        assert_eq!(found(&v4, "203.0.113.1"), Some(Treatment::Denied));
        assert_eq!(found(&v4, "::ffff:203.0.113.1"), Some(Treatment::Denied));
        assert_eq!(found(&v4, "2001:db8::1"), None);
        let v6 = rules(&[("::/0", Treatment::Denied), ("ff00::/8", Treatment::Denied)]);
        assert_eq!(found(&v6, "2001:db8::1"), Some(Treatment::Denied));
        assert_eq!(found(&v6, "203.0.113.1"), None);
        assert_eq!(found(&v6, "::ffff:203.0.113.1"), None);
        assert!(rules(&[]).is_empty() && found(&rules(&[]), "::1").is_none());
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few values of each byte, so that blocks meet addresses; no multicast, which is no source.
        let byte = prop::sample::select(vec![0_u8, 1, 127, 254]);
        prop_oneof![
            prop::array::uniform4(byte.clone()).prop_map(IpAddr::from),
            prop::array::uniform16(byte).prop_map(IpAddr::from),
        ]
    }

    proptest! {
        #[test]
        fn the_search_finds_what_comparing_with_every_rule_finds(
            rules in prop::collection::vec((address(), 0_u8..=64, any::<bool>()), 0..40),
            sources in prop::collection::vec(address(), 1..20),
        ) {
            let rules: Vec<_> = rules
                .into_iter()
                .map(|(ip, length, denied)| {
                    let length = if ip.is_ipv4() { length / 2 } else { length };
                    let block = IpNet::new(ip, length).unwrap().trunc();
                    (block, if denied { Treatment::Denied } else { Treatment::Exempt })
                })
                .collect();
            let table = SourceRules::new(rules.iter().copied());
            for source in sources {
                let canonical = source.to_canonical();
                // Of the same block the last one; max_by_key takes the last of equals.
                let expected = rules
                    .iter()
                    .filter(|(block, _)| block.contains(&canonical))
                    .max_by_key(|(block, _)| block.prefix_len())
                    .map(|(_, treatment)| *treatment);
                prop_assert_eq!(table.find(Prefixes::default().key(source)), expected);
            }
        }
    }
}
