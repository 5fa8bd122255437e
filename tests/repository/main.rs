//! Rules that the repository keeps: of its source, its documents and its tables.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod attacks_table;
mod documents;
mod requirements;
mod rules;
mod shape;
#[path = "../support/mod.rs"]
mod support;
