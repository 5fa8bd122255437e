//! What the nodes share through Redis: their counts, of which each node writes its own, absolutely,
//! and reads the sum; their publications; and
//! the sessions of their clients.
//!
//! - `endpoint`: which URLs are taken
//! - `counts`: what a node writes, under which epoch, and what an answer means; pure
//! - `scripts`: what Redis does with it, in one step
//! - `breaker`: when to try; pure
//! - `conflicts`: how two nodes with one id keep out of each other's way; pure
//! - `reason`: why a try failed; `remedy`: what can be done about it; pure
//! - `board`: what the thread shows to others and is told by them
//! - `flush`: the thread that writes counts
//! - `connector`: a connection, and whether those that there are can be trusted
//! - `role`: whether the server is a master; pure
//! - `link`: a connection that is made anew in time
//! - `echo`: whether what this node publishes comes back to it; pure
//! - `life`: the name of a run of the process
//! - `publication`: what one node tells the others, as bytes; pure
//! - `hearing`: what of it is new, and what is missing; pure
//! - `relay`: where publications are handed over, and what is shown of them
//! - `publish`, `subscribe`: the threads that send and hear them
//! - `session_store`: sessions, for the thread in `src/sessions`
//!
//! Nothing here is on the way of a connection: nobody waits for the threads but the last stage of a
//! shutdown, for a bounded time. Why the counts are kept like this:
//! `docs/decisions/0003-counts-in-redis-are-absolute-and-fenced.md`.

pub mod board;
pub mod breaker;
pub mod conflicts;
pub mod connector;
pub mod counts;
pub mod echo;
pub mod endpoint;
pub mod flush;
pub mod hearing;
pub mod life;
mod link;
pub mod publication;
pub mod publish;
pub mod reason;
pub mod relay;
pub mod remedy;
pub mod role;
mod scripts;
pub mod session_store;
pub mod subscribe;
