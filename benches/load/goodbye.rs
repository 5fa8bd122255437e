//! What a leaving server tells its clients, in JSON text.

use serde_json::Value;

/// A message that belongs to a shutdown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Goodbye {
    /// `{"type":"server.shutdown", ...}`: when and where to come back, if it says so.
    Notice {
        /// `reconnect_after_ms`.
        reconnect_after_ms: Option<u32>,
        /// `reconnect_to`.
        reconnect_to: Option<String>,
    },
    /// `{"bye":true, ...}`: the last message before Close.
    Bye,
}

/// Recognises both in a text message.
pub(crate) fn parse(text: &str) -> Option<Goodbye> {
    // Most messages are something else: look before parsing.
    if !text.starts_with('{') || !(text.contains("server.shutdown") || text.contains("\"bye\"")) {
        return None;
    }
    let value: Value = serde_json::from_str(text).ok()?;
    if value["type"] == "server.shutdown" {
        let after = value["reconnect_after_ms"].as_u64();
        let reconnect_after_ms = after.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX));
        let reconnect_to = value["reconnect_to"].as_str().map(str::to_owned);
        return Some(Goodbye::Notice { reconnect_after_ms, reconnect_to });
    }
    (value["bye"] == true).then_some(Goodbye::Bye)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_and_goodbyes_are_recognised() {
        let notice = r#"{"type":"server.shutdown","reason":"deploy","reconnect_after_ms":1500}"#;
        let notice_of = |reconnect_after_ms, to: Option<&str>| Goodbye::Notice {
            reconnect_after_ms,
            reconnect_to: to.map(str::to_owned),
        };
        assert_eq!(parse(notice), Some(notice_of(Some(1_500), None)));
        let elsewhere = r#"{"type":"server.shutdown","reconnect_to":"ws://b:1"}"#;
        assert_eq!(parse(elsewhere), Some(notice_of(None, Some("ws://b:1"))));
        let silent = r#"{"type":"server.shutdown"}"#;
        assert_eq!(parse(silent), Some(notice_of(None, None)));
        let bye = r#"{"bye":true,"total":3,"message":"Server is shutting down gracefully"}"#;
        assert_eq!(parse(bye), Some(Goodbye::Bye));
        for other in ["", "server.shutdown", r#"{"bye":false}"#, r#"{"type":"x","bye":1}"#, "{"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
