//! Who is let in: limits, budgets, proxies, floods and memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admission;
mod budgets;
mod flood;
mod heads;
mod limits;
mod memory;
mod overload;
mod proxies;
mod refusals;
mod shares;
mod steering;
#[path = "../support/mod.rs"]
mod support;
