//! Buffers that the kernel chooses from when it receives: the least that a ring needs.
//!
//! Not the server's own, whose cost the floors are there to show.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The only group.
pub(crate) const GROUP: u16 = 0;
const BUFFERS: u16 = 4_096;
const BUFFER_BYTES: usize = 2_048;

/// The provided buffers. Invariant: each buffer is the kernel's, or in exactly one chunk.
pub(crate) struct Buffers {
    entries: *mut BufRingEntry,
    pool: *mut u8,
    tail: u16,
}

impl Buffers {
    /// Makes the buffers and tells the ring of them.
    pub(crate) fn register(ring: &IoUring) -> io::Result<Self> {
        let entries_bytes = usize::from(BUFFERS) * size_of::<BufRingEntry>();
        let len = entries_bytes + usize::from(BUFFERS) * BUFFER_BYTES;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice; it stays
        // until the process ends.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the mapping is page aligned and holds BUFFERS entries.
        unsafe { ring.submitter().register_buf_ring_with_flags(map as u64, BUFFERS, GROUP, 0) }?;
        // SAFETY: entries_bytes is less than the length of the mapping.
        let pool = unsafe { map.cast::<u8>().add(entries_bytes) };
        let mut buffers = Self { entries: map.cast(), pool, tail: 0 };
        (0..BUFFERS).for_each(|buffer| buffers.give_back(buffer));
        Ok(buffers)
    }

    /// Where a buffer begins.
    pub(crate) fn address(&self, buffer: u16) -> *mut u8 {
        assert!(buffer < BUFFERS);
        // SAFETY: buffer < BUFFERS, so the result lies in the mapping.
        unsafe { self.pool.add(usize::from(buffer) * BUFFER_BYTES) }
    }

    /// Makes a buffer the kernel's again.
    pub(crate) fn give_back(&mut self, buffer: u16) {
        let address = self.address(buffer);
        let index = usize::from(self.tail & (BUFFERS - 1));
        // SAFETY: index < BUFFERS entries of the mapping.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the kernel has consumed this entry, because there are BUFFERS buffers and
        // this one is ours; it reads the entry only after the tail is stored.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the address of the first entry of a registered ring.
        let tail = unsafe { BufRingEntry::tail(self.entries) };
        // SAFETY: an aligned u16 in the mapping, shared with the kernel.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
