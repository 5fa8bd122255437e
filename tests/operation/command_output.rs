//! What a command prints reaches its reader whole, or the command ends and says why: a reader that
//! has had enough, a disk that is full, a pipe that takes a part at a time.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeWriter, Read, pipe};
use std::process::{Command, Stdio};

use crate::support::eventually;
use crate::support::leaving::{clients, status};
use crate::support::server::Server;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::fcntl_setpipe_size;

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// The exit code of a command whose standard output is `out`, which must end by itself.
#[track_caller]
fn exit_code(arguments: &[&str], admin: &str, out: impl Into<Stdio>) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_clear().env("TIDEGATE_ADMIN__LISTEN", admin);
    let mut child =
        command.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).spawn().unwrap();
    // Its copy of a pipe's end would keep that open.
    drop(command);
    eventually(&format!("{arguments:?} ends"), || child.try_wait().unwrap().is_some());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), text(&output.stderr))
}

/// A pipe of which one line is read, as `head -1` does.
fn head() -> (PipeWriter, std::thread::JoinHandle<String>) {
    let (reader, writer) = pipe().unwrap();
    let read = move || {
        let mut line = String::new();
        BufReader::new(reader).read_line(&mut line).unwrap();
        line
    };
    (writer, std::thread::spawn(read))
}

#[test]
fn what_goes_on_ends_when_its_reader_has_gone() {
    let server = Server::start(&["shutdown.notice_ms=20000", "shutdown.deadline_ms=60000"]);
    let _clients = clients(&server, 3);
    let admin = server.admin.to_string();
    for arguments in [
        &["status", "--watch"][..],
        &["status", "--watch", "--json"],
        // The last, because it begins a drain, which goes on.
        &["drain", "--wait"],
    ] {
        let (writer, line) = head();
        let (code, said) = exit_code(arguments, &admin, writer);
        assert_eq!((code, said.as_str()), (Some(141), ""), "{arguments:?}");
        assert!(!line.join().unwrap().is_empty());
    }
    assert_eq!(status(&server)["phase"], "refusing");
    server.signal(rustix::process::Signal::TERM);
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure_of_what_is_said_once() {
    let server = Server::start(&[]);
    let admin = server.admin.to_string();
    let once: [&[&str]; 6] = [
        &["status"],
        &["status", "--json"],
        &["config"],
        &["config", "show"],
        &["--help"],
        &["--version"],
    ];
    for arguments in once {
        let (reader, writer) = pipe().unwrap();
        drop(reader);
        assert_eq!(exit_code(arguments, &admin, writer), (Some(0), String::new()), "{arguments:?}");
        let (code, said) = exit_code(arguments, &admin, full());
        assert_eq!(code, Some(74), "{arguments:?}: {said}");
        assert!(said.contains("standard output: No space left"), "{arguments:?}: {said}");
    }
    for arguments in [&["status", "--watch"][..], &["drain", "--dry-run"], &["doctor"]] {
        assert_eq!(exit_code(arguments, &admin, full()).0, Some(74), "{arguments:?}");
    }
}

/// A pipe that another process has made non-blocking takes a part at a time.
#[test]
fn what_is_longer_than_a_non_blocking_pipe_is_written_whole() {
    let (mut reader, writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    fcntl_setpipe_size(&writer, 4_096).unwrap();
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        // Slower than it is written.
        std::thread::sleep(std::time::Duration::from_millis(200));
        reader.read_to_string(&mut text).unwrap();
        text
    });
    assert_eq!(exit_code(&["config", "default"], "127.0.0.1:1", writer).0, Some(0));
    let mut whole = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let whole = whole.args(["config", "default"]).env_clear().output().unwrap();
    assert!(whole.stdout.len() > 3 * 4_096, "it fits into the pipe");
    assert_eq!(read.join().unwrap(), text(&whole.stdout));
}

/// The report of a measurement is the measurement.
#[test]
fn a_report_of_the_load_tool_that_cannot_be_written_is_said() {
    let server = Server::start(&["server.shards=1"]);
    let url = format!("ws://{}/echo", server.clients);
    let run = |out: Stdio| {
        let mut load = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
        load.args(["hold", &url, "--connections", "3", "--for", "100ms"]);
        load.stdin(Stdio::null()).stdout(out).stderr(Stdio::piped());
        let output = load.output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    assert_eq!(run(writer.into()), (Some(0), String::new()), "had enough");
    let (code, said) = run(full().into());
    assert_eq!(code, Some(74), "{said}");
    assert!(said.contains("tidegate-load: standard output: No space left"), "{said}");
}
