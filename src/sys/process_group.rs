//! Ends a process together with what it has started.

/// Kills the process group that the child `leader` leads. It must have been started as the leader
/// of a group and not have been waited for yet, or the number may be somebody else's.
pub fn kill(leader: u32) {
    let Ok(group) = i32::try_from(leader) else { return };
    if group > 1 {
        // SAFETY: no pointers. A group that is gone is answered with ESRCH, which changes nothing.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}
