//! How the capacity of the server is divided among its shards.
//!
//! Invariant: what is granted to all shards together never exceeds the capacity.

/// The places for connections that the shards' tables have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats {
    /// Number of shards.
    pub shards: usize,
    /// Connections that one shard can hold by its table.
    pub per_shard: u32,
}

impl Seats {
    /// Connections that the server can hold: its tables or its configuration, whichever is less.
    pub fn capacity(self, configured: u64) -> u64 {
        configured.min(u64::from(self.per_shard) * self.shards as u64)
    }

    /// What each shard may hold: an equal split, the remainder to the first ones.
    pub fn shares(self, configured: u64) -> Vec<u32> {
        self.split(self.capacity(configured))
    }

    /// What each shard may hold now that it holds `used`.
    ///
    /// While a shard holds more than its equal share, because the capacity was lowered, the
    /// others must not fill theirs: nobody enters anywhere before the server as a whole is below
    /// its capacity, and then no more than it is below. Once every shard is down to its share
    /// each gets its share. `used` may be a moment old: then so many more may enter as left or
    /// came meanwhile.
    pub fn grants(self, configured: u64, used: &[u64]) -> Vec<u32> {
        let shares = self.shares(configured);
        if shares.iter().zip(used).all(|(share, used)| *used <= u64::from(*share)) {
            return shares;
        }
        let free = self.capacity(configured).saturating_sub(used.iter().sum());
        if free == 0 {
            return vec![0; self.shards];
        }
        let grant = |(used, more): (&u64, u32)| (used + u64::from(more)).min(self.per_shard.into());
        used.iter().zip(self.split(free)).map(grant).map(narrow).collect()
    }

    fn split(self, whole: u64) -> Vec<u32> {
        let shards = self.shards.max(1) as u64;
        let part = |index| whole / shards + u64::from(index < whole % shards);
        (0..shards).map(|index| narrow(part(index).min(self.per_shard.into()))).collect()
    }
}

fn narrow(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tables_or_configuration_whichever_is_less() {
        let seats = Seats { shards: 3, per_shard: 1000 };
        assert_eq!((seats.capacity(10_000), seats.capacity(100)), (3000, 100));
        assert_eq!(seats.shares(100), [34, 33, 33]);
        assert_eq!(seats.shares(10_000), [1000; 3]);
    }

    #[test]
    fn nobody_enters_before_the_server_is_below_a_lowered_capacity() {
        let seats = Seats { shards: 2, per_shard: 1000 };
        assert_eq!(seats.grants(80, &[70, 5]), [73, 7], "five are free");
        assert_eq!(seats.grants(80, &[70, 30]), [0, 0], "above");
        assert_eq!(seats.grants(80, &[70, 10]), [0, 0], "exactly full");
        assert_eq!(seats.grants(80, &[40, 10]), [40, 40], "every shard is down to its share");
    }

    proptest! {
        #[test]
        fn all_together_never_exceed_the_capacity(
            configured in 0_u64..500,
            per_shard in 1_u32..200,
            used in prop::collection::vec(0_u64..200, 1..9),
        ) {
            let seats = Seats { shards: used.len(), per_shard };
            let granted = seats.grants(configured, &used);
            let all: u64 = granted.iter().map(|granted| u64::from(*granted)).sum();
            prop_assert!(all <= seats.capacity(configured));
            // Whoever holds more than is granted takes nothing from the others' room.
            let most: u64 =
                granted.iter().zip(&used).map(|(granted, used)| (*used).max(u64::from(*granted))).sum();
            prop_assert!(most <= seats.capacity(configured).max(used.iter().sum()));
        }
    }
}
