//! A server that cannot do its work does not start: it says within a second what was found and
//! which command fixes it, with an exit code that tells the causes apart.
//!
//! The sysctl kernel.io_uring_disabled is not tried here, because it is one for the whole
//! machine; a seccomp filter makes the kernel give the same answer (EPERM) to one process.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::seccomp::forbid_io_uring;
use crate::support::server::{Server, command};
use crate::support::wire::Client;
use tempfile::TempDir;

/// A second for the server, another for a machine that is busy with other tests.
const BOUND: Duration = Duration::from_secs(2);

/// Nobody: a user without capabilities, so that limits on users apply.
const NOBODY: u32 = 65_534;

const UNAVAILABLE: i32 = 69;
const USAGE: i32 = 64;
const CONFIG: i32 = 78;

/// Runs a command that must end by itself in time; returns its exit code and what it said.
#[track_caller]
fn refusal(mut command: Command) -> (Option<i32>, String) {
    let started = Instant::now();
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > BOUND {
            child.kill().unwrap();
            let output = child.wait_with_output().unwrap();
            panic!("still running: {}", String::from_utf8_lossy(&output.stderr));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// The exit code, and every part in what was said.
#[track_caller]
fn check(command: Command, code: i32, parts: &[&str]) {
    let (found, said) = refusal(command);
    assert_eq!(found, Some(code), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    assert!(!said.contains("panic"), "{said}");
}

#[test]
fn io_uring_that_seccomp_forbids_is_named_with_the_profile_to_change() {
    let mut forbidden = command(&[]);
    forbid_io_uring(&mut forbidden, libc::EPERM);
    check(
        forbidden,
        UNAVAILABLE,
        &["io_uring is not available", "not permitted", "seccomp profile", "Docker", "Fix:"],
    );
    let mut hidden = command(&[]);
    forbid_io_uring(&mut hidden, libc::ENOSYS);
    check(
        hidden,
        UNAVAILABLE,
        &["io_uring is not available", "ENOSYS", "CONFIG_IO_URING", "seccomp", "Fix:"],
    );
}

#[test]
fn the_filter_of_these_tests_forbids_nothing_else() {
    // Otherwise a refusal might have another cause than the one that the test is about.
    let mut help = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    help.arg("--version").stdout(Stdio::null());
    forbid_io_uring(&mut help, libc::EPERM);
    let (code, said) = refusal(help);
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

/// The server under limits that the shell sets (`ulimit` lines), as a user without capabilities
/// if there is a choice.
fn limited(limits: &str, settings: &[&str]) -> (Command, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let server = command(settings);
    let binary = copy(Path::new(server.get_program()), directory.path());
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &format!("{limits} && exec \"$0\" \"$@\"")])
        .arg(binary)
        .args(server.get_args())
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if rustix::process::getuid().is_root() {
        shell.uid(NOBODY).gid(NOBODY);
    }
    (shell, directory)
}

/// A copy that any user may run: the build may lie where only its owner can look.
fn copy(binary: &Path, directory: &Path) -> PathBuf {
    let copy = directory.join("tidegate");
    std::fs::copy(binary, &copy).unwrap();
    std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn too_little_locked_memory_is_named_with_what_is_needed() {
    let (server, _directory) = limited("ulimit -l 64", &["server.shards=2"]);
    check(
        server,
        UNAVAILABLE,
        &["RLIMIT_MEMLOCK is 64 KiB", "need about", "ulimit -l unlimited", "LimitMEMLOCK"],
    );
}

#[test]
fn too_few_descriptors_are_named_with_what_is_needed() {
    let (server, _directory) = limited("ulimit -n 64", &["server.shards=1"]);
    check(
        server,
        UNAVAILABLE,
        &["RLIMIT_NOFILE is 64", "at least", "ulimit -n 1048576", "LimitNOFILE=1048576"],
    );
}

#[test]
fn a_user_without_capabilities_can_serve() {
    let (server, _directory) = limited("ulimit -n 1024", &["server.shards=1"]);
    let mut server = Server::from_command(server);
    Client::connect(server.clients, "/echo").echo("as nobody");
    assert_eq!(server.drain().0, Some(0));
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    check(
        command(&["server.shards=2000", "shutdown.close_code=1006"]),
        CONFIG,
        &[
            "flag --set: server.shards = 2000 is refused",
            "allowed: 0 (one per available core), or 1 to 1024 shards",
            "shutdown.close_code = 1006 is refused",
            "configuration refused: 2 errors",
        ],
    );
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    check(command(&["server.shard=2"]), CONFIG, &["server.shard", "server.shards"]);
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    let mut unknown = command(&[]);
    unknown.arg("--port=8080");
    check(unknown, USAGE, &["--port"]);
}

#[test]
fn a_configuration_file_that_cannot_be_read_is_named() {
    let mut missing = command(&[]);
    missing.args(["--config", "/nonexistent/tidegate.toml"]);
    check(missing, CONFIG, &["/nonexistent/tidegate.toml", "No such file"]);

    let directory = tempfile::tempdir().unwrap();
    let mut is_directory = command(&[]);
    is_directory.arg("--config").arg(directory.path());
    check(is_directory, CONFIG, &[directory.path().to_str().unwrap()]);

    let file = directory.path().join("tidegate.toml");
    std::fs::write(&file, "[server\nshards = 1\n").unwrap();
    let mut broken = command(&[]);
    broken.arg("--config").arg(&file);
    check(broken, CONFIG, &["tidegate.toml"]);
}

#[test]
fn a_port_that_is_taken_is_named_with_how_to_find_who_has_it() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    for key in ["server.listen", "admin.listen"] {
        check(
            command(&[&format!("{key}={address}")]),
            UNAVAILABLE,
            &[
                &format!("cannot listen on {key} = {address}"),
                &format!("sport = :{}", address.port()),
                &format!("choose another port with {key}"),
            ],
        );
    }
}

#[test]
fn a_second_server_does_not_take_a_share_of_the_first_ones_clients() {
    let first = Server::start(&["server.shards=2"]);
    let setting = format!("server.listen={}", first.clients);
    check(
        command(&[&setting]),
        UNAVAILABLE,
        &["cannot listen on server.listen", "another process"],
    );
    for _ in 0..20 {
        Client::connect(first.clients, "/echo").echo("served by the first");
    }
}

#[test]
fn an_address_that_the_machine_does_not_have_is_named() {
    check(
        command(&["server.listen=192.0.2.1:8080"]),
        UNAVAILABLE,
        &["cannot listen on server.listen = 192.0.2.1:8080", "ip address"],
    );
}

/// Rule 6.
#[test]
fn an_admin_listener_that_others_can_reach_needs_a_token() {
    check(command(&["admin.listen=0.0.0.0:0"]), CONFIG, &["admin.listen", "admin.token"]);
}

/// Whichever key it is that asks for more than there is, the message names one that would fit.
#[test]
fn a_configuration_that_does_not_fit_into_the_memory_is_refused_with_what_would() {
    let long = [
        "server.max_message_bytes=268435456",
        "server.max_unfinished_bytes=1073741824",
        "server.max_total_queued_bytes=1073741824",
        "admission.max_memory_bytes=300000000",
    ];
    let needs = "server.shards = 2 with server.max_message_bytes = 268435456 needs at least";
    let fits = ["286 MiB may be used", "Fix: ", "server.max_message_bytes of at most"];
    check(
        command(&[&long[..], &["server.shards=2"]].concat()),
        CONFIG,
        &[&[needs], &fits[..]].concat(),
    );
    let many = ["server.shards=100", "admission.max_memory_bytes=100000000"];
    check(command(&many), CONFIG, &["server.shards of at most", "a memory limit of"]);
}
