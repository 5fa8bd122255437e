//! From the body of a request to what is to be done. Pure: bytes in, a value or an error out.

use std::collections::HashSet;
use std::str;

use serde::Deserialize;
use serde_json::error::Category;
use serde_json::value::RawValue;

use super::drain_request;
use super::error::{ApiError, ErrorKind, quoted};
use super::route::{Method, Route, Show};
use crate::coordinator::command::{Steering, Wish};
use crate::http::query::pairs;
use crate::limits::{
    MAX_CHANNEL_BYTES, MAX_PUBLISH_CHANNELS, MAX_PUBLISH_ENTRIES, REFUSED_SOURCES,
};
use crate::mesh::message::Fault;

/// What a request asks for, complete and in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AdminRequest {
    /// To look.
    Show(Show),
    /// The sources that were refused most, so many of them.
    Refused { limit: usize },
    /// To end the server.
    Shutdown {
        /// Cut instead of drain.
        force: bool,
        /// How it is to be done.
        wish: Wish,
    },
    /// To know what such a shutdown would be like.
    Foresee(Wish),
    /// Something else of the drain that is under way.
    Steer(Steering),
    /// The configuration is to be read again.
    Reload,
    /// A message to every connection.
    BroadcastAll { message: String, title: String, level: String },
    /// Data to the subscribers of these channels.
    Publish {
        channels: Vec<String>,
        /// JSON, byte for byte as it was in the request.
        data: String,
        /// How many entries the answer has: one for each channel as it was named. `None` for an
        /// answer without entries.
        entries: Option<usize>,
    },
    /// What this node is.
    Info,
    /// A shard is to misbehave.
    Fault { thread: FaultyThread, fault: Fault },
}

/// The longest stall that can be asked for: longer than any deadline that it should trip.
const STALL_MAX_MS: u64 = 600_000;

/// Checks that what changes something says it is JSON: a web page cannot say so about a
/// request to another site without asking that site first.
///
/// # Errors
/// 415.
pub(super) fn check_content_type(
    method: Method,
    content_type: Option<&[u8]>,
    has_body: bool,
) -> Result<(), ApiError> {
    let wanted = match method {
        Method::Get => false,
        Method::Post => true,
        Method::Delete => has_body,
    };
    let essence = content_type.map(|value| match value.iter().position(|byte| *byte == b';') {
        Some(at) => &value[..at],
        None => value,
    });
    let is_json =
        essence.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(b"application/json"));
    if !wanted || is_json {
        return Ok(());
    }
    let found = match content_type.map(str::from_utf8) {
        None => "there is none".to_owned(),
        Some(value) => format!("it is {}", quoted(value.unwrap_or("(not text)"))),
    };
    Err(ApiError::new(
        ErrorKind::UnsupportedMediaType,
        format!("this route wants content-type: application/json; {found}"),
    ))
}

/// Checks that the body is not compressed.
///
/// # Errors
/// 415.
pub(super) fn check_content_encoding<'a>(
    encodings: impl Iterator<Item = &'a [u8]>,
) -> Result<(), ApiError> {
    let is_plain =
        |encoding: &[u8]| encoding.is_empty() || encoding.eq_ignore_ascii_case(b"identity");
    for written in encodings {
        let codings = written.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        if let Some(other) = codings.into_iter().find(|coding| !is_plain(coding)) {
            let coding = quoted(str::from_utf8(other).unwrap_or("(not text)"));
            return Err(ApiError::new(
                ErrorKind::UnsupportedEncoding,
                format!("content-encoding is {coding}; the body must not be compressed"),
            ));
        }
    }
    Ok(())
}

/// Sources that `refused` shows unless it is told how many.
const REFUSED_SHOWN: usize = 10;

/// Reads the query or the body that belongs to a route.
///
/// # Errors
/// 400, naming the field or the place.
pub(super) fn request(
    route: Route,
    query: Option<&str>,
    body: &[u8],
    shards: usize,
) -> Result<AdminRequest, ApiError> {
    match route {
        Route::Show(show) => Ok(AdminRequest::Show(show)),
        Route::Refused => refused(query.unwrap_or_default()),
        Route::Drain => drain_request::shutdown(body),
        Route::Force => {
            nothing(body).map(|()| AdminRequest::Shutdown { force: true, wish: Wish::default() })
        }
        Route::Pause => nothing(body).map(|()| AdminRequest::Steer(Steering::Pause)),
        Route::Resume => nothing(body).map(|()| AdminRequest::Steer(Steering::Resume)),
        Route::Cancel => nothing(body).map(|()| AdminRequest::Steer(Steering::Cancel)),
        Route::Pace => drain_request::pace(body),
        Route::Reload => nothing(body).map(|()| AdminRequest::Reload),
        Route::Info => nothing(body).map(|()| AdminRequest::Info),
        Route::BroadcastAll => broadcast_all(body),
        Route::Publish => publish(body),
        Route::PublishMany => publish_many(body),
        Route::Fault => fault(body, shards),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BroadcastAll {
    message: String,
    #[serde(default)]
    title: String,
    #[serde(default = "info")]
    level: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish<'a> {
    channel: String,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublishMany<'a> {
    channels: Vec<String>,
    #[serde(borrow)]
    data: &'a RawValue,
}

/// Where a fault is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FaultyThread {
    Shard(usize),
    Coordinator,
    /// The one that answers here.
    Admin,
    /// The one that writes the log.
    Log,
    /// The one that closes resources and runs hooks, when it begins.
    Resources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultOrder {
    shard: Option<usize>,
    /// Without a shard; absent: the coordinator.
    thread: Option<String>,
    fault: String,
    ms: Option<u64>,
}

fn info() -> String {
    "info".to_owned()
}

/// Fields of Centrifugo's API that would do something in another version. Dropping them silently
/// would promise what does not happen.
const WITHOUT_EFFECT: [&str; 7] =
    ["b64data", "skip_history", "tags", "idempotency_key", "delta", "version", "version_epoch"];

/// The UTF-8 byte order mark, which editors and some languages put before a text (RFC 8259, section
/// 8.1, lets a parser ignore it).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads a JSON object. The error of a field says which, where and what was expected.
pub(super) fn object<'a, T: Deserialize<'a>>(body: &'a [u8], fields: &str) -> Result<T, ApiError> {
    let bad = |kind, what: &dyn std::fmt::Display| {
        ApiError::new(kind, format!("{what}; the body is a JSON object with {fields}"))
    };
    let undecodable = |what: &str| bad(ErrorKind::Undecodable, &what);
    let body = without_mark(body);
    if body.trim_ascii().is_empty() {
        return Err(undecodable("the body is empty"));
    }
    let Ok(text) = str::from_utf8(body) else {
        return Err(undecodable(not_utf8(body)));
    };
    // serde would also take the fields' values in order, as an array.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(undecodable("the body does not begin with `{`"));
    }
    serde_json::from_str(text).map_err(|error| {
        let kind = match error.classify() {
            Category::Data => ErrorKind::BadRequest,
            Category::Io | Category::Syntax | Category::Eof => ErrorKind::Undecodable,
        };
        // The message may quote the body at any length.
        let message: String = error.to_string().chars().take(200).collect();
        let unknown = |field| message.starts_with(&format!("unknown field `{field}`"));
        match WITHOUT_EFFECT.into_iter().find(|field| unknown(*field)) {
            Some(field) => {
                let what = format!(
                    "`{field}` has no effect in this version, and is refused rather than ignored"
                );
                bad(kind, &what)
            }
            None => bad(kind, &message),
        }
    })
}

fn without_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body)
}

fn not_utf8(body: &[u8]) -> &'static str {
    match body {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "the body is UTF-16; send it as UTF-8",
        [0x1f, 0x8b, ..] => "the body is compressed by gzip; send it as it is",
        _ => "the body is not UTF-8",
    }
}

fn refused(query: &str) -> Result<AdminRequest, ApiError> {
    let limits = pairs(query).filter(|(name, _)| name.decode().as_deref() == Ok("limit"));
    let Some((_, written)) = limits.last() else {
        return Ok(AdminRequest::Refused { limit: REFUSED_SHOWN });
    };
    let written =
        written.decode().map_err(|_| ApiError::bad_request("`limit` is not UTF-8 once decoded"))?;
    match written.parse() {
        Ok(limit) if (1..=REFUSED_SOURCES).contains(&limit) => Ok(AdminRequest::Refused { limit }),
        _ => Err(ApiError::bad_request(format!(
            "`limit` is {}; allowed are 1 to {REFUSED_SOURCES}",
            quoted(&written)
        ))),
    }
}

fn nothing(body: &[u8]) -> Result<(), ApiError> {
    if without_mark(body).trim_ascii().is_empty() {
        return Ok(());
    }
    object::<Nothing>(body, "no fields, or may be left out").map(|_| ())
}

fn broadcast_all(body: &[u8]) -> Result<AdminRequest, ApiError> {
    let fields = "`message`, and optionally `title` and `level`, all strings";
    let BroadcastAll { message, title, level } = object(body, fields)?;
    if message.is_empty() {
        return Err(ApiError::bad_request("`message` is empty; it needs at least 1 byte"));
    }
    Ok(AdminRequest::BroadcastAll { message, title, level })
}

fn publish(body: &[u8]) -> Result<AdminRequest, ApiError> {
    let Publish { channel, data } =
        object(body, "`channel`, a string, and `data`, any JSON value")?;
    check_channel("`channel`", &channel)?;
    Ok(AdminRequest::Publish {
        channels: vec![channel],
        data: data.get().to_owned(),
        entries: None,
    })
}

fn publish_many(body: &[u8]) -> Result<AdminRequest, ApiError> {
    let PublishMany { channels, data } =
        object(body, "`channels`, an array of strings, and `data`, any JSON value")?;
    let entries = channels.len();
    if entries > MAX_PUBLISH_ENTRIES {
        return Err(ApiError::bad_request(format!(
            "`channels` has {entries} entries; allowed are 1 to {MAX_PUBLISH_ENTRIES}, repetitions \
             among them"
        )));
    }
    for (at, channel) in channels.iter().enumerate() {
        check_channel(&format!("`channels[{at}]`"), channel)?;
    }
    let channels = distinct(channels);
    if !(1..=MAX_PUBLISH_CHANNELS).contains(&channels.len()) {
        return Err(ApiError::bad_request(format!(
            "`channels` has {} different entries; allowed are 1 to {MAX_PUBLISH_CHANNELS}",
            channels.len()
        )));
    }
    let data = data.get().to_owned();
    Ok(AdminRequest::Publish { channels, data, entries: Some(entries) })
}

/// Each channel once, in the order of the first mention: a subscriber gets a message once however
/// often its channel is named.
fn distinct(channels: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::with_capacity(channels.len().min(MAX_PUBLISH_CHANNELS));
    channels.into_iter().filter(|channel| seen.insert(channel.clone())).collect()
}

fn check_channel(field: &str, channel: &str) -> Result<(), ApiError> {
    if (1..=MAX_CHANNEL_BYTES).contains(&channel.len()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "{field} has {} bytes; a channel's name has 1 to {MAX_CHANNEL_BYTES}",
        channel.len()
    )))
}

fn fault(body: &[u8], shards: usize) -> Result<AdminRequest, ApiError> {
    let fields = "`shard`, a number, or `thread`, \"coordinator\" (so if both are missing), \"admin\", \"log\" or \"resources\"; `fault`, \"panic\" or \"stall\"; and for a stall `ms`";
    let FaultOrder { shard, thread, fault, ms } = object(body, fields)?;
    let thread = faulty_thread(shard, thread.as_deref(), shards)?;
    let fault = match (fault.as_str(), ms) {
        ("panic", None) => Fault::Panic,
        ("panic", Some(_)) => {
            return Err(ApiError::bad_request("`ms` goes with the fault \"stall\" only"));
        }
        ("stall", Some(ms)) if (1..=STALL_MAX_MS).contains(&ms) => Fault::Stall(ms),
        ("stall", ms) => {
            let found = ms.map_or_else(|| "missing".to_owned(), |ms| ms.to_string());
            return Err(ApiError::bad_request(format!(
                "`ms` is {found}; a stall takes 1 to {STALL_MAX_MS} milliseconds"
            )));
        }
        (other, _) => {
            return Err(ApiError::bad_request(format!(
                "`fault` is {}; allowed are \"panic\" and \"stall\"",
                quoted(other)
            )));
        }
    };
    let can_panic = matches!(thread, FaultyThread::Shard(_) | FaultyThread::Coordinator);
    if fault == Fault::Panic && !can_panic {
        return Err(ApiError::bad_request(
            "`fault` \"panic\" goes with shards and the coordinator",
        ));
    }
    Ok(AdminRequest::Fault { thread, fault })
}

fn faulty_thread(
    shard: Option<usize>,
    thread: Option<&str>,
    shards: usize,
) -> Result<FaultyThread, ApiError> {
    match (shard, thread) {
        (Some(shard), None) if shard < shards => Ok(FaultyThread::Shard(shard)),
        (Some(shard), None) => Err(ApiError::bad_request(format!(
            "`shard` is {shard}; there are {shards}, counted from 0"
        ))),
        (None, None | Some("coordinator")) => Ok(FaultyThread::Coordinator),
        (None, Some("admin")) => Ok(FaultyThread::Admin),
        (None, Some("log")) => Ok(FaultyThread::Log),
        (None, Some("resources")) => Ok(FaultyThread::Resources),
        (None, Some(other)) => Err(ApiError::bad_request(format!(
            "`thread` is {}; allowed are \"coordinator\", \"admin\", \"log\" and \"resources\"",
            quoted(other)
        ))),
        (Some(_), Some(_)) => Err(ApiError::bad_request("`shard` or `thread`, not both")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUTES: [Route; 13] = [
        Route::Refused,
        Route::Drain,
        Route::Force,
        Route::Pause,
        Route::Resume,
        Route::Pace,
        Route::Cancel,
        Route::Reload,
        Route::BroadcastAll,
        Route::Publish,
        Route::PublishMany,
        Route::Info,
        Route::Fault,
    ];

    fn read(route: Route, body: &str) -> Result<AdminRequest, String> {
        request(route, None, body.as_bytes(), 2).map_err(|error| {
            assert_eq!(error.kind.status(), 400);
            error.message
        })
    }

    fn refusal(route: Route, body: &str) -> String {
        match read(route, body) {
            Err(message) => message,
            Ok(request) => panic!("{body} was read as {request:?}"),
        }
    }

    #[test]
    fn published_data_keeps_its_bytes() {
        for data in
            ["1.0", "1e400", "\"\\u00e9\\ud800\"", "{ \"b\":1,\n \"a\":2 , \"b\":3}", "null"]
        {
            let body = format!("{{\"channel\":\"news\",\"data\":  {data} }}");
            let expected = AdminRequest::Publish {
                channels: vec!["news".to_owned()],
                data: data.to_owned(),
                entries: None,
            };
            assert_eq!(read(Route::Publish, &body), Ok(expected));
        }
    }

    /// Many brackets are no recursion.
    #[test]
    fn deep_data_does_not_reach_the_end_of_the_stack() {
        let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
        assert!(read(Route::Publish, &format!("{{\"channel\":\"c\",\"data\":{deep}}}")).is_ok());
        refusal(Route::Publish, &"{\"data\":".repeat(500_000));
        refusal(Route::BroadcastAll, &format!("{{\"message\":{deep}}}"));
    }

    /// S2.27.
    #[test]
    fn a_broadcast_needs_its_message_only() {
        let expected = AdminRequest::BroadcastAll {
            message: "back at 9".to_owned(),
            title: String::new(),
            level: "info".to_owned(),
        };
        assert_eq!(read(Route::BroadcastAll, r#"{"message":"back at 9"}"#), Ok(expected));
        assert!(refusal(Route::BroadcastAll, r#"{"message":""}"#).contains("at least 1 byte"));
    }

    #[test]
    fn errors_name_the_field() {
        for (route, body, named) in [
            (Route::Publish, r#"{"channel":"c","data":1,"skip_history":true}"#, "`skip_history`"),
            (Route::Publish, r#"{"channel":"c"}"#, "`data`"),
            (Route::Publish, r#"{"channel":"","data":1}"#, "`channel` has 0 bytes"),
            (Route::Publish, r#"["c",1]"#, "begin with `{`"),
            (Route::Publish, r#"{"channel":"c","data":1}x"#, "trailing"),
            (Route::Publish, r#"{"channel":"c","channel":"d","data":1}"#, "duplicate field"),
            (Route::Publish, "", "the body is empty"),
            (
                Route::PublishMany,
                r#"{"channels":[],"data":1}"#,
                "`channels` has 0 different entries",
            ),
            (Route::PublishMany, r#"{"channels":["a",""],"data":1}"#, "`channels[1]`"),
            (Route::PublishMany, r#"{"channels":"a","data":1}"#, "expected a sequence"),
            (Route::BroadcastAll, r#"{"message":1}"#, "line 1 column"),
            (Route::BroadcastAll, r#"{"message":"a","colour":1}"#, "`colour`"),
            (Route::Drain, r#"{"force":true}"#, "`force`"),
            (Route::Fault, r#"{"shard":2,"fault":"panic"}"#, "`shard` is 2"),
            (Route::Fault, r#"{"shard":0,"fault":"pan"}"#, "`fault`"),
            (Route::Fault, r#"{"shard":0,"fault":"stall"}"#, "`ms` is missing"),
            (Route::Fault, r#"{"shard":0,"fault":"stall","ms":0}"#, "1 to 600000"),
            (Route::Fault, r#"{"shard":0,"fault":"panic","ms":1}"#, "`ms`"),
            (Route::Fault, r#"{"shard":-1,"fault":"panic"}"#, "`-1`"),
            (Route::Fault, r#"{"thread":"signals","fault":"panic"}"#, "`thread` is"),
            (Route::Fault, r#"{"thread":"log","fault":"panic"}"#, "goes with shards"),
            (Route::Fault, r#"{"thread":"log","shard":0,"fault":"stall","ms":1}"#, "not both"),
        ] {
            let message = refusal(route, body);
            assert!(message.contains(named), "{body}: {message}");
        }
        let long = format!(r#"{{"channel":"{}","data":1}}"#, "x".repeat(256));
        assert!(refusal(Route::Publish, &long).contains("has 256 bytes"));
    }

    #[test]
    fn a_query_says_how_many_refused_sources_are_wanted() {
        let read = |query| request(Route::Refused, query, &[], 2);
        for (query, limit) in [
            (None, 10),
            (Some(""), 10),
            (Some("verbose=1"), 10),
            (Some("limit=1"), 1),
            (Some("a=b&limit=64&c"), 64),
        ] {
            assert_eq!(read(query), Ok(AdminRequest::Refused { limit }), "{query:?}");
        }
        for query in ["limit=0", "limit=65", "limit=", "limit", "limit=ten", "limit=-1"] {
            let error = read(Some(query)).err().map(|error| error.message).unwrap_or_default();
            assert!(error.contains("allowed are 1 to 64"), "{query}: {error}");
        }
    }

    #[test]
    fn an_empty_body_is_enough_where_nothing_is_needed() {
        for body in ["", " ", "{}", " { } "] {
            let shutdown = |force| Ok(AdminRequest::Shutdown { force, wish: Wish::default() });
            assert_eq!(read(Route::Drain, body), shutdown(false));
            assert_eq!(read(Route::Force, body), shutdown(true));
            assert_eq!(read(Route::Pause, body), Ok(AdminRequest::Steer(Steering::Pause)));
            assert_eq!(read(Route::Reload, body), Ok(AdminRequest::Reload));
            assert_eq!(read(Route::Info, body), Ok(AdminRequest::Info));
        }
    }

    #[test]
    fn what_changes_something_says_it_is_json() {
        let check = |method, content_type: Option<&str>, has_body| {
            check_content_type(method, content_type.map(str::as_bytes), has_body).is_ok()
        };
        assert!(check(Method::Get, None, false) && check(Method::Get, Some("text/plain"), true));
        assert!(check(Method::Delete, None, false));
        for good in ["application/json", "Application/JSON ; charset=utf-8"] {
            assert!(
                check(Method::Post, Some(good), true) && check(Method::Delete, Some(good), true)
            );
        }
        for bad in [None, Some(""), Some("text/plain"), Some("application/jsonp"), Some("é")] {
            assert!(
                !check(Method::Post, bad, false) && !check(Method::Delete, bad, true),
                "{bad:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for route in ROUTES {
                let _ = request(route, None, &bytes, 2);
            }
        }

        #[test]
        fn no_text_that_looks_like_a_body_panics(text in r#"[{}\[\]":,a-z0-9\\ .eu-]{0,80}"#) {
            for route in ROUTES {
                let _ = request(route, Some(&text), text.as_bytes(), 2);
            }
        }
    }
}
