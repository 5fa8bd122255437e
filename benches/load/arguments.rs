//! The command line.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::server::{Admin, AdminUrl};
use crate::sources::Spread;
use crate::target::Target;

/// Load generator for WebSocket servers, on io_uring. Exit code 0: the ledger balances and
/// what was wanted happened; 1: it did not; 64: wrong usage; 69: io_uring is not available.
#[derive(Debug, Parser)]
#[command(name = "tidegate-load", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Open connections, keep them, count what they receive
    Hold(Hold),
    /// Send messages, check that each echo is identical, measure latency and CPU
    Echo(Echo),
    /// Open connections at a rate that rises; find the rate up to which all are admitted in time
    Ramp(Ramp),
    /// Publish to all connections; measure how long each message takes to each of them
    Broadcast(Broadcast),
    /// The same while some connections read slowly or never: how do they end, and what do the
    /// others notice?
    SlowReaders(SlowReaders),
    /// Keep a number of connections that come and go
    Churn(Churn),
    /// Hold connections through a drain and record how and when each one ended
    DrainWatch(DrainWatch),
    /// Hold connections through a drain and come back, as the server's notice says or as clients
    /// do that do not listen: how even is the line of those who return?
    Reconnect(Reconnect),
    /// Attempt to connect as fast as possible to a server with limits; compare each fate with
    /// what the server has counted
    Flood(Flood),
}

/// Where the server's own counters are.
#[derive(Debug, Args)]
pub(crate) struct AdminArguments {
    /// Admin listener of a Tidegate server, whose counters must agree with what is seen here
    /// [default: not asked; for flood http://127.0.0.1:8081, if something answers there]
    #[arg(long, value_name = "URL")]
    pub(crate) admin: Option<AdminUrl>,
    /// The server's admin.token
    #[arg(long, value_name = "TOKEN", value_parser = header_value)]
    pub(crate) admin_token: Option<String>,
}

impl AdminArguments {
    /// Whom to ask, if anybody was named.
    pub(crate) fn admin(&self) -> Option<Admin> {
        let token = self.admin_token.clone();
        self.admin.clone().map(|url| Admin { url, token })
    }
}

impl Command {
    /// What all commands but flood have.
    pub(crate) fn common(&self) -> Option<&Common> {
        Some(match self {
            Self::Hold(hold) => &hold.common,
            Self::Ramp(ramp) => &ramp.common,
            Self::Echo(echo) => &echo.common,
            Self::Broadcast(broadcast) => &broadcast.common,
            Self::SlowReaders(slow) => &slow.broadcast.common,
            Self::Churn(churn) => &churn.common,
            Self::DrainWatch(watch) => &watch.common,
            Self::Reconnect(reconnect) => &reconnect.common,
            Self::Flood(_) => return None,
        })
    }

    /// As on the command line.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Hold(_) => "hold",
            Self::Ramp(_) => "ramp",
            Self::Echo(_) => "echo",
            Self::Broadcast(_) => "broadcast",
            Self::SlowReaders(_) => "slow-readers",
            Self::Churn(_) => "churn",
            Self::DrainWatch(_) => "drain-watch",
            Self::Reconnect(_) => "reconnect",
            Self::Flood(_) => "flood",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// ws://HOST:PORT/PATH?QUERY
    pub(crate) url: Target,
    /// Connections to open
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..=16_000_000))]
    pub(crate) connections: u64,
    /// Threads, one ring each; more are added when a ring cannot hold its part
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) threads: u64,
    /// Pin the threads to these cores in turn, for example 1,2 or 2-5
    #[arg(long, value_parser = cores, default_value = "")]
    pub(crate) cores: Cores,
    /// Connections from one source address before the next is used
    #[arg(long, value_name = "N", default_value_t = 500, conflicts_with = "sources")]
    pub(crate) per_source: u64,
    /// Use this many source addresses in turn
    #[arg(long, value_name = "N")]
    pub(crate) sources: Option<u64>,
    /// First source address [on loopback: 127.0.1.1, elsewhere the kernel's choice]
    #[arg(long, value_name = "IPV4")]
    pub(crate) source_base: Option<Ipv4Addr>,
    /// How long an attempt may take, from socket to 101
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// Process of the server: its CPU time is reported, and the run ends when it ends
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Write the number of open connections to this file once every attempt has its answer
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) admin: AdminArguments,
    /// End without closing handshakes
    #[arg(long)]
    pub(crate) abandon: bool,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

impl Common {
    pub(crate) fn spread(&self) -> Spread {
        self.sources.map_or(Spread::PerSource(self.per_source), Spread::Sources)
    }
}

/// What clients are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Clients {
    /// Sockets of this machine, through io_uring
    Sockets,
    /// TCP in user space on a TUN device in a network namespace that the tool makes and removes:
    /// some bytes a client. Needs root. Messages are counted and not looked at
    Tun,
}

#[derive(Debug, Args)]
pub(crate) struct Hold {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Plain TCP without WebSocket
    #[arg(long)]
    pub(crate) raw: bool,
    /// What clients are made of
    #[arg(long, value_enum, default_value = "sockets")]
    pub(crate) client: Clients,
    /// Attempts per second [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How long to hold after the last answer [default: until Ctrl+C]
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) hold_for: Option<Duration>,
    /// How many connections should be admitted [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) expect_admitted: Option<u64>,
    /// Connections may be closed by the server while held
    #[arg(long)]
    pub(crate) allow_closed: bool,
    /// Messages that each open connection should have received at the end
    #[arg(long, value_name = "K")]
    pub(crate) expect_messages: Option<u64>,
    /// Check that every connection got every number once and in order: the JSON member KEY, or
    /// the whole message if it is a number
    #[arg(long, value_name = "KEY")]
    pub(crate) check_sequence: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Binary,
    Text,
}

#[derive(Debug, Args)]
pub(crate) struct Echo {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Bytes of a message, without framing
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=16 << 20))]
    pub(crate) payload: u32,
    /// Kind of message
    #[arg(long, value_enum, default_value = "binary")]
    pub(crate) kind: Kind,
    /// Messages of a connection that may be unanswered at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) in_flight: u32,
    /// Messages per second over all connections, on a fixed schedule; latency then counts from
    /// the time a message was due [default: each connection sends when its echo has come]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Attempts per second [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) open_rate: Option<f64>,
    /// Length of the measured window
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) measure_for: Duration,
    /// Load before the window
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// Plain TCP without WebSocket: exactly --payload bytes each way
    #[arg(long)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DrainWatch {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Attempts per second [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How long to wait for the end of all connections
    #[arg(long, default_value = "60s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// Connections that never read and never answer
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) stuck: u64,
    /// Connections that send half a message at once and the rest when they get the notice
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) mid_message: u64,
    /// Where those connect to
    #[arg(long, value_name = "PATH", default_value = "/echo")]
    pub(crate) mid_path: String,
}

#[derive(Debug, Args)]
pub(crate) struct Ramp {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Attempts per second at the beginning
    #[arg(long, value_name = "PER_SECOND", default_value_t = 100.0, value_parser = rate)]
    pub(crate) from: f64,
    /// Attempts per second at the end
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) to: f64,
    /// How long the rate rises; --connections bounds the number of attempts
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub(crate) over: Duration,
    /// Time to 101 that 99 % of a step's attempts may take, or the rate does not count as kept
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) p99_limit: Duration,
    /// The rate that must be kept
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) expect_per_second: Option<f64>,
}

#[derive(Debug, Args)]
pub(crate) struct Churn {
    /// --connections is the number of connections at a time
    #[command(flatten)]
    pub(crate) common: Common,
    /// Mean time that a connection stays
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) lifetime: Duration,
    /// How long to go on
    #[arg(long = "for", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) go_on: Duration,
    /// Attempts may be refused or fail
    #[arg(long)]
    pub(crate) allow_refused: bool,
}

/// How messages are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Through {
    /// POST /api/publish at --admin, to the channel that the URL subscribes to
    Api,
    /// POST of the bare message to --publish-url
    Post,
    /// A text message of a further client at --publish-url, which the server hands on to all
    Client,
}

/// Connections that do not read as they should.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct Slow {
    /// Connections that read slowly
    #[arg(long, value_name = "K", default_value_t = 0)]
    pub(crate) slow: u64,
    /// How slowly; 0 is never
    #[arg(long, value_name = "BYTES", default_value_t = 0.0, value_parser = rate_or_nothing)]
    pub(crate) slow_bytes_per_second: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Broadcast {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Attempts per second [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Publications per second, on a fixed schedule
    #[arg(long, value_name = "PER_SECOND", default_value_t = 10.0, value_parser = rate)]
    pub(crate) publish_rate: f64,
    /// Length of the measured window
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) measure_for: Duration,
    /// Load before the window
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub(crate) warm_up: Duration,
    /// How long the last publication may take to its last reader
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) settle: Duration,
    /// Bytes of a message, at least those that its number and time take
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub(crate) payload: u32,
    /// Who publishes
    #[arg(long, value_enum, default_value = "api")]
    pub(crate) through: Through,
    /// Where, unless through the API
    #[arg(long, value_name = "URL")]
    pub(crate) publish_url: Option<String>,
    #[command(flatten)]
    pub(crate) slow: Slow,
}

#[derive(Debug, Args)]
pub(crate) struct SlowReaders {
    /// As broadcast, with --slow set to a tenth of the connections if it is not given
    #[command(flatten)]
    pub(crate) broadcast: Broadcast,
}

/// How clients come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Manners {
    /// When the notice says, counted from the end of the connection; without one as backoff
    Slots,
    /// At once, and each second when that fails
    Immediate,
    /// After a random part of a time that doubles with each failure
    Backoff,
}

#[derive(Debug, Args)]
pub(crate) struct Reconnect {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Attempts per second of the first connections [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Where clients go that are not told where [default: the first URL]
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<Target>,
    /// How clients come back
    #[arg(long, value_enum, default_value = "slots")]
    pub(crate) clients: Manners,
    /// First time of backoff
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) backoff_base: Duration,
    /// Longest time of backoff
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) backoff_max: Duration,
    /// How long to wait until all are back
    #[arg(long, default_value = "120s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How long to stay once all are back
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) stay: Duration,
    /// The busiest slice of time may have at most this many times the mean of those who return
    #[arg(long, value_name = "RATIO", value_parser = rate)]
    pub(crate) expect_flat: Option<f64>,
    /// The same for the times at which they meant to return, which a busy machine does not change
    #[arg(long, value_name = "RATIO", value_parser = rate)]
    pub(crate) expect_slots_flat: Option<f64>,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true).multiple(true))]
pub(crate) struct Flood {
    /// ws://HOST:PORT/PATH?QUERY
    pub(crate) url: Target,
    /// Attempts to make
    #[arg(short = 'n', long, group = "end", value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub(crate) attempts: Option<u64>,
    /// How long to make attempts
    #[arg(long, group = "end", value_name = "TIME", value_parser = duration)]
    pub(crate) duration: Option<Duration>,
    /// Attempts per second [default: as fast as the server answers]
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Use this many source addresses in turn
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) sources: u64,
    /// First source address [on loopback: 127.0.1.1, elsewhere the kernel's choice]
    #[arg(long, value_name = "IPV4")]
    pub(crate) source_base: Option<Ipv4Addr>,
    /// Threads, one ring each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) rings: u64,
    /// Pin the threads to these cores in turn, for example 1,2 or 2-5
    #[arg(long, value_parser = cores, default_value = "")]
    pub(crate) cores: Cores,
    /// Attempts that may be unanswered at once [default: 400, with --rate 20000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(crate) in_flight: Option<u64>,
    /// Keep admitted connections to the end of the flood (the default)
    #[arg(long, conflicts_with = "leave")]
    pub(crate) hold: bool,
    /// End an admitted connection at once with a closing handshake
    #[arg(long)]
    pub(crate) leave: bool,
    /// Send this Origin, as a browser does
    #[arg(long, value_name = "URL", value_parser = header_value)]
    pub(crate) origin: Option<String>,
    /// Send this Sec-WebSocket-Key every time, for servers whose answer is always the same
    /// [default: another one for each attempt]
    #[arg(long, value_name = "KEY", value_parser = header_value)]
    pub(crate) key: Option<String>,
    /// Be a proxy for N clients in turn, named in X-Forwarded-For; the server has to trust the
    /// sources for it
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) behind_proxy: u32,
    #[command(flatten)]
    pub(crate) admin: AdminArguments,
    /// Do not ask the server for its counters
    #[arg(long, conflicts_with = "admin")]
    pub(crate) no_admin: bool,
    /// How long an attempt may take, from socket to answer
    #[arg(long, default_value = "10s", value_parser = duration)]
    pub(crate) connect_timeout: Duration,
    /// Process of the server: its CPU time is reported, and the run ends when it ends
    #[arg(long, value_name = "PID")]
    pub(crate) server_pid: Option<u32>,
    /// Write the number of open connections to this file once every attempt has its answer
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
    /// End without closing handshakes
    #[arg(long)]
    pub(crate) abandon: bool,
    /// Write a page with plots to this file
    #[arg(long, value_name = "FILE.html")]
    pub(crate) report: Option<PathBuf>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Core numbers; a type of its own so that clap takes a whole list as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cores(pub(crate) Vec<usize>);

fn cores(list: &str) -> Result<Cores, String> {
    let number = |text: &str| {
        text.trim().parse::<usize>().map_err(|_| format!("{text:?} is not a core number"))
    };
    let mut cores = Vec::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if first > last || last - first > 4_096 {
                    return Err(format!("{part:?} is not a range of cores"));
                }
                cores.extend(first..=last);
            }
            None => cores.push(number(part)?),
        }
    }
    Ok(Cores(cores))
}

fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3_600.0,
        _ => return Err(format!("unknown unit {unit:?}: use ms, s, m or h")),
    };
    let number: f64 = number.parse().map_err(|_| String::from("want a time such as 30s"))?;
    Duration::try_from_secs_f64(number * seconds).map_err(|error| error.to_string())
}

fn header_value(text: &str) -> Result<String, String> {
    if text.is_empty() || text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
        return Err(String::from("want printable ASCII"));
    }
    Ok(text.to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(rate),
        _ => Err(String::from("want a number above 0")),
    }
}

fn rate_or_nothing(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { rate(text) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("1.5"), Ok(Duration::from_millis(1_500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert!(duration("soon").is_err());
        assert!(duration("3 weeks").is_err());
    }

    #[test]
    fn lists_of_cores() {
        assert_eq!(cores("1,3-5").unwrap().0, [1, 3, 4, 5]);
        assert_eq!(cores("").unwrap().0, [0_usize; 0]);
        assert!(cores("5-3").is_err());
        assert!(cores("one").is_err());
    }

    #[test]
    fn whole_command_lines() {
        let line = "tidegate-load echo ws://127.0.0.1:1/echo -n 10 --rate 5 --for 2s --raw";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Echo(echo) = arguments.command else { panic!("echo") };
        assert_eq!((echo.common.connections, echo.rate, echo.raw), (10, Some(5.0), true));
        let line = "tidegate-load flood ws://127.0.0.1:1/ --duration 2s --admin http://[::1]:9/";
        let arguments = Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Flood(flood) = arguments.command else { panic!("flood") };
        assert_eq!((flood.attempts, flood.duration), (None, Some(Duration::from_secs(2))));
        for wrong in [
            "tidegate-load hold ws://127.0.0.1:1/",
            "tidegate-load hold wss://127.0.0.1:1/ -n 1",
            "tidegate-load hold ws://127.0.0.1:1/ -n 0",
            "tidegate-load hold ws://127.0.0.1:1/ -n 1 --rate 0",
            "tidegate-load flood ws://127.0.0.1:1/",
            "tidegate-load flood ws://127.0.0.1:1/ -n 1 --hold --leave",
            "tidegate-load flood ws://127.0.0.1:1/ -n 1 --origin a\nb",
        ] {
            assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
        }
    }
}
