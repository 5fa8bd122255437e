//! Memory that goes back to the kernel when it is freed: for tables that a flood makes large once.
//!
//! The C library keeps freed blocks below its mmap threshold for the next who wants such a
//! block, and a block in use above them keeps all of them resident. Here the pages inside a
//! block are given up before the library gets it back; it can still hand the addresses out
//! again. Mappings of their own would need a system call for each growth, and leave holes between
//! them, of which a process may have 65,530.

use std::alloc::Layout;
use std::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator, Global};

/// The page size that whole pages are reckoned with. Where pages are larger the kernel refuses
/// an address that is not at the beginning of one, and nothing is given up.
const PAGE: usize = 4_096;

/// Blocks from this size on are given back; below it a page of their own is rare.
const WORTH_A_CALL: usize = 4 * PAGE;

/// The global allocator, with that.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReturnedMemory;

// SAFETY: it hands out what the global allocator hands out, and gives that back once, with the
// same layout; copies of it are the same allocator, since it has no state.
unsafe impl Allocator for ReturnedMemory {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        Global.allocate(layout)
    }

    unsafe fn deallocate(&self, block: NonNull<u8>, layout: Layout) {
        if layout.size() >= WORTH_A_CALL {
            let skipped = block.as_ptr().align_offset(PAGE);
            let whole = (layout.size() - skipped) / PAGE * PAGE;
            // SAFETY: less than a page is skipped, and the block has several.
            let first = unsafe { block.as_ptr().add(skipped) };
            // SAFETY: the pages lie in a block that the caller gives up, so that nobody reads
            // what was in them; afterwards they read as zeros. An error changes nothing.
            unsafe { libc::madvise(first.cast(), whole, libc::MADV_DONTNEED) };
        }
        // SAFETY: as the caller promises, it came from `allocate` with this layout.
        unsafe { Global.deallocate(block, layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocator_api2::vec::Vec;

    fn resident_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    }

    /// Other tests of this process may take memory meanwhile, but not nearly as much.
    #[test]
    fn freed_blocks_are_not_resident_although_one_above_them_is_in_use() {
        const BLOCK: usize = 50_000;
        let before = resident_kib();
        let mut blocks: std::vec::Vec<_> = (0..4_000)
            .map(|n: u32| {
                let mut block = Vec::with_capacity_in(BLOCK, ReturnedMemory);
                block.resize(BLOCK, n as u8 | 1);
                block
            })
            .collect();
        assert!(resident_kib() > before + 150_000, "they were resident");
        blocks.drain(..3_999);
        assert!(resident_kib() < before + 100_000, "{} KiB more", resident_kib() - before);
        assert!(blocks[0].iter().all(|byte| *byte == 3_999_u32 as u8 | 1));
        let mut again = Vec::with_capacity_in(BLOCK, ReturnedMemory);
        again.resize(BLOCK, 7_u8);
        assert_eq!(again.len(), BLOCK);
    }
}
