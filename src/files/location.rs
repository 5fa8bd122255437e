//! What a path leads to when something is written there: symbolic links are followed by hand, so
//! that the file at their end can be replaced in its own directory.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Kind;
use crate::sys::kernel;

/// As many symbolic links in a row as the kernel follows.
const LINKS_MAX: usize = 40;

/// A directory in which everybody can make files and nobody can remove those of others.
const STICKY_AND_WRITABLE: u32 = 0o1002;

/// Where bytes go.
#[derive(Debug)]
pub(super) enum Location {
    /// A regular file, which can be replaced, or nothing yet.
    File {
        /// The file at the end of all links.
        path: PathBuf,
        /// What is there.
        existing: Option<Metadata>,
    },
    /// What takes bytes as they come: a pipe, a device, a descriptor of the process.
    Stream(PathBuf),
}

/// Follows `path` to what it names.
///
/// # Errors
/// A directory, a socket, a disk; a link that another user has put into a directory of everybody's;
/// too many links.
pub(super) fn find(path: &Path) -> io::Result<Location> {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Location::File { path: at, existing: None });
            }
            Err(error) => return Err(error),
        };
        if !metadata.is_symlink() {
            return match Kind::of(metadata.file_type()) {
                Kind::Regular => Ok(Location::File { path: at, existing: Some(metadata) }),
                kind => stream(at, kind),
            };
        }
        if is_descriptor(&at) {
            let kind = Kind::of(fs::metadata(&at)?.file_type());
            return if kind == Kind::Regular { Ok(Location::Stream(at)) } else { stream(at, kind) };
        }
        let directory = directory_of(&at);
        may_follow(&metadata, &fs::metadata(directory)?, kernel::effective_user())?;
        // An absolute target takes the place of the directory.
        at = directory.join(fs::read_link(&at)?);
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn stream(path: PathBuf, kind: Kind) -> io::Result<Location> {
    match kind {
        Kind::Fifo | Kind::CharacterDevice => Ok(Location::Stream(path)),
        kind => Err(io::Error::other(format!("it is {kind}; nothing is written there"))),
    }
}

/// Whether the path ends below `/proc`, where links lead to what a process has open and not to a
/// name: `/dev/stdout`, `/dev/fd/63`. The descriptor may be closed.
pub(super) fn is_descriptor(path: &Path) -> bool {
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        let directory = fs::canonicalize(directory_of(&at)).unwrap_or_default();
        if directory.starts_with("/proc") {
            return true;
        }
        let Ok(target) = fs::read_link(&at) else { return false };
        at = directory.join(target);
    }
    false
}

/// The directory that a file is in.
pub(super) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    }
}

/// The rule of `fs.protected_symlinks`, which the kernel applies only to links that it follows
/// itself.
fn may_follow(link: &Metadata, directory: &Metadata, user: u32) -> io::Result<()> {
    let is_shared = directory.mode() & STICKY_AND_WRITABLE == STICKY_AND_WRITABLE;
    if !is_shared || link.uid() == user || link.uid() == directory.uid() {
        return Ok(());
    }
    let message = format!(
        "it is a symbolic link of user {} in a directory where everybody can make one",
        link.uid()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}
