//! The `tidegate` binary: a command line in front of the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(serve)
}

/// Runs the server until it has drained; the configuration is complete and checked.
fn serve(config: tidegate::config::Config) -> ExitCode {
    let _ = config;
    cli::fail(tidegate::exit_code::UNAVAILABLE, "this build has no data plane")
}
