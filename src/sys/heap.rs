//! The C library's heap.

/// Gives pages that are free within the heap back to the kernel. The C library keeps what lies
/// below a block that is in use, which can be nearly everything after a flood of long messages.
/// Each arena is locked while its pages are looked at: some milliseconds for a gigabyte.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number and may be called from any thread.
    unsafe {
        libc::malloc_trim(0)
    };
}
