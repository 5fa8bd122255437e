//! System calls that no ring does: listeners, limits, addresses in the kernel's form, the bell,
//! random bytes,
//! memory that is given back.
//! With `ring/` the only place where unsafe code is allowed; each file wraps one thing.

#![allow(unsafe_code)]

pub mod affinity;
mod classic_bpf;
pub mod event_fd;
pub mod heap;
pub mod inherited;
pub mod kernel;
pub mod listener;
pub mod process_group;
pub mod random;
pub mod returned_memory;
pub mod rlimit;
pub mod signal_mask;
pub mod socket_address;
pub mod standard_stream;
pub mod steering;
pub mod thread_time;
