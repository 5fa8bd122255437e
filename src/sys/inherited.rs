//! What a process inherits: signals that are ignored or blocked outlive exec, so what a parent has
//! left holds in the server, and children inherit it in turn; and variables that are set to nothing.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Numbers of signals: 1 to 64 (`_NSIG` of Linux).
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// Where the client of Redis looks for certificates.
const CERTIFICATES: &str = "SSL_CERT_FILE";

/// Makes of the process what the server needs, whatever its parent has left. For a process that
/// is the server's own, before it has threads.
///
/// - An ignored SIGCHLD becomes an ordinary one: ignored, the kernel reaps children by itself, and
///   how they ended cannot be learnt.
/// - SIGXFSZ is caught and does nothing: a log that has reached RLIMIT_FSIZE is a write that fails
///   (EFBIG) and not the end of the process. It is not ignored, because children would inherit that.
/// - `SSL_CERT_FILE` that is set and empty is not set: the certificates of the system are trusted,
///   where the library would look for a file without a name and trust nobody.
///
/// # Errors
/// What sigaction answers.
pub fn adopt() -> io::Result<()> {
    if std::env::var_os(CERTIFICATES).is_some_and(|file| file.is_empty()) && is_only_thread() {
        // SAFETY: nobody reads the environment meanwhile, because there is no other thread.
        unsafe { std::env::remove_var(CERTIFICATES) };
    }
    if is_ignored(libc::SIGCHLD) {
        set_default(libc::SIGCHLD);
    }
    let unused = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGXFSZ, unused).map(drop)
}

/// Whether the calling thread is the only one of the process.
fn is_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Lets `command` begin as a process does that a shell starts: no signal blocked, and none ignored.
///
/// A child that would begin like that anyway is left alone, because this needs fork(2), which
/// copies the page tables of the server, where vfork(2) does.
pub fn reset_in_child(command: &mut Command) {
    // The standard library resets SIGPIPE, which it ignores itself.
    let ignores = SIGNALS.filter(|signal| *signal != libc::SIGPIPE).any(is_ignored);
    if !ignores && is_mask_empty() {
        return;
    }
    // SAFETY: the closure runs between fork and exec, and makes only calls that are safe there
    // (signal-safety(7)): sigaction, sigemptyset, pthread_sigmask. It takes no memory and no lock.
    unsafe { command.pre_exec(reset) };
}

fn reset() -> io::Result<()> {
    SIGNALS.filter(|signal| is_ignored(*signal)).for_each(set_default);
    let set = empty_set();
    // SAFETY: reads one set on the stack; a null pointer for the mask before is allowed.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: writes one struct on the stack; a null pointer for the new action changes nothing.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) };
    // SAFETY: sigaction is plain data for which all zeroes is a valid value, written or not.
    let action = unsafe { action.assume_init() };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}

fn set_default(signal: i32) {
    // SAFETY: SIG_DFL is a disposition for every signal; one that cannot be changed is answered
    // with EINVAL, which changes nothing.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

fn is_mask_empty() -> bool {
    let mut set = empty_set();
    // SAFETY: writes one set on the stack; a null pointer for the new mask changes nothing.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set) };
    // SAFETY: reads the set that the call before has written.
    SIGNALS.clone().all(|signal| unsafe { libc::sigismember(&set, signal) } != 1)
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

    /// The signals that a child begins with blocked or ignored, without the two that belong to the
    /// C library.
    fn signals_of_child(command: &mut Command) -> Vec<u64> {
        let output = command.args(["-E", "^Sig(Blk|Ign)", "/proc/self/status"]).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let text = text.unwrap_or_default();
        let sets = text.split_whitespace().filter_map(|word| u64::from_str_radix(word, 16).ok());
        sets.map(|set| set & !(0b11 << 31)).collect()
    }

    #[test]
    fn a_child_begins_without_what_this_process_blocks() {
        let signals = super::super::signal_mask::with_blocked(&[libc::SIGTERM], || {
            let inherited = signals_of_child(&mut Command::new("grep"));
            let mut command = Command::new("grep");
            reset_in_child(&mut command);
            (inherited, signals_of_child(&mut command))
        });
        let (inherited, reset) = signals.unwrap_or_default();
        assert_eq!(inherited[0], 1 << (libc::SIGTERM - 1), "otherwise there is nothing to do");
        assert_eq!(reset, [0, 0]);
    }

    #[test]
    fn an_ignored_signal_is_found() {
        assert!(is_ignored(libc::SIGPIPE), "the standard library ignores it");
        assert!(!is_ignored(libc::SIGUSR1) && !is_ignored(1_000));
    }
}
