//! What the documents say can be done: the API description fits the running server, the commands in
//! the guides run, and every subcommand has help that answers.

use std::fs;
use std::process::{Command, Stdio};

use crate::support::installed::{python, repository};
use crate::support::server::Server;

/// The documents whose commands are run.
const GUIDES: [&str; 6] = [
    "README.md",
    "docs/operating.md",
    "docs/admin-api.md",
    "docs/tuning.md",
    "docs/client-guide.md",
    "tuning/README.md",
];

/// Commands that cannot run in a test: they need another machine, an installed service or container
/// engine, build for minutes, change this machine, or run until somebody ends them. What they are
/// about is tested elsewhere, by the real thing.
const NOT_RUN: [&str; 19] = [
    "cargo ",
    "scripts/",
    "target/release/",
    "npx ",
    "sudo ",
    "systemctl ",
    "systemd-",
    "docker ",
    "kubectl ",
    "ip ",
    "tidegate serve",
    "tidegate status --watch",
    "tidegate-load",
    "REDIS_URL=",
    "kill -HUP",
    "ulimit -n",
    "install ",
    "dpkg ",
    "tuning/irq ",
];

/// Commands that are refused unless a drain is under way: tests/shutdown/drain_control.rs and
/// tests/shutdown/drain_cli.rs give them one.
const STEER_A_DRAIN: [&str; 8] = [
    "shutdown/pause",
    "shutdown/resume",
    "shutdown/pace",
    "shutdown/cancel",
    "tidegate drain pause",
    "tidegate drain resume",
    "tidegate drain pace",
    "tidegate drain cancel",
];

#[test]
fn the_description_of_the_api_fits_the_server() {
    let server = Server::start(&["server.shards=2", "debug.fault_injection=true"]);
    let file = repository("docs/openapi.yaml");
    let admin = format!("http://{}", server.admin);
    let described = python("check_openapi.py", &[file.to_str().unwrap(), &admin]);
    let mut described: Vec<&str> = described.lines().collect();

    // The table of routes, which src/admin/route.rs keeps equal to what the server obeys.
    let table = fs::read_to_string(repository("src/admin/mod.rs")).unwrap();
    let mut routes: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("//! | ")?.split('|').map(str::trim);
            let method = cells.next()?.to_lowercase();
            let path = cells.next()?.strip_prefix("`/")?.strip_suffix('`')?;
            Some(format!("{method} /{path}"))
        })
        .collect();
    described.sort_unstable();
    routes.sort_unstable();
    assert!(routes.len() > 20, "{routes:?}");
    assert_eq!(described, routes, "docs/openapi.yaml and the routes");
}

/// The commands of the blocks that say that they are for a shell, continued lines joined, without
/// their comments.
fn commands(text: &str) -> Vec<String> {
    let (mut found, mut inside, mut open) = (Vec::new(), false, String::new());
    for line in text.lines() {
        // In a list blocks are indented.
        if let Some(kind) = line.trim_start().strip_prefix("```") {
            inside = kind == "sh";
        } else if inside && !line.trim_start().starts_with('#') && !line.trim().is_empty() {
            open.push_str(line);
            let quoted = open.matches('\'').count() % 2 == 1;
            match open.strip_suffix('\\').map(str::to_owned) {
                Some(more) => open = more,
                None if quoted || open.ends_with('|') => open.push('\n'),
                None => found.push(without_comment(&std::mem::take(&mut open))),
            }
        }
    }
    found
}

/// A comment begins with two spaces and a `#` here, so that one in quotes is left alone.
fn without_comment(line: &str) -> String {
    line.split("  #").next().unwrap_or_default().trim().to_owned()
}

#[test]
fn commands_are_found_as_they_are_written() {
    let text = "```sh\na 'b\nc' \\\n  d    # e\n# f\ng\n```\n```\nh\n```\n- i\n\n  ```sh\n  j\n  ```\n  k\n";
    assert_eq!(commands(text), ["a 'b\nc'   d", "g", "j"]);
}

/// Runs it with the binaries of this build in the path and the server's addresses for those of the
/// guides.
fn run(command: &str, server: &Server, directory: &std::path::Path) -> Result<(), String> {
    let command = command
        .replace("127.0.0.1:8080", &server.clients.to_string())
        .replace("127.0.0.1:8081", &server.admin.to_string())
        .replace("/etc/tidegate.toml", "tidegate.toml")
        .replace(" FILE", " tidegate.toml")
        // A status that is an error is one here, too.
        .replace("curl ", "curl -sSf ")
        .replace("tuning/", &format!("{}/", repository("tuning").display()));
    let binaries = repository("").join(env!("CARGO_BIN_EXE_tidegate"));
    let path =
        format!("{}:{}", binaries.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let script = format!("set -e\nADMIN=http://{}\nTOKEN=secret\n{command}\n", server.admin);
    let output = Command::new("timeout")
        .args(["20", "bash", "-c", &script])
        .current_dir(directory)
        .env("PATH", path)
        .env("TIDEGATE_ADMIN__LISTEN", server.admin.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("bash");
    // That so many are not held here is an answer, and so is that a setting is not as wanted.
    let answered = command.contains("doctor") || command.contains("--check");
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) if answered => Ok(()),
        code => Err(format!(
            "{command}: {code:?} {} {}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

#[test]
fn the_commands_in_the_guides_run() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("tidegate.toml"), "[server]\nshards = 1\n").unwrap();
    let (mut ran, mut failed) = (0, Vec::new());
    for guide in GUIDES {
        let text = fs::read_to_string(repository(guide)).unwrap();
        // Each guide may stop its server.
        let mut server = Server::start(&["server.shards=1", "debug.fault_injection=true"]);
        for command in commands(&text) {
            if NOT_RUN.iter().any(|beginning| command.starts_with(beginning))
                || STEER_A_DRAIN.iter().any(|part| command.contains(part))
            {
                continue;
            }
            let drains =
                command.contains("shutdown/shutdown") || command.starts_with("tidegate drain");
            let asks = command.contains("dry_run") || command.contains("--dry-run");
            let ends = (drains && !asks) || command.contains("panic");
            if let Err(why) = run(&command, &server, directory.path()) {
                failed.push(format!("{guide}: {why}"));
            }
            ran += 1;
            if ends {
                if command.contains("panic") {
                    server.expect_panic();
                }
                server.wait();
                server = Server::start(&["server.shards=1", "debug.fault_injection=true"]);
            }
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(ran > 40, "only {ran} commands were found");
}

#[test]
fn every_subcommand_has_help_with_what_it_is_for() {
    for words in [
        &[][..],
        &["serve"],
        &["doctor"],
        &["config"],
        &["config", "check"],
        &["config", "show"],
        &["healthcheck"],
        &["drain"],
        &["status"],
    ] {
        let mut help = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let output = help.args(words).arg("--help").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage:"), "{words:?}: {text}");
        let about = text.lines().next().unwrap_or_default();
        assert!(about.split_whitespace().count() > 3, "{words:?}: {about}");
    }
}
