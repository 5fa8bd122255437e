//! What one shard sends to the others, in order and without loss.
//!
//! A message that an inbox has no room for waits here, and with it all later ones to that shard.
//! What waits is bounded by the connections of this shard: each message is about one of them, or
//! gathers several. Invariant: nobody waits for anybody; a full inbox costs memory, not time.

use std::collections::VecDeque;

use super::inbox::{NotTaken, Postbox};
use super::message::ShardMessage;
use crate::admission::SourceKey;

/// The way to the other shards.
#[derive(Debug)]
pub struct Outbox {
    index: usize,
    neighbours: Vec<Neighbour>,
    waits: bool,
}

#[derive(Debug)]
struct Neighbour {
    postbox: Postbox,
    waiting: VecDeque<ShardMessage>,
    /// Connections that ended in this turn: one message for all of them.
    ended: Vec<SourceKey>,
}

impl Outbox {
    /// Of shard `index`; `postboxes` by shard, its own among them.
    pub fn new(index: usize, postboxes: &[Postbox]) -> Self {
        let neighbour = |postbox: &Postbox| Neighbour {
            postbox: postbox.clone(),
            waiting: VecDeque::new(),
            ended: Vec::new(),
        };
        Self { index, neighbours: postboxes.iter().map(neighbour).collect(), waits: false }
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.neighbours.len()
    }

    /// Sends a message, now or as soon as there is room. To a shard that is gone nothing is
    /// sent; that it has died, everybody is told.
    pub fn post(&mut self, shard: usize, message: ShardMessage) {
        let Some(neighbour) = self.neighbours.get_mut(shard) else { return };
        neighbour.waiting.push_back(message);
        self.waits |= !neighbour.go_on();
    }

    /// Tells the owner of a source that one of its connections has ended, at the next
    /// [`go_on`](Self::go_on).
    pub fn ended(&mut self, owner: usize, source: SourceKey) {
        if let Some(owner) = self.neighbours.get_mut(owner) {
            owner.ended.push(source);
            self.waits = true;
        }
    }

    /// Sends what has gathered and waits; meant for every turn.
    pub fn go_on(&mut self) {
        if !self.waits {
            return;
        }
        self.waits = false;
        for neighbour in &mut self.neighbours {
            if !neighbour.ended.is_empty() {
                let sources = std::mem::take(&mut neighbour.ended);
                let message = ShardMessage::Ended { from: self.index, sources };
                neighbour.waiting.push_back(message);
            }
            self.waits |= !neighbour.go_on();
        }
    }

    /// True if something could not be sent yet.
    pub fn waits(&self) -> bool {
        self.waits
    }
}

impl Neighbour {
    /// False if something is left.
    fn go_on(&mut self) -> bool {
        while let Some(message) = self.waiting.pop_front() {
            match self.postbox.post(message) {
                Ok(()) => {}
                Err(NotTaken::Full(message)) => {
                    self.waiting.push_front(message);
                    return false;
                }
                Err(NotTaken::Gone(_)) => self.waiting.clear(),
            }
        }
        true
    }
}
