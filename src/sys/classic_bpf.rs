//! Programs in classic BPF that a socket is given.

use std::io;
use std::os::fd::RawFd;

/// Gives a socket a program, by `option` of SOL_SOCKET.
///
/// # Errors
/// EINVAL for a program that the kernel refuses and for a socket that cannot have it; ENOMEM for
/// one beyond net.core.optmem_max; EPERM if the socket's filter is locked.
pub(super) fn attach(
    socket: RawFd,
    option: i32,
    steps: &mut [libc::sock_filter],
) -> io::Result<()> {
    let len = steps.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the `len` steps, which live until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_SOCKET,
            option,
            std::ptr::from_ref(&program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
