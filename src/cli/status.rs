//! `tidegate status`: what a running server does, once or as it goes on.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use tidegate::sys::standard_stream::StandardStream;
use tidegate::{escape, exit_code};

use super::admin_client::{AdminClient, AdminOptions, Trouble};
use super::duration::shown;
use super::{print, print_json, say, unprinted};

/// How often a live view looks.
const LOOK: Duration = Duration::from_millis(500);

/// Shows the status once, or until the server ends.
pub(super) fn run(options: &AdminOptions, watch: bool, json: bool) -> ExitCode {
    let client = match AdminClient::find(options) {
        Ok(client) => client,
        Err(trouble) => return trouble.report(),
    };
    if watch {
        return match follow(&client, json, |_| false) {
            Ok(Followed::Ended | Followed::Until) => {
                say("the server has ended");
                ExitCode::SUCCESS
            }
            Ok(Followed::Unshown(why)) => why,
            Err(trouble) => trouble.report(),
        };
    }
    match look(&client) {
        Ok(status) if json => print_json(format_args!("{status:#}\n")),
        Ok(status) => print(&lines(&status)),
        Err(trouble) => trouble.report(),
    }
}

/// Both halves of the status: the shutdown, with `health` in it.
fn look(client: &AdminClient) -> Result<Value, Trouble> {
    let mut status = client.get("/api/v1/shutdown/status")?.body;
    status["health"] = client.get("/health/status")?.body;
    Ok(status)
}

/// How following a server came to its end.
pub(super) enum Followed {
    /// The server has ended.
    Ended,
    /// What was waited for has come.
    Until,
    /// Nothing can be shown any more: the exit code for that.
    Unshown(ExitCode),
}

/// Shows the status until the server has ended, or `until` says so of a status, or nobody reads
/// it any more.
///
/// # Errors
/// The server never answered, or answered with an error.
pub(super) fn follow(
    client: &AdminClient,
    json: bool,
    until: impl Fn(&Value) -> bool,
) -> Result<Followed, Trouble> {
    let mut view = View::new(json);
    let mut has_answered = false;
    loop {
        match look(client) {
            Ok(status) => {
                has_answered = true;
                if let Err(error) = view.show(&status) {
                    return Ok(Followed::Unshown(unshown(&error)));
                }
                if until(&status) {
                    return Ok(Followed::Until);
                }
            }
            Err(trouble) if has_answered && trouble.is_gone => return Ok(Followed::Ended),
            Err(trouble) => return Err(trouble),
        }
        // A reader that goes is noticed although nothing new is to be shown.
        if StandardStream::Output.wait_reader_gone(LOOK) {
            return Ok(Followed::Unshown(ExitCode::from(exit_code::READER_GONE)));
        }
    }
}

fn unshown(error: &io::Error) -> ExitCode {
    match error.kind() {
        io::ErrorKind::BrokenPipe => ExitCode::from(exit_code::READER_GONE),
        _ => unprinted(error),
    }
}

/// What is on the screen: on a terminal always the newest, elsewhere a line for each change.
struct View {
    json: bool,
    redraws: bool,
    height: usize,
    last: String,
}

impl View {
    fn new(json: bool) -> Self {
        let redraws = io::stdout().is_terminal() && !json;
        Self { json, redraws, height: 0, last: String::new() }
    }

    fn show(&mut self, status: &Value) -> io::Result<()> {
        let text = match (self.json, self.redraws) {
            (true, _) => escape::json(format_args!("{status}\n")).to_string(),
            (false, true) => escape::lines(lines(status)).to_string(),
            (false, false) => escape::lines(format_args!("{}\n", headline(status))).to_string(),
        };
        if text == self.last {
            return Ok(());
        }
        if self.redraws && self.height > 0 {
            // Up to the first line of what was shown, and all below it away.
            let up = format!("\x1b[{}A\x1b[J", self.height);
            StandardStream::Output.write_all(up.as_bytes())?;
        }
        StandardStream::Output.write_all(text.as_bytes())?;
        self.height = text.lines().count();
        self.last = text;
        Ok(())
    }
}

/// What the server is doing, in one line.
pub(super) fn headline(status: &Value) -> String {
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let phase = status["phase"].as_str().unwrap_or("unknown");
    if status["shutting_down"] != true {
        let connections = number(&status["health"]["backpressure"]["global_connections"]);
        return format!("{phase}: {connections} connections");
    }
    let cause = status["cause"].as_str().unwrap_or_default();
    let (all, left) =
        (number(&status["connections_at_start"]), number(&status["connections_left"]));
    let done = all.saturating_sub(left);
    let mut line = format!("{phase} ({cause})");
    if all > 0 {
        let percent = 100.0 * done as f64 / all as f64;
        line.push_str(&format!(": {done} of {all} gone ({percent:.1} %), {left} left"));
    }
    let progress = &status["progress"];
    if progress["paused"] == true {
        line.push_str(", PAUSED");
    } else if progress.is_object() {
        line.push_str(&format!(", {} per second", number(&progress["per_second"])));
        if let Some(eta_ms) = progress["eta_ms"].as_u64().filter(|ms| *ms > 0) {
            line.push_str(&format!(", about {} to go", shown(eta_ms)));
        }
    }
    line
}

/// Everything worth knowing, a few lines.
fn lines(status: &Value) -> String {
    let mut text = headline(status) + "\n";
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<12} {value}\n"));
    let health = &status["health"];
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let pressure = &health["backpressure"]["pressure"];
    let redis = &health["redis"];
    line(
        "redis",
        format!(
            "{}; {} connections on {}",
            redis["status"].as_str().unwrap_or("unknown"),
            number(&redis["concurrent_connections"]),
            match redis["nodes"].as_u64() {
                Some(1) => "1 node".to_owned(),
                Some(nodes) => format!("{nodes} nodes"),
                None => "this node".to_owned(),
            }
        ),
    );
    line(
        "admission",
        format!(
            "{} refused so far, load level {} of 5",
            number(&health["backpressure"]["connections_rejected"]),
            number(&pressure["level"]),
        ),
    );
    if status["shutting_down"] == true {
        let elapsed = number(&status["duration_ms"]);
        let deadline = number(&status["deadline_ms"]);
        let until = shown(deadline.saturating_sub(elapsed));
        line("since", format!("{} ({})", shown(elapsed), status["reason"].as_str().unwrap_or("")));
        line("deadline", format!("in {until}"));
    }
    if let Some(rate) = status["plan"]["connections_per_second"].as_u64() {
        line("pace", format!("{rate} per second"));
        let back = &status["plan"]["reconnect"];
        let to = back["to"].as_str().map(|to| format!(" at {to}")).unwrap_or_default();
        line("come back", format!("{} per second{to}", number(&back["per_second"])));
    }
    if let Some(warning) = status["plan"]["warning"].as_str() {
        line("warning", warning.to_owned());
    }
    for (name, count) in status["outcomes"].as_object().into_iter().flatten() {
        if number(count) > 0 {
            line(name, number(count).to_string());
        }
    }
    let cancelled = &status["cancelled"];
    if cancelled.is_object() {
        let stayed = number(&cancelled["outcomes"]["stayed"]);
        let all = number(&cancelled["connections_at_start"]);
        line("cancelled", format!("the last drain; {stayed} of {all} stayed"));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_line_says_how_far_a_drain_is() {
        let mut status = json!({
            "phase": "draining", "shutting_down": true, "cause": "deploy",
            "connections_at_start": 50_000, "connections_left": 34_400,
            "progress": { "per_second": 2_561, "eta_ms": 13_412, "paused": false },
        });
        assert_eq!(
            headline(&status),
            "draining (deploy): 15600 of 50000 gone (31.2 %), 34400 left, 2561 per second, about \
             13.4 s to go"
        );
        status["progress"]["paused"] = true.into();
        assert!(headline(&status).ends_with("34400 left, PAUSED"));
        status = json!({ "phase": "running", "shutting_down": false });
        assert_eq!(headline(&status), "running: 0 connections");
        assert!(lines(&json!({})).starts_with("unknown: 0 connections\n"), "of another version");
    }
}
