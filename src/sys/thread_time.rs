//! How long a thread has been on a processor.

/// Nanoseconds that the calling thread has run since it began, in the kernel's calls as well; 0 if
/// the kernel does not say. Stands still while something else has the thread's processor.
pub fn ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec on the stack.
    if unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) } != 0 {
        return 0;
    }
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The kernel's number of the calling thread, under which `/proc/self/task` has it.
pub fn thread_id() -> u64 {
    // SAFETY: has no arguments and cannot fail.
    let id = unsafe { libc::gettid() };
    u64::from(id.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::ns;

    #[test]
    fn it_passes_by_work_and_not_by_sleep() {
        let before = ns();
        while ns() < before + 1_000_000 {}
        let (before, began) = (ns(), Instant::now());
        std::thread::sleep(Duration::from_millis(200));
        assert!(u128::from(ns() - before) * 2 < began.elapsed().as_nanos());
    }
}
