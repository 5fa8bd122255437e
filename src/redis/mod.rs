//! The counts of all nodes in Redis: each node writes its own, absolutely, and reads the sum. Here
//! as values; nothing talks to Redis yet.
//!
//! - `endpoint`: which URLs are taken
//! - `counts`: what a node writes, under which epoch, and what an answer means
//! - `breaker`: when to try
//! - `conflicts`: how two nodes with one id keep out of each other's way
//! - `reason`: why a try failed

pub mod breaker;
pub mod conflicts;
pub mod counts;
pub mod endpoint;
pub mod reason;
