//! The provided-buffer ring of a shard: the kernel takes a buffer only when there are bytes.
//!
//! The kernel goes round all that it is offered, so what it is offered is soon resident. Few are
//! offered at first; a receive that finds none has another offered in its place, and with time
//! some are withdrawn, so that memory follows the load and not the setting.
//!
//! Invariant: every buffer is either in the kernel's ring, or withdrawn, or named by exactly one
//! [`Received`]; `Received` is not `Clone`, so a buffer cannot be given back twice.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

use crate::limits::RECEIVE_BUFFERS_KEPT;

/// The group id under which the buffers are registered; a ring has one group.
pub(super) const GROUP: u16 = 0;

/// The part of those above [`RECEIVE_BUFFERS_KEPT`] that a tick makes superfluous: nearly all of
/// 512 within 20 s of quiet. Each is withdrawn when it comes back from a read, so a shard that reads
/// nothing at all keeps what it has; a load that needs them again asks for two in a tick.
const SUPERFLUOUS: u16 = 256;

/// A smaller piece of memory cannot be given up.
const PAGE: usize = 4_096;

/// Bytes that a receive brought, in a buffer that belongs to the ring.
#[derive(Debug)]
pub struct Received {
    pub(super) id: u16,
    pub(super) len: u32,
}

impl Received {
    /// `len` bytes in buffer number `buffer`, for a ring outside this module. Each names a buffer
    /// that the ring has lent and not got back; two of one buffer are a mistake of that ring.
    pub const fn lent(buffer: u16, len: u32) -> Self {
        Self { id: buffer, len }
    }

    /// The number of the buffer.
    pub const fn buffer(&self) -> u16 {
        self.id
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never true for a received buffer: no bytes means the end of the stream.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// Memory shared with the kernel: a ring of descriptors, then the buffers themselves. Pages are
/// touched only as traffic needs them.
pub(super) struct ReceiveBuffers {
    map: *mut libc::c_void,
    map_len: usize,
    pool_offset: usize,
    count: u16,
    size: u32,
    tail: u16,
    /// Not offered; the last withdrawn is the first to be offered again.
    withdrawn: Vec<u16>,
    /// How many may be offered or lent; more are withdrawn as they are given back.
    wanted: u16,
}

impl ReceiveBuffers {
    /// Maps and registers `count` buffers (a power of two, at most 32,768) of `size` bytes.
    pub(super) fn register(
        submitter: &io_uring::Submitter<'_>,
        count: u16,
        size: u32,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two() && count <= 32_768 && size > 0);
        let pool_offset = (usize::from(count) * size_of::<BufRingEntry>()).next_multiple_of(4096);
        let map_len = pool_offset + usize::from(count) * size as usize;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that exists.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let wanted = RECEIVE_BUFFERS_KEPT.min(count);
        let withdrawn = (wanted..count).rev().collect();
        let mut buffers =
            Self { map, map_len, pool_offset, count, size, tail: 0, withdrawn, wanted };
        // SAFETY: the mapping is page aligned, holds `count` entries and stays mapped until
        // `Drop`, which KernelRing runs after the ring has no operation in flight.
        unsafe { submitter.register_buf_ring_with_flags(map as u64, count, GROUP, 0) }?;
        for id in 0..wanted {
            buffers.add(id);
        }
        buffers.publish();
        Ok(buffers)
    }

    pub(super) fn bytes(&mut self, received: &Received) -> &mut [u8] {
        let len = (received.len as usize).min(self.size as usize);
        let start = self.address(received.id);
        // SAFETY: `received` is the only name of this buffer (see the module's invariant), the
        // kernel does not write it until it is given back, and `&mut self` keeps other calls out.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    pub(super) fn give_back(&mut self, received: Received) {
        if self.in_use() > self.wanted {
            return self.withdraw(received.id);
        }
        self.add(received.id);
        self.publish();
    }

    /// A receive has found no buffer. False if all there are have been offered.
    pub(super) fn offer_another(&mut self) -> bool {
        let Some(id) = self.withdrawn.pop() else { return false };
        self.wanted = self.in_use();
        self.add(id);
        self.publish();
        true
    }

    /// Time has passed: fewer are wanted than before.
    pub(super) fn on_tick(&mut self) {
        self.wanted -= self.wanted.saturating_sub(RECEIVE_BUFFERS_KEPT).div_ceil(SUPERFLUOUS);
    }

    /// Offered or lent.
    fn in_use(&self) -> u16 {
        self.count - self.withdrawn.len() as u16
    }

    /// Keeps a buffer back, and gives up the pages that are its own.
    fn withdraw(&mut self, id: u16) {
        self.withdrawn.push(id);
        let size = self.size as usize;
        if !size.is_multiple_of(PAGE) {
            return;
        }
        let start = self.address(id);
        // SAFETY: these pages hold this buffer alone, as buffers begin on a page and are whole
        // pages; nobody uses it until it is offered again, and then its content is the kernel's to
        // write. An error changes nothing.
        unsafe { libc::madvise(start.cast(), size, libc::MADV_DONTNEED) };
    }

    fn address(&self, id: u16) -> *mut u8 {
        assert!(id < self.count, "the kernel named a buffer that was never registered");
        let offset = self.pool_offset + usize::from(id) * self.size as usize;
        // SAFETY: offset + size <= map_len because id < count, checked above.
        unsafe { self.map.cast::<u8>().add(offset) }
    }

    fn add(&mut self, id: u16) {
        let address = self.address(id) as u64;
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: index < count entries of the mapping.
        let entry = unsafe { self.map.cast::<BufRingEntry>().add(index) };
        // SAFETY: the entry lies in our mapping; the kernel reads it only after `publish`, and
        // has consumed its former content because at most `count` buffers exist.
        let entry = unsafe { &mut *entry };
        entry.set_addr(address);
        entry.set_len(self.size);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
    }

    fn publish(&mut self) {
        // SAFETY: the argument is the address of the first entry of a registered ring.
        let tail = unsafe { BufRingEntry::tail(self.map.cast()) };
        // SAFETY: the tail is an aligned u16 inside our mapping, shared with the kernel, which
        // reads it with acquire ordering.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for ReceiveBuffers {
    fn drop(&mut self) {
        // SAFETY: map and map_len are what mmap returned; nothing borrows from it any more.
        unsafe { libc::munmap(self.map, self.map_len) };
    }
}
