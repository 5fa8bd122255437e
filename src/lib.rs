//! Tidegate: a WebSocket connection server for bare-metal Linux.
//!
//! One io_uring shard per core owns its sockets, its rate buckets and its share of the
//! capacity; what crosses cores is a message. `docs/architecture.md` follows one connection
//! through the files; the directories are in the order in which an event meets them.

#![deny(unsafe_code)]

pub mod admin;
pub mod admission;
pub mod boot;
pub mod channels;
mod chunks;
pub mod client_address;
pub mod clock;
pub mod close_reason;
pub mod config;
pub mod connection;
pub mod coordinator;
pub mod doctor;
pub mod environment;
pub mod escape;
pub mod exit_code;
pub mod files;
pub mod handler;
pub mod http;
mod likeness;
pub mod limits;
mod log;
pub mod memory_plan;
pub mod mesh;
pub mod metrics;
pub mod pressure;
pub mod redis;
pub mod resources;
pub mod ring;
pub mod sessions;
pub mod shard;
pub mod supervisor;
pub mod sys;
mod tables;
mod threads;
pub mod websocket;

pub use boot::{Handle, NotPublished, NotStarted, Server, Unfinished};
