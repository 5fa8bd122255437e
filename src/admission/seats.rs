//! The places for connections: as many as the shards' tables have, as far as the memory goes.

/// So many shards, and so many connections on each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seats {
    /// Number of shards.
    pub shards: usize,
    /// Connections that one shard can hold by its table.
    pub per_shard: u32,
    /// Connections that the memory can hold, on all shards together; `u64::MAX` if not known.
    pub by_memory: u64,
}

impl Seats {
    /// Connections that the server can hold: by its tables, its memory or its configuration,
    /// whichever is least.
    pub fn capacity(self, configured: u64) -> u64 {
        configured.min(u64::from(self.per_shard) * self.shards as u64).min(self.by_memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_tables_memory_and_configuration() {
        let seats = Seats { shards: 3, per_shard: 1000, by_memory: u64::MAX };
        assert_eq!((seats.capacity(10_000), seats.capacity(100)), (3000, 100));
        assert_eq!(Seats { by_memory: 70, ..seats }.capacity(100), 70);
    }
}
