//! The command line does not trust whoever listens at the server's address: nothing that is
//! answered drives the terminal.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::support::server::Server;

/// Longer than any command waits.
const PATIENCE: Duration = Duration::from_secs(20);

/// Text with everything that a terminal may obey, or a reader be deceived by.
const HOSTILE: &str = "\u{1b}]0;title\u{7}\u{1b}[2J\u{9b}31m\u{7f}\r\u{8}\u{202e}\u{2028}x";

/// A listener that is not the server: it answers each request with what `answer` makes of it.
struct Impostor {
    address: SocketAddr,
}

impl Impostor {
    fn start(answer: impl Fn(&str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                converse(&mut stream.unwrap(), &answer);
            }
        });
        Self { address }
    }
}

/// Answers the requests of a connection until the client has had enough.
fn converse(stream: &mut TcpStream, answer: &impl Fn(&str) -> (u16, String)) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lines = head.lines();
        let length = lines.filter_map(|line| line.strip_prefix("content-length: ")).next();
        if body.len() < length.map_or(0, |length| length.parse().unwrap()) {
            continue;
        }
        bytes.clear();
        let (status, body) = answer(&text);
        let length = body.len();
        // A client that does not like it may be gone.
        let _ = write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n\r\n{body}");
        if head.to_ascii_lowercase().contains("connection: close") {
            return;
        }
    }
}

/// The binary with these arguments for this listener.
fn tidegate(arguments: &[&str], listener: SocketAddr, environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).args(["--admin", &listener.to_string()]);
    command.env_clear().envs(environment.iter().copied()).output().expect("the binary starts")
}

/// Everything that was printed.
fn printed(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr].concat()).unwrap()
}

#[track_caller]
fn is_harmless(output: &Output, what: &[&str]) {
    let text = printed(output);
    assert!(text.contains("title") || text.contains("not an answer"), "{what:?}: {text:?}");
    let obeyed: Vec<char> =
        text.chars().filter(|c| *c != '\n' && tidegate::escape::is_unsafe(*c)).collect();
    assert!(obeyed.is_empty(), "{what:?}: {obeyed:?} in {text:?}");
}

/// The text as a string in JSON that is allowed and does not escape what need not be escaped.
fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[test]
fn nothing_that_is_answered_drives_the_terminal() {
    let hostile = json(HOSTILE);
    let status = format!(
        r#"{{"phase":{hostile},"shutting_down":true,"cause":{hostile},"reason":{hostile},
            "connections":1,"connections_at_start":2,"connections_left":1,{hostile}:{hostile},
            "plan":{{"connections_per_second":1,"warning":{hostile},"reconnect":{{"to":{hostile}}}}},
            "outcomes":{{{hostile}:1}},"peers":{{"known":true,"assumed":{hostile},"warning":{hostile}}},
            "redis":{{"status":{hostile}}}}}"#
    );
    let error = format!(r#"{{"error":{{"message":{hostile}}}}}"#);
    let commands: [&[&str]; 8] = [
        &["status"],
        &["status", "--json"],
        &["drain", "--dry-run"],
        &["drain"],
        &["drain", "pause"],
        &["drain", "pace", "--rate", "3"],
        &["drain", "cancel"],
        &["drain", "now"],
    ];
    for (code, body) in
        [(200, &status), (202, &status), (400, &error), (401, &error), (503, &error)]
    {
        let said = body.clone();
        let impostor = Impostor::start(move |_| (code, said.clone()));
        for command in commands {
            let output = tidegate(command, impostor.address, &[]);
            // What became of a cancelled drain is all numbers.
            if command != ["drain", "cancel"] || code >= 400 {
                is_harmless(&output, command);
            }
            assert_eq!(output.status.success(), code < 400, "{command:?}: {}", printed(&output));
        }
    }
    // JSON stays JSON, and means the same.
    let said = status.clone();
    let impostor = Impostor::start(move |_| (200, said.clone()));
    let output = tidegate(&["status", "--json"], impostor.address, &[]);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(value["phase"], HOSTILE);
}

/// Nor what is no answer at all, or comes from the configuration and the environment.
#[test]
fn nothing_that_is_read_drives_the_terminal() {
    let said = HOSTILE.to_owned();
    let impostor = Impostor::start(move |_| (200, said.clone()));
    is_harmless(&tidegate(&["status"], impostor.address, &[]), &["no JSON"]);

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("tidegate.toml");
    let key = json(HOSTILE).replace('\u{9b}', "\\u009b").replace('\u{202e}', "\\u202e");
    let key = key.replace('\u{7f}', "\\u007f").replace('\u{2028}', "\\u2028");
    for text in [
        format!("[server]\n{key} = 1\n"),
        format!("[{key}]\na = 1\n"),
        format!("[server]\nlisten = {key}\n"),
        format!("[[shutdown.hooks]]\nname = {key}\ncommand = [\"true\"]\n"),
        format!("[server]\nsubprotocols = [{key}]\n"),
        "[server]\nlisten = \u{9b}31m\n".to_owned(),
    ] {
        std::fs::write(&file, &text).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = check.env_clear().args(["config", "check"]).arg(&file).output().unwrap();
        let printed = printed(&output);
        assert_eq!(output.status.code(), Some(78), "{printed}");
        let raw = printed.chars().find(|c| *c != '\n' && tidegate::escape::is_unsafe(*c));
        assert_eq!(raw, None, "{text}: {printed:?}");
    }
    let mut show = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    show.env_clear().env("TIDEGATE_SHUTDOWN__REPORT_FILE", format!("/tmp/{HOSTILE}"));
    let output = show.args(["config", "show"]).output().unwrap();
    is_harmless(&output, &["config show"]);
}

/// The load tool shows figures of whoever answers at `--admin`.
#[test]
fn nothing_that_a_server_counts_drives_the_terminal_of_the_load_tool() {
    let server = Server::start(&["server.shards=1"]);
    let label = HOSTILE.replace(['\r', '"'], "");
    let asked = AtomicU64::new(0);
    let impostor = Impostor::start(move |_| {
        let count = asked.fetch_add(1, Ordering::Relaxed);
        let line = format!("tidegate_admission_refused_total{{reason=\"{label}\"}} {count}");
        (200, format!("{line}\n# EOF\n"))
    });
    for form in [&[][..], &["--json"]] {
        let mut load = Command::new(env!("CARGO_BIN_EXE_tidegate-load"));
        load.args(["hold", &format!("ws://{}/ws", server.clients), "-n", "1", "--for", "10ms"]);
        load.args(["--admin", &format!("http://{}", impostor.address)]).args(form);
        is_harmless(&load.output().unwrap(), &["tidegate-load"]);
    }
}
