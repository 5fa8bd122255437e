//! `tidegate doctor`: asks this machine, prints what was found, and exits with the answer.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use tidegate::config::Config;
use tidegate::doctor::{self, Machine, Process, Question, Verdict, sysctl};
use tidegate::exit_code;
use tidegate::ring::probe;

use super::options::ServerOptions;
use super::{fail, print, print_json, refused};

/// Its flags: the question, and those of the server that is to hold the connections.
#[derive(Debug, Args)]
pub(super) struct DoctorOptions {
    /// How many connections are to be held [default: admission.max_global_connections]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    connections: Option<u64>,
    /// As one JSON object
    #[arg(long, conflicts_with = "sysctl")]
    json: bool,
    /// Print a file of kernel settings for sysctl.d instead of looking at this machine
    #[arg(long)]
    sysctl: bool,
    #[command(flatten)]
    server: ServerOptions,
}

/// Looks and prints. Exit code 0 if so many can be held, 1 if not, 69 if the server would not
/// start.
pub(super) fn run(options: DoctorOptions) -> ExitCode {
    let DoctorOptions { connections, json, sysctl, server } = options;
    let config = match Config::load_without_secrets(&server.into_sources()) {
        Ok(config) => config,
        Err(errors) => return refused(&errors),
    };
    let connections = connections.unwrap_or(config.admission.max_global_connections);
    if sysctl {
        return print(&sysctl::file(connections));
    }
    let process = match Process::ask(probe::check()) {
        Ok(process) => process,
        Err(error) => return fail(exit_code::UNAVAILABLE, format_args!("limits: {error}")),
    };
    let machine = Machine::read(Path::new("/"), process, config.admission.max_memory_bytes);
    let report = doctor::examine(&machine, Question { connections, config: &config });
    let printed = match json {
        true => print_json(doctor::json(&report)),
        false => print(&doctor::text(&report)),
    };
    if printed != ExitCode::SUCCESS {
        return printed;
    }
    match report.worst() {
        Verdict::Refuses => ExitCode::from(exit_code::UNAVAILABLE),
        Verdict::Binds => ExitCode::from(exit_code::PANICKED),
        _ => ExitCode::SUCCESS,
    }
}
