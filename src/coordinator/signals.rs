//! Which signals are caught, and what they are called. `boot/signals.rs` catches them.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};

/// The signals that are caught: three that stop the server, and the one that does not.
pub(crate) const CAUGHT: [i32; 4] = [SIGTERM, SIGINT, SIGUSR2, SIGHUP];

/// The one of them for which the configuration is read again.
pub(crate) const RELOAD: i32 = SIGHUP;

/// The name of a signal that is caught.
pub fn name(signal: i32) -> &'static str {
    match signal {
        SIGTERM => "SIGTERM",
        SIGINT => "SIGINT",
        SIGUSR2 => "SIGUSR2",
        SIGHUP => "SIGHUP",
        _ => "signal",
    }
}
