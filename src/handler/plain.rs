//! `/ws`: plain WebSocket clients. `?channel=NAME` (may repeat) subscribes; publications arrive
//! as bare text frames; what the client sends is counted and otherwise ignored.

use super::{Effect, Effects, Handler, Inbound};
use crate::http::refusal::Refusal;
use crate::limits::{MAX_CHANNEL_BYTES, MAX_CHANNELS_PER_CONNECTION};

/// Serves clients that speak no protocol but WebSocket.
#[derive(Debug, Default)]
pub struct Plain;

impl Handler for Plain {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        let Inbound::Opening { query } = inbound else { return };
        match channels(query) {
            Ok(channels) => channels.into_iter().for_each(|c| effects.push(Effect::Subscribe(c))),
            Err(detail) => effects.push(Effect::Refuse(Refusal::bad_request(detail))),
        }
    }
}

/// The channels that a query asks for, or what is wrong with it.
fn channels(query: &str) -> Result<Vec<String>, &'static str> {
    let mut channels = Vec::new();
    for (key, name) in form_urlencoded::parse(query.as_bytes()) {
        if key != "channel" {
            continue;
        }
        if name.is_empty() || name.len() > MAX_CHANNEL_BYTES {
            return Err("query parameter channel: a name has 1 to 255 bytes");
        }
        if channels.len() == MAX_CHANNELS_PER_CONNECTION {
            return Err("query parameter channel: at most 64 per connection");
        }
        channels.push(name.into_owned());
    }
    Ok(channels)
}

const _: () = assert!(MAX_CHANNEL_BYTES == 255 && MAX_CHANNELS_PER_CONNECTION == 64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_come_from_the_query() {
        let found = channels("channel=news&x=1&channel=a%20b&channel=m%C3%BC");
        assert_eq!(found, Ok(vec!["news".into(), "a b".into(), "mü".into()]));
        assert_eq!(channels(""), Ok(vec![]));
    }

    #[test]
    fn bad_channels_are_named() {
        assert!(channels("channel=").is_err());
        assert!(channels(&format!("channel={}", "x".repeat(256))).is_err());
        assert!(channels(&"channel=a&".repeat(65)).is_err());
    }
}
