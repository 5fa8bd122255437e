//! What the process itself may do: its limits, its capabilities, its cores. Asked by system
//! calls, where [`Machine`](super::Machine) is read from files.

use std::io;

use crate::ring::probe::Unavailable;
use crate::sys::{affinity, kernel, rlimit};

/// The process that would serve: this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Hard RLIMIT_NOFILE, to which the server raises the soft one.
    pub open_files: u64,
    /// Soft RLIMIT_MEMLOCK in bytes; `u64::MAX` is unlimited.
    pub locked_memory: u64,
    /// Cores that it may run on.
    pub cores: usize,
    /// The size of a page in bytes.
    pub page_bytes: u64,
    /// `uname -r`.
    pub release: String,
    /// What keeps io_uring from working and the remedy, if anything does.
    pub io_uring: Result<(), (String, String)>,
}

impl Process {
    /// Asks the kernel. `io_uring` is what [`probe::check`](crate::ring::probe::check) has found.
    ///
    /// # Errors
    /// The limits cannot be read, which does not happen on Linux in practice.
    pub fn ask(io_uring: Result<(), Unavailable>) -> io::Result<Self> {
        Ok(Self {
            open_files: rlimit::open_files()?.hard,
            locked_memory: rlimit::locked_memory()?.soft,
            cores: affinity::available_cores(),
            page_bytes: kernel::page_bytes(),
            release: kernel::release(),
            io_uring: io_uring.map_err(|error| (error.cause, error.remedy)),
        })
    }
}
