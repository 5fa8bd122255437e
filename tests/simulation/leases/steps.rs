//! What happens next, by chance.

use super::books::Violation;
use super::mutant::Mutant;
use super::world::World;

const MS: u64 = 1_000_000;

/// Steps of one world before the next begins.
pub(crate) const STEPS: usize = 4_000;

/// Runs one world from its begin to its end.
pub(crate) fn run(seed: u64, mutant: Mutant) -> Result<(), Violation> {
    let mut world = World::new(seed, mutant);
    for _ in 0..STEPS {
        let granted = world.budget.granted();
        world.step();
        world.check(granted);
        world.change();
        world.verdict()?;
        match world.random.below(600) {
            0 => world.check_quiet()?,
            1..6 => world.come_to_rest()?,
            _ => {}
        }
    }
    world.check_quiet()?;
    world.check_emptied()
}

impl World {
    fn step(&mut self) {
        self.decided.clear();
        let living = self.living();
        let shard = self.random.of(&living);
        match self.random.below(32) {
            0..5 => {
                let owner = if self.random.one_in(3) {
                    self.random.below(self.shards.len())
                } else {
                    shard
                };
                self.attempt(shard, owner);
            }
            5..8 => self.end_some(),
            8..16 => {
                self.turn(shard, 4);
            }
            16..25 => self.coordinate(),
            25..28 => {
                self.now_ns += self.random.of(&[1, 1_000, 50_000, MS / 2, MS, 5 * MS, 64 * MS])
            }
            28 if self.random.one_in(20) => self.now_ns += 3_000 * MS,
            29..31 if !self.connections.is_empty() => {
                let index = self.random.below(self.connections.len());
                let to = self.random.below(self.shards.len());
                self.place(index, to);
            }
            31 => self.attempt_many(shard),
            _ => {}
        }
    }

    /// Now and then limits change, or a shard dies in the middle of a turn.
    fn change(&mut self) {
        if self.changes == usize::MAX {
            return;
        }
        if self.random.one_in(self.changes) {
            let granted = self.budget.granted();
            self.change_limits();
            self.check(granted);
        }
        let living = self.living();
        if living.len() > 1 && self.random.one_in(4 * self.changes) {
            let (shard, parts) = (self.random.of(&living), self.random.below(4));
            self.turn(shard, parts);
            self.die(shard);
        }
    }

    fn attempt_many(&mut self, shard: usize) {
        for _ in 0..self.random.below(12) {
            self.attempt(shard, shard);
        }
    }

    fn end_some(&mut self) {
        let most = if self.random.one_in(20) { 40 } else { 1 };
        for _ in 0..most {
            if !self.connections.is_empty() {
                let index = self.random.below(self.connections.len());
                self.end(index);
            }
        }
    }

    /// So many parts of a turn of a shard's loop.
    pub(crate) fn turn(&mut self, index: usize, parts: usize) {
        self.shards[index].now_ns = self.now_ns;
        if parts > 0 {
            for _ in 0..=self.random.below(4) {
                self.take(index);
            }
        }
        if parts > 1 {
            self.judge_again(index);
        }
        if parts > 2 {
            let tick = self.random.one_in(8);
            self.talk(index, tick);
        }
        if parts > 3 {
            self.go_on_sending(index);
        }
    }
}
