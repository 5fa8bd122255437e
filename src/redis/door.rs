//! The way in: where Redis is, and a connection to it whose every wait has a bound.

use std::time::Duration;

use ::redis::{Client, Connection, RedisError, RedisResult};
use ahash::RandomState;

use crate::limits::REDIS_CONNECT_MS;

/// Where Redis is.
#[derive(Clone, Debug)]
pub struct Door {
    client: Client,
    /// Its address without a password.
    pub shown: String,
}

impl Door {
    /// To this Redis.
    pub fn new(client: Client, shown: String) -> Self {
        Self { client, shown }
    }

    /// A new connection, on which an answer may take so long.
    ///
    /// # Errors
    /// The client's, or Redis's.
    pub fn connect(&self, patience: Duration) -> RedisResult<Connection> {
        let most = Duration::from_millis(REDIS_CONNECT_MS);
        let connection = self.client.get_connection_with_timeout(patience.min(most))?;
        // The client forgets them while it connects.
        connection.set_read_timeout(Some(patience))?;
        connection.set_write_timeout(Some(patience))?;
        Ok(connection)
    }
}

/// What the client says, on one line of bounded length: part of it may be what Redis said.
pub(super) fn short(error: &RedisError) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(200).collect()
}

/// From 0 to 1.
pub(super) fn chance() -> f64 {
    RandomState::new().hash_one(0) as f64 / u64::MAX as f64
}
