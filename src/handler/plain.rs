//! `/ws`: plain WebSocket clients. `?channel=NAME` (may repeat) subscribes; publications arrive
//! as bare text frames; what the client sends is counted and otherwise ignored. `?session=new` or
//! `?session=ID` begins a session or goes on with one.
//!
//! Other parameters are ignored, because proxies and pages add theirs. A name that is one letter
//! from `channel` or `session` is refused, because whoever wrote it would wait for publications
//! that never come.

use super::{Effect, Effects, Handler, Inbound};
use crate::http::query::pairs;
use crate::http::refusal::Refusal;
use crate::limits::{MAX_CHANNEL_BYTES, MAX_CHANNELS_PER_CONNECTION};
use crate::sessions::id::{CHARS_MAX, CHARS_MIN, NEW, SessionId};

/// Serves clients that speak no protocol but WebSocket.
#[derive(Debug, Default)]
pub struct Plain;

impl Handler for Plain {
    fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
        let Inbound::Opening { query } = inbound else { return };
        match Parameters::read(query) {
            Ok(Parameters { channels, session: Some(id) }) => {
                effects.push(Effect::Session { id, channels });
            }
            Ok(Parameters { channels, session: None }) => {
                channels.into_iter().for_each(|name| effects.push(Effect::Subscribe(name)));
            }
            Err(detail) => effects.push(Effect::Refuse(Refusal::bad_request(detail))),
        }
    }
}

/// What a query asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    /// Each once, in order.
    channels: Vec<String>,
    /// None, a new one (`Some(None)`), or the one of an id.
    session: Option<Option<SessionId>>,
}

impl Parameters {
    /// Reads a query; the error is what is wrong with it.
    fn read(query: &str) -> Result<Self, &'static str> {
        let mut parameters = Self::default();
        for (name, value) in pairs(query) {
            // What is not UTF-8 is not one of our names.
            let Ok(name) = name.decode() else { continue };
            match ParameterName::of(&name) {
                ParameterName::Channel => {
                    let channel = value
                        .decode()
                        .map_err(|_| "query parameter channel: not UTF-8 once it is decoded")?;
                    parameters.add_channel(&channel)?;
                }
                ParameterName::Session if parameters.session.is_some() => {
                    return Err("query parameter session: at most one");
                }
                ParameterName::Session => {
                    parameters.session =
                        Some(value.decode().map_err(|_| BAD_SESSION).and_then(|id| {
                            match SessionId::new(&id) {
                                Some(id) => Ok(Some(id)),
                                None if id == NEW => Ok(None),
                                None => Err(BAD_SESSION),
                            }
                        })?);
                }
                ParameterName::Near(detail) => return Err(detail),
                ParameterName::Other => {}
            }
        }
        Ok(parameters)
    }

    fn add_channel(&mut self, channel: &str) -> Result<(), &'static str> {
        if channel.is_empty() || channel.len() > MAX_CHANNEL_BYTES {
            return Err("query parameter channel: a name has 1 to 255 bytes");
        }
        if self.channels.iter().any(|known| known == channel) {
            return Ok(());
        }
        if self.channels.len() == MAX_CHANNELS_PER_CONNECTION {
            return Err("query parameter channel: at most 64 different names per connection");
        }
        self.channels.push(channel.to_owned());
        Ok(())
    }
}

const BAD_SESSION: &str = "query parameter session: new, or 8 to 64 of A-Z a-z 0-9 _ -";

const _: () = assert!(CHARS_MIN == 8 && CHARS_MAX == 64);
const _: () = assert!(MAX_CHANNEL_BYTES == 255 && MAX_CHANNELS_PER_CONNECTION == 64);

/// What the name of a query parameter means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ParameterName {
    Channel,
    Session,
    /// Nothing, but it is nearly one of the others; with what to answer.
    Near(&'static str),
    /// Nothing here.
    Other,
}

impl ParameterName {
    fn of(name: &str) -> Self {
        match name {
            "channel" => Self::Channel,
            "session" => Self::Session,
            name if is_near(name, "channel") => {
                Self::Near("unknown query parameter; did you mean channel?")
            }
            name if is_near(name, "session") => {
                Self::Near("unknown query parameter; did you mean session?")
            }
            _ => Self::Other,
        }
    }
}

/// Whether `written` is `known` but for case and one letter that is missing, too many, another, or
/// in the place of its neighbour. Two letters are not near: `session_id` and `channel_id` may well
/// be somebody else's.
fn is_near(written: &str, known: &str) -> bool {
    written.len().abs_diff(known.len()) <= 1
        && strsim::osa_distance(&written.to_ascii_lowercase(), known) <= 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn channels(query: &str) -> Result<Vec<String>, &'static str> {
        Parameters::read(query).map(|parameters| parameters.channels)
    }

    fn session(query: &str) -> Result<Option<Option<SessionId>>, &'static str> {
        Parameters::read(query).map(|parameters| parameters.session)
    }

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
        for bad in [
            "session=",
            "session=short",
            "session=abcd%201234",
            "session=new&session=new",
            "session=abcd%E91234",
        ] {
            assert!(session(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bad_channels_are_named() {
        assert!(channels("channel=").is_err());
        assert!(channels(&format!("channel={}", "x".repeat(256))).is_err());
        for latin_1 in
            ["channel=caf%E9", "channel=caf%E8", "channel=a&channel=%FF", "%63hannel=%C3"]
        {
            assert!(channels(latin_1).unwrap_err().contains("UTF-8"), "{latin_1}");
        }
        assert_eq!(channels("x=%E9&%E9=x&channel=a"), Ok(vec!["a".into()]), "others' are others'");
    }

    #[test]
    fn a_channel_counts_once_however_often_it_is_named() {
        assert_eq!(channels(&"channel=a&".repeat(65)), Ok(vec!["a".into()]));
        let names = |count| (0..count).map(|n| format!("channel=c{n}&")).collect::<String>();
        let twice = [names(64), names(64)].concat();
        assert_eq!(channels(&twice).unwrap().len(), 64);
        assert!(channels(&names(65)).unwrap_err().contains("at most 64"));
    }

    #[test]
    fn a_name_that_is_nearly_one_of_ours_is_refused_and_others_are_ignored() {
        for (near, meant) in [
            ("chanel", "channel"),
            ("channels", "channel"),
            ("Channel", "channel"),
            ("CHANEL", "channel"),
            ("chnanel", "channel"),
            ("channe1", "channel"),
            ("sesion", "session"),
            ("sessions", "session"),
        ] {
            let detail = Parameters::read(&format!("{near}=x&channel=a")).unwrap_err();
            assert!(detail.ends_with(&format!("did you mean {meant}?")), "{near}: {detail}");
        }
        for other in [
            "utm_source",
            "sid",
            "session_id",
            "sessionid",
            "channel_id",
            "ch",
            "c",
            "",
            "passion",
            "version",
            "token",
            "cha\u{f1}el\u{e9}",
        ] {
            assert_eq!(
                Parameters::read(&format!("{other}=x")),
                Ok(Parameters::default()),
                "{other}"
            );
        }
    }
}
