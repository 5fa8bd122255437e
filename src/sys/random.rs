//! Bytes that nobody can guess.

use std::io;

/// Fills `bytes` from the kernel's generator.
///
/// # Errors
/// None on a system that has started; EINTR is tried again.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        let rest = &mut bytes[filled..];
        // SAFETY: the kernel writes at most `rest.len()` bytes into `rest`, which is borrowed here.
        let len = unsafe { libc::getrandom(rest.as_mut_ptr().cast(), rest.len(), 0) };
        match usize::try_from(len) {
            Ok(len) => filled += len,
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let (mut one, mut other) = ([0; 16], [0; 16]);
        assert!(fill(&mut one).is_ok() && fill(&mut other).is_ok());
        assert_ne!(one, other);
        assert_ne!(one, [0; 16]);
    }
}
