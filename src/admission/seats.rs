//! The places for connections that the shards' tables have.

/// So many shards, and so many connections on each.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_or_configuration_whichever_is_less() {
        let seats = Seats { shards: 3, per_shard: 1000 };
        assert_eq!((seats.capacity(10_000), seats.capacity(100)), (3000, 100));
    }
}
