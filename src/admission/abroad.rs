//! Connections that are booked on one shard and held by another.
//!
//! The owner of a source keeps the books of all its connections; placement and proxies put some
//! of them on other shards. Here each shard counts both sides: what others hold for it, and what
//! it holds for others. Needed when a shard dies, whose connections are closed without a word.
//!
//! Invariant: a connection is counted by its owner from the moment it is given away until its
//! holder says that it has ended, and by its holder from its arrival to its end.

/// The counts of one shard, each by the other shard.
#[derive(Debug, Clone, Default)]
pub struct Abroad {
    shards: Vec<Neighbour>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Neighbour {
    /// Booked here, held there.
    lent: u32,
    /// Held here, booked there.
    guests: u32,
    dead: bool,
    /// The coordinator does not know how many guests of this dead shard are left.
    unsaid: bool,
}

impl Abroad {
    /// Among so many shards.
    pub fn new(shards: usize) -> Self {
        Self { shards: vec![Neighbour::default(); shards] }
    }

    /// A connection that is booked here is with `holder` from now on. False if that one is dead:
    /// then the connection is gone.
    #[must_use]
    pub fn lend(&mut self, holder: usize) -> bool {
        let Some(holder) = self.shards.get_mut(holder).filter(|shard| !shard.dead) else {
            return false;
        };
        holder.lent += 1;
        true
    }

    /// `holder` says that one of these has ended. False if it is not counted any more.
    #[must_use]
    pub fn ended(&mut self, holder: usize) -> bool {
        let Some(holder) = self.shards.get_mut(holder).filter(|shard| shard.lent > 0) else {
            return false;
        };
        holder.lent -= 1;
        true
    }

    /// A connection that is booked with `owner` is here from now on.
    pub fn welcome(&mut self, owner: usize) {
        if let Some(owner) = self.shards.get_mut(owner) {
            owner.guests += 1;
            owner.unsaid = owner.dead;
        }
    }

    /// One of these has ended. False if its owner is dead, and need not be told.
    #[must_use]
    pub fn farewell(&mut self, owner: usize) -> bool {
        let Some(owner) = self.shards.get_mut(owner) else { return false };
        debug_assert!(owner.guests > 0, "a guest left that had not come");
        owner.guests = owner.guests.saturating_sub(1);
        owner.unsaid = owner.dead;
        !owner.dead
    }

    /// A shard has died, and with it the connections that it held. Returns how many of them were
    /// booked here.
    pub fn on_death(&mut self, shard: usize) -> u32 {
        let Some(shard) = self.shards.get_mut(shard).filter(|shard| !shard.dead) else { return 0 };
        (shard.dead, shard.unsaid) = (true, true);
        std::mem::take(&mut shard.lent)
    }

    /// True if this shard is dead.
    pub fn is_dead(&self, shard: usize) -> bool {
        self.shards.get(shard).is_none_or(|shard| shard.dead)
    }

    /// A dead shard, and how many connections that were booked with it are still here, if the
    /// coordinator does not know that.
    pub fn to_say(&self) -> Option<(usize, u32)> {
        let shard = self.shards.iter().position(|shard| shard.unsaid)?;
        Some((shard, self.shards[shard].guests))
    }

    /// Notes that the coordinator knows it.
    pub fn said(&mut self, shard: usize) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.unsaid = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_frees_what_the_dead_held_and_leaves_what_they_had_booked() {
        let mut abroad = Abroad::new(3);
        assert!(abroad.lend(1) && abroad.lend(1) && abroad.lend(2));
        assert!(abroad.ended(1));
        abroad.welcome(1);
        abroad.welcome(1);
        assert_eq!(abroad.to_say(), None, "the living keep their own books");
        assert_eq!(abroad.on_death(1), 1);
        assert_eq!(abroad.on_death(1), 0, "once");
        assert!(!abroad.lend(1) && !abroad.ended(1));
        assert_eq!(abroad.to_say(), Some((1, 2)));
        abroad.said(1);
        assert_eq!(abroad.to_say(), None);
        assert!(!abroad.farewell(1), "nobody to tell");
        assert_eq!(abroad.to_say(), Some((1, 1)));
        assert!(abroad.ended(2), "the others live on");
    }
}
