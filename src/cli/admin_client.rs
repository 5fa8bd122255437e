//! A running server's admin API as the subcommands use it: one request for each connection, with
//! the standard library, bounded in time and in bytes. Address and token are those of the server's
//! configuration.

use std::fmt::{self, Display};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;
use tidegate::config::{Config, Secret, Sources};
use tidegate::exit_code;

use super::fail;

/// For a whole exchange: longer than the server waits for its coordinator.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How much of an answer is read.
const ANSWER_MAX_BYTES: u64 = 4 << 20;

/// Which server is meant.
#[derive(Debug, Clone, Args)]
pub(super) struct AdminOptions {
    /// The server's admin listener; by default the one its configuration names
    #[arg(long, value_name = "ADDR", global = true)]
    admin: Option<String>,
    /// The server's configuration file (default: the one named by TIDEGATE_CONFIG, or
    /// /etc/tidegate/tidegate.toml if it can be read)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
}

/// The way to a server's admin listener.
#[derive(Debug)]
pub(super) struct AdminClient {
    address: SocketAddr,
    token: Option<Secret>,
}

/// An answer: its status, and its JSON.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

/// Why there is no answer, or not the one that was wanted: the cause and what to do.
#[derive(Debug)]
pub(super) struct Trouble {
    exit_code: u8,
    message: String,
    /// Nobody listens there (any more).
    pub(super) is_gone: bool,
}

impl Trouble {
    pub(super) fn new(exit_code: u8, message: impl Display) -> Self {
        Self { exit_code, message: message.to_string(), is_gone: false }
    }

    /// Prints it and gives the exit code.
    pub(super) fn report(&self) -> ExitCode {
        fail(self.exit_code, &self.message)
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl AdminClient {
    /// The server that these options mean.
    ///
    /// # Errors
    /// An address that is none, a configuration that is refused.
    pub(super) fn find(options: &AdminOptions) -> Result<Self, Trouble> {
        let sources = Sources { file: options.config.clone(), ..Sources::from_environment() };
        let config = Config::load(sources.or_installed_file()).map_err(|errors| {
            let message = format!(
                "{errors}\nthe configuration says where the server's admin listener is and what \
                 token it wants, but is refused"
            );
            Trouble::new(exit_code::CONFIG, message)
        })?;
        let address = match &options.admin {
            None => config.admin.listen,
            Some(text) => text.parse().map_err(|_| {
                Trouble::new(exit_code::USAGE, format!("--admin {text}: expected IP:PORT"))
            })?,
        };
        Ok(Self { address: reachable(address), token: config.admin.token })
    }

    /// What is at `path`.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) fn get(&self, path: &str) -> Result<Answer, Trouble> {
        self.ask("GET", path, "")
    }

    /// Sends a JSON body.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Answer, Trouble> {
        self.ask("POST", path, &body.to_string())
    }

    /// One request. An answer that says no is [`Trouble`] with what it says.
    ///
    /// # Errors
    /// Nobody answers, or the answer is an error.
    pub(super) fn ask(&self, method: &str, path: &str, body: &str) -> Result<Answer, Trouble> {
        let answer = self.exchange(method, path, body).map_err(|error| self.explain(&error))?;
        if matches!(answer.status, 200 | 202) {
            return Ok(answer);
        }
        let said = answer.body["error"]["message"].as_str().unwrap_or("no reason was given");
        let (code, remedy) = match answer.status {
            400 => (exit_code::USAGE, ""),
            401 => (
                exit_code::PANICKED,
                "; name the server's configuration with --config, or set \
                 TIDEGATE_ADMIN__TOKEN_FILE to the file of its token",
            ),
            404 => (
                exit_code::PANICKED,
                "; is that the admin listener of a Tidegate of this version? --admin names another",
            ),
            _ => (exit_code::PANICKED, ""),
        };
        let url = format!("http://{}{path}", self.address);
        Err(Trouble::new(code, format!("{url} answered {}: {said}{remedy}", answer.status)))
    }

    fn explain(&self, error: &io::Error) -> Trouble {
        let address = self.address;
        let is_gone = matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::UnexpectedEof
                | io::ErrorKind::BrokenPipe
        );
        let message = if error.kind() == io::ErrorKind::ConnectionRefused {
            format!(
                "nothing listens at http://{address}: is the server running? Its address is \
                 admin.listen; --admin names another, --config the file it is in"
            )
        } else {
            format!("http://{address}: {error}; --admin names another address")
        };
        Trouble { is_gone, ..Trouble::new(exit_code::PANICKED, message) }
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        let deadline = Instant::now() + TIMEOUT;
        let mut stream = TcpStream::connect_timeout(&self.address, TIMEOUT)?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.address);
        if let Some(token) = &self.token {
            request.push_str(&format!("authorization: Bearer {}\r\n", token.expose()));
        }
        if !body.is_empty() {
            request.push_str("content-type: application/json\r\n");
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes())?;
        let answer = read_all(&mut stream, deadline)?;
        read_answer(&answer).ok_or_else(|| {
            let kind = if answer.is_empty() {
                io::ErrorKind::UnexpectedEof
            } else {
                io::ErrorKind::InvalidData
            };
            io::Error::new(kind, "what it answered is not an answer of the admin API")
        })
    }
}

fn read_all(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 16 << 10];
    while (answer.len() as u64) < ANSWER_MAX_BYTES {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(no_answer());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(count) => answer.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(no_answer()),
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn no_answer() -> io::Error {
    let message = format!("no answer within {} s", TIMEOUT.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, message)
}

/// Status and JSON of a whole answer; an empty body is null.
fn read_answer(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let line = head.lines().next()?.strip_prefix("HTTP/1.")?;
    let status = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).ok()? };
    Some(Answer { status, body })
}

/// A listener on every address is asked on loopback: this runs on the same machine.
pub(super) fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whole_or_not_at_all() {
        let answer = read_answer(b"HTTP/1.1 202 Accepted\r\nx: y\r\n\r\n{\"a\":1}\n");
        assert!(answer.is_some_and(|answer| answer.status == 202 && answer.body["a"] == 1));
        for wrong in ["", "HTTP/1.1 200 OK\r\n\r\n{\"a\"", "SSH-2.0\r\n\r\n", "HTTP/1.1 x\r\n\r\n"]
        {
            assert!(read_answer(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
