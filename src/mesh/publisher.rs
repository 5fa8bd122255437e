//! Hands publications to every shard, each in full or with a report of who missed it.
//!
//! Not responsible for encoding (`channels/publish`) nor for the way from a shard to its
//! connections (`shard/on_message`). Invariant: one publisher hands out one publication after
//! the other, so all shards see the same order.

use super::inbox::{NotTaken, Postbox};
use super::message::ShardMessage;

/// The postboxes of all shards.
#[derive(Clone, Debug)]
pub struct Publisher {
    shards: Vec<Postbox>,
}

/// A publication on its way: the shards that have not taken it yet.
#[derive(Debug)]
pub struct Delivery {
    message: ShardMessage,
    waiting: Vec<usize>,
    gone: usize,
}

impl Publisher {
    /// For these shards.
    pub fn new(shards: Vec<Postbox>) -> Self {
        Self { shards }
    }

    /// The postbox of one shard.
    pub fn postbox(&self, shard: usize) -> Option<&Postbox> {
        self.shards.get(shard)
    }

    /// Begins to hand `message` to every shard; see [`Delivery::is_done`].
    pub fn begin(&self, message: ShardMessage) -> Delivery {
        let mut delivery = Delivery { message, waiting: (0..self.shards.len()).collect(), gone: 0 };
        self.go_on(&mut delivery);
        delivery
    }

    /// Tries again the shards whose inbox was full.
    pub fn go_on(&self, delivery: &mut Delivery) {
        let Delivery { message, waiting, gone } = delivery;
        waiting.retain(|shard| match self.shards[*shard].post(message.clone()) {
            Ok(()) => false,
            Err(NotTaken::Full(_)) => true,
            Err(NotTaken::Gone(_)) => {
                *gone += 1;
                false
            }
        });
    }
}

impl Delivery {
    /// True when no shard is waited for any more.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The shards whose inbox is still full.
    pub fn waiting(&self) -> &[usize] {
        &self.waiting
    }

    /// Shards that do not exist any more; their connections are closed.
    pub fn gone(&self) -> usize {
        self.gone
    }
}
