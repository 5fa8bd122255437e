//! The `tidegate` binary: a command line in front of the library.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run(tidegate::boot::serve)
}
