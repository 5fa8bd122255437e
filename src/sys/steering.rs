//! Gives a group of listeners the program by which the kernel chooses among them.
//!
//! Not here: the program (`admission::steering_program`).
//!
//! What the kernel does, seen on 6.18 and checked by `tests/admission/steering.rs`:
//! - The program belongs to the group. It is attached once, through any of its listeners, and can
//!   be attached while some have yet to begin; but an answer that no listener has yet is answered
//!   by the kernel's own hash, so only what begins after the last of them has begun is steered.
//! - The answer is an index into the listeners in the order in which they began to listen.
//! - When one is closed, the last of them takes its place and the others keep theirs. Connections
//!   of the closed one's sources arrive at that last one, and those that were the last one's
//!   are spread over all by the kernel's hash. None is lost that begins after the close; those
//!   that waited for the closed one are reset unless net.ipv4.tcp_migrate_req is 1.
//! - It runs for the packet that opens a connection, so what is open stays where it is.

use std::io;
use std::os::fd::RawFd;

use super::classic_bpf;
use crate::admission::steering_program::Instruction;

/// From now on the kernel chooses among the listeners of the group that `listener` belongs to by
/// `program`, in place of one that was attached before.
///
/// # Errors
/// EINVAL for a program that the kernel refuses (one that is empty, too long, or leaves its own
/// bounds) and for a socket without SO_REUSEPORT; ENOMEM for one beyond net.core.optmem_max; EPERM
/// if the socket's filter is locked.
pub fn attach(listener: RawFd, program: &[Instruction]) -> io::Result<()> {
    let mut steps: Vec<libc::sock_filter> = program
        .iter()
        .map(|&Instruction { code, jt, jf, k }| libc::sock_filter { code, jt, jf, k })
        .collect();
    classic_bpf::attach(listener, libc::SO_ATTACH_REUSEPORT_CBPF, &mut steps)
}
