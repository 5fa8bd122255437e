//! A cgroup with a memory limit, made below the one that this process is in; gone at the end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup of its own.
pub(crate) struct Cgroup {
    directory: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// With this limit. `Err` says why this machine cannot have it: no memory controller that we
    /// may use.
    pub(crate) fn with_memory(bytes: u64) -> Result<Self, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let path = |wanted: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                let controllers = fields.next()?.split(',').any(|found| found == wanted);
                fields.next().filter(|_| controllers).map(|path| path.trim_start_matches('/'))
            })
        };
        let name = format!("tidegate-test-{}", std::process::id());
        let (parent, unified) = match (path("memory"), path("")) {
            (Some(path), _) => (Path::new("/sys/fs/cgroup/memory").join(path), false),
            // Where processes are, version 2 lets no controllers be: beside it, not below.
            (None, Some(path)) => {
                let own = Path::new("/sys/fs/cgroup").join(path);
                (own.parent().unwrap_or(&own).to_owned(), true)
            }
            (None, None) => return Err("no memory controller".to_owned()),
        };
        let cgroup = Self { directory: parent.join(name), unified };
        fs::create_dir(&cgroup.directory)
            .map_err(|error| format!("{}: {error}", cgroup.directory.display()))?;
        let limit = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(cgroup.directory.join(limit), bytes.to_string())
            .map_err(|error| format!("{limit} of {}: {error}", cgroup.directory.display()))?;
        Ok(cgroup)
    }

    /// The same, with the sockets themselves counted: version 1 does so only in a cgroup that has a
    /// limit for what they hold, however high.
    pub(crate) fn with_memory_and_sockets(bytes: u64) -> Result<Self, String> {
        let cgroup = Self::with_memory(bytes)?;
        if !cgroup.unified {
            let limit = "memory.kmem.tcp.limit_in_bytes";
            fs::write(cgroup.directory.join(limit), (1_u64 << 40).to_string())
                .map_err(|error| format!("{limit} of {}: {error}", cgroup.directory.display()))?;
        }
        Ok(cgroup)
    }

    /// Bytes in use without page cache that can be given back at once, as the server reads them.
    pub(crate) fn used(&self) -> u64 {
        let key = if self.unified { "inactive_file " } else { "total_inactive_file " };
        let stat = fs::read_to_string(self.directory.join("memory.stat")).expect("the cgroup");
        let line = stat.lines().find_map(|line| line.strip_prefix(key));
        let cache: u64 = line.expect("inactive_file").parse().expect("a number");
        self.memory().1.saturating_sub(cache)
    }

    /// Bytes that its sockets hold of what is unread or not acknowledged: with version 2 they are
    /// among those that are in use, with version 1 they are beside them.
    pub(crate) fn in_sockets(&self) -> u64 {
        if self.unified {
            return 0;
        }
        let file = self.directory.join("memory.kmem.tcp.usage_in_bytes");
        let text = fs::read_to_string(file).expect("the cgroup");
        text.trim().parse().expect("a number")
    }

    /// What is in use, by kind, for a message.
    pub(crate) fn parts(&self) -> String {
        let stat = fs::read_to_string(self.directory.join("memory.stat")).expect("the cgroup");
        let wanted = ["rss ", "anon ", "active_file ", "kernel ", "slab ", "sock "];
        let lines = stat.lines().filter(|line| wanted.iter().any(|key| line.starts_with(key)));
        let kernel = self.directory.join("memory.kmem.usage_in_bytes");
        let kernel = fs::read_to_string(kernel).unwrap_or_default();
        format!("{}, kernel {}", lines.collect::<Vec<_>>().join(", "), kernel.trim())
    }

    /// The command, run in this cgroup.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.directory.join("cgroup.procs")).arg(inner.get_program());
        command.args(inner.get_args()).env_clear();
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command
    }

    /// Processes in it that the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        let text = fs::read_to_string(self.directory.join(file)).expect("the cgroup");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("oom_kill").parse().expect("a number")
    }

    /// The most that was in use, and what is now.
    pub(crate) fn memory(&self) -> (u64, u64) {
        let files = if self.unified {
            ["memory.peak", "memory.current"]
        } else {
            ["memory.max_usage_in_bytes", "memory.usage_in_bytes"]
        };
        let [peak, now] = files.map(|file| {
            let text = fs::read_to_string(self.directory.join(file)).expect("the cgroup");
            text.trim().parse().expect("a number")
        });
        (peak, now)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The processes in it have ended; one that is still being reaped holds it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}
