//! A network of its own for a thread: addresses that this machine does not have, and nobody else
//! on it.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace with loopback only, on which every address of fd00::/16 is local.
pub(crate) struct Network {
    name: String,
}

impl Network {
    /// `None`, with the reason on standard error, where namespaces cannot be made: that takes
    /// CAP_SYS_ADMIN and iproute2.
    pub(crate) fn new(purpose: &str) -> Option<Self> {
        let name = format!("tidegate-{purpose}-{}", std::process::id());
        if !ip(&["netns", "add", &name]) {
            eprintln!("not tested: no network namespace can be made here");
            return None;
        }
        let network = Self { name };
        let inside = ["-n", network.name.as_str()];
        assert!(ip(&[&inside[..], &["link", "set", "lo", "up"]].concat()));
        let local = ["-6", "route", "add", "local", "fd00::/16", "dev", "lo"];
        assert!(ip(&[&inside[..], &local].concat()));
        Some(network)
    }

    /// Runs `test` on a thread that is on this network.
    pub(crate) fn run(&self, test: impl FnOnce() + Send) {
        let namespace = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(namespace.as_fd(), network).expect("setns");
                test();
            });
            // The panic of the test, and not a second one about it.
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        ip(&["netns", "delete", &self.name]);
    }
}

fn ip(arguments: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments).stdin(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
