//! Paths of an operator that lead to something else than a plain file: the report of a shutdown, the
//! configuration of a reload and the files of secrets, through the real binary. Nothing is
//! replaced that is no regular file, nothing is waited for, and what could not be done is said.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::server::{Server, command, text};
use crate::support::{eventually, http, wire};
use rustix::process::Signal;
use serde_json::{Value, json};

const RELOAD: &str = "/api/v1/config/reload";
const TOKEN: &str = "0123456789abcdef-not-a-real-one";

/// `serve` on one shard with its report at `path`.
fn reporting_to(path: &Path) -> Command {
    let report = format!("shutdown.report_file={}", path.display());
    command(&["server.shards=1", "shutdown.notice_ms=0", &report])
}

fn is_report(text: &[u8]) -> bool {
    let report: Result<Value, _> = serde_json::from_slice(text);
    report.is_ok_and(|report| report["reason"] == "SIGTERM" && report["exit_code"] == 0)
}

fn fifo(directory: &Path) -> PathBuf {
    let path = directory.join("fifo");
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    path
}

/// A device of this test's own that is like `/dev/NAME`, so that a server which replaces it does no
/// harm; without the right to make one the machine's, which such a server cannot replace then.
fn device(directory: &Path, name: &str) -> PathBuf {
    let minor = match name {
        "null" => "3",
        "zero" => "5",
        "full" => "7",
        _ => panic!("{name}"),
    };
    let path = directory.join(name);
    let mut make = Command::new("mknod");
    make.arg(&path).args(["c", "1", minor]).stderr(Stdio::null());
    let made = make.status().is_ok_and(|status| status.success());
    // A file system may be mounted without devices.
    match made && OpenOptions::new().write(true).open(&path).is_ok() {
        true => path,
        false => Path::new("/dev").join(name),
    }
}

/// As `/dev/stdout`, in a directory of this test's own.
fn standard_output(directory: &Path) -> PathBuf {
    let path = directory.join("stdout");
    symlink("/proc/self/fd/1", &path).unwrap();
    path
}

/// `program` with mounts that only it sees; `None`, with the reason on standard error, where they
/// cannot be made.
fn with_mounts(mounts: &str, program: &Command) -> Option<Command> {
    let unshare = ["--mount", "--propagation", "private"];
    let probe = Command::new("unshare").args(unshare).arg("true").stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("not tested: no mount namespace can be made here");
        return None;
    }
    let mut command = Command::new("unshare");
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.args(unshare).args(["sh", "-c", &format!("{mounts} && exec \"$0\" \"$@\"")]);
    command.arg(program.get_program()).args(program.get_args()).stdin(Stdio::null());
    Some(command)
}

fn drained(command: Command) -> (Server, Option<i32>) {
    let mut server = Server::from_command(command);
    let (code, _) = server.drain();
    (server, code)
}

#[test]
fn a_report_to_a_device_or_a_pipe_is_written_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let null = device(directory.path(), "null");
    assert_eq!(drained(reporting_to(&null)).1, Some(0));
    assert!(fs::metadata(&null).unwrap().file_type().is_char_device(), "it is what it was");

    let fifo = fifo(directory.path());
    let mut reader =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&fifo).unwrap();
    assert_eq!(drained(reporting_to(&fifo)).1, Some(0));
    let mut report = Vec::new();
    reader.read_to_end(&mut report).unwrap();
    assert!(is_report(&report), "{}", String::from_utf8_lossy(&report));

    let (mut reader, writer) = std::io::pipe().unwrap();
    let stdout = standard_output(directory.path());
    let mut command = reporting_to(&stdout);
    command.stdout(writer);
    assert_eq!(drained(command).1, Some(0));
    report.clear();
    reader.read_to_end(&mut report).unwrap();
    assert!(is_report(&report), "{}", String::from_utf8_lossy(&report));
    assert!(stdout.is_symlink());
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert!(names.len() <= 3, "nothing is left beside them: {names:?}");
}

/// What the shell has opened is one file, whatever its name leads to by now.
#[test]
fn a_report_to_standard_output_in_a_file_goes_behind_what_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.log");
    let mut out = File::create(&path).unwrap();
    out.write_all(b"before\n").unwrap();
    let mut command = reporting_to(&standard_output(directory.path()));
    command.stdout(out);
    assert_eq!(drained(command).1, Some(0));
    let found = fs::read(&path).unwrap();
    assert!(found.starts_with(b"before\n") && is_report(&found[7..]));
}

#[test]
fn a_link_to_the_report_stays_and_its_target_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let (data, link) = (directory.path().join("data"), directory.path().join("report.json"));
    fs::create_dir(&data).unwrap();
    symlink("data/report.json", &link).unwrap();
    // Where a temporary file of a name that can be guessed would go.
    let victim = directory.path().join("victim");
    fs::write(&victim, "untouched").unwrap();
    for place in [directory.path(), &data] {
        symlink(&victim, place.join("report.unfinished")).unwrap();
    }
    for _ in 0..2 {
        assert_eq!(drained(reporting_to(&link)).1, Some(0));
    }
    assert!(link.is_symlink());
    let target = data.join("report.json");
    assert!(is_report(&fs::read(&target).unwrap()));
    assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o037, 0, "for few to read");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched");
}

#[test]
fn a_report_that_is_mounted_by_itself_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let (outside, inside) = (directory.path().join("outside"), directory.path().join("inside"));
    fs::write(&outside, "x".repeat(100_000)).unwrap();
    fs::write(&inside, "").unwrap();
    let mount = format!("mount --bind {} {}", outside.display(), inside.display());
    let Some(command) = with_mounts(&mount, &reporting_to(&inside)) else { return };
    assert_eq!(drained(command).1, Some(0));
    assert!(is_report(&fs::read(&outside).unwrap()));
}

/// In a container whose root cannot be written a file is mounted by itself, and nothing can be made
/// beside it.
#[test]
fn a_report_in_a_directory_that_cannot_be_written_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let (outside, root) = (directory.path().join("outside"), directory.path().join("root"));
    fs::write(&outside, "").unwrap();
    fs::create_dir(&root).unwrap();
    let inside = root.join("report.json");
    fs::write(&inside, "").unwrap();
    let mounts = format!(
        "mount --bind {0} {0} && mount --bind {1} {2} && mount -o remount,bind,ro {0}",
        root.display(),
        outside.display(),
        inside.display()
    );
    let Some(command) = with_mounts(&mounts, &reporting_to(&inside)) else { return };
    assert_eq!(drained(command).1, Some(0));
    assert!(is_report(&fs::read(&outside).unwrap()));
}

#[test]
fn a_report_that_is_lost_is_an_error_in_the_log_and_in_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing/report.json");
    let unread = fifo(directory.path());
    for (path, said) in [
        (device(directory.path(), "full"), "No space left"),
        (missing, "does not exist"),
        (directory.path().to_owned(), "it is a directory"),
        (unread, "nobody reads"),
    ] {
        let (mut server, code) = drained(reporting_to(&path));
        let lost = server.wait_for_log("the report of the shutdown is lost");
        assert_eq!((code, text(&lost, "level")), (Some(73), "ERROR"), "{}", path.display());
        assert!(text(&lost, "error").contains(said), "{lost}");
        assert_eq!(lost["exit_code"], 73);
        // What is known at the start is said then.
        let warned = server.log().iter().any(|event| {
            let message = event["message"].as_str().unwrap_or_default();
            message.contains("the report of the shutdown cannot be written")
        });
        assert_eq!(warned, !path.ends_with("fifo") && !path.ends_with("full"));
    }
}

/// A pipe that is full and is not read takes nothing, for as long as nobody does.
#[test]
fn a_report_that_nobody_takes_holds_the_end_up_for_a_bounded_time() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = fifo(directory.path());
    let mut pipe = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&fifo)
        .unwrap();
    while pipe.write(&[0; 4096]).is_ok() {}
    let mut server = Server::from_command(reporting_to(&fifo));
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(Duration::from_secs(15)).code(), Some(73));
    let lost = server.wait_for_log("the report of the shutdown is lost");
    assert!(text(&lost, "error").contains("does not go on"), "{lost}");
}

#[test]
fn the_start_reads_the_last_report_only_where_it_has_an_end() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = fifo(directory.path());
    let huge = directory.path().join("huge");
    File::create(&huge).unwrap().set_len(1 << 40).unwrap();
    for path in [fifo, device(directory.path(), "zero"), huge] {
        let mut limited = Command::new("sh");
        // What it reads without a bound it does not get.
        limited.args(["-c", "ulimit -v 4000000; exec \"$0\" \"$@\""]).env_clear();
        let serve = reporting_to(&path);
        limited.arg(serve.get_program()).args(serve.get_args());
        let server = Server::from_command(limited);
        assert!(http::get(server.admin, "/livez").contains("alive"), "{}", path.display());
    }
}

/// A server with a configuration file, and what it may admit.
struct Configured {
    server: Server,
    directory: tempfile::TempDir,
}

fn configuration(most: u64) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nshards = 1\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [log]\nformat = \"json\"\n[admission]\nshed_load = false\nmax_global_connections = {most}\n"
    )
}

impl Configured {
    fn start(directory: tempfile::TempDir, path: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        command.arg("serve").arg("--config").arg(path).env_clear();
        Self { server: Server::from_command(command), directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("tidegate.toml")
    }

    fn most(&self) -> u64 {
        let settings = http::get(self.server.admin, "/api/v1/shutdown/config");
        let settings: Value = serde_json::from_str(&settings).unwrap();
        settings["settings"]["admission.max_global_connections"]["value"].as_u64().unwrap()
    }

    fn reload(&self) -> (u16, Value) {
        http::try_post(self.server.admin, RELOAD, &json!({}))
    }

    /// The reload is refused with this reason, and the limits stay.
    #[track_caller]
    fn refuses(&self, reason: &str, most: u64) {
        let (status, answer) = self.reload();
        assert_eq!(status, 422, "{answer}");
        assert!(answer["error"]["errors"][0].as_str().unwrap().contains(reason), "{answer}");
        assert_eq!(self.most(), most);
    }
}

#[test]
fn a_configuration_that_came_through_a_pipe_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, configuration(77)).unwrap();
    let script =
        format!("exec {} serve --config <(cat {})", env!("CARGO_BIN_EXE_tidegate"), file.display());
    let mut command = Command::new("bash");
    command.args(["-c", &script]).env_clear().env("PATH", "/usr/bin:/bin");
    let server = Server::from_command(command);
    let mut configured = Configured { server, directory };
    assert_eq!(configured.most(), 77);
    configured.server.signal(Signal::HUP);
    let refused = configured.server.wait_for_log("configuration refused: file /dev/fd/");
    assert!(text(&refused, "message").contains("it is read at the start only"), "{refused}");
    configured.server.wait_for_log("the limits stay as they were");
    configured.refuses("it is a descriptor", 77);
}

#[test]
fn a_file_that_is_empty_for_a_moment_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, configuration(77)).unwrap();
    let configured = Configured::start(directory, &file);
    for nothing in ["", "\n \n"] {
        fs::write(configured.file(), nothing).unwrap();
        configured.refuses("it is empty", 77);
    }
    fs::write(configured.file(), configuration(78)).unwrap();
    assert_eq!(configured.reload().0, 202);
    assert_eq!(configured.most(), 78);
    // Saying so is a way to have the defaults.
    fs::write(configured.file(), "# nothing\n").unwrap();
    assert_eq!(configured.reload().0, 202);
    assert_eq!(configured.most(), 10_000_000);
}

#[test]
fn a_file_that_is_being_written_is_read_when_it_is_whole() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, configuration(77)).unwrap();
    let configured = Configured::start(directory, &file);
    let mut writing = OpenOptions::new().append(true).open(&file).unwrap();
    let refused = std::thread::scope(|scope| {
        let (done, stop) = std::sync::mpsc::sync_channel::<()>(0);
        scope.spawn(move || {
            let going_on = || stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty);
            // Bounded, and as good as what is there already.
            for _ in 0..2_000_000 {
                if !going_on() {
                    break;
                }
                writing.write_all(b"#\n").unwrap();
            }
        });
        // A machine that is busy may keep the writer from it for as long as looks like rest.
        let answers = (0..20).map(|_| configured.reload());
        let refused = answers.into_iter().find(|(status, _)| *status == 422);
        drop(done);
        refused
    });
    let (_, answer) = refused.expect("a refusal while somebody writes");
    assert!(answer.to_string().contains("it is being written"), "{answer}");
    assert_eq!(configured.most(), 77);
    fs::write(&file, configuration(78)).unwrap();
    assert_eq!(configured.reload().0, 202, "no need to wait for it");
    assert_eq!(configured.most(), 78);
}

#[test]
fn a_file_that_is_replaced_by_an_editor_or_by_kubernetes_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (version, most) in [("..1", 77), ("..2", 78)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("tidegate.toml"), configuration(most)).unwrap();
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/tidegate.toml", at("tidegate.toml")).unwrap();
    let (next, data, edited) = (at("..data_tmp"), at("..data"), at("tidegate.toml~"));
    let path = at("tidegate.toml");
    let configured = Configured::start(directory, &path);
    assert_eq!(configured.most(), 77);
    symlink("..2", &next).unwrap();
    fs::rename(&next, &data).unwrap();
    assert_eq!(configured.reload().0, 202);
    assert_eq!(configured.most(), 78);
    fs::write(&edited, configuration(79)).unwrap();
    fs::rename(&edited, &path).unwrap();
    assert_eq!(configured.reload().0, 202);
    assert_eq!(configured.most(), 79);
}

/// The status of a request with this token.
fn status_with(server: &Server, token: &str) -> u16 {
    let request = format!(
        "GET /health/status HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\
         Authorization: Bearer {token}\r\n\r\n",
        server.admin
    );
    wire::exchange(server.admin, request.as_bytes()).unwrap().0.status
}

/// What `tidegate` says of this server in an environment that holds nothing but `variables`.
fn ask(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    command.output().expect("the binary starts")
}

#[test]
fn a_token_in_a_file_is_seen_by_nobody_and_becomes_another_at_a_reload() {
    const OTHER: &str = "another-token-of-some-length";
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let setting = format!("admin.token_file={}", file.display());
    let mut server = Server::start(&["server.shards=1", &setting]);
    for seen in ["cmdline", "environ"] {
        let process = format!("/proc/{}/{seen}", server.pid().as_raw_nonzero());
        let found = fs::read(process).unwrap();
        assert!(!String::from_utf8_lossy(&found).contains(TOKEN));
    }
    assert_eq!((status_with(&server, TOKEN), status_with(&server, OTHER)), (200, 401));
    fs::write(&file, format!("{OTHER}\n")).unwrap();
    server.signal(Signal::HUP);
    server.wait_for_log("limit changed: admin.token from (set) to (set)");
    eventually("the other token is asked for", || status_with(&server, OTHER) == 200);
    assert_eq!(status_with(&server, TOKEN), 401);
    // The commands read the same file.
    let address = server.admin.to_string();
    let variables = [("TIDEGATE_ADMIN__TOKEN_FILE", file.to_str().unwrap())];
    let status = ask(&["status", "--admin", &address], &variables);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let status = ask(&["status", "--admin", &address], &[]);
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(!status.status.success() && said.contains("TIDEGATE_ADMIN__TOKEN_FILE"), "{said}");

    // One that cannot be read changes nothing.
    fs::remove_file(&file).unwrap();
    server.signal(Signal::HUP);
    server.wait_for_log("configuration refused: flag --set: admin.token_file");
    assert_eq!(status_with(&server, OTHER), 200);
    assert!(server.log().iter().all(|event| !event.to_string().contains(OTHER)));
}

#[test]
fn a_token_on_the_command_line_is_warned_of() {
    let token = format!("admin.token={TOKEN}");
    let mut server = Server::start(&["server.shards=1", &token]);
    let warned = server.wait_for_log("admin.token is on the command line");
    assert!(text(&warned, "message").contains("admin.token_file"), "{warned}");
}

/// `status`, `drain` and `healthcheck` find a server of the package; `serve` takes nothing from
/// there that it was not told to take.
#[test]
fn commands_look_where_the_package_puts_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    fs::write(&token, TOKEN).unwrap();
    let setting = format!("admin.token_file={}", token.display());
    let server = Server::start(&["server.shards=1", &setting]);
    let installed = directory.path().join("tidegate.toml");
    let text =
        format!("[admin]\nlisten = \"{}\"\ntoken_file = \"{}\"\n", server.admin, token.display());
    fs::write(&installed, text).unwrap();
    let mounts = format!(
        "mount -t tmpfs none /etc && mkdir /etc/tidegate && cp {} /etc/tidegate/",
        installed.display()
    );
    let run = |arguments: &[&str]| -> Option<Output> {
        let mut program = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        program.args(arguments);
        Some(with_mounts(&mounts, &program)?.output().unwrap())
    };
    let Some(status) = run(&["status"]) else { return };
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.success(), "{said}");
    assert!(run(&["healthcheck"]).unwrap().status.success());
    let shown = run(&["config", "show"]).unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("127.0.0.1:8081") && !shown.contains("/etc/tidegate"), "{shown}");
    // Who may not read the token may still ask whether the server is alive.
    fs::remove_file(&token).unwrap();
    assert!(run(&["healthcheck"]).unwrap().status.success());
    let status = run(&["status"]).unwrap();
    let said = String::from_utf8_lossy(&status.stderr).into_owned();
    assert_eq!(status.status.code(), Some(78));
    assert!(said.contains("file /etc/tidegate/tidegate.toml:3: admin.token_file"), "{said}");
}
