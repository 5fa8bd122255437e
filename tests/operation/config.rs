//! What an operator meets in front of the server: `tidegate config`, refused configurations,
//! wrong usage, and the health check; all through the binary, with its exit codes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use tidegate::exit_code;

/// The binary in an environment that holds nothing but `variables`.
fn tidegate(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .expect("the binary starts")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> u8 {
    output.status.code().and_then(|code| u8::try_from(code).ok()).expect("an exit code")
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn name(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn config_alone_prints_the_default_file_which_passes_its_own_check() {
    let default = tidegate(&["config"], &[]);
    assert_eq!(code(&default), 0);
    assert_eq!(default.stdout, tidegate(&["config", "default"], &[]).stdout);

    let file = file(&out(&default));
    let check = tidegate(&["config", "check", name(file.path())], &[]);
    assert_eq!((code(&check), out(&check), err(&check)), (0, "ok\n".into(), String::new()));
}

#[test]
fn a_bad_value_is_refused_with_its_line_and_its_range() {
    let file = file("[server]\nshards = 2000\n");
    let path = name(file.path());
    let expected = format!(
        "file {path}:2: server.shards = 2000 is refused; allowed: 0 (one per available core), or \
         1 to 1024 shards\n\
         configuration refused: 1 error; `tidegate config default` explains every key\n"
    );
    for arguments in [
        &["config", "check", path][..],
        &["config", "show", "--config", path],
        &["serve", "--config", path],
    ] {
        let output = tidegate(arguments, &[]);
        assert_eq!((code(&output), err(&output)), (exit_code::CONFIG, expected.clone()));
        assert_eq!(out(&output), "");
    }
}

#[test]
fn every_source_is_reported_at_once() {
    let file = file("[shutdown]\nclose_code = 1006\n");
    let path = name(file.path());
    let output = tidegate(
        &["serve", "--config", path, "--shards", "-1", "--listen", "here", "--set", "a.b=c"],
        &[
            ("TIDEGATE_SERVER_LISTEN", "127.0.0.1:0"),
            ("SHUTDOWN_TIMEOUT_MS", "30000"),
            ("SHUTDOWN_GRACEFUL_TIMEOUT", "10"),
        ],
    );
    assert_eq!(code(&output), exit_code::CONFIG);
    let places: Vec<_> = err(&output)
        .lines()
        .map(|line| line.replace(path, "FILE").split_once(": ").unwrap().0.to_owned())
        .collect();
    assert_eq!(
        places,
        [
            "file FILE:2",
            "environment TIDEGATE_SERVER_LISTEN",
            "environment SHUTDOWN_GRACEFUL_TIMEOUT",
            "flag --listen",
            "flag --shards",
            "flag --set",
            "configuration refused"
        ]
    );
}

#[test]
fn a_check_repeats_the_warnings() {
    let file = file("[shutdown]\ndeadline_ms = 10_000\n");
    let variables = [("TIDEGATE_SERVER__PROXY_PROTOCOL", "accept")];
    let output = tidegate(&["config", "check", name(file.path())], &variables);
    assert_eq!((code(&output), out(&output)), (0, "ok\n".into()));
    assert_eq!(
        err(&output),
        "warning: shutdown.drain_ms = 15000 ms is longer than shutdown.deadline_ms and is cut to \
         10000 ms\n\
         warning: server.proxy_protocol is set but server.trusted_proxies is empty: a PROXY header \
         is a malformed request from everybody\n"
    );
}

#[test]
fn show_ends_with_what_each_use_of_the_memory_may_have() {
    let limit = "admission.max_memory_bytes=200000000";
    let arguments = ["config", "show", "--shards", "2", "--set", limit];
    let output = tidegate(&arguments, &[]);
    assert_eq!((code(&output), err(&output)), (0, String::new()));
    let text = out(&output);
    let memory = text.split("\n\n").last().unwrap();
    assert!(memory.starts_with("memory: 200000000 bytes may be used by a server"), "{memory}");
    let parts = memory
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap());
    assert!(parts.sum::<u64>() <= 200_000_000, "{memory}");
    assert!(memory.contains("server.max_unfinished_bytes = 268435456 is cut to "), "{memory}");
    let output = tidegate(&[&arguments[..], &["--json"]].concat(), &[]);
    let shown: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let memory = &shown["memory"];
    assert_eq!(memory["available_bytes"], 200_000_000);
    assert_eq!(memory["cut"]["handshake.max_pending"]["configured"], 65_536);
    assert!(memory["budgets"]["channels"].as_u64().unwrap() > 1_000_000, "{memory}");
}

#[test]
fn show_says_where_each_value_was_set() {
    let file = file("[server]\n\nbacklog = 100\n");
    let path = name(file.path());
    let arguments = ["--config", path, "--profile", "development", "--listen", "127.0.0.1:9000"];
    let more = ["--admin-listen", "127.0.0.1:9001", "--echo", "--set", "server.shards=3"];
    let arguments = [&["config", "show"][..], &arguments, &more].concat();
    let variables = [
        ("TIDEGATE_HANDSHAKE__TIMEOUT_MS", "777"),
        ("SHUTDOWN_GRACEFUL_TIMEOUT", "45"),
        ("TIDEGATE_ADMIN__TOKEN", "0123456789abcdef"),
    ];
    let output = tidegate(&arguments, &variables);
    assert_eq!((code(&output), err(&output)), (0, String::new()));
    let text = out(&output).replace(path, "FILE");
    for expected in [
        "server.listen 127.0.0.1:9000 flag --listen",
        "admin.listen 127.0.0.1:9001 flag --admin-listen",
        "admin.token (set) environment TIDEGATE_ADMIN__TOKEN",
        "server.echo true flag --echo",
        "server.shards 3 flag --set",
        "server.backlog 100 file FILE:3",
        "handshake.timeout_ms 777 environment TIDEGATE_HANDSHAKE__TIMEOUT_MS",
        "shutdown.deadline_ms 45000 environment SHUTDOWN_GRACEFUL_TIMEOUT",
        "admission.max_global_connections 100000 profile development",
        "keepalive.timeout_ms 10000 default",
    ] {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.lines().any(|line| words(line) == expected), "{expected} in\n{text}");
    }
    // The columns are aligned: every source begins at the same place.
    let column = |line: &str, word: &str| line.find(word);
    let line = |key: &str| text.lines().find(|line| line.starts_with(key)).unwrap();
    assert_eq!(
        column(line("server.echo "), "flag"),
        column(line("shutdown.deadline_ms"), "environment")
    );
}

#[test]
fn show_as_json_has_typed_values() {
    let variables =
        [("TIDEGATE_ADMIN__TOKEN", "0123456789abcdef"), ("REDIS_URL", "redis://:hunter2@r")];
    let output = tidegate(&["config", "show", "--json", "--shards", "4"], &variables);
    assert_eq!(code(&output), 0);
    assert!(!out(&output).contains("0123456789abcdef") && !out(&output).contains("hunter2"));
    let shown: serde_json::Value = serde_json::from_str(&out(&output)).unwrap();
    let values = &shown["values"];
    assert_eq!(values["server.shards"]["value"], 4);
    assert_eq!(values["server.shards"]["source"], "flag --shards");
    assert_eq!(values["server.listen"]["value"], "0.0.0.0:8080");
    assert_eq!(values["server.allowed_origins"]["value"], serde_json::json!([]));
    assert_eq!(values["admin.token"]["value"], "(set)");
    assert_eq!(values["redis.url"]["value"], "(set)");
    assert_eq!(shown["warnings"], serde_json::json!([]));
}

#[test]
fn wrong_usage_is_64_and_an_answer_is_0() {
    for arguments in [
        &[][..],
        &["--nope"],
        &["serve", "--nope"],
        &["serve", "extra"],
        &["serve", "--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2"],
        &["serve", "--set", "no-equals-sign"],
        &["config", "check"],
        &["config", "nope"],
        &["healthcheck", "--admin", "localhost:8081"],
    ] {
        let output = tidegate(arguments, &[]);
        assert_eq!(code(&output), exit_code::USAGE, "{arguments:?}");
        assert!(!err(&output).is_empty() && out(&output).is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["serve", "--help"], &["config", "--help"], &["help"]] {
        let output = tidegate(arguments, &[]);
        assert_eq!(code(&output), 0, "{arguments:?}");
        assert!(out(&output).contains("Usage:"), "{arguments:?}");
    }
    let version = tidegate(&["--version"], &[]);
    assert_eq!(code(&version), 0);
    assert_eq!(out(&version), format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_does_not_repeat_what_may_be_a_secret() {
    const SECRET: &str = "9f86d081884c7d659a2feaa0c55ad015";
    let assigned = format!("{SECRET}=1");
    for arguments in [
        &["serve", "--set", SECRET][..],
        &["serve", "--set", "admin.token", SECRET],
        &["serve", "--set", &assigned],
        &["serve", SECRET],
        &["config", "show", "--profile", SECRET],
        &["config", SECRET],
        &[SECRET],
    ] {
        let output = tidegate(arguments, &[]);
        assert!(matches!(code(&output), exit_code::USAGE | exit_code::CONFIG), "{arguments:?}");
        assert!(err(&output).contains("(32 characters, not shown)"), "{}", err(&output));
        assert!(!err(&output).contains(SECRET), "{}", err(&output));
    }
    for (arguments, said) in [
        (&["sttaus"][..], "unrecognized subcommand 'sttaus'"),
        (&["serve", "extra"], "unexpected argument 'extra'"),
        (&["drain", "--within", "5x"], "invalid value '5x'"),
    ] {
        let output = tidegate(arguments, &[]);
        assert!(err(&output).contains(said), "{}", err(&output));
    }
}

/// Answers one request with `answer` and gives back the request's head.
fn answering(listener: TcpListener, answer: &'static str) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(head).unwrap()
    })
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[test]
fn a_server_that_is_alive_is_healthy() {
    let (listener, address) = listener();
    let server = answering(listener, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let output = tidegate(&["healthcheck", "--admin", &address.to_string()], &[]);
    assert_eq!((code(&output), out(&output), err(&output)), (0, String::new(), String::new()));
    let head = server.join().unwrap();
    assert!(head.starts_with("GET /livez HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nhost: {address}\r\n")), "{head}");
}

#[test]
fn the_health_check_finds_the_admin_listener_in_the_configuration() {
    let (listener, address) = listener();
    let server = answering(listener, "HTTP/1.1 200 OK\r\n\r\n");
    // A wildcard is asked on loopback.
    let listen = format!("0.0.0.0:{}", address.port());
    let variables =
        [("TIDEGATE_ADMIN__LISTEN", &*listen), ("TIDEGATE_ADMIN__TOKEN", "0123456789abcdef")];
    let output = tidegate(&["healthcheck"], &variables);
    assert_eq!((code(&output), err(&output)), (0, String::new()));
    server.join().unwrap();
}

#[test]
fn a_server_that_is_not_alive_is_unhealthy_with_one_line_why() {
    let unhealthy = |address: &str| {
        let output = tidegate(&["healthcheck", "--admin", address], &[]);
        assert_eq!(code(&output), 1);
        assert_eq!(err(&output).lines().count(), 1);
        err(&output).replace(address, "ADDR")
    };

    let (failing, address) = listener();
    let server = answering(failing, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    assert_eq!(unhealthy(&address.to_string()), "http://ADDR/livez answered 503\n");
    server.join().unwrap();

    let (foreign, address) = listener();
    let server = answering(foreign, "SSH-2.0-OpenSSH\r\n");
    assert_eq!(unhealthy(&address.to_string()), "http://ADDR/livez: not an HTTP answer\n");
    server.join().unwrap();

    let (silent, address) = listener();
    assert_eq!(unhealthy(&address.to_string()), "http://ADDR/livez: no answer within 3 s\n");
    drop(silent);

    let refused = unhealthy(&address.to_string());
    assert!(refused.starts_with("http://ADDR/livez: Connection refused"), "{refused}");

    let output = tidegate(&["healthcheck"], &[("TIDEGATE_NOPE", "1"), ("TIDEGATE_NO", "1")]);
    assert_eq!((code(&output), err(&output).lines().count()), (1, 1));
}
