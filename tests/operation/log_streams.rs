//! Whatever becomes of the standard streams, the server serves, tells its clients that it ends, and
//! ends in its time: the log costs lines, which are counted, and nothing else.

use crate::support;
use std::fs::File;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::crowd::crowd;
use crate::support::server::Server;
use crate::support::silent::{Silent, silent};
use crate::support::wire::{CLOSE, Client, FIN, close_payload, frame};
use crate::support::{alone, eventually, http};
use rustix::fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open};
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::{Value, json};

/// What a standard stream can be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed,
    Full,
    Broken,
    Blocked,
    NonBlocking,
    StoppedTerminal,
}

const STATES: [State; 6] = [
    State::Closed,
    State::Full,
    State::Broken,
    State::Blocked,
    State::NonBlocking,
    State::StoppedTerminal,
];

/// The other ends, kept open.
#[derive(Default)]
struct OtherEnds {
    kept: Vec<OwnedFd>,
}

/// The writing end of a pipe that is full, whose other end is kept and never read.
fn full_pipe(is_blocking: bool, other_ends: &mut OtherEnds) -> OwnedFd {
    let (reader, mut writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    // Whole pages first, and then what is left of the last.
    for chunk in [4_096, 1] {
        while writer.write(&vec![b'\n'; chunk]).is_ok() {}
    }
    if is_blocking {
        fcntl_setfl(&writer, flags).unwrap();
    }
    other_ends.kept.push(reader.into());
    writer.into()
}

/// A terminal on which somebody has pressed ^S.
fn stopped_terminal(other_ends: &mut OtherEnds) -> OwnedFd {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    let mut master = File::from(master);
    master.write_all(b"\x13").unwrap();
    other_ends.kept.push(master.into());
    terminal
}

/// Gives `command` standard input, output and error that are like this.
fn give(command: &mut Command, state: State) -> OtherEnds {
    let mut other_ends = OtherEnds::default();
    let (broken_reader, _) = pipe().unwrap();
    let both = |command: &mut Command, out: OwnedFd| {
        command.stdout(Stdio::from(out.try_clone().unwrap())).stderr(Stdio::from(out));
    };
    match state {
        // Rust's own Command cannot; `closed` does.
        State::Closed => {}
        State::Full => {
            let full = || File::options().write(true).open("/dev/full").unwrap();
            command.stdin(broken_reader).stdout(full()).stderr(full());
        }
        State::Broken => {
            let (reader, writer) = pipe().unwrap();
            drop(reader);
            command.stdin(broken_reader);
            both(command, writer.into());
        }
        State::Blocked | State::NonBlocking => {
            let (silent, writer) = pipe().unwrap();
            command.stdin(silent);
            other_ends.kept.push(writer.into());
            both(command, full_pipe(state == State::Blocked, &mut other_ends));
        }
        State::StoppedTerminal => {
            let terminal = stopped_terminal(&mut other_ends);
            command.stdin(terminal.try_clone().unwrap());
            both(command, terminal);
        }
    }
    other_ends
}

/// The same command with these streams closed (`0<&- 1>&-`).
fn closed(command: &Command, streams: &str) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec \"$0\" \"$@\" {streams}")]);
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

const CLIENTS: usize = 1_000;

const DEADLINE: Duration = Duration::from_secs(8);

/// The times of a drain that is over well before its deadline.
const TIMES: [&str; 4] = [
    "shutdown.deadline_ms=8000",
    "shutdown.notice_ms=100",
    "shutdown.drain_ms=4000",
    "shutdown.close_timeout_ms=3000",
];

fn lost(admin: std::net::SocketAddr) -> u64 {
    let page = http::get(admin, "/metrics");
    let lines = page.lines().filter(|line| line.starts_with("tidegate_log_lines_dropped_total{"));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

fn publish(admin: std::net::SocketAddr, times: usize) {
    for _ in 0..times {
        http::post(admin, "/api/publish", &json!({ "channel": "news", "data": "x" }));
    }
}

/// Everybody is told, answers and leaves.
fn leave(clients: &mut [Client]) {
    for client in clients {
        let notice: Value = serde_json::from_str(client.frame().text()).unwrap();
        assert_eq!(notice["type"], "server.shutdown");
        assert!(client.frame().text().contains("\"bye\":true"));
        assert_eq!(client.frame().close_code(), Some(1001));
        client.send(&frame(FIN | CLOSE, &close_payload(1001, "")));
    }
}

/// A thousand clients, then 350 publications, then a drain.
fn drains(state: State, level: &str, log_format: &str) {
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let settings = [
        "server.shards=2".to_owned(),
        format!("log.format={log_format}"),
        format!("shutdown.report_file={}", report.display()),
    ];
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    settings.extend(TIMES);
    let mut command = silent(&settings);
    command.env("RUST_LOG", level);
    let _other_ends = give(&mut command, state);
    if state == State::Closed {
        command = closed(&command, "0<&- 1>&- 2>&-");
    }
    let mut server = Silent::start(command);
    let mut clients = crowd(server.clients, vec!["/ws?channel=other"; CLIENTS]);
    publish(server.admin, 350);
    if matches!(state, State::Full | State::Broken) {
        eventually("lines that cannot be written are counted", || lost(server.admin) > 0);
    }
    server.signal(Signal::TERM);
    let signalled = Instant::now();
    leave(&mut clients);
    let code = server.wait_at_most(DEADLINE + Duration::from_secs(2)).code();
    assert_eq!(code, Some(0), "{state:?} {level}: after {:?}", signalled.elapsed());
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["outcomes"]["close_acknowledged"], CLIENTS, "{report}");
    // What is closed is /dev/null, which takes everything.
    let lost = report["log_lines_lost"].as_u64().unwrap_or(0);
    assert_eq!(lost > 0, state != State::Closed, "{state:?} {level}: {report}");
}

#[test]
fn a_thousand_clients_are_told_and_leave_in_time_whatever_the_streams_are_like() {
    let _alone = alone();
    for state in STATES {
        drains(state, "info", "json");
    }
}

#[test]
fn at_debug_level_no_shard_waits_for_the_log_either() {
    let _alone = alone();
    for state in STATES {
        drains(state, "debug", "human");
    }
}

#[test]
fn one_stream_that_is_closed_is_no_socket_of_the_server() {
    for streams in ["0<&-", "1>&-", "2>&-"] {
        let command = closed(&silent(&TIMES), streams);
        let mut server = Silent::start(command);
        for descriptor in 0..3 {
            let link = std::fs::read_link(format!("/proc/{}/fd/{descriptor}", server.pid()));
            let name = link.unwrap().display().to_string();
            assert!(!name.contains("socket") && !name.contains("anon_inode"), "{streams}: {name}");
        }
        let mut client = Client::connect(server.clients, "/echo");
        client.echo("one of three is closed");
        server.signal(Signal::TERM);
        leave(std::slice::from_mut(&mut client));
        assert_eq!(server.wait_at_most(DEADLINE).code(), Some(0));
    }
}

/// Reads a log that was not read for a while, to its end.
fn read_lines(mut reader: PipeReader) -> Vec<Value> {
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// S3.3: at the end every line has been written, or is mentioned as lost.
#[test]
fn a_reader_that_comes_back_is_told_how_many_lines_it_missed() {
    let (reader, writer) = pipe().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let report = directory.path().join("report.json");
    let report_file = format!("shutdown.report_file={}", report.display());
    let mut command = silent(&[&TIMES[..], &[&report_file]].concat());
    command.env("RUST_LOG", "tidegate=debug").stderr(writer);
    let mut server = Silent::start(command);
    // The command holds the writing end too.
    let mut publications = 0;
    while lost(server.admin) == 0 {
        publish(server.admin, 500);
        publications += 500;
        assert!(publications < 20_000, "nothing is lost");
    }
    let (reading, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || reading.send(read_lines(reader)));
    let mut lost_before = lost(server.admin);
    eventually("the writer has caught up", || {
        publish(server.admin, 1);
        let lost = lost(server.admin);
        std::mem::replace(&mut lost_before, lost) == lost
    });
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(DEADLINE).code(), Some(0));
    let lines = lines.recv_timeout(support::PATIENCE).unwrap();
    let mentioned = lines.iter().filter_map(|line| line["lost"].as_u64()).sum::<u64>();
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["log_lines_lost"], mentioned, "every lost line is mentioned once");
    let last = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(last.starts_with("Graceful shutdown completed"), "{last}");
}

/// Panics that nobody can read of: the process ends in order all the same.
#[test]
fn a_panic_is_survived_although_it_cannot_be_logged() {
    for state in [State::Full, State::Broken, State::Blocked, State::NonBlocking] {
        for log_format in ["json", "human"] {
            let format = format!("log.format={log_format}");
            let mut settings = vec!["server.shards=2", "debug.fault_injection=true", &format];
            settings.extend(TIMES);
            let mut command = silent(&settings);
            let _other_ends = give(&mut command, state);
            let mut server = Silent::start(command);
            let fault = json!({ "shard": 0, "fault": "panic" });
            http::post(server.admin, "/api/v1/debug/fault", &fault);
            let code = server.wait_at_most(DEADLINE).code();
            assert_eq!(code, Some(1), "{state:?} {log_format}");
        }
    }
}

/// RLIMIT_FSIZE, whose signal ends a process that writes on.
#[test]
fn a_log_file_that_may_not_grow_costs_lines_and_not_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let log = File::create(directory.path().join("log")).unwrap();
    let server = silent(&TIMES);
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "ulimit -f 1 && exec \"$0\" \"$@\""]);
    command.arg(server.get_program()).args(server.get_args()).env_clear();
    command.env("RUST_LOG", "debug").stdout(Stdio::null()).stderr(log);
    let mut server = Silent::start(command);
    publish(server.admin, 50);
    eventually("lines above the limit are counted", || lost(server.admin) > 0);
    Client::connect(server.clients, "/echo").echo("the log is full");
    server.signal(Signal::TERM);
    assert_eq!(server.wait_at_most(DEADLINE).code(), Some(0));
}

/// A start that is refused says why, if only the log takes it; it never waits for that.
#[test]
fn a_refused_start_ends_although_its_reason_cannot_be_logged() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let setting = format!("server.listen={}", taken.local_addr().unwrap());
    for state in [State::Full, State::Broken, State::Blocked, State::StoppedTerminal] {
        let mut command = silent(&[&setting]);
        let _other_ends = give(&mut command, state);
        let mut child = command.spawn().unwrap();
        let mut code = None;
        eventually("the start is refused", || {
            code = child.try_wait().unwrap();
            code.is_some()
        });
        assert_eq!(code.unwrap().code(), Some(69), "{state:?}");
    }
}

/// A publication is traffic, and so is a question; an operator's doing is a line.
#[test]
fn publications_are_no_lines_at_info() {
    let mut server = Server::start(&[]);
    publish(server.admin, 20);
    http::post(server.admin, "/api/info", &json!({}));
    http::post(server.admin, "/api/v1/config/reload", &json!({}));
    let request = server.wait_for_log("admin request");
    assert_eq!(request["path"], "/api/v1/config/reload", "{request}");
    let published = support::figures::metric(&server, "tidegate_publications_total");
    assert!(published >= 20, "they are in the figures: {published}");
}
