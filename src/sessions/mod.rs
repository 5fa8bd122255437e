//! Sessions: what outlives a connection. A plain client that asks for one is counted and subscribed
//! where it left off, whichever node it comes back to.
//!
//! - `id`: what a session is called; pure
//! - `record`: what is kept of it; pure
//! - `directory`: who holds which, and what is kept in memory; pure
//! - `keeper`: what becomes of each connection and record; pure
//! - `figures`: what is counted
//! - `desk`: where shards, the coordinator and the admin speak to the thread
//! - `thread`: the thread, which alone speaks to Redis (`redis/session_store`)
//!
//! A connection without a session costs nothing. Nothing here waits for a shard, and no shard waits
//! for anything here: what is not answered in time starts anew and says so.

pub mod desk;
pub mod directory;
pub mod figures;
pub mod id;
pub mod keeper;
pub mod record;
pub mod thread;
