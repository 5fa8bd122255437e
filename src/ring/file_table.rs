//! Where in the table of direct descriptors the kernel looks for a free one.
//!
//! It looks from behind the last that it gave or took back, so with connections that come and go it
//! gives out all of its table in time, and with it whatever the server keeps for each descriptor. Here
//! it is told to look from the first again while it gives out others than the first.
//!
//! It is not offered a part of the table only: other rings put descriptors into it whenever they like,
//! and for one that finds no place the kernel drops a connection.

use std::io;
use std::os::fd::RawFd;

/// `IORING_REGISTER_FILE_ALLOC_RANGE` of linux/io_uring.h: it looks from the first of the range.
const ALLOC_RANGE: libc::c_uint = 25;

/// So many free places below one that is given out are not worth a system call.
const HOLES: u32 = 128;

/// `struct io_uring_file_index_range`.
#[repr(C)]
struct Range {
    first: u32,
    count: u32,
    reserved: u64,
}

/// The table of one ring.
#[derive(Debug, Default)]
pub(super) struct FileTable {
    in_use: u32,
    is_spread_out: bool,
}

impl FileTable {
    /// A descriptor has come to this place.
    pub(super) fn come(&mut self, place: u32) {
        self.in_use += 1;
        self.is_spread_out |= place > self.in_use + HOLES;
    }

    /// One was closed.
    pub(super) fn close(&mut self) {
        self.in_use = self.in_use.saturating_sub(1);
    }

    /// True if one has come to a place that is far behind free ones, since the kernel was told.
    pub(super) fn is_spread_out(&self) -> bool {
        self.is_spread_out
    }

    /// Lets the kernel of `ring`, whose table has so many places, look from the first again.
    ///
    /// # Errors
    /// What the kernel answered; it goes on as before.
    pub(super) fn look_from_the_first(&mut self, ring: RawFd, places: u32) -> io::Result<()> {
        self.is_spread_out = false;
        let all = Range { first: 0, count: places, reserved: 0 };
        // SAFETY: the kernel reads one `Range`, which lives until the call returns.
        let answer = unsafe {
            libc::syscall(libc::SYS_io_uring_register, ring, ALLOC_RANGE, &raw const all, 0)
        };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
