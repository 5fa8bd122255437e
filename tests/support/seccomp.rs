//! A process that is not allowed io_uring, as in a container with Docker's default profile.

#![allow(unsafe_code, reason = "installing a filter takes two system calls before exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// `io_uring_setup` has this number on every architecture.
const IO_URING_SETUP: u32 = 425;

/// Lets `command` run under a filter that answers `errno` to io_uring_setup and allows
/// everything else.
pub(crate) fn forbid_io_uring(command: &mut Command, errno: i32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        // The number of the system call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, IO_URING_SETUP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter =
            libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `filter` points to `program`, whose length it holds; the kernel copies both.
        if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing:
    // `program` was moved into it before.
    unsafe { command.pre_exec(install) };
}
