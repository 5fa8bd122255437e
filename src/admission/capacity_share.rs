//! One shard's share of the connections that the whole server may hold.
//!
//! Invariant: taking never lets `used` exceed `granted`. It can exceed it only because `granted`
//! was lowered under it; nothing more is then admitted until enough connections have ended.

/// How many connections this shard may hold, and how many it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapacityShare {
    granted: u32,
    used: u32,
}

impl CapacityShare {
    /// A share of `granted` connections, none of them used.
    pub fn new(granted: u32) -> Self {
        Self { granted, used: 0 }
    }

    /// Takes a slot, if one is free.
    #[must_use]
    pub fn try_take(&mut self) -> bool {
        let free = self.used < self.granted;
        self.used += u32::from(free);
        free
    }

    /// Gives back a slot that was taken.
    ///
    /// # Panics
    /// When none is taken: then a connection was released twice, and every count is wrong.
    pub fn give_back(&mut self) {
        assert!(self.used > 0, "a slot was given back that nobody had taken");
        self.used -= 1;
    }

    /// Raises or lowers the share; also to below what is used.
    pub fn set_granted(&mut self, granted: u32) {
        self.granted = granted;
    }

    /// Connections this shard may hold.
    pub fn granted(&self) -> u32 {
        self.granted
    }

    /// Connections this shard holds.
    pub fn used(&self) -> u32 {
        self.used
    }

    /// Slots that are free.
    pub fn available(&self) -> u32 {
        self.granted.saturating_sub(self.used)
    }

    /// Slots that this shard holds beyond its share, after it was lowered.
    pub fn excess(&self) -> u32 {
        self.used.saturating_sub(self.granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lowered_share_admits_again_only_below_its_new_size() {
        let mut share = CapacityShare::new(3);
        assert!((0..3).all(|_| share.try_take()));
        assert!(!share.try_take());
        share.set_granted(1);
        assert_eq!((share.used(), share.available(), share.excess()), (3, 0, 2));
        share.give_back();
        share.give_back();
        assert!(!share.try_take());
        share.give_back();
        assert!(share.try_take());
    }

    #[test]
    #[should_panic(expected = "nobody had taken")]
    fn giving_back_twice_is_a_bug() {
        CapacityShare::new(1).give_back();
    }

    proptest! {
        #[test]
        fn taking_never_exceeds_the_grant(steps in prop::collection::vec(0u32..12, 0..200)) {
            let (mut share, mut model) = (CapacityShare::new(4), 0u32);
            for step in steps {
                match step {
                    0..5 => {
                        let taken = share.try_take();
                        prop_assert_eq!(taken, model < share.granted());
                        model += u32::from(taken);
                    }
                    5..9 if model > 0 => {
                        share.give_back();
                        model -= 1;
                    }
                    _ => share.set_granted(step),
                }
                prop_assert_eq!(share.used(), model);
            }
        }
    }
}
