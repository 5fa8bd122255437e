//! Paths that are not what a configuration expects of them: read within a bound or refused by
//! kind, written where they lead, and never waited for.

#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{TryRecvError, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use super::read::NotRead;
use super::text::NotText;
use super::write::Written;
use super::{Kind, read, text, within, write};
use crate::limits::FILE_SETTLED_MS;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

fn fifo(directory: &Path) -> PathBuf {
    let path = directory.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

fn save(path: &Path, bytes: &[u8]) -> io::Result<Written> {
    write::write(path, bytes, 0o640, Instant::now() + SHORT)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A device of this test's own where one can be made: code under test that replaced it would do no
/// harm.
fn device(directory: &Path, name: &str, minor: &str) -> PathBuf {
    let path = directory.join(name);
    let mut make = Command::new("mknod");
    make.arg(&path).args(["c", "1", minor]).stderr(std::process::Stdio::null());
    let made = make.status().is_ok_and(|status| status.success());
    match made && OpenOptions::new().write(true).open(&path).is_ok() {
        true => path,
        false => Path::new("/dev").join(name),
    }
}

/// Names in a directory, in order.
fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The file as if it had been left alone for long.
fn age(path: &Path) {
    let file = fs::File::options().append(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - LONG).unwrap();
}

#[test]
fn what_is_no_regular_file_is_refused_by_its_kind_and_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    for (path, kind) in [
        (fifo(directory.path()), Kind::Fifo),
        (socket, Kind::Socket),
        (directory.path().to_owned(), Kind::Directory),
        (PathBuf::from("/dev/full"), Kind::CharacterDevice),
        (PathBuf::from("/dev/null"), Kind::CharacterDevice),
    ] {
        for read in [read::regular(&path, 100), read::settled(&path, 100)] {
            let error = read.unwrap_err();
            assert!(matches!(&error, NotRead::Kind(found) if *found == kind), "{error:?}");
            assert!(error.to_string().contains("not a regular file"), "{error}");
        }
    }
    assert!(read::regular(Path::new("/nonexistent"), 100).unwrap_err().is_missing());
}

#[test]
fn a_file_is_read_to_its_bound_and_not_a_byte_further() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "12345").unwrap();
    age(&path);
    let patience = SHORT;
    assert_eq!(read::regular(&path, 5).unwrap(), b"12345");
    assert_eq!(read::settled(&path, 5).unwrap(), b"12345");
    assert_eq!(read::once(&path, 5, patience).unwrap(), (b"12345".to_vec(), Kind::Regular));
    assert!(matches!(read::regular(&path, 4), Err(NotRead::TooLong(4))));
    assert!(matches!(read::settled(&path, 4), Err(NotRead::TooLong(4))));
    assert!(matches!(read::once(&path, 4, patience), Err(NotRead::TooLong(4))));
    // One that has no end.
    let zeros = read::once(Path::new("/dev/zero"), 1 << 20, LONG);
    assert!(matches!(zeros, Err(NotRead::TooLong(_))));
    // Those of the kernel have no length.
    assert!(read::small_text("/proc/self/status").unwrap().contains("Name:"));
}

#[test]
fn what_is_read_once_may_be_a_pipe_that_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(directory.path());
    let lonely = read::once(&path, 100, SHORT).unwrap_err();
    assert!(matches!(lonely, NotRead::Unfinished(_)), "{lonely:?}");

    let late = path.clone();
    let writer = std::thread::spawn(move || {
        let mut pipe = OpenOptions::new().write(true).open(late).unwrap();
        pipe.write_all(b"one ").unwrap();
        std::thread::sleep(SHORT);
        pipe.write_all(b"two").unwrap();
    });
    assert_eq!(read::once(&path, 100, LONG).unwrap(), (b"one two".to_vec(), Kind::Fifo));
    writer.join().unwrap();
    let nothing = read::once(Path::new("/dev/null"), 100, SHORT).unwrap();
    assert_eq!(nothing, (Vec::new(), Kind::CharacterDevice));
}

#[test]
fn what_others_are_writing_is_read_when_they_have_finished() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    assert_eq!(read::settled(&path, 100).unwrap(), b"one");
    let left_alone = fs::metadata(&path).unwrap().modified().unwrap().elapsed().unwrap();
    assert!(left_alone >= Duration::from_millis(FILE_SETTLED_MS), "{left_alone:?}");

    // One that never comes to rest: its time stays that of now.
    let touch = |path: &Path| {
        let file = fs::File::options().append(true).open(path).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
    };
    touch(&path);
    let (sender, stop) = sync_channel::<()>(0);
    let touched = path.clone();
    let writer = std::thread::spawn(move || {
        while stop.try_recv() == Err(TryRecvError::Empty) {
            touch(&touched);
        }
    });
    // A machine that is busy may keep the writer from it for as long as looks like rest.
    let unsettled = (0..20).any(|_| matches!(read::settled(&path, 100), Err(NotRead::Unsettled)));
    drop(sender);
    writer.join().unwrap();
    assert!(unsettled);
}

#[test]
fn descriptors_are_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("/dev/stdin", &link).unwrap();
    for path in [Path::new("/dev/fd/63"), Path::new("/dev/stdin"), &link] {
        let read = read::settled(path, 100);
        assert!(matches!(read, Err(NotRead::Descriptor)), "{}: {read:?}", path.display());
    }
}

#[test]
fn encodings_are_named() {
    assert_eq!(text::decode(b"a\r\nb".to_vec()), Ok("a\r\nb".to_owned()));
    assert_eq!(text::decode(b"\xef\xbb\xbfa".to_vec()), Ok("a".to_owned()));
    for utf16 in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"a\0b\0", b"\0a\0b"] {
        assert_eq!(text::decode(utf16.to_vec()), Err(NotText::Utf16));
    }
    assert_eq!(text::decode(b"a\n\xe9".to_vec()), Err(NotText::Unknown(2)));
    assert_eq!(text::decode(Vec::new()), Ok(String::new()));
}

#[test]
fn a_regular_file_is_replaced_whole_and_nothing_is_left_beside_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("report.json");
    assert_eq!(save(&path, b"one").unwrap(), Written::Replaced);
    assert_eq!(mode(&path) & 0o137, 0, "others cannot read it");
    let reader = fs::File::open(&path).unwrap();
    assert_eq!(save(&path, b"two").unwrap(), Written::Replaced);
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(io::read_to_string(reader).unwrap(), "one", "a reader keeps what it opened");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    save(&path, b"three").unwrap();
    assert_eq!(mode(&path), 0o600, "never wider than it was");
    assert_eq!(names(directory.path()), ["report.json"]);

    let missing = directory.path().join("missing/report.json");
    let error = save(&missing, b"x").unwrap_err();
    assert!(error.to_string().contains("missing does not exist"), "{error}");
    let error = save(directory.path(), b"x").unwrap_err();
    assert!(error.to_string().contains("a directory"), "{error}");
}

#[test]
fn symbolic_links_stay_and_their_target_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    fs::create_dir(&data).unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    symlink("two", &one).unwrap();
    symlink("data/report", &two).unwrap();
    for text in ["a target that is not there yet", "and one that is"] {
        assert_eq!(save(&one, text.as_bytes()).unwrap(), Written::Replaced);
        assert_eq!(fs::read_to_string(data.join("report")).unwrap(), text);
    }
    assert!(one.is_symlink() && two.is_symlink());
    assert_eq!(names(&data), ["report"]);

    let circle = directory.path().join("circle");
    symlink("circle", &circle).unwrap();
    assert_eq!(save(&circle, b"x").unwrap_err().raw_os_error(), Some(libc::ELOOP));
}

/// As root, who alone can make links of others.
#[test]
fn a_link_that_a_stranger_has_put_where_everybody_can_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (shared, victim) = (directory.path().join("shared"), directory.path().join("victim"));
    fs::create_dir(&shared).unwrap();
    fs::write(&victim, "untouched").unwrap();
    let link = shared.join("report");
    symlink(&victim, &link).unwrap();
    if std::os::unix::fs::lchown(&link, Some(65_534), None).is_err() {
        eprintln!("not tested: only root can give a link away");
        return;
    }
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    let error = save(&link, b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("a symbolic link of user 65534"), "{error}");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
    // In a directory of their own, users may link as they like.
    fs::set_permissions(&shared, Permissions::from_mode(0o755)).unwrap();
    assert_eq!(save(&link, b"x").unwrap(), Written::Replaced);
}

#[test]
fn what_is_no_regular_file_is_written_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    let devices = tempfile::tempdir().unwrap();
    let null = device(devices.path(), "null", "3");
    symlink(&null, &link).unwrap();
    for path in [&null, &link] {
        assert_eq!(save(path, b"x").unwrap(), Written::InPlace);
    }
    assert!(!fs::metadata(&null).unwrap().is_file());
    let full = device(devices.path(), "full", "7");
    assert_eq!(save(&full, b"x").unwrap_err().raw_os_error(), Some(libc::ENOSPC));

    let fifo = fifo(directory.path());
    let error = save(&fifo, b"x").unwrap_err();
    assert!(error.to_string().contains("nobody reads"), "{error}");
    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    assert_eq!(save(&fifo, b"in place").unwrap(), Written::InPlace);
    let mut found = [0; 8];
    reader.read_exact(&mut found).unwrap();
    assert_eq!(&found, b"in place");
    let error = save(&fifo, &vec![0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
    assert_eq!(names(directory.path()), ["fifo", "link"]);
}

/// A descriptor leads to what is open, also when that is a regular file: a shell's `> file`.
#[test]
fn a_descriptor_of_a_regular_file_is_appended_to() {
    use std::os::fd::AsRawFd;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.log");
    let mut open = fs::File::create(&path).unwrap();
    open.write_all(b"before\n").unwrap();
    let descriptor = PathBuf::from(format!("/dev/fd/{}", open.as_raw_fd()));
    assert_eq!(save(&descriptor, b"report\n").unwrap(), Written::InPlace);
    assert_eq!(fs::read_to_string(&path).unwrap(), "before\nreport\n");
}

#[test]
fn what_hangs_is_left_to_itself() {
    let done = within("test", LONG, || 7).unwrap();
    assert_eq!(done, 7);
    let (_sender, receiver) = channel::<()>();
    let begun = Instant::now();
    let hung = within("test", SHORT, move || receiver.recv()).unwrap_err();
    assert_eq!(hung.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < LONG);
}
