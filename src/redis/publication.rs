//! What one node tells the others over Redis, as bytes. Pure.
//!
//! | bytes | what |
//! |---|---|
//! | 3 | `TG1`: the form |
//! | 1 | the kind |
//! | 16 | the publisher: the random name of its life |
//! | 8 | the number of this among what that publisher says, big endian |
//! | | what belongs to the kind |
//!
//! To channels: their number in two bytes, then each with its length in one byte, then the text.
//! To everybody: the text. A beat: nothing. A claim: the life that has the session, and its name.
//! Invariant: whatever the bytes are, reading them takes no memory beyond them and their channels'
//! names.

use super::life::Life;
use crate::limits::{MAX_CHANNEL_BYTES, MAX_PUBLISH_CHANNELS, REDIS_PUBLICATION_BYTES};

const FORM: &[u8; 3] = b"TG1";
const TO_CHANNELS: u8 = 1;
const TO_EVERYBODY: u8 = 2;
const BEAT: u8 = 3;
const CLAIM: u8 = 4;

/// Where the number is.
const NUMBER_AT: usize = FORM.len() + 1 + Life::BYTES;
const HEAD: usize = NUMBER_AT + 8;

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication<'a> {
    /// A text for the subscribers of these channels.
    Channels {
        /// 1 to [`MAX_PUBLISH_CHANNELS`].
        names: Names<'a>,
        /// The payload of the frame.
        text: &'a str,
    },
    /// A text for every connection.
    Everybody {
        /// The payload of the frame.
        text: &'a str,
    },
    /// A connection to the publisher has asked for a session.
    Claim {
        /// The life that had it, which is to let go.
        holder: Life,
        /// The session.
        session: &'a str,
    },
    /// Nothing but how far the publisher has counted.
    Beat,
}

/// Channel names one after the other, each behind its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names<'a>(&'a [u8]);

/// One thing that was said, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard<'a> {
    /// Who.
    pub publisher: Life,
    /// The number; that of a beat is the last one used.
    pub number: u64,
    /// What.
    pub said: Publication<'a>,
}

/// Bytes that no node of this form says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// More than [`REDIS_PUBLICATION_BYTES`].
    TooLong,
    /// Anything else.
    Malformed,
}

impl<'a> Names<'a> {
    /// The names in order.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name, after) = next_name(rest)?;
            rest = after;
            Some(name)
        })
    }
}

fn next_name(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked((*len).into())?;
    let name = simdutf8::basic::from_utf8(name).ok()?;
    (!name.is_empty()).then_some((name, rest))
}

/// The Redis channel of a cluster: what a database keeps apart is keys, and every channel is that of
/// the whole server, so the number of the database is part of the name. That of database 0 has none.
pub fn channel(prefix: &str, database: i64) -> String {
    match database {
        0 => format!("{prefix}:publications"),
        number => format!("{prefix}:publications:{number}"),
    }
}

/// A text for channels, with the number left open; `None` if it is too long for the others to take
/// it, or a name is.
pub fn to_channels<'a>(
    publisher: Life,
    names: impl ExactSizeIterator<Item = &'a str>,
    text: &str,
) -> Option<Vec<u8>> {
    let count = u16::try_from(names.len()).ok()?;
    let mut bytes = head(publisher, TO_CHANNELS, text.len());
    bytes.extend_from_slice(&count.to_be_bytes());
    for name in names {
        bytes.push(u8::try_from(name.len()).ok()?);
        bytes.extend_from_slice(name.as_bytes());
    }
    bytes.extend_from_slice(text.as_bytes());
    (bytes.len() <= REDIS_PUBLICATION_BYTES).then_some(bytes)
}

/// A text for everybody, with the number left open; `None` if it is too long.
pub fn to_everybody(publisher: Life, text: &str) -> Option<Vec<u8>> {
    let mut bytes = head(publisher, TO_EVERYBODY, text.len());
    bytes.extend_from_slice(text.as_bytes());
    (bytes.len() <= REDIS_PUBLICATION_BYTES).then_some(bytes)
}

/// A claim, with the number left open.
pub fn claim(publisher: Life, holder: Life, session: &str) -> Vec<u8> {
    let mut bytes = head(publisher, CLAIM, Life::BYTES + session.len());
    bytes.extend_from_slice(&holder.to_bytes());
    bytes.extend_from_slice(session.as_bytes());
    bytes
}

/// A beat, with the number left open.
pub fn beat(publisher: Life) -> Vec<u8> {
    head(publisher, BEAT, 0)
}

/// Writes the number.
pub fn set_number(bytes: &mut [u8], number: u64) {
    bytes[NUMBER_AT..HEAD].copy_from_slice(&number.to_be_bytes());
}

fn head(publisher: Life, kind: u8, text: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + 2 + MAX_CHANNEL_BYTES + text);
    bytes.extend_from_slice(FORM);
    bytes.push(kind);
    bytes.extend_from_slice(&publisher.to_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

/// Reads what was said.
///
/// # Errors
/// It is too long, or not of this form.
pub fn read(bytes: &[u8]) -> Result<Heard<'_>, NotTaken> {
    if bytes.len() > REDIS_PUBLICATION_BYTES {
        return Err(NotTaken::TooLong);
    }
    parse(bytes).ok_or(NotTaken::Malformed)
}

fn parse(bytes: &[u8]) -> Option<Heard<'_>> {
    let rest = bytes.strip_prefix(FORM)?;
    let (kind, rest) = rest.split_first()?;
    let (publisher, rest) = rest.split_first_chunk::<{ Life::BYTES }>()?;
    let (number, rest) = rest.split_first_chunk::<8>()?;
    let said = match *kind {
        TO_CHANNELS => channels(rest)?,
        TO_EVERYBODY => Publication::Everybody { text: simdutf8::basic::from_utf8(rest).ok()? },
        CLAIM => {
            let (holder, session) = rest.split_first_chunk::<{ Life::BYTES }>()?;
            let session = simdutf8::basic::from_utf8(session).ok()?;
            Publication::Claim { holder: Life::from_bytes(*holder), session }
        }
        BEAT if rest.is_empty() => Publication::Beat,
        _ => return None,
    };
    let publisher = Life::from_bytes(*publisher);
    Some(Heard { publisher, number: u64::from_be_bytes(*number), said })
}

fn channels(bytes: &[u8]) -> Option<Publication<'_>> {
    let (count, all) = bytes.split_first_chunk::<2>()?;
    let count = u16::from_be_bytes(*count);
    if !(1..=MAX_PUBLISH_CHANNELS).contains(&count.into()) {
        return None;
    }
    let mut rest = all;
    for _ in 0..count {
        (_, rest) = next_name(rest)?;
    }
    let names = Names(&all[..all.len() - rest.len()]);
    Some(Publication::Channels { names, text: simdutf8::basic::from_utf8(rest).ok()? })
}

const _: () = assert!(MAX_CHANNEL_BYTES <= u8::MAX as usize);
const _: () = assert!(MAX_PUBLISH_CHANNELS <= u16::MAX as usize);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const LIFE: Life = Life::from_bytes([7; Life::BYTES]);

    #[test]
    fn each_database_has_a_channel_of_its_own() {
        assert_eq!(channel("{tidegate:default}", 0), "{tidegate:default}:publications");
        assert_eq!(channel("{tidegate:default}", 1), "{tidegate:default}:publications:1");
    }

    #[test]
    fn what_is_said_is_heard() {
        let long = "é".repeat(127);
        let names = ["news", long.as_str()];
        let mut bytes = to_channels(LIFE, names.into_iter(), "{\"a\":1}").unwrap();
        set_number(&mut bytes, 258);
        let Heard { publisher, number, said } = read(&bytes).unwrap();
        assert_eq!((publisher, number), (LIFE, 258));
        let Publication::Channels { names: heard, text } = said else { panic!("{said:?}") };
        assert_eq!(heard.iter().collect::<Vec<_>>(), names);
        assert_eq!(text, "{\"a\":1}");

        let bytes = to_everybody(LIFE, "all").unwrap();
        assert_eq!(read(&bytes).unwrap().said, Publication::Everybody { text: "all" });
        assert_eq!(read(&beat(LIFE)).unwrap().said, Publication::Beat);
        let holder = Life::from_bytes([8; Life::BYTES]);
        let said = Publication::Claim { holder, session: "session-1" };
        assert_eq!(read(&claim(LIFE, holder, "session-1")).unwrap().said, said);
        assert_eq!(read(&claim(LIFE, holder, "")[..HEAD + 15]), Err(NotTaken::Malformed));
    }

    #[test]
    fn what_is_not_of_this_form_is_refused() {
        let good = to_channels(LIFE, ["a"].into_iter(), "x").unwrap();
        assert!(read(&good).is_ok());
        for cut in 0..good.len() - 1 {
            assert_eq!(read(&good[..cut]), Err(NotTaken::Malformed), "{cut}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            read(&bytes).map(|heard| heard.number)
        };
        let last = good.len() - 1;
        for (at, byte) in [(0, b't'), (2, b'2'), (3, 0), (3, 9), (last, 0xff), (HEAD + 2, 0)] {
            assert_eq!(changed(at, byte), Err(NotTaken::Malformed), "{at}");
        }
        // No channel, more channels than may be named, a beat with something behind it.
        assert_eq!(changed(HEAD + 1, 0), Err(NotTaken::Malformed));
        assert_eq!(changed(HEAD, 0xff), Err(NotTaken::Malformed));
        assert_eq!(changed(3, BEAT), Err(NotTaken::Malformed));
    }

    #[test]
    fn what_is_too_long_is_neither_said_nor_heard() {
        let text = "x".repeat(REDIS_PUBLICATION_BYTES - HEAD);
        let mut bytes = to_everybody(LIFE, &text).unwrap();
        assert!(read(&bytes).is_ok());
        bytes.push(b'x');
        assert_eq!(read(&bytes), Err(NotTaken::TooLong));
        assert_eq!(to_everybody(LIFE, &(text + "x")), None);
        assert_eq!(to_channels(LIFE, ["x".repeat(256).as_str()].into_iter(), ""), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>, head: bool) {
            let mut all = if head { to_channels(LIFE, ["a"].into_iter(), "").unwrap() } else { vec![] };
            all.extend(bytes);
            if let Ok(Heard { said: Publication::Channels { names, text }, .. }) = read(&all) {
                let len: usize = names.iter().map(|name| name.len() + 1).sum();
                prop_assert_eq!(HEAD + 2 + len + text.len(), all.len());
            }
        }
    }
}
