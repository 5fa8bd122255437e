//! `tidegate-load`: WebSocket clients by the hundred thousand, on io_uring.
//!
//! A run opens its connections over one or more rings, lets a scenario use them, and closes
//! the books: every attempt has exactly one fate, and the sums must agree (`ledger`). What is
//! measured is the server; when this tool was the slower side, it says so.

#![deny(unsafe_code)]

mod arguments;
mod broadcast;
mod churn;
mod client;
mod cpu;
mod crew;
mod drain_watch;
mod echo;
mod fate;
mod fates;
mod flood;
mod goodbye;
mod hold;
mod latency;
mod ledger;
mod pace;
mod page;
mod payload;
mod plan;
mod progress;
mod ramp;
mod reconnect;
mod report;
mod runs;
mod sequence;
mod series;
mod server;
mod sources;
mod target;
#[cfg(test)]
mod tests;
mod tun;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use tidegate::sys::standard_stream::StandardStream;
use tidegate::{escape, exit_code};

use crate::arguments::{Arguments, Command};
use crate::plan::Refused;
use crate::report::Report;

const NOT_AS_WANTED: u8 = 1;
const WRONG_USAGE: u8 = 64;
const NO_IO_URING: u8 = 69;

fn main() -> ExitCode {
    let mut arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let printed = error.print();
            return match printed {
                _ if error.use_stderr() => WRONG_USAGE.into(),
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => exit_code::OUTPUT.into(),
                _ => ExitCode::SUCCESS,
            };
        }
    };
    match run(&mut arguments.command).and_then(|report| show(&arguments.command, report)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => NOT_AS_WANTED.into(),
        Err(refused) => {
            say(&escape::lines(&refused).to_string());
            match refused {
                Refused::Usage(_) => WRONG_USAGE.into(),
                Refused::Unavailable(_) => NO_IO_URING.into(),
                Refused::Kernel(_) => NOT_AS_WANTED.into(),
                Refused::Output(_) => exit_code::OUTPUT.into(),
            }
        }
    }
}

fn run(command: &mut Command) -> Result<Report, Refused> {
    match command {
        Command::Hold(hold) => runs::hold(hold),
        Command::Ramp(ramp) => runs::ramp(ramp),
        Command::Echo(echo) => runs::echo(echo),
        Command::Broadcast(broadcast) => runs::broadcast(broadcast),
        Command::SlowReaders(slow) => runs::slow_readers(slow),
        Command::Churn(churn) => runs::churn(churn),
        Command::DrainWatch(watch) => runs::drain_watch(watch),
        Command::Reconnect(reconnect) => runs::reconnect(reconnect),
        Command::Flood(flood) => runs::flood(flood),
    }
}

/// Prints the report, and writes the page if one is wanted; true if all was as wanted. What a server
/// has put into it is escaped: a terminal obeys nothing in it.
fn show(command: &Command, report: Report) -> Result<bool, Refused> {
    let (file, json) = match command {
        Command::Flood(flood) => (&flood.report, flood.json),
        other => other.common().map_or((&None, false), |common| (&common.report, common.json)),
    };
    if let Some(file) = file {
        page::write(file, command.name(), &report)?;
    }
    let text = match json {
        true => format!("{}\n", escape::json(report.json())),
        false => escape::lines(report.table()).to_string(),
    };
    match StandardStream::Output.write_all(text.as_bytes()) {
        // A reader that has had enough (`| head`) is no failure.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Refused::Output(error)),
        _ => Ok(report.is_good()),
    }
}

/// Prints a line to standard error. What cannot be said ends no run.
pub(crate) fn say(message: &str) {
    let _ = StandardStream::Error.write_all(format!("tidegate-load: {message}\n").as_bytes());
}
