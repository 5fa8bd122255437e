//! From the body of a request about a drain to what is wanted of it. Pure.

use serde::Deserialize;

use super::error::{ApiError, quoted};
use super::parse::{AdminRequest, object};
use crate::coordinator::cause::Cause;
use crate::coordinator::command::{Steering, Wish};
use crate::coordinator::drain::Pace;
use crate::limits::{DRAIN_WITHIN_MS, RECONNECT_TO_BYTES};

/// The highest pace: that of `shutdown.drain_connections_per_second`.
const PER_SECOND_MAX: u64 = 100_000_000;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutdownOrder {
    cause: Option<String>,
    within_ms: Option<u64>,
    connections_per_second: Option<u64>,
    reconnect_to: Option<String>,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PaceOrder {
    within_ms: Option<u64>,
    connections_per_second: Option<u64>,
}

/// A shutdown, or the question what it would be like. No body is one without wishes.
///
/// # Errors
/// 400, naming the field.
pub(super) fn shutdown(body: &[u8]) -> Result<AdminRequest, ApiError> {
    let fields = "any of `cause`, `within_ms` or `connections_per_second`, `reconnect_to` and \
                  `dry_run`; or may be left out";
    let order = if body.trim_ascii().is_empty() {
        ShutdownOrder::default()
    } else {
        object::<ShutdownOrder>(body, fields)?
    };
    let wish = Wish {
        cause: order.cause.map_or(Ok(Cause::Operator), |name| cause(&name))?,
        pace: wanted_pace(order.within_ms, order.connections_per_second)?,
        reconnect_to: order.reconnect_to.map(reconnect_to).transpose()?,
    };
    Ok(if order.dry_run {
        AdminRequest::Foresee(wish)
    } else {
        AdminRequest::Shutdown { force: false, wish }
    })
}

/// Another pace for the drain that is under way.
///
/// # Errors
/// 400, naming the field.
pub(super) fn pace(body: &[u8]) -> Result<AdminRequest, ApiError> {
    let fields = "`within_ms` or `connections_per_second`, a number";
    let order = object::<PaceOrder>(body, fields)?;
    match wanted_pace(order.within_ms, order.connections_per_second)? {
        Some(pace) => Ok(AdminRequest::Steer(Steering::Pace(pace))),
        None => {
            Err(ApiError::bad_request(format!("no pace; the body is a JSON object with {fields}")))
        }
    }
}

fn cause(name: &str) -> Result<Cause, ApiError> {
    Cause::asked(name).ok_or_else(|| {
        let known = Cause::ASKED.map(Cause::label).join(", ");
        ApiError::bad_request(format!("`cause` is {}; allowed are {known}", quoted(name)))
    })
}

fn wanted_pace(within_ms: Option<u64>, per_second: Option<u64>) -> Result<Option<Pace>, ApiError> {
    let in_range = |name: &str, number: u64, most: u64| {
        if (1..=most).contains(&number) {
            return Ok(number);
        }
        Err(ApiError::bad_request(format!("`{name}` is {number}; allowed are 1 to {most}")))
    };
    match (within_ms, per_second) {
        (None, None) => Ok(None),
        (Some(ms), None) => in_range("within_ms", ms, DRAIN_WITHIN_MS).map(Pace::Within).map(Some),
        (None, Some(rate)) => {
            in_range("connections_per_second", rate, PER_SECOND_MAX).map(Pace::PerSecond).map(Some)
        }
        (Some(_), Some(_)) => Err(ApiError::bad_request(
            "`within_ms` and `connections_per_second` are two ways to say how fast; give one",
        )),
    }
}

/// An address that a WebSocket client can use as it is.
fn reconnect_to(address: String) -> Result<String, ApiError> {
    let host = ["ws://", "wss://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let is_address = host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        && address.len() <= RECONNECT_TO_BYTES
        && address.bytes().all(|byte| byte.is_ascii_graphic());
    if is_address {
        return Ok(address);
    }
    Err(ApiError::bad_request(format!(
        "`reconnect_to` is {}; it is ws:// or wss:// with a host, at most {RECONNECT_TO_BYTES} \
         bytes of visible ASCII",
        quoted(&address)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(result: Result<AdminRequest, ApiError>) -> String {
        match result {
            Err(error) => error.message,
            Ok(request) => panic!("read as {request:?}"),
        }
    }

    #[test]
    fn a_shutdown_has_a_cause_a_pace_and_an_address() {
        let body = br#"{"cause":"deploy","within_ms":20000,"reconnect_to":"wss://b.example/ws"}"#;
        let wish = Wish {
            cause: Cause::Deploy,
            pace: Some(Pace::Within(20_000)),
            reconnect_to: Some("wss://b.example/ws".to_owned()),
        };
        assert_eq!(shutdown(body), Ok(AdminRequest::Shutdown { force: false, wish }));
        let wish = Wish { pace: Some(Pace::PerSecond(7)), ..Wish::default() };
        let body = br#"{"connections_per_second":7,"dry_run":true}"#;
        assert_eq!(shutdown(body), Ok(AdminRequest::Foresee(wish)));
    }

    #[test]
    fn errors_name_the_field_and_what_is_allowed() {
        for (body, said) in [
            (r#"{"cause":"signal"}"#, "deploy, scale-in, emergency, operator"),
            (r#"{"within_ms":0}"#, "`within_ms` is 0; allowed are 1 to 86400000"),
            (r#"{"connections_per_second":0}"#, "`connections_per_second` is 0"),
            (r#"{"within_ms":1,"connections_per_second":1}"#, "give one"),
            (r#"{"reconnect_to":"http://a"}"#, "`reconnect_to`"),
            (r#"{"reconnect_to":"ws:///x"}"#, "with a host"),
            (r#"{"reconnect_to":"wss://a b"}"#, "visible ASCII"),
            (r#"{"within":1}"#, "`within`"),
        ] {
            let message = refusal(shutdown(body.as_bytes()));
            assert!(message.contains(said), "{body}: {message}");
        }
        let long = format!(r#"{{"reconnect_to":"ws://{}"}}"#, "x".repeat(RECONNECT_TO_BYTES));
        assert!(refusal(shutdown(long.as_bytes())).len() < 400);
        assert!(refusal(pace(b"{}")).contains("no pace"));
        assert!(refusal(pace(b"")).contains("empty"));
    }
}
