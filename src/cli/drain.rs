//! `tidegate drain`: a running server is to let its clients go; and what can be wanted of that
//! while it goes on.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::admin_client::{AdminClient, AdminOptions, Trouble};
use super::duration::{milliseconds, shown};
use super::status::Followed;
use super::{print, say, status};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  tidegate drain --within 60s --cause deploy
  tidegate drain --within 60s --dry-run
  tidegate drain --rate 500 --reconnect-to wss://b.example/ws --wait
  tidegate drain pause
  tidegate drain pace --rate 200
  tidegate drain cancel

Exit codes: 0 done, 1 the server said no or does not answer, 64 wrong usage, 78 configuration
refused. With --wait: 0 when the server has ended, 1 when the drain was cancelled, 141 when the
reader of what is shown has gone; the drain goes on."
)]
pub(super) struct DrainArguments {
    #[command(subcommand)]
    command: Option<DrainCommand>,
    #[command(flatten)]
    options: DrainOptions,
    #[command(flatten)]
    admin: AdminOptions,
}

#[derive(Debug, Args)]
struct DrainOptions {
    #[command(flatten)]
    pace: PaceOptions,
    /// Where clients are told to come back [default: where they came from]
    #[arg(long, value_name = "URL")]
    reconnect_to: Option<String>,
    /// What it is for; each cause has a profile in the configuration
    #[arg(long, value_parser = ["deploy", "scale-in", "emergency", "operator"])]
    cause: Option<String>,
    /// Say what would happen, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Show how it goes until the server has ended
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct PaceOptions {
    /// Tell everybody to go within this time, evenly (500ms, 20s, 2m, 1h)
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    within: Option<u64>,
    /// Tell so many a second to go
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum DrainCommand {
    /// Tell nobody more to go for now
    Pause,
    /// Go on after a pause
    Resume,
    /// Another pace from now on
    Pace(NewPace),
    /// The server stays: clients that are left are told so, and new ones let in again
    Cancel,
    /// Cut what is left and end the server at once
    Now,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct NewPace {
    /// Tell everybody who is left to go within this time, evenly (500ms, 20s, 2m, 1h)
    #[arg(long, value_name = "TIME", value_parser = milliseconds)]
    within: Option<u64>,
    /// Tell so many a second to go
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

/// The part of a request that says how fast.
fn pace(within_ms: Option<u64>, per_second: Option<u64>) -> Value {
    match (within_ms, per_second) {
        (Some(ms), _) => json!({ "within_ms": ms }),
        (_, Some(rate)) => json!({ "connections_per_second": rate }),
        _ => json!({}),
    }
}

/// Does what the arguments say.
pub(super) fn run(arguments: &DrainArguments) -> ExitCode {
    let done = AdminClient::find(&arguments.admin).and_then(|client| match &arguments.command {
        None => begin(&client, &arguments.options),
        Some(command) => steer(&client, command),
    });
    done.unwrap_or_else(|trouble| trouble.report())
}

fn begin(client: &AdminClient, options: &DrainOptions) -> Result<ExitCode, Trouble> {
    let mut body = pace(options.pace.within, options.pace.rate);
    if let Some(cause) = &options.cause {
        body["cause"] = cause.as_str().into();
    }
    if let Some(address) = &options.reconnect_to {
        body["reconnect_to"] = address.as_str().into();
    }
    if options.dry_run {
        body["dry_run"] = true.into();
    }
    let answer = client.post("/api/v1/shutdown/shutdown", &body)?;
    if options.dry_run {
        return Ok(print(&foreseen(&answer.body)));
    }
    if answer.status == 200 {
        say("a shutdown is under way already; it goes on as it was begun");
    }
    let shown = print(&begun(&answer.body));
    if !options.wait || shown != ExitCode::SUCCESS {
        return Ok(shown);
    }
    let is_cancelled = |status: &Value| status["shutting_down"] == false;
    Ok(match status::follow(client, false, is_cancelled)? {
        Followed::Ended => {
            say("the server has ended");
            ExitCode::SUCCESS
        }
        Followed::Until => super::fail(tidegate::exit_code::PANICKED, "the drain was cancelled"),
        Followed::Unshown(why) => why,
    })
}

fn steer(client: &AdminClient, command: &DrainCommand) -> Result<ExitCode, Trouble> {
    let nothing = json!({});
    let answer = match command {
        DrainCommand::Pause => client.post("/api/v1/shutdown/pause", &nothing)?,
        DrainCommand::Resume => client.post("/api/v1/shutdown/resume", &nothing)?,
        DrainCommand::Cancel => client.post("/api/v1/shutdown/cancel", &nothing)?,
        DrainCommand::Pace(NewPace { within, rate }) => {
            client.post("/api/v1/shutdown/pace", &pace(*within, *rate))?
        }
        DrainCommand::Now => client.ask("DELETE", "/api/v1/shutdown/shutdown", "")?,
    };
    let mut state = answer.body;
    state["shutting_down"] = (state["phase"] != "running").into();
    let unchanged = if answer.status == 200 { "nothing changed: " } else { "" };
    Ok(match command {
        DrainCommand::Cancel => print(&stays(&state)),
        _ => print(&format!("{unchanged}{}\n{}", status::headline(&state), warning(&state))),
    })
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn warning(state: &Value) -> String {
    let warning = state["plan"]["warning"].as_str();
    warning.map(|warning| format!("warning: {warning}\n")).unwrap_or_default()
}

/// What was begun.
fn begun(state: &Value) -> String {
    let plan = &state["plan"];
    format!(
        "draining at {} connections per second, all told in about {}; the process ends within \
         {}\n{}{}watch it: tidegate status --watch; change it: tidegate drain --help\n",
        number(&plan["connections_per_second"]),
        shown(number(&plan["estimated_ms"])),
        shown(number(&state["deadline_ms"])),
        coming_back(plan),
        warning(state),
    )
}

fn coming_back(plan: &Value) -> String {
    let back = &plan["reconnect"];
    let to = back["to"].as_str().map(|to| format!(" at {to}")).unwrap_or_default();
    format!(
        "clients come back{to} at {} per second, the last {} after its Close\n",
        number(&back["per_second"]),
        shown(number(&back["last_after_ms"])),
    )
}

/// What would happen.
fn foreseen(answer: &Value) -> String {
    let plan = &answer["plan"];
    let peers = &answer["peers"];
    let pressure = if peers["known"] == true {
        format!(
            "{} other nodes admit {} per second: this asks {:.0} % of it ({})\n",
            number(&peers["nodes"]),
            number(&peers["admission_per_second"]),
            100.0 * peers["share"].as_f64().unwrap_or(0.0),
            peers["assumed"].as_str().unwrap_or_default(),
        )
    } else {
        let why = peers["why"].as_str().unwrap_or("it did not say why");
        format!("what that asks of other nodes is not known: {why}\n")
    };
    let peers_warning = peers["warning"].as_str().map(|text| format!("warning: {text}\n"));
    format!(
        "dry run, nothing is changed\n{} connections at {} per second (cause {}): all told in \
         about {}, {} is needed to be in time; the process ends within {}\nclose code {}, reason \
         {}\n{}{pressure}{}{}",
        number(&answer["connections"]),
        number(&plan["connections_per_second"]),
        answer["cause"].as_str().unwrap_or_default(),
        shown(number(&plan["estimated_ms"])),
        number(&plan["needed_per_second"]),
        shown(number(&answer["deadline_ms"])),
        number(&answer["close_code"]),
        answer["reason"],
        coming_back(plan),
        warning(answer),
        peers_warning.unwrap_or_default(),
    )
}

/// What a cancelled drain leaves.
fn stays(state: &Value) -> String {
    let cancelled = &state["cancelled"];
    let at_start = number(&cancelled["connections_at_start"]);
    let gone: u64 = cancelled["outcomes"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.as_str() != "stayed")
        .map(|(_, count)| number(count))
        .sum();
    format!("cancelled: the server stays; {gone} of {at_start} connections had gone\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dry_run_says_what_is_not_known() {
        let answer = json!({
            "connections": 50_000, "cause": "deploy", "deadline_ms": 40_000, "close_code": 1001,
            "reason": "deploy",
            "plan": {
                "connections_per_second": 2_565, "estimated_ms": 19_994, "needed_per_second": 2_565,
                "reconnect": { "per_second": 1_000, "last_after_ms": 30_100 },
            },
            "peers": { "known": false, "why": "redis.url is not set" },
        });
        let text = foreseen(&answer);
        assert!(text.contains("50000 connections at 2565 per second (cause deploy)"), "{text}");
        assert!(text.contains("the last 30.1 s after its Close"), "{text}");
        assert!(text.contains("is not known: redis.url is not set"), "{text}");
    }

    #[test]
    fn a_cancelled_drain_says_who_had_gone() {
        let outcomes = json!({ "close_acknowledged": 3, "stayed": 7 });
        let state = json!({ "cancelled": { "connections_at_start": 10, "outcomes": outcomes } });
        assert!(stays(&state).contains("3 of 10 connections had gone"));
    }
}
