//! The counts of all nodes in Redis: each node writes its own, absolutely, and reads the sum.
//!
//! - `endpoint`: which URLs are taken
//! - `counts`: what a node writes, under which epoch, and what an answer means; pure
//! - `scripts`: what Redis does with it, in one step
//! - `breaker`: when to try; pure
//! - `conflicts`: how two nodes with one id keep out of each other's way; pure
//! - `reason`: why a try failed
//! - `board`: what the thread shows to others and is told by them
//! - `flush`: the thread
//!
//! Nothing here is on the way of a connection: nobody waits for the thread but the last stage of a
//! shutdown, for a bounded time. Why the counts are kept like this:
//! `docs/decisions/0003-counts-in-redis-are-absolute-and-fenced.md`.

pub mod board;
pub mod breaker;
pub mod conflicts;
pub mod counts;
pub mod endpoint;
pub mod flush;
pub mod reason;
mod scripts;
