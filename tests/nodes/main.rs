//! Several nodes and their Redis.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod failover;
mod publications_of_nodes;
mod redis;
#[path = "../support/mod.rs"]
mod support;
