//! What operators meet: configuration, files, logs, metrics, the admin listener, commands, packages and scripts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admin_hostile;
mod alerts;
mod cli_trust;
mod command_output;
mod config;
mod deploy;
mod doctor;
mod inherited;
mod log_lines;
mod log_streams;
mod monitoring;
mod operator_files;
mod report_page;
mod root_scripts;
mod scale;
mod server_api;
mod start_refusals;
#[path = "../support/mod.rs"]
mod support;
mod systemd;
mod tuning;
