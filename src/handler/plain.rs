//! `/ws`: plain WebSocket clients. `?channel=NAME` (may repeat) subscribes; publications arrive
//! as bare text frames; what the client sends is counted and otherwise ignored. `?session=new` or
//! `?session=ID` begins a session or goes on with one.

use super::{Effect, Effects, Handler, Inbound};
use crate::http::refusal::Refusal;
use crate::limits::{MAX_CHANNEL_BYTES, MAX_CHANNELS_PER_CONNECTION};
use crate::sessions::id::{CHARS_MAX, CHARS_MIN, NEW, SessionId};

/// Serves clients that speak no protocol but WebSocket.
#[derive(Debug, Default)]
pub struct Plain;

impl Handler for Plain {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        let Inbound::Opening { query } = inbound else { return };
        match channels(query).and_then(|channels| Ok((channels, session(query)?))) {
            Ok((channels, Some(id))) => effects.push(Effect::Session { id, channels }),
            Ok((channels, None)) => {
                channels.into_iter().for_each(|name| effects.push(Effect::Subscribe(name)));
            }
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

/// The session that a query asks for: none, a new one (`Some(None)`), or the one of an id.
fn session(query: &str) -> Result<Option<Option<SessionId>>, &'static str> {
    let mut asked = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "session");
    let Some((_, id)) = asked.next() else { return Ok(None) };
    if asked.next().is_some() {
        return Err("query parameter session: at most one");
    }
    match SessionId::new(&id) {
        Some(id) => Ok(Some(Some(id))),
        None if id == NEW => Ok(Some(None)),
        None => Err("query parameter session: new, or 8 to 64 of A-Z a-z 0-9 _ -"),
    }
}

const _: () = assert!(CHARS_MIN == 8 && CHARS_MAX == 64);
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
    fn a_session_is_new_or_has_an_id() {
        assert_eq!(session("channel=a"), Ok(None));
        assert_eq!(session("session=new&channel=a"), Ok(Some(None)));
        assert_eq!(session("session=abcd_1234"), Ok(Some(SessionId::new("abcd_1234"))));
        for bad in ["session=", "session=short", "session=abcd%201234", "session=new&session=new"] {
            assert!(session(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_channels_are_named() {
        assert!(channels("channel=").is_err());
        assert!(channels(&format!("channel={}", "x".repeat(256))).is_err());
        assert!(channels(&"channel=a&".repeat(65)).is_err());
    }
}
