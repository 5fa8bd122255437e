//! What the kernel says of itself and of this process.

use std::ffi::CStr;

/// The release of the running kernel, as in `uname -r`.
pub fn release() -> String {
    // SAFETY: utsname is plain bytes for which all zeroes is a valid value.
    let mut name: libc::utsname = unsafe { std::mem::zeroed() };
    // SAFETY: writes one struct on the stack.
    if unsafe { libc::uname(&mut name) } != 0 {
        return String::from("unknown");
    }
    // SAFETY: uname ends the field with a NUL inside the array.
    let release = unsafe { CStr::from_ptr(name.release.as_ptr()) };
    release.to_string_lossy().into_owned()
}

/// The name under which this machine goes.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "localhost".to_owned(), |name| name.trim().to_owned())
}

/// The size of a page of memory in bytes.
pub fn page_bytes() -> u64 {
    // SAFETY: no pointers; an unknown name is answered with -1.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).unwrap_or(4096)
}

/// CLOCK_MONOTONIC in microseconds, as service managers count; 0 if it cannot be read.
pub fn monotonic_usec() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one struct on the stack.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) } != 0 {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1_000
}

/// The user whose rights the process has.
pub fn effective_user() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() }
}

/// True if the process runs as root.
pub fn is_root() -> bool {
    effective_user() == 0
}

/// Ends the process at once, without destructors: the last step after a failed or forced stop.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: never returns; the kernel releases everything that the process held.
    unsafe { libc::_exit(code) }
}
