//! Where Redis is, connections to it whose every wait has a bound, and whether those that there are
//! still lead there.
//!
//! After a failover a name leads to another server, while connections to the old one stay open and
//! may even be answered. So a connection is taken only from a server that is not a replica, and has
//! the generation in which it was made. Evidence that links lead to the wrong server (a write that
//! is refused by a replica, a publication that does not come back, other addresses behind the name)
//! ends the generation: every link is then made anew before it is used again.

use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ::redis::{
    Client, Connection, ConnectionAddr, ErrorKind, ProtocolVersion, RedisError, RedisResult,
    ServerErrorKind,
};
use ahash::RandomState;
use tracing::{info, warn};

use super::reason::Reason;
use super::remedy::remedy;
use super::role::{self, Question, Role};
use crate::limits::REDIS_CONNECT_MS;

/// Where Redis is. Clones share what is known of it.
#[derive(Clone, Debug)]
pub struct Connector {
    client: Client,
    /// Its address without a password.
    pub shown: String,
    /// What keys and channels begin with.
    prefix: String,
    known: Arc<Known>,
}

/// What is known of the server.
#[derive(Debug, Default)]
struct Known {
    generation: AtomicU64,
    /// How it says its role.
    question: Mutex<Question>,
    /// Where the name led at last; empty if it is an address, or was never looked up.
    addresses: Mutex<Vec<IpAddr>>,
    /// Links cannot be renewed, and that has been logged.
    cannot_renew: AtomicBool,
}

/// A connection to a server that is not a replica, as far as it says.
pub(super) struct Established {
    pub(super) connection: Connection,
    /// Nothing has been asked on it successfully.
    pub(super) is_new: bool,
    pub(super) generation: u64,
    question: Question,
    protocol: ProtocolVersion,
}

impl Connector {
    /// To this Redis.
    pub fn new(client: Client, shown: String, prefix: String) -> Self {
        Self { client, shown, prefix, known: Arc::default() }
    }

    /// What an operator can do about a failure.
    pub fn remedy(&self, reason: Reason) -> String {
        let user = self.client.get_connection_info().redis_settings().username();
        remedy(reason, &self.shown, user.unwrap_or("default"), &self.prefix)
    }

    /// A new connection, on which an answer may take so long. Blocks for as long as looking up the
    /// name takes, and for [`REDIS_CONNECT_MS`].
    ///
    /// # Errors
    /// The client's, or Redis's; that it is a replica among them.
    pub(super) fn connect(&self, patience: Duration) -> RedisResult<Established> {
        let before = self.generation();
        if let Some(addresses) = self.look_up()
            && self.have_moved(addresses)
        {
            self.end_generation(before, "its name leads to other addresses");
        }
        let generation = self.generation();
        let most = Duration::from_millis(REDIS_CONNECT_MS);
        let mut connection = self.client.get_connection_with_timeout(patience.min(most))?;
        // The client forgets them while it connects.
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        let protocol = self.client.get_connection_info().redis_settings().protocol();
        let question = self.ask_role(&mut connection, protocol)?;
        Ok(Established { connection, is_new: true, generation, question, protocol })
    }

    /// The generation of connections that are trusted.
    pub(super) fn generation(&self) -> u64 {
        self.known.generation.load(Ordering::Acquire)
    }

    /// Connections of `generation` lead to the wrong server. Of several links that notice it the
    /// first is the one that says so.
    pub(super) fn end_generation(&self, generation: u64, why: &str) {
        let next = generation + 1;
        let current = &self.known.generation;
        if current.compare_exchange(generation, next, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            warn!(redis = self.shown, why, "links to Redis are made anew");
        }
    }

    /// Logs once that links cannot be renewed, and once that they can again.
    pub(super) fn note_renewal(&self, failure: Option<&RedisError>) {
        let was = self.known.cannot_renew.swap(failure.is_some(), Ordering::Relaxed);
        match failure {
            Some(failure) if !was => warn!(
                redis = self.shown,
                reason = Reason::of(failure).label(),
                error = short(failure),
                "no new connection to Redis can be made; those that there are go on being used"
            ),
            None if was => info!(redis = self.shown, "new connections to Redis can be made again"),
            _ => {}
        }
    }

    /// The addresses of the name, sorted; nothing if it is no name, or is not known now.
    fn look_up(&self) -> Option<Vec<IpAddr>> {
        let (host, port) = match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host, *port)
            }
            _ => return None,
        };
        if host.parse::<IpAddr>().is_ok() {
            return None;
        }
        let mut found: Vec<_> =
            (host.as_str(), port).to_socket_addrs().ok()?.map(|address| address.ip()).collect();
        found.sort_unstable();
        Some(found)
    }

    /// True if none of the addresses is one of before: some of many may differ from look to look.
    fn have_moved(&self, addresses: Vec<IpAddr>) -> bool {
        let mut known = self.known.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *known, addresses);
        !before.is_empty() && !known.iter().any(|address| before.contains(address))
    }

    /// How this server says its role, once it has said that it is no replica.
    fn ask_role(
        &self,
        connection: &mut Connection,
        protocol: ProtocolVersion,
    ) -> RedisResult<Question> {
        let mut question = *self.question();
        while let Some(command) = question.command(protocol) {
            match command.query(connection).map(role::read) {
                Ok(Role::Replica) => return Err(is_replica()),
                Ok(Role::Master) => break,
                Ok(Role::Unknown) => question = question.next(),
                Err(error) if is_not_understood(&error) => question = question.next(),
                Err(error) => return Err(error),
            }
        }
        *self.question() = question;
        Ok(question)
    }

    fn question(&self) -> std::sync::MutexGuard<'_, Question> {
        self.known.question.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Established {
    /// The question for the role, to be written behind other commands; empty if it is not
    /// answered here.
    pub(super) fn role_question(&self) -> Vec<u8> {
        self.question.command(self.protocol).map_or_else(Vec::new, |cmd| cmd.get_packed_command())
    }

    /// Reads the answer to [`Self::role_question`].
    ///
    /// # Errors
    /// The client's, or Redis's; that it is a replica.
    pub(super) fn hear_role(&mut self) -> RedisResult<()> {
        if self.question == Question::Nothing {
            return Ok(());
        }
        match role::read(self.connection.recv_response()?.extract_error()?) {
            Role::Replica => Err(is_replica()),
            Role::Master | Role::Unknown => Ok(()),
        }
    }
}

fn is_replica() -> RedisError {
    (ErrorKind::Server(ServerErrorKind::ReadOnly), "it is a replica").into()
}

/// Whether a question for the role is not known there, or not allowed.
fn is_not_understood(error: &RedisError) -> bool {
    matches!(error.code(), Some("ERR" | "NOPERM" | "NOPROTO"))
        && Reason::of(error) != Reason::Authentication
}

/// What the client says, of bounded length: part of it may be what Redis said.
pub(super) fn short(error: &RedisError) -> String {
    error.to_string().chars().take(200).collect()
}

/// From 0 to 1.
pub(super) fn chance() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn connector() -> Connector {
        Connector::new(Client::open("redis://redis.example").unwrap(), "redis".into(), "{t}".into())
    }

    #[test]
    fn a_generation_ends_once_whoever_notices_it() {
        let connector = connector();
        let other = connector.clone();
        connector.end_generation(0, "read_only");
        other.end_generation(0, "read_only");
        assert_eq!((connector.generation(), other.generation()), (1, 1));
        other.end_generation(1, "unheard");
        assert_eq!(connector.generation(), 2);
    }

    #[test]
    fn a_name_has_moved_if_no_address_is_one_of_before() {
        let connector = connector();
        let addresses = |last: &[u8]| last.iter().map(|n| IpAddr::from([10, 0, 0, *n])).collect();
        for (last, moved) in [
            (&[1, 2][..], false),
            (&[2, 3], false),
            (&[3], false),
            (&[1], true),
            (&[1], false),
            (&[4, 5], true),
        ] {
            assert_eq!(connector.have_moved(addresses(last)), moved, "{last:?}");
        }
    }
}
