//! Can this machine run the rings, and if not, why, and what fixes it.
//!
//! Invariant: every refusal names the cause that was found and a command; nothing is guessed
//! from an error number alone when the machine can be asked.

use std::fmt;
use std::io;

use io_uring::{IoUring, Probe, opcode};

use crate::files::read::small_text;
use crate::sys::{kernel, rlimit};

/// Oldest kernel with everything that is used: BIND on a ring came with 6.11, a minimum wait
/// with 6.12.
pub const OLDEST_KERNEL: (u32, u32) = (6, 12);

/// Why the server cannot run here.
#[derive(Debug)]
pub struct Unavailable {
    /// What was found.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "io_uring is not available: {}. Fix: {}", self.cause, self.remedy)
    }
}

impl std::error::Error for Unavailable {}

/// Adds the step that failed to an error of the kernel.
pub(super) fn during(step: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), StepFailed { step: step.to_owned(), error })
}

#[derive(Debug)]
struct StepFailed {
    step: String,
    error: io::Error,
}

impl fmt::Display for StepFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

impl std::error::Error for StepFailed {}

/// The error number under an error of [`super::KernelRing::new`].
fn errno(error: &io::Error) -> Option<i32> {
    let step = error.get_ref().and_then(|inner| inner.downcast_ref::<StepFailed>());
    step.map_or_else(|| error.raw_os_error(), |step| step.error.raw_os_error())
}

/// Checks the kernel version, that io_uring may be used, and that every operation exists.
///
/// # Errors
/// The cause and its remedy.
pub fn check() -> Result<(), Unavailable> {
    check_release(&kernel::release())?;
    let io: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
        .map_err(|error| explain(&error))?;
    let mut probe = Probe::new();
    io.submitter().register_probe(&mut probe).map_err(|error| explain(&error))?;
    let needed = [
        ("ACCEPT", opcode::Accept::CODE),
        ("POLL_ADD", opcode::PollAdd::CODE),
        ("RECV", opcode::Recv::CODE),
        ("SEND", opcode::Send::CODE),
        ("SENDMSG", opcode::SendMsg::CODE),
        ("CONNECT", opcode::Connect::CODE),
        ("SHUTDOWN", opcode::Shutdown::CODE),
        ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
        ("CLOSE", opcode::Close::CODE),
        ("READ", opcode::Read::CODE),
        ("SOCKET", opcode::Socket::CODE),
        ("BIND", opcode::Bind::CODE),
        ("MSG_RING", opcode::MsgRingData::CODE),
        ("URING_CMD", opcode::UringCmd16::CODE),
    ];
    match needed.iter().find(|(_, code)| !probe.is_supported(*code)) {
        None => Ok(()),
        Some((name, _)) => Err(Unavailable {
            cause: format!("the kernel ({}) does not offer {name}", kernel::release()),
            remedy: upgrade(),
        }),
    }
}

fn check_release(release: &str) -> Result<(), Unavailable> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Ok(()); // an unusual name: the operations are checked one by one anyway
    };
    if (major, minor) >= OLDEST_KERNEL {
        return Ok(());
    }
    Err(Unavailable {
        cause: format!("Linux {release} is older than {}.{}", OLDEST_KERNEL.0, OLDEST_KERNEL.1),
        remedy: upgrade(),
    })
}

fn upgrade() -> String {
    format!("run Linux {}.{} or newer", OLDEST_KERNEL.0, OLDEST_KERNEL.1)
}

/// Turns an error of setting up a ring into what was found on this machine.
pub fn explain(error: &io::Error) -> Unavailable {
    match errno(error) {
        Some(libc::EPERM) => forbidden(),
        Some(libc::ENOSYS) => Unavailable {
            cause: "the kernel answers ENOSYS to io_uring_setup: it was built without \
                    CONFIG_IO_URING, or a seccomp profile hides it"
                .to_owned(),
            remedy: seccomp_remedy(),
        },
        Some(libc::ENOMEM) => out_of_memory(),
        Some(libc::EMFILE) => few_files(),
        Some(libc::EINVAL) => Unavailable {
            cause: format!(
                "the kernel ({}) refuses the ring's settings ({error})",
                kernel::release()
            ),
            remedy: upgrade(),
        },
        _ => Unavailable {
            cause: error.to_string(),
            remedy: "see dmesg, and report this message with the kernel's version".to_owned(),
        },
    }
}

fn forbidden() -> Unavailable {
    let value = small_text("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    let group = small_text("/proc/sys/kernel/io_uring_group").unwrap_or_default();
    match value.trim() {
        "2" => Unavailable {
            cause: "kernel.io_uring_disabled is 2 (forbidden for everybody)".to_owned(),
            remedy: "sysctl -w kernel.io_uring_disabled=0".to_owned(),
        },
        "1" if !kernel::is_root() => Unavailable {
            cause: format!(
                "kernel.io_uring_disabled is 1 (only for CAP_SYS_ADMIN and the group {})",
                group.trim()
            ),
            remedy: "sysctl -w kernel.io_uring_disabled=0, or set kernel.io_uring_group to the \
                     group of this process"
                .to_owned(),
        },
        value => Unavailable {
            cause: format!(
                "io_uring_setup is not permitted although kernel.io_uring_disabled is {}: a \
                 seccomp profile forbids it (Docker since 25.0 and containerd since 2.0 do)",
                if value.is_empty() { "absent" } else { value }
            ),
            remedy: seccomp_remedy(),
        },
    }
}

fn seccomp_remedy() -> String {
    "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
     (docker run --security-opt seccomp=PROFILE.json; systemd: SystemCallFilter=@io-uring \
     io_uring_setup io_uring_enter io_uring_register)"
        .to_owned()
}

fn out_of_memory() -> Unavailable {
    let found =
        rlimit::locked_memory().map_or_else(|_| "unknown".to_owned(), |limit| bytes(limit.soft));
    if kernel::is_root() {
        return Unavailable {
            cause: "the kernel has no memory for the rings".to_owned(),
            remedy: "free memory, or lower server.shards".to_owned(),
        };
    }
    Unavailable {
        cause: format!(
            "RLIMIT_MEMLOCK is {found} and the rings need about {} for each shard",
            bytes(crate::limits::RING_MEMORY_BYTES)
        ),
        remedy: "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity; \
                 docker run --ulimit memlock=-1), or lower server.shards"
            .to_owned(),
    }
}

fn few_files() -> Unavailable {
    let found = rlimit::open_files().map_or(0, |limit| limit.hard);
    Unavailable {
        cause: format!("RLIMIT_NOFILE is {found}, less than the rings and listeners need"),
        remedy: "ulimit -n 1048576 (systemd: LimitNOFILE=1048576; \
                 docker run --ulimit nofile=1048576)"
            .to_owned(),
    }
}

fn bytes(count: u64) -> String {
    match count {
        u64::MAX => "unlimited".to_owned(),
        count if count >= 1 << 20 => format!("{:.1} MiB", count as f64 / f64::from(1 << 20)),
        count => format!("{} KiB", count >> 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for good in ["6.12.0", "6.18.44-generic", "7.0", "10.1-rc1", "strange"] {
            assert!(check_release(good).is_ok(), "{good}");
        }
        for old in ["6.11.9", "5.15.0-101", "4.19"] {
            assert!(check_release(old).is_err(), "{old}");
        }
    }
}
