//! What is kept of a session between two connections: how many messages it has sent, and its
//! channels. Pure.
//!
//! Its form in Redis is JSON, `{"v":1,"messages":12,"channels":["news"]}`. Whatever stands there is
//! checked as if a client had sent it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{MAX_CHANNEL_BYTES, MAX_CHANNELS_PER_CONNECTION, SESSION_RECORD_BYTES};

const FORM: u32 = 1;

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Data messages that the client has sent, over all its connections.
    pub messages: u64,
    /// The names of the channels that it is subscribed to, shared with whoever else has them.
    pub channels: Box<[Arc<str>]>,
}

#[derive(Serialize)]
struct Written<'a> {
    v: u32,
    messages: u64,
    channels: Vec<&'a str>,
}

#[derive(Deserialize)]
struct Read {
    v: u32,
    messages: u64,
    channels: Vec<String>,
}

impl Record {
    /// Its form in Redis.
    pub fn to_json(&self) -> String {
        let channels = self.channels.iter().map(AsRef::as_ref).collect();
        let written = Written { v: FORM, messages: self.messages, channels };
        // Numbers and strings can always be written.
        serde_json::to_string(&written).unwrap_or_default()
    }

    /// Reads what Redis has; `None` if it is nothing that a node writes.
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > SESSION_RECORD_BYTES {
            return None;
        }
        let Read { v, messages, channels } = serde_json::from_slice(bytes).ok()?;
        let fits = |name: &String| (1..=MAX_CHANNEL_BYTES).contains(&name.len());
        let is_ours =
            v == FORM && channels.len() <= MAX_CHANNELS_PER_CONNECTION && channels.iter().all(fits);
        let channels = channels.into_iter().map(Arc::from).collect();
        is_ours.then_some(Self { messages, channels })
    }

    /// What it takes in memory, as if nobody shared the names.
    pub fn bytes(&self) -> usize {
        // A pointer with a length, and a block with two counts in front of the name.
        self.channels.iter().map(|name| 16 + 16 + name.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let channels = ["news", "a \"b\"\n", "é"].map(Arc::from).into();
        let record = Record { messages: u64::MAX, channels };
        assert_eq!(Record::from_json(record.to_json().as_bytes()), Some(record));
        assert_eq!(Record::default().to_json(), r#"{"v":1,"messages":0,"channels":[]}"#);
    }

    #[test]
    fn the_largest_record_fits_and_larger_ones_are_refused() {
        let worst: Arc<str> = "\u{1}".repeat(MAX_CHANNEL_BYTES).into();
        let record =
            |channels| Record { messages: 0, channels: vec![Arc::clone(&worst); channels].into() };
        let largest = record(MAX_CHANNELS_PER_CONNECTION);
        assert_eq!(Record::from_json(largest.to_json().as_bytes()), Some(largest));
        assert_eq!(Record::from_json(record(65).to_json().as_bytes()), None);
        let spaces = " ".repeat(SESSION_RECORD_BYTES) + r#"{"v":1,"messages":0,"channels":[]}"#;
        assert_eq!(Record::from_json(spaces.as_bytes()), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for nonsense in [
            "",
            "{}",
            "[]",
            r#"{"v":2,"messages":0,"channels":[]}"#,
            r#"{"v":1,"messages":-1,"channels":[]}"#,
            r#"{"v":1,"messages":0,"channels":[""]}"#,
            r#"{"v":1,"messages":0,"channels":[1]}"#,
            r#"{"v":1,"messages":0,"channels":["x"]"#,
        ] {
            assert_eq!(Record::from_json(nonsense.as_bytes()), None, "{nonsense}");
        }
        assert_eq!(Record::from_json(b"\xff\xff"), None);
    }
}
