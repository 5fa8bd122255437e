//! Writing a file: a regular one is replaced whole, what is no regular file is written in place,
//! and nothing waits longer than it is told to.
//!
//! The new content goes to a file of a random name in the same directory, opened exclusively and
//! synced, which then takes the name. Where that is impossible (a file that is mounted by itself,
//! a directory that the process cannot write) an existing file is overwritten.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use super::Kind;
use super::location::{self, Location, directory_of};
use crate::limits::FILE_POLL_MS;

/// How the bytes came to where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// A new file has the name: a reader saw the old content or sees the new one.
    Replaced,
    /// Into what was there.
    InPlace,
}

/// Writes `bytes` to what `path` names. A new file has `mode`, less what the umask and the file
/// that it replaces do not allow. A pipe or a terminal that takes nothing is given up at `give_up`.
///
/// # Errors
/// Why the bytes are not there. What was there is unharmed unless it could only be overwritten.
pub fn write(path: &Path, bytes: &[u8], mode: u32, give_up: Instant) -> io::Result<Written> {
    match location::find(path)? {
        Location::Stream(path) => stream(&path, bytes, give_up),
        Location::File { path, existing } => replace(&path, existing.as_ref(), bytes, mode),
    }
}

fn replace(
    path: &Path,
    existing: Option<&Metadata>,
    bytes: &[u8],
    mode: u32,
) -> io::Result<Written> {
    let directory = directory_of(path);
    let mode = existing.map_or(mode, |existing| mode & existing.mode());
    let temporary = match prepare(directory, path, existing, bytes, mode) {
        Ok(temporary) => temporary,
        Err(error) if existing.is_some() && is_no_place(&error) => return overwrite(path, bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let message = format!("its directory {} does not exist", directory.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, message));
        }
        Err(error) => return Err(error),
    };
    match temporary.persist(path) {
        Ok(_) => sync_directory(directory).map(|()| Written::Replaced),
        // The temporary file is removed with the error.
        Err(error) if existing.is_some() && is_immovable(&error.error) => overwrite(path, bytes),
        Err(error) => Err(error.error),
    }
}

/// The whole content under another name.
fn prepare(
    directory: &Path,
    path: &Path,
    existing: Option<&Metadata>,
    bytes: &[u8],
    mode: u32,
) -> io::Result<NamedTempFile> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let mut temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".unfinished")
        .permissions(Permissions::from_mode(mode & 0o777))
        .tempfile_in(directory)?;
    temporary.write_all(bytes)?;
    if let Some(group) = existing.map(MetadataExt::gid) {
        // Whoever may read the old one may read the new one, if the process is in that group.
        let _ = fchown(temporary.as_file(), None, Some(group));
    }
    temporary.as_file().sync_all()?;
    Ok(temporary)
}

/// No file can be made in the directory, whatever its name.
fn is_no_place(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// The file cannot be replaced where it is: it is mounted by itself (EBUSY, EXDEV), or belongs to
/// another user of a sticky directory.
fn is_immovable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EXDEV | libc::EPERM | libc::EACCES))
}

fn overwrite(path: &Path, bytes: &[u8]) -> io::Result<Written> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
    let mut file = OpenOptions::new().write(true).custom_flags(flags).open(path)?;
    let kind = Kind::of(file.metadata()?.file_type());
    if kind != Kind::Regular {
        return Err(io::Error::other(format!("it has become {kind}")));
    }
    file.write_all(bytes)?;
    file.set_len(bytes.len() as u64)?;
    file.sync_all()?;
    Ok(Written::InPlace)
}

/// The name is on the disk when its directory is. Some file systems do not sync directories.
fn sync_directory(directory: &Path) -> io::Result<()> {
    match File::open(directory).and_then(|directory| directory.sync_all()) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::ENOSPC)) => Err(error),
        _ => Ok(()),
    }
}

/// Behind what is there already: the descriptor may be that of a regular file.
fn stream(path: &Path, bytes: &[u8], give_up: Instant) -> io::Result<Written> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(flags);
    let mut file = options.open(path).map_err(|error| match error.raw_os_error() {
        Some(libc::ENXIO) => {
            let kind = fs::metadata(path).map(|metadata| Kind::of(metadata.file_type()));
            let message = match kind {
                Ok(Kind::Fifo) => "it is a pipe (FIFO) that nobody reads".to_owned(),
                Ok(kind) => format!("it is {kind}, which cannot be opened by its path"),
                Err(error) => error.to_string(),
            };
            io::Error::new(error.kind(), message)
        }
        _ => error,
    })?;
    let mut left = bytes;
    while !left.is_empty() {
        match file.write(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => left = &left[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Err(_) if Instant::now() >= give_up => {
                let taken = bytes.len() - left.len();
                let message = format!(
                    "it took {taken} of {} bytes: whoever reads it does not go on",
                    bytes.len()
                );
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(_) => thread::sleep(Duration::from_millis(FILE_POLL_MS)),
        }
    }
    Ok(Written::InPlace)
}
