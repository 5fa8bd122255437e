//! The signal mask of a thread: signals held back for a moment, and those that a parent has left
//! blocked.

use std::io;

/// Runs `action` while the calling thread takes none of `signals`; those that arrive meanwhile
/// are delivered afterwards.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn with_blocked<T>(signals: &[i32], action: impl FnOnce() -> T) -> io::Result<T> {
    let set = set_of(signals)?;
    let mut before = empty_set();
    // SAFETY: reads one set and writes the other, both on the stack.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, &mut before) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let result = action();
    // SAFETY: reads the set that the call before has written.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, std::ptr::null_mut()) };
    Ok(result)
}

/// Lets the calling thread take `signals`, whatever mask it was started with.
///
/// # Errors
/// EINVAL for a number that is no signal.
pub fn unblock(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: reads one set on the stack; a null pointer for the mask before is allowed.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = empty_set();
    for signal in signals {
        // SAFETY: `set` is an initialised signal set on the stack.
        if unsafe { libc::sigaddset(&mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

fn empty_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data for which all zeroes is a valid value.
    let mut set = unsafe { std::mem::zeroed() };
    // SAFETY: writes the set on the stack.
    unsafe { libc::sigemptyset(&mut set) };
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_meanwhile_is_delivered_afterwards() {
        let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = || flag.load(std::sync::atomic::Ordering::SeqCst);
        let registered = signal_hook::flag::register(libc::SIGUSR1, std::sync::Arc::clone(&flag));
        assert!(registered.is_ok());
        let result = with_blocked(&[libc::SIGUSR1], || {
            // SAFETY: sends a signal to the calling thread, which blocks it.
            unsafe { libc::raise(libc::SIGUSR1) };
            seen()
        });
        assert!(matches!(result, Ok(false)));
        assert!(seen());
        assert!(with_blocked(&[100_000], || ()).is_err());
    }
}
