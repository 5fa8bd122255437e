//! Which directories say what this process may use: its cgroup and those above it, found in
//! `/proc/self/cgroup` and `/proc/self/mountinfo`. Pure.
//!
//! A limit of any of them holds, so all of them are looked at.

use std::path::{Component, Path, PathBuf};

/// Cgroups above each other that are looked at; deeper nesting than anybody has.
const DEPTH: usize = 32;

/// Which interface a hierarchy has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// The memory controller is mounted by itself.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The cgroups that bound this process, its own first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Their interface.
    pub version: Version,
    /// Their directories.
    pub directories: Vec<PathBuf>,
}

/// Finds them in the text of `/proc/self/cgroup` and `/proc/self/mountinfo`. A memory controller
/// of version 1 counts before version 2, which then has none.
pub fn find(cgroup: &str, mountinfo: &str) -> Option<Cgroups> {
    find_version(Version::V1, cgroup, mountinfo)
        .or_else(|| find_version(Version::V2, cgroup, mountinfo))
}

fn find_version(version: Version, cgroup: &str, mountinfo: &str) -> Option<Cgroups> {
    let path = cgroup.lines().find_map(|line| own_path(version, line))?;
    let (root, mount) = mountinfo.lines().find_map(|line| mount_of(version, line))?;
    let directories = ancestors(Path::new(path), &root, &mount);
    Some(Cgroups { version, directories })
}

/// The path in a line `ID:CONTROLLERS:PATH` (cgroups(7)).
fn own_path(version: Version, line: &str) -> Option<&str> {
    let mut fields = line.splitn(3, ':');
    let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let found = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "memory"),
        Version::V2 => id == "0" && controllers.is_empty(),
    };
    found.then_some(path)
}

/// The root and the mount point of a line of mountinfo (proc_pid_mountinfo(5)): before ` - `
/// fields 4 and 5, after it the kind and, third, the options of the whole hierarchy.
fn mount_of(version: Version, line: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, hierarchy) = line.split_once(" - ")?;
    let mut hierarchy = hierarchy.split(' ');
    let (kind, options) = (hierarchy.next()?, hierarchy.nth(1).unwrap_or(""));
    let found = match version {
        Version::V1 => kind == "cgroup" && options.split(',').any(|option| option == "memory"),
        Version::V2 => kind == "cgroup2",
    };
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    found.then(|| (unescaped(root).into(), unescaped(point).into()))
}

/// A space, tab, newline or backslash is written as its octal number.
fn unescaped(text: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(text.to_owned(), |text, (escape, plain)| text.replace(escape, plain))
}

/// From the own cgroup up to what is mounted. Where the path leads out of what is mounted, as in
/// a container that sees only its own cgroup, that is the one.
fn ancestors(path: &Path, root: &Path, mount: &Path) -> Vec<PathBuf> {
    let below = path.strip_prefix(root).unwrap_or(Path::new(""));
    let inside = below.components().all(|part| matches!(part, Component::Normal(_)));
    let own = if inside { mount.join(below) } else { mount.to_owned() };
    let above = own.ancestors().take_while(|directory| directory.starts_with(mount));
    // Without the slash that joining nothing leaves at the end.
    above.take(DEPTH).map(|directory| directory.components().collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: &str = "\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    fn directories(cgroup: &str, mountinfo: &str) -> Vec<String> {
        let found = find(cgroup, mountinfo).into_iter().flat_map(|found| found.directories);
        found.map(|directory| directory.display().to_string()).collect()
    }

    #[test]
    fn the_memory_controller_of_version_1() {
        let cgroup = "9:name=systemd:/\n4:memory:/a/b\n2:cpuacct,cpu:/c\n0::/d\n";
        let expected = ["/sys/fs/cgroup/memory/a/b", "/sys/fs/cgroup/memory/a"];
        let found = directories(cgroup, BOTH);
        assert_eq!(found[..2], expected);
        assert_eq!(found[2..], ["/sys/fs/cgroup/memory"]);
        assert_eq!(find(cgroup, BOTH).map(|found| found.version), Some(Version::V1));
    }

    #[test]
    fn the_unified_hierarchy() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = directories("0::/system.slice/tidegate.service\n", mountinfo);
        let own = "/sys/fs/cgroup/system.slice/tidegate.service";
        assert_eq!(found, [own, "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]);
        assert_eq!(directories("0::/d\n4:memory:/a\n", mountinfo).len(), 2, "no mount for memory");
    }

    /// A container that has its cgroup mounted, with a namespace of its own and without.
    #[test]
    fn a_container_sees_what_is_mounted() {
        let own = "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n";
        assert_eq!(directories("0::/\n", own), ["/sys/fs/cgroup"]);
        assert_eq!(directories("0::/../sibling\n", own), ["/sys/fs/cgroup"]);
        let bound = "30 23 0:26 /docker/17 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        assert_eq!(directories("4:memory:/docker/17\n", bound), ["/sys/fs/cgroup/memory"]);
        assert_eq!(directories("4:memory:/elsewhere\n", bound), ["/sys/fs/cgroup/memory"]);
        let inner = directories("4:memory:/docker/17/inner\n", bound);
        assert_eq!(inner, ["/sys/fs/cgroup/memory/inner", "/sys/fs/cgroup/memory"]);
    }

    #[test]
    fn a_space_in_a_path() {
        let mountinfo = "30 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(directories("0::/c d\n", mountinfo), ["/a b/c d", "/a b"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(path in "\\PC*", root in "[/a.]*", rest in "\\PC*") {
            let mountinfo = format!("1 2 3 {root} /mount rw - cgroup2 cgroup2 rw\n{rest}");
            if let Some(found) = find(&format!("0::/{path}\n{rest}"), &mountinfo) {
                prop_assert!(!found.directories.is_empty() && found.directories.len() <= DEPTH);
                let all_below = found.directories.iter().all(|at| at.starts_with("/mount"));
                prop_assert!(all_below, "{:?}", found.directories);
            }
        }
    }
}
