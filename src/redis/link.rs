//! One link to Redis: a connection that is made anew when it fails, when its generation has ended,
//! and every [`REDIS_RENEW_MS`] in any case, so that it leads to where the name leads.
//!
//! Connecting is done on a thread of its own, because looking up a name has no bound: whoever uses
//! the link waits for so long as it says. Renewing waits for [`REDIS_RENEW_GRACE_MS`]; if the new
//! connection is not there by then, or cannot be made, the one that there is is used on.

use std::io;
use std::thread;
use std::time::Duration;

use ::redis::{RedisError, RedisResult};
use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};

use super::connector::{Connector, Established};
use super::reason::Reason;
use crate::clock::Now;
use crate::limits::{REDIS_RENEW_GRACE_MS, REDIS_RENEW_MS, REDIS_REPLY_MS};

/// The name of the thread that connects.
const THREAD: &str = "tidegate-connect";

/// The link.
pub(super) struct Link {
    connector: Connector,
    current: Option<Established>,
    attempt: Option<Attempt>,
    renewed: Now,
}

/// A connection in the making.
struct Attempt {
    result: Receiver<RedisResult<Established>>,
}

impl Link {
    /// No connection is made yet.
    pub(super) fn new(connector: Connector) -> Self {
        Self { connector, current: None, attempt: None, renewed: Now::default() }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Whether there is a connection already.
    pub(super) fn is_there(&self) -> bool {
        self.current.is_some()
    }

    /// Closes it.
    pub(super) fn close(&mut self) {
        (self.current, self.attempt) = (None, None);
    }

    /// Uses the connection, and keeps it if that succeeds. After any error it is not used again: an
    /// answer may still be on its way.
    pub(super) fn with<T>(
        &mut self,
        now: Now,
        patience: Duration,
        exchange: impl FnOnce(&mut Established) -> RedisResult<T>,
    ) -> RedisResult<T> {
        let mut established = self.take(now, patience)?;
        match exchange(&mut established) {
            Ok(value) => {
                established.is_new = false;
                self.current = Some(established);
                Ok(value)
            }
            Err(error) => {
                // One that never worked tells nothing of the others.
                if Reason::of(&error) == Reason::ReadOnly && !established.is_new {
                    self.connector.end_generation(established.generation, "it became a replica");
                }
                Err(error)
            }
        }
    }

    /// The connection, which is to be given back or dropped.
    pub(super) fn take(&mut self, now: Now, patience: Duration) -> RedisResult<Established> {
        match self.current.take().filter(|current| self.trusts(current)) {
            None => self.connect(now, patience),
            Some(current) if now < self.renewed.plus_ms(REDIS_RENEW_MS) => Ok(current),
            Some(current) => self.renew(now, current),
        }
    }

    fn trusts(&self, established: &Established) -> bool {
        established.generation == self.connector.generation()
    }

    fn connect(&mut self, now: Now, patience: Duration) -> RedisResult<Established> {
        // What was begun before the generation ended is not waited for twice.
        for _ in 0..2 {
            match self.attempt(patience)? {
                Some(established) if self.trusts(&established) => {
                    self.renewed = now;
                    self.connector.note_renewal(None);
                    return Ok(established);
                }
                Some(_) => {}
                None => break,
            }
        }
        Err(io::Error::from(io::ErrorKind::TimedOut).into())
    }

    fn renew(&mut self, now: Now, current: Established) -> RedisResult<Established> {
        let is_under_way = self.attempt.is_some();
        let grace_ms = if is_under_way { 0 } else { REDIS_RENEW_GRACE_MS };
        match self.attempt(Duration::from_millis(grace_ms)) {
            Ok(Some(established)) if self.trusts(&established) => {
                self.renewed = now;
                self.connector.note_renewal(None);
                Ok(established)
            }
            Err(failure) => {
                self.renewed = now;
                self.connector.note_renewal(Some(&failure));
                Ok(current)
            }
            Ok(_) if self.trusts(&current) => Ok(current),
            // The look at the name has just ended the generation.
            Ok(_) => self.connect(now, Duration::from_millis(REDIS_REPLY_MS)),
        }
    }

    /// Waits for the attempt that is under way, or for a new one; nothing if that takes longer.
    fn attempt(&mut self, patience: Duration) -> RedisResult<Option<Established>> {
        let attempt = match self.attempt.take() {
            Some(attempt) => attempt,
            None => Attempt::begin(&self.connector)?,
        };
        match attempt.result.recv_timeout(patience) {
            Ok(result) => result.map(Some),
            Err(RecvTimeoutError::Timeout) => {
                self.attempt = Some(attempt);
                Ok(None)
            }
            Err(RecvTimeoutError::Disconnected) => Err(gave_no_result()),
        }
    }
}

impl Attempt {
    fn begin(connector: &Connector) -> RedisResult<Self> {
        let connector = connector.clone();
        let (sender, result) = bounded(1);
        let connect = move || {
            // Whoever wanted it may have gone.
            let _ = sender.send(connector.connect(Duration::from_millis(REDIS_REPLY_MS)));
        };
        thread::Builder::new().name(THREAD.to_owned()).spawn(connect)?;
        Ok(Self { result })
    }
}

fn gave_no_result() -> RedisError {
    io::Error::other("the thread that connects has ended without a result").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::TcpListener;
    use std::time::Instant;

    use ::redis::Client;

    use super::*;

    #[test]
    fn nobody_waits_longer_for_a_connection_than_it_says() {
        // Nobody accepts, so nothing is answered.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("redis://:x@{}", listener.local_addr().unwrap());
        let connector = Connector::new(Client::open(url).unwrap(), "here".into(), "{t}".into());
        let mut link = Link::new(connector);
        let started = Instant::now();
        for _ in 0..3 {
            let refused = link.take(Now::default(), Duration::from_millis(1)).err().unwrap();
            assert_eq!(Reason::of(&refused), Reason::TimedOut);
        }
        assert!(started.elapsed() < Duration::from_millis(u64::from(REDIS_REPLY_MS as u32) / 2));
        assert!(link.attempt.is_some() && !link.is_there(), "one attempt is waited for");
    }
}
