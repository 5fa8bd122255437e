//! Shards and the coordinator in simulated time, from a seed, and the budgets by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod client;
mod fault;
mod kernel;
mod leases;
mod leases_interleaved;
mod ledger;
mod random;
mod ring;
mod world;
mod worlds;
