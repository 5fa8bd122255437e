//! Logs: human-readable on a terminal, JSON otherwise; RUST_LOG sets levels. And the hook that
//! logs a panic with its place and backtrace before the thread unwinds.

use std::backtrace::Backtrace;
use std::io::{self, IsTerminal};
use std::panic;

use tracing::error;
use tracing_subscriber::EnvFilter;

use super::log_format::{EscapedJson, HumanFields};
use crate::config::LogFormat;

/// Starts logging to standard error. In a program that has set up logging already, that stays.
pub(super) fn start(format: LogFormat) {
    let human = match format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => io::stderr().is_terminal(),
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if human {
        let logs = logs.with_target(false).with_ansi(io::stderr().is_terminal());
        logs.fmt_fields(HumanFields).try_init()
    } else {
        logs.json().flatten_event(true).map_event_format(EscapedJson).try_init()
    };
    if started.is_ok() {
        log_panics();
    }
}

fn log_panics() {
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or("no message");
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current();
        let backtrace = Backtrace::force_capture();
        error!(
            thread = thread.name().unwrap_or("unnamed"),
            place,
            %backtrace,
            "panic: {message}"
        );
    }));
}
