//! `tidegate-load`: WebSocket clients by the hundred thousand, on io_uring.
//!
//! A run opens its connections over one or more rings, lets a scenario use them, and closes
//! the books: every attempt has exactly one fate, and the sums must agree (`ledger`). What is
//! measured is the server; when this tool was the slower side, it says so.

#![deny(unsafe_code)]

mod arguments;
mod client;
mod cpu;
mod crew;
mod drain_watch;
mod echo;
mod fate;
mod flood;
mod goodbye;
mod hold;
mod latency;
mod ledger;
mod payload;
mod plan;
mod progress;
mod report;
mod sequence;
mod sources;
mod target;
#[cfg(test)]
mod tests;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::arguments::{Arguments, Command};
use crate::crew::Plan;
use crate::drain_watch::Watching;
use crate::echo::Echoing;
use crate::flood::{Flooding, ServerBooks};
use crate::hold::Holding;
use crate::plan::Refused;
use crate::report::Report;

const NOT_AS_WANTED: u8 = 1;
const WRONG_USAGE: u8 = 64;
const NO_IO_URING: u8 = 69;

/// How long connections that were never read are read at the end of a drain.
const SETTLE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { WRONG_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let (result, json) = match &arguments.command {
        Command::Hold(hold) => (run_hold(hold), hold.common.json),
        Command::Echo(echo) => (run_echo(echo), echo.common.json),
        Command::DrainWatch(watch) => (run_drain_watch(watch), watch.common.json),
        Command::Flood(flood) => (run_flood(flood), flood.json),
    };
    match result {
        Ok(report) => {
            if json {
                println!("{}", report.json());
            } else {
                print!("{}", report.table());
            }
            if report.is_good() { ExitCode::SUCCESS } else { NOT_AS_WANTED.into() }
        }
        Err(refused) => {
            eprintln!("tidegate-load: {refused}");
            match refused {
                Refused::Usage(_) => WRONG_USAGE.into(),
                Refused::Unavailable(_) => NO_IO_URING.into(),
                Refused::Kernel(_) => NOT_AS_WANTED.into(),
            }
        }
    }
}

fn run_hold(hold: &arguments::Hold) -> Result<Report, Refused> {
    let mut plan = plan::plan(&hold.common, hold.rate, false)?;
    plan.measure = hold.hold_for;
    let run = crew::run(&plan, |_| Holding::new(hold))?;
    Ok(hold::report(hold, &run))
}

fn run_echo(echo: &arguments::Echo) -> Result<Report, Refused> {
    let plan = Plan {
        measure: Some(echo.measure_for),
        warm_up: echo.warm_up,
        ..plan::plan(&echo.common, echo.open_rate, echo.raw)?
    };
    let share = |connections: u64| connections as f64 / echo.common.connections as f64;
    let run = crew::run(&plan, |job| {
        Echoing::new(echo, echo.rate.map(|rate| rate * share(job.connections)))
    })?;
    Ok(echo::report(echo, &run))
}

fn run_drain_watch(watch: &arguments::DrainWatch) -> Result<Report, Refused> {
    if watch.stuck + watch.mid_message > watch.common.connections {
        return Err(Refused::Usage(String::from(
            "--stuck and --mid-message together are more than --connections",
        )));
    }
    let mut plan = plan::plan(&watch.common, watch.rate, false)?;
    plan.measure = Some(watch.timeout);
    plan.settle = SETTLE;
    let run = crew::run(&plan, |_| Watching::new(watch))?;
    Ok(drain_watch::report(watch, &run))
}

fn run_flood(flood: &arguments::Flood) -> Result<Report, Refused> {
    let plan = plan::flood(flood)?;
    let server = ServerBooks::open(flood).map_err(Refused::Usage)?;
    let run = crew::run(&plan, |_| Flooding::new(flood.leave))?;
    Ok(flood::report(&run, server))
}
