//! What the tests share: the real binary on free ports, sockets that are not the server's own
//! code, and waits that always end.

#![allow(dead_code, reason = "each test uses its part")]

pub(crate) mod admin_siege;
pub(crate) mod cgroup;
pub(crate) mod crowd;
pub(crate) mod figures;
pub(crate) mod forwarder;
pub(crate) mod hoards;
pub(crate) mod http;
pub(crate) mod installed;
pub(crate) mod judge;
pub(crate) mod leaving;
pub(crate) mod load;
pub(crate) mod network;
pub(crate) mod redis;
pub(crate) mod seccomp;
pub(crate) mod server;
pub(crate) mod silent;
pub(crate) mod slow_reader;
pub(crate) mod socket;
pub(crate) mod wire;

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest that anything is waited for, on a machine that is busy with other things. A test
/// that depends on a shorter time says so itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Held by a test that needs the machine for itself, across threads and processes: it opens
/// thousands of connections, or moves hundreds of megabytes.
pub(crate) fn alone() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("heavy-tests.lock");
    let file = File::create(path).expect("a lock file");
    file.lock().expect("the lock of the heavy tests");
    file
}

/// Waits until `done`, which is asked every few milliseconds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
