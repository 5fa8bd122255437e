//! The C library's heap.

/// Blocks of the heap from this size on are mappings of their own, which are gone when they are freed:
/// messages and bodies that few clients send at a time. The C library would raise it with each of them.
const MAPPED_BLOCK_BYTES: i32 = 256 << 10;

/// Lets large blocks be mappings of their own, whatever sizes are freed. For the process, so that only
/// one that is the server calls it, before it starts any thread.
pub fn map_large_blocks() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes two integers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BLOCK_BYTES)
    };
}

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
