//! `tidegate healthcheck`: asks the admin listener of a running server whether it is alive.
//!
//! It is run by a container's supervisor every few seconds, in an image that has no curl; so
//! it does one request with the standard library, bounded in time and in bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tidegate::config::{Config, Sources};
use tidegate::exit_code;

use super::admin_client::reachable;
use super::fail;

/// For the whole exchange. Shorter than the 5 s that supervisors commonly allow, so that the
/// reason is printed before they give up.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How much of an answer is read; its first line is all that matters.
const ANSWER_MAX_BYTES: usize = 1024;

/// Asks the server at `admin`, or at the address that its configuration names.
pub(super) fn run(admin: Option<String>, config: Option<PathBuf>) -> ExitCode {
    let address = match admin {
        Some(text) => match text.parse() {
            Ok(address) => address,
            Err(_) => {
                let message = format_args!("--admin {text}: expected IP:PORT");
                return fail(exit_code::USAGE, message);
            }
        },
        None => match Config::load_without_secrets(&sources(config)) {
            Ok(config) => config.admin.listen,
            Err(errors) => {
                let errors = errors.to_string().replace('\n', "; ");
                return unhealthy(format_args!("configuration refused: {errors}"));
            }
        },
    };
    let address = reachable(address);
    match ask(address) {
        Ok(200) => ExitCode::SUCCESS,
        Ok(status) => unhealthy(format_args!("http://{address}/livez answered {status}")),
        Err(error) => unhealthy(format_args!("http://{address}/livez: {error}")),
    }
}

/// The token is not needed, and whoever watches need not be allowed to read it.
fn sources(config: Option<PathBuf>) -> Sources {
    Sources { file: config, ..Sources::from_environment() }.or_installed_file()
}

fn unhealthy(message: impl std::fmt::Display) -> ExitCode {
    fail(exit_code::PANICKED, message)
}

/// The HTTP status of `GET /livez`.
fn ask(address: SocketAddr) -> io::Result<u16> {
    let deadline = Instant::now() + TIMEOUT;
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!("GET /livez HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;

    let mut answer = Vec::with_capacity(ANSWER_MAX_BYTES);
    let mut buffer = [0; ANSWER_MAX_BYTES];
    while !answer.contains(&b'\n') && answer.len() < ANSWER_MAX_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(no_answer());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(no_answer()),
            Err(error) => return Err(error),
        }
    }
    status(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP answer"))
}

fn no_answer() -> io::Error {
    let message = format!("no answer within {} s", TIMEOUT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// The code in `HTTP/1.1 200 OK`.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}
