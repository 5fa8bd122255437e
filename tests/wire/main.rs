//! What clients meet: handshakes, frames, publications, sessions, and clients of every kind.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::duplicate_mod, reason = "the fuzz targets are a library of their own elsewhere")]

mod attacks;
mod channels;
mod clients;
mod compression;
mod conformance;
mod embedding;
mod fuzz_smoke;
mod half_open;
mod handshake_over_sockets;
mod mutations;
mod protocol;
mod publications;
mod sessions;
mod slow_reader_matrix;
mod slow_readers;
mod storms;
#[path = "../support/mod.rs"]
mod support;
mod user_space_clients;
