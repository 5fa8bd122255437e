//! Which shard keeps the books of a source.
//!
//! Pure arithmetic on the source's key: every shard computes the same owner without asking
//! anybody. It uses nothing but 32-bit operations that classic BPF has, so that the kernel can
//! compute it too ([`steering_program`](super::steering_program)). Not here: what a shard does
//! with a connection of a source that is not its own.

use super::source_address::SourceKey;

/// Odd constants of a mixing function in which each bit of the input changes each bit of the
/// output with nearly even odds (Wellons, "lowbias32").
pub(super) const MULTIPLIERS: [u32; 2] = [0x7feb_352d, 0x846c_a68b];
/// Its shifts, one before, one between and one behind the multiplications.
pub(super) const SHIFTS: [u32; 3] = [16, 15, 16];

/// Makes the second key from the same seed: the golden ratio, which has nothing to do with the
/// constants above.
const SECOND: u32 = 0x9e37_79b9;

/// The owners of all sources.
///
/// The hash is keyed, so that nobody outside can compute which addresses one shard owns. It is
/// not a cryptographic hash: whoever learns the owners of some dozens of addresses finds the
/// seed by trying all 2^32 in seconds. No answer of the server says which shard gave it, so they
/// would have to be learnt from response times. What that gives an attacker with many addresses
/// is one busy shard; no limit is exceeded by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owners {
    shards: u32,
    keys: [u32; 2],
}

impl Owners {
    /// Among this many shards; 0 counts as 1. `seed` has to be unpredictable, and the same for
    /// all shards of a process.
    pub fn new(shards: usize, seed: u32) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX).max(1);
        Self { shards, keys: [mixed(seed), mixed(seed ^ SECOND)] }
    }

    /// The shard that owns `source`, below the number of shards.
    pub fn of(&self, source: SourceKey) -> usize {
        let bits = source.to_bits();
        self.choose((bits >> 32) as u32, bits as u32)
    }

    /// Where a connection of a peer that connects for others is steered to: over all its ports
    /// such a peer meets every shard. This says nothing about who owns the peer.
    pub fn of_connection(&self, peer: SourceKey, port: u16) -> usize {
        let bits = peer.to_bits();
        self.choose((bits >> 32) as u32 ^ u32::from(port), bits as u32)
    }

    fn choose(&self, upper: u32, lower: u32) -> usize {
        let mixed_upper = mixed(upper.wrapping_add(self.keys[0]));
        let hash = mixed((mixed_upper ^ lower).wrapping_add(self.keys[1]));
        (hash % self.shards) as usize
    }

    /// How many shards there are.
    pub fn shards(&self) -> u32 {
        self.shards
    }

    /// What is added before each of the two rounds.
    pub(super) fn keys(&self) -> [u32; 2] {
        self.keys
    }
}

fn mixed(mut x: u32) -> u32 {
    x ^= x >> SHIFTS[0];
    x = x.wrapping_mul(MULTIPLIERS[0]);
    x ^= x >> SHIFTS[1];
    x = x.wrapping_mul(MULTIPLIERS[1]);
    x ^ (x >> SHIFTS[2])
}

#[cfg(test)]
mod tests {
    use super::super::source_address::Prefixes;
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const SOURCES: u32 = 10_000;
    const SEEDS: [u32; 4] = [0, 1, 0xdead_beef, u32::MAX];

    fn key(address: impl Into<IpAddr>) -> SourceKey {
        Prefixes::default().key(address.into())
    }

    /// The fullest shard's share of what each would have if all had the same.
    fn unevenness(owners: Owners, sources: impl Iterator<Item = SourceKey>) -> f64 {
        let mut counts = vec![0_u32; owners.shards() as usize];
        sources.for_each(|source| counts[owners.of(source)] += 1);
        let total: u32 = counts.iter().sum();
        let mean = f64::from(total) / counts.len() as f64;
        f64::from(counts.into_iter().max().unwrap_or(0)) / mean
    }

    /// Four standard deviations of what throwing dice gives: 1.06 for 2 shards, 1.29 for 53.
    fn tolerance(shards: usize) -> f64 {
        1.0 + 4.0 * (shards as f64 / f64::from(SOURCES)).sqrt()
    }

    fn assert_spread(what: &str, source: impl Fn(u32) -> SourceKey) {
        for shards in [2, 3, 8, 53] {
            for seed in SEEDS {
                let owners = Owners::new(shards, seed);
                let found = unevenness(owners, (0..SOURCES).map(&source));
                let allowed = tolerance(shards);
                assert!(found < allowed, "{what}, {shards} shards, seed {seed:#x}: {found:.3}");
            }
        }
    }

    #[test]
    fn sources_in_sequence_spread_evenly() {
        assert_spread("127.0.x.y", |n| key(Ipv4Addr::from_bits(0x7f00_0000 + n)));
        let net = 0x2001_0db8_0000_0000_u64;
        let v6 = |upper: u64| key(Ipv6Addr::from_bits(u128::from(upper) << 64));
        assert_spread("/64s", |n| v6(net + u64::from(n)));
        assert_spread("/48s", |n| v6(net + (u64::from(n) << 16)));
        assert_spread("/32s", |n| v6((0x2000_0000 + u64::from(n)) << 32));
    }

    #[test]
    fn sources_that_differ_in_high_bits_only_spread_evenly() {
        // The upper 14 bits of 10,000 addresses, everything below them the same.
        assert_spread("high bits", |n| key(Ipv4Addr::from_bits((n << 18) | 1)));
        assert_spread("high bits", |n| {
            key(Ipv6Addr::from_bits((u128::from(n) << 114) | (7 << 64)))
        });
    }

    #[test]
    fn each_bit_of_a_source_changes_its_owner_with_even_odds() {
        let owners = Owners::new(2, 0x5eed);
        for bit in 0..64 {
            let flipped = (0..SOURCES)
                .map(|n| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15))
                .filter(|bits| {
                    let other = SourceKey::from_bits(bits ^ (1 << bit));
                    owners.of(SourceKey::from_bits(*bits)) != owners.of(other)
                })
                .count();
            let share = flipped as f64 / f64::from(SOURCES);
            assert!((0.45..0.55).contains(&share), "bit {bit}: {share}");
        }
    }

    #[test]
    fn another_seed_gives_other_owners() {
        // Those that meet on shard 0 under one seed are spread under another.
        let (one, other) = (Owners::new(8, 1), Owners::new(8, 2));
        let sources = (0..SOURCES * 8).map(|n| key(Ipv4Addr::from_bits(0x0a00_0000 + n)));
        let chosen = sources.filter(|source| one.of(*source) == 0);
        assert!(unevenness(other, chosen) < tolerance(8));
    }

    #[test]
    fn a_peer_that_connects_for_others_meets_every_shard_evenly() {
        for peer in [key([10, 0, 0, 1]), key(Ipv6Addr::LOCALHOST)] {
            let mut counts = [0_u32; 8];
            for port in 1024..=u16::MAX {
                counts[Owners::new(8, 7).of_connection(peer, port)] += 1;
            }
            let mean = f64::from(u16::MAX - 1023) / 8.0;
            for count in counts {
                assert!((f64::from(count) / mean - 1.0).abs() < 0.1, "{counts:?}");
            }
        }
    }

    #[test]
    fn one_shard_owns_all() {
        for shards in [0, 1] {
            assert_eq!(Owners::new(shards, 9).of(key([192, 0, 2, 1])), 0);
        }
    }
}
