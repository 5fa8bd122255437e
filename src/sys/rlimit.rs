//! RLIMIT_NOFILE and RLIMIT_MEMLOCK.

use std::io;

/// Soft and hard value of a limit; `u64::MAX` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What the kernel enforces now.
    pub soft: u64,
    /// How far the process may raise it.
    pub hard: u64,
}

/// Open files; also the size of each ring's table of direct descriptors.
///
/// # Errors
/// None on Linux in practice.
pub fn open_files() -> io::Result<Limit> {
    get(libc::RLIMIT_NOFILE)
}

/// Locked memory in bytes, which rings count against for users without CAP_IPC_LOCK.
///
/// # Errors
/// None on Linux in practice.
pub fn locked_memory() -> io::Result<Limit> {
    get(libc::RLIMIT_MEMLOCK)
}

/// Raises the soft limit of open files to the hard one and returns the result.
///
/// # Errors
/// What setrlimit answers; raising to the hard limit needs no privilege.
pub fn raise_open_files() -> io::Result<Limit> {
    let limit = open_files()?;
    let raised = libc::rlimit { rlim_cur: limit.hard, rlim_max: limit.hard };
    // SAFETY: reads one struct from the stack.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) } != 0 {
        return Err(io::Error::last_os_error());
    }
    open_files()
}

/// What the C library calls the name of a limit.
#[cfg(target_env = "gnu")]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Resource = libc::c_int;

fn get(resource: Resource) -> io::Result<Limit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one struct on the stack.
    if unsafe { libc::getrlimit(resource, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Limit { soft: limit.rlim_cur, hard: limit.rlim_max })
}
