//! What is fuzzed: one function for each target, which takes any bytes and panics if something
//! does not hold. `scripts/fuzz` runs one under libFuzzer; `tests/wire/fuzz_smoke.rs` runs all of them
//! for a moment, with inputs that are changed without looking at branches.

pub mod admin;
pub mod canary;
pub mod configuration;
pub mod extensions;
pub mod forwarded;
pub mod frames;
pub mod handshake;
pub mod inflate;
pub mod proxy_header;
pub mod query;
pub mod redis_reply;
pub mod unmask;

/// A target: its name, and what takes the inputs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target but the canary.
pub const TARGETS: [Target; 11] = [
    ("admin", admin::run),
    ("configuration", configuration::run),
    ("extensions", extensions::run),
    ("forwarded", forwarded::run),
    ("frames", frames::run),
    ("handshake", handshake::run),
    ("inflate", inflate::run),
    ("proxy_header", proxy_header::run),
    ("query", query::run),
    ("redis_reply", redis_reply::run),
    ("unmask", unmask::run),
];
