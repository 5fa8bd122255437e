//! How the server ends: drain, deadline, hooks, resources, and what fails meanwhile.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod deadline;
mod drain;
mod drain_cli;
mod drain_control;
mod drain_ends;
mod drain_overrun;
mod faults;
mod health;
mod hooks;
mod resources;
mod start_undone;
#[path = "../support/mod.rs"]
mod support;
