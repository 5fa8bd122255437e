//! A line of the log is a line that this server wrote: whatever comes from Redis, from hooks, from
//! file names or from clients, it begins no line of its own and does nothing to a terminal.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::redis::Redis;
use crate::support::server::command;
use crate::support::{PATIENCE, eventually};

/// What forges a line, moves a cursor, sets a title, or turns text around.
const EVIL: &str = "evil\n2026-01-01T00:00:00Z  INFO forged\r\x1b[2J\x1b]0;x\x07\u{9b}31m\u{7f}\
                    \u{202e}abc\u{2066}\u{2028}forged\u{85}\u{200b}";

/// A server whose log is read as bytes.
struct Logging {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Logging {
    fn start(settings: &[&str]) -> Self {
        let mut child = command(settings).stderr(Stdio::piped()).spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                let text = String::from_utf8(std::mem::take(&mut line)).unwrap();
                if sender.send(text.trim_end_matches('\n').to_owned()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    #[track_caller]
    fn wait_for(&mut self, part: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                panic!("no {part:?} in {:#?}", self.seen);
            });
            self.seen.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
    }

    fn end(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        self.child.wait().unwrap();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.seen.push(line);
        }
        std::mem::take(&mut self.seen)
    }
}

impl Drop for Logging {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Characters that are not for being seen.
fn is_harmful(c: char) -> bool {
    c.is_control() || "\u{2028}\u{2029}\u{200b}\u{202e}\u{2066}".contains(c)
}

#[track_caller]
fn is_its_own(lines: &[String]) {
    for line in lines {
        assert!(!line.contains(is_harmful), "{line:?}");
        assert!(!line.starts_with("2026-01-01") && !line.starts_with("forged"), "{line:?}");
    }
}

/// Another life takes the node's id, and says that it is called like this.
fn conflict(redis: &Redis) {
    let key = |name: &str| format!("{{tidegate:default}}:{name}");
    eventually("it is counted", || redis.ask(&["exists", &key("node:one")]).trim() == "1");
    redis.ask(&["set", &key("lease:one"), "9", "px", "60000"]);
    let fields = ["_life", "x", "_epoch", "9000", "host", EVIL, "pid", EVIL, "started_at", EVIL];
    redis.ask(&[&["hset", &key("node:one")], &fields[..]].concat());
}

#[test]
fn names_in_redis_forge_no_line() {
    for format in ["human", "json"] {
        let redis = Redis::start();
        let format = format!("log.format={format}");
        let settings = [
            "server.shards=1",
            "redis.node_id=one",
            "redis.flush_interval_ms=100",
            &redis.url(),
            &format,
        ];
        let mut server = Logging::start(&settings);
        server.wait_for("publications of this node go");
        conflict(&redis);
        let line = server.wait_for("two nodes use the same redis.node_id");
        assert!(line.contains("evil\\n2026-01-01"), "{line}");
        if format.ends_with("json") {
            let event: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(event["other_host"], EVIL, "it can still be read as it was");
        }
        is_its_own(&server.end());
    }
}

#[test]
fn last_words_of_hooks_and_names_of_files_forge_no_line() {
    for format in ["human", "json"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(EVIL.replace('/', "")).join("report.json");
        let words = directory.path().join("words");
        std::fs::write(&words, EVIL).unwrap();
        let hook = format!("cat {} >&2; exit 1", words.display());
        let hooks = json!([{ "name": "leave", "stage": "before", "command": ["sh", "-c", hook] }]);
        let settings = [
            "server.shards=1".to_owned(),
            "shutdown.notice_ms=10".to_owned(),
            format!("log.format={format}"),
            format!("shutdown.hooks={hooks}"),
            format!("shutdown.report_file={}", path.display()),
        ];
        let mut server = Logging::start(&settings.each_ref().map(String::as_str));
        server.wait_for("figures: curl");
        let lines = server.end();
        is_its_own(&lines);
        for said in ["closing failed", "could not be written"] {
            assert!(lines.iter().any(|line| line.contains(said)), "{said}: {lines:#?}");
        }
    }
}
