//! The command line: which subcommands and flags there are, and what each exits with.
//!
//! Flags are not interpreted here. They become one more layer of the configuration, so that
//! their values obey the same rules and are reported together with everything else.

mod admin_client;
mod configuration;
mod doctor;
mod drain;
mod duration;
mod healthcheck;
mod options;
mod status;

use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};
use tidegate::config::{Config, ConfigErrors, Sources, shown_name};
use tidegate::sys::standard_stream::StandardStream;
use tidegate::{escape, exit_code};

use doctor::DoctorOptions;
use options::ServerOptions;

#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about = "WebSocket connection server for bare-metal Linux: one io_uring shard per core",
    after_help = "Examples:
  tidegate serve
  tidegate serve --config /etc/tidegate.toml --listen 0.0.0.0:443
  TIDEGATE_ADMISSION__MAX_GLOBAL_CONNECTIONS=500000 tidegate serve
  tidegate doctor --connections 1000000
  tidegate drain --within 60s
  tidegate config > tidegate.toml
  tidegate config check tidegate.toml

Exit codes: 0 drained, 64 wrong usage, 69 io_uring not available, 70 ended by the
shutdown deadline, 73 the shutdown report is lost, 74 a shutdown hook failed or what is printed
cannot be written, 75 forced by a second signal, 78 configuration refused, 141 the reader of what
goes on has gone."
)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until a signal or the admin API drains it
    Serve(ServerOptions),
    /// Print the default configuration, check a file, or show the values in force
    #[command(after_help = "Without a subcommand: default.")]
    Config {
        #[command(subcommand)]
        command: Option<ConfigCommand>,
    },
    /// Say what this machine holds, which limit binds first, and the commands that change it
    #[command(after_help = "Exit codes: 0 so many connections can be held, 1 they cannot, 69 the \
server would not start.

Examples:
  tidegate doctor --connections 1000000
  tidegate doctor --connections 10000000 --shards 510 --json
  tidegate doctor --connections 1000000 --sysctl > /etc/sysctl.d/90-tidegate.conf")]
    Doctor(Box<DoctorOptions>),
    /// Let the clients of a running server go at a pace, and end it; pause, change or cancel that
    Drain(drain::DrainArguments),
    /// Show what a running server does
    Status {
        #[command(flatten)]
        admin: admin_client::AdminOptions,
        /// Go on showing it until the server ends
        #[arg(long)]
        watch: bool,
        /// As JSON; with --watch an object for each look
        #[arg(long)]
        json: bool,
    },
    /// Ask a running server whether it is alive: exit 0 if it is, 1 if not
    #[command(after_help = "Example, in a Dockerfile:
  HEALTHCHECK --interval=30s --timeout=5s CMD [\"tidegate\", \"healthcheck\"]")]
    Healthcheck {
        /// The server's admin listener; by default the one its configuration names
        #[arg(long, value_name = "ADDR")]
        admin: Option<String>,
        /// The server's configuration file
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print every key with its reason, range and names, commented out at its default
    Default,
    /// Say everything that is wrong with a file, as `serve --config FILE` would in this
    /// environment: exit 0 if nothing is, 78 otherwise
    Check {
        /// The file
        file: PathBuf,
    },
    /// Show every value in force and where it was set
    Show {
        #[command(flatten)]
        options: ServerOptions,
        /// As JSON, one object for each key
        #[arg(long)]
        json: bool,
    },
}

/// Does what the command line says. `serve` runs the server.
pub(crate) fn run(serve: impl FnOnce(Config, Sources) -> ExitCode) -> ExitCode {
    let command = match CommandLine::try_parse() {
        Ok(line) => line.command,
        Err(error) => return usage(error),
    };
    match command {
        Command::Serve(options) => {
            let sources = options.into_sources();
            match Config::load(sources.clone()) {
                Ok(config) => serve(config, sources),
                Err(errors) => refused(&errors),
            }
        }
        Command::Config { command } => match command.unwrap_or(ConfigCommand::Default) {
            ConfigCommand::Default => print(&Config::default_file()),
            ConfigCommand::Check { file } => configuration::check(file),
            ConfigCommand::Show { options, json } => configuration::show(options, json),
        },
        Command::Doctor(options) => doctor::run(*options),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Status { admin, watch, json } => status::run(&admin, watch, json),
        Command::Healthcheck { admin, config } => healthcheck::run(admin, config),
    }
}

/// Help and version are answers; everything else that clap says is wrong usage, for which it
/// would exit with 2.
fn usage(mut error: clap::Error) -> ExitCode {
    hide_values(&mut error);
    let printed = error.print();
    // Nothing is left to be told if the terminal is gone.
    if error.use_stderr() { ExitCode::from(exit_code::USAGE) } else { printed_once(printed) }
}

/// Takes out of the message what may be a secret in the wrong place: `--set admin.token SECRET`,
/// `--set SECRET`.
fn hide_values(error: &mut clap::Error) {
    let text = |error: &clap::Error, kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    };
    let option = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let kind = match option {
        option if option.starts_with("--set ") => ContextKind::InvalidValue,
        // The names of options are the program's own.
        option if option.starts_with('-') => return,
        option if option.is_empty() => ContextKind::InvalidSubcommand,
        _ => ContextKind::InvalidArg,
    };
    if let Some(found) = text(error, kind) {
        error.insert(kind, ContextValue::String(shown_name(&found)));
    }
}

/// Prints every error of a configuration.
fn refused(errors: &ConfigErrors) -> ExitCode {
    let count = errors.len();
    let plural = if count == 1 { "error" } else { "errors" };
    let advice = "`tidegate config default` explains every key";
    fail(
        exit_code::CONFIG,
        format_args!("{errors}\nconfiguration refused: {count} {plural}; {advice}"),
    )
}

/// Prints text of several lines to standard output. Whatever a server, a file or the environment
/// has put into it, a terminal shows it and obeys nothing in it.
fn print(text: &str) -> ExitCode {
    printed_once(StandardStream::Output.write_all(escape::lines(text).to_string().as_bytes()))
}

/// Prints JSON to standard output, escaped likewise; it means the same to who parses it.
fn print_json(json: impl Display) -> ExitCode {
    printed_once(StandardStream::Output.write_all(escape::json(json).to_string().as_bytes()))
}

/// A reader that has had enough (`| head`) is no failure.
fn printed_once(printed: io::Result<()>) -> ExitCode {
    match printed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => unprinted(&error),
        _ => ExitCode::SUCCESS,
    }
}

/// What is printed cannot be written.
fn unprinted(error: &io::Error) -> ExitCode {
    fail(exit_code::OUTPUT, format_args!("standard output: {error}"))
}

/// Prints to standard error and gives the exit code.
pub(crate) fn fail(code: u8, message: impl Display) -> ExitCode {
    say(message);
    ExitCode::from(code)
}

/// Prints lines to standard error, escaped as by [`print`]; unlike `eprintln!` it survives a closed
/// one.
fn say(message: impl Display) {
    let text = format!("{}\n", escape::lines(message));
    let _ = StandardStream::Error.write_all(text.as_bytes());
}
