//! Where memory is: the server's own, and the kernel's by cache.
//!
//! A difference between two readings, divided by connections, is bytes per connection by part.
//! The kernel's part is of the whole machine: on loopback it has both ends of each connection.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// Caches that connections live in; the others are summed up as "other slabs".
const CACHES: [&str; 12] = [
    "TCP",
    "TCPv6",
    "sock_inode_cache",
    "filp",
    "dentry",
    "io_kiocb",
    "tw_sock_TCP",
    "request_sock_TCP",
    "skbuff_head_cache",
    "skbuff_small_head",
    "eventpoll_epi",
    "lsm_inode_cache",
];

/// The kernel's memory that is charged to the server, as a part.
pub(crate) const OWN_GROUP: &str = "charged to its cgroup";

/// Bytes by part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Anonymous memory of the server's process.
    pub(crate) server: Option<u64>,
    /// What the kernel keeps for the server, if its process is alone in a memory cgroup: then
    /// other processes are not in it. Inodes, files and requests are; the TCP socket is not, since
    /// it is made when a packet comes, which is no process's doing.
    pub(crate) group: Option<u64>,
    /// Slab objects in use, by cache; empty where /proc/slabinfo may not be read.
    pub(crate) slabs: BTreeMap<String, u64>,
    /// Memory that is not available to others, of the whole machine.
    pub(crate) used: u64,
}

impl Memory {
    /// Now.
    pub(crate) fn read(server_pid: Option<u32>) -> Self {
        let read = |path: String| fs::read_to_string(path).unwrap_or_default();
        let meminfo = read(String::from("/proc/meminfo"));
        let used = kilobytes(&meminfo, "MemTotal:")
            .zip(kilobytes(&meminfo, "MemAvailable:"))
            .map_or(0, |(total, available)| total.saturating_sub(available));
        Self {
            server: server_pid.and_then(Self::of_process),
            group: server_pid.and_then(kernel_of_group),
            slabs: slabs(&read(String::from("/proc/slabinfo"))),
            used,
        }
    }

    /// Anonymous memory of a process.
    pub(crate) fn of_process(pid: u32) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        kilobytes(&status, "RssAnon:")
    }

    /// Bytes of all slabs.
    pub(crate) fn slab_total(&self) -> u64 {
        self.slabs.values().sum()
    }

    /// What has been added since `before`, by part, largest first.
    pub(crate) fn growth(&self, before: &Self) -> Vec<(String, i64)> {
        let difference = |after: u64, before: u64| after as i64 - before as i64;
        let server = self
            .server
            .zip(before.server)
            .map(|(after, before)| (String::from("server, user space"), difference(after, before)));
        let group = self
            .group
            .zip(before.group)
            .map(|(after, before)| (String::from(OWN_GROUP), difference(after, before)));
        let mut parts: Vec<_> = self
            .slabs
            .iter()
            .map(|(name, after)| {
                let earlier = before.slabs.get(name).copied().unwrap_or_default();
                (format!("kernel, {name}"), difference(*after, earlier))
            })
            .chain(server)
            .chain(group)
            .collect();
        parts.sort_by_key(|(_, bytes)| -bytes);
        parts
    }
}

/// Kernel memory that is charged to the cgroup of a process that is alone in it.
fn kernel_of_group(pid: u32) -> Option<u64> {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let (directory, unified) = group_directory(&groups)?;
    let processes = fs::read_to_string(directory.join("cgroup.procs")).ok()?;
    if processes.trim() != pid.to_string() {
        return None;
    }
    if unified {
        let stat = fs::read_to_string(directory.join("memory.stat")).ok()?;
        return stat.lines().find_map(|line| line.strip_prefix("kernel ")?.parse().ok());
    }
    let usage = fs::read_to_string(directory.join("memory.kmem.usage_in_bytes")).ok()?;
    usage.trim().parse().ok()
}

/// Where the memory cgroup is that this text of /proc/PID/cgroup names, and whether it is of
/// version 2.
fn group_directory(groups: &str) -> Option<(PathBuf, bool)> {
    let path = |wanted: &str| {
        groups.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let found = fields.next()?.split(',').any(|controller| controller == wanted);
            fields.next().filter(|_| found)
        })
    };
    let below = |root: &str, path: &str| PathBuf::from(format!("{root}{path}"));
    match (path("memory"), path("")) {
        (Some(path), _) => Some((below("/sys/fs/cgroup/memory", path), false)),
        (None, Some(path)) => Some((below("/sys/fs/cgroup", path), true)),
        (None, None) => None,
    }
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

/// Objects in use times their size, by cache.
fn slabs(slabinfo: &str) -> BTreeMap<String, u64> {
    let mut slabs = BTreeMap::new();
    for line in slabinfo.lines() {
        let mut fields = line.split_whitespace();
        let (Some(name), Some(used), _, Some(size)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let (Ok(used), Ok(size)) = (used.parse::<u64>(), size.parse::<u64>()) else { continue };
        let name = if CACHES.contains(&name) { name } else { "other slabs" };
        *slabs.entry(name.to_owned()).or_default() += used * size;
    }
    slabs
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLABINFO: &str = "slabinfo - version: 2.1\n# name <active_objs> <num_objs> <objsize>\n\
        TCP 10 12 2368 13 8 : tunables 0 0 0 : slabdata 1 1 0\n\
        kmalloc-64 100 128 64 64 1 : tunables 0 0 0 : slabdata 2 2 0\n\
        kmalloc-32 100 128 32 128 1 : tunables 0 0 0 : slabdata 2 2 0\n";

    #[test]
    fn objects_in_use_are_counted_by_cache() {
        let slabs = slabs(SLABINFO);
        assert_eq!((slabs["TCP"], slabs["other slabs"], slabs.len()), (23_680, 9_600, 2));
    }

    #[test]
    fn growth_is_by_part_and_the_largest_is_first() {
        let slabs = slabs(SLABINFO);
        let before = Memory { server: Some(1_000), ..Memory::default() };
        let after = Memory { server: Some(51_000), slabs, ..Memory::default() };
        let names: Vec<_> = after.growth(&before).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["server, user space", "kernel, TCP", "kernel, other slabs"]);
        assert_eq!(after.growth(&before)[0].1, 50_000);
    }

    #[test]
    fn the_memory_cgroup_is_found_in_both_versions() {
        let one = "9:name=systemd:/\n4:cpu,memory:/a/b\n0::/\n";
        let found = |groups| group_directory(groups);
        assert_eq!(found(one), Some((PathBuf::from("/sys/fs/cgroup/memory/a/b"), false)));
        assert_eq!(found("0::/x\n"), Some((PathBuf::from("/sys/fs/cgroup/x"), true)));
        assert_eq!(found(""), None);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = Memory::read(Some(std::process::id()));
        assert!(memory.server > Some(100_000) && memory.used > 0, "{memory:?}");
        assert_eq!(Memory::read(Some(u32::MAX)).server, None);
    }
}
