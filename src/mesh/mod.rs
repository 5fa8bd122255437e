//! What crosses cores: one bounded inbox per shard, one message enum, `try_send` only.

pub mod inbox;
pub mod message;
pub mod outbox;
pub mod publisher;
