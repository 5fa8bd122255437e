//! The budgets of the whole server with all their messages, in one thread: the real `Budget`,
//! `Leases` and `Abroad`, between them queues that deliver in order and as late as chance will
//! have it, and shards that die at any step. What happens follows from a seed alone.
//!
//! The queues are the server's: each shard has one inbox for everybody, so what a shard had
//! posted before it died comes before the news of its death; what an inbox has no room for waits
//! with its sender, and dies with it. A shard does with them what `src/shard/admitting.rs` and
//! `src/shard/placement.rs` do. Not here: sources and their limits, phases, descriptors.

mod books;
mod coordinator;
mod mutant;
mod quiet;
mod shard;
mod steps;
mod whole;
mod world;
