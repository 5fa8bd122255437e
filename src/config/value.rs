//! The values a key can hold, between the text they were written as and the typed field that
//! the server reads.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;

use super::shutdown_hook::ShutdownHook;
use super::source_override::Overrides;

/// A value of any key, as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Value {
    /// An address and port to listen on.
    Address(SocketAddr),
    /// A count, a size or a time; the key's unit says which.
    Number(u64),
    /// On or off.
    Switch(bool),
    /// A name, a path or a secret; empty stands for "not set".
    Text(String),
    /// A list of texts; what an empty one means is the key's matter.
    List(Vec<String>),
    /// Blocks of addresses, or networks.
    Blocks(Vec<IpNet>),
    /// Limits by block of addresses.
    Overrides(Overrides),
    /// Commands that run at a shutdown.
    Hooks(Vec<ShutdownHook>),
}

impl Value {
    /// Whether this is a text that stands for "not set".
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Value::Text(text) if text.is_empty())
    }

    /// The value as it would be written in the configuration file.
    #[must_use]
    pub fn to_toml(&self) -> String {
        match self {
            Value::Address(address) => toml::Value::from(address.to_string()).to_string(),
            Value::Number(number) => number.to_string(),
            Value::Switch(on) => on.to_string(),
            Value::Text(text) => toml::Value::from(text.as_str()).to_string(),
            Value::List(texts) => toml::Value::from(texts.clone()).to_string(),
            Value::Blocks(_) | Value::Overrides(_) | Value::Hooks(_) => toml::Value::try_from(self)
                .map_or_else(|error| error.to_string(), |value| value.to_string()),
        }
    }
}

/// For people: texts without quotes, unless there is nothing to see.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => address.fmt(f),
            Value::Number(number) => number.fmt(f),
            Value::Switch(on) => on.fmt(f),
            Value::Text(text) if text.is_empty() => f.write_str("\"\""),
            Value::Text(text) => f.write_str(text),
            Value::List(texts) => write!(f, "[{}]", texts.join(", ")),
            Value::Blocks(blocks) => {
                let texts: Vec<_> = blocks.iter().map(IpNet::to_string).collect();
                write!(f, "[{}]", texts.join(", "))
            }
            Value::Overrides(overrides) => {
                let texts: Vec<_> =
                    overrides.iter().map(|(block, limits)| format!("{block}{limits}")).collect();
                write!(f, "[{}]", texts.join("; "))
            }
            Value::Hooks(hooks) => {
                f.write_str(&serde_json::to_string(hooks).map_err(|_| fmt::Error)?)
            }
        }
    }
}

/// A text that must not appear in a log, an error or an answer: its `Debug` form is `(set)`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What stands in for a secret wherever values are shown.
    pub const MASK: &'static str = "(set)";

    /// Wraps `text`; whether it is long enough was checked by the key's rule.
    #[must_use]
    pub fn new(text: String) -> Self {
        Secret(text)
    }

    /// The secret itself, to compare a request's token with. Compare in constant time.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Secret::MASK)
    }
}

/// The form of the log lines (`log.format`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable on a terminal, JSON otherwise.
    Auto,
    /// One readable line per event.
    Human,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// The names of `log.format`, in the order of the variants.
    pub(super) const NAMES: &'static [&'static str] = &["auto", "human", "json"];
}

/// Whether a trusted proxy says with a PROXY header whom it forwards (`server.proxy_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// Never; a PROXY header is a malformed request.
    Off,
    /// It may.
    Accept,
    /// It must.
    Require,
}

impl ProxyProtocol {
    /// The names of `server.proxy_protocol`, in the order of the variants.
    pub(super) const NAMES: &'static [&'static str] = &["off", "accept", "require"];
}

/// A Rust type that a key's value becomes. The rule of the key has already been checked, so a
/// value of another kind here is a mistake in the table of keys, which the first test finds.
pub(super) trait Setting {
    fn from_value(value: Value) -> Self;
    fn to_value(&self) -> Value;
}

fn mistaken(expected: &str, value: &Value) -> ! {
    unreachable!("the table of keys gives a field of type {expected} the value {value:?}")
}

/// Ranges keep numbers within their field's type (a test compares the two), so saturating
/// never happens; it is what stands here instead of a panic.
macro_rules! number_setting {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            fn from_value(value: Value) -> Self {
                match value {
                    Value::Number(number) => <$number>::try_from(number).unwrap_or(<$number>::MAX),
                    other => mistaken(stringify!($number), &other),
                }
            }

            fn to_value(&self) -> Value {
                Value::Number(u64::try_from(*self).unwrap_or(u64::MAX))
            }
        }
    )*};
}

number_setting!(u8, u16, u32, u64, usize);

impl Setting for SocketAddr {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Address(address) => address,
            other => mistaken("SocketAddr", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Address(*self)
    }
}

impl Setting for bool {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Switch(on) => on,
            other => mistaken("bool", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Switch(*self)
    }
}

impl Setting for Vec<String> {
    fn from_value(value: Value) -> Self {
        match value {
            Value::List(texts) => texts,
            other => mistaken("Vec<String>", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::List(self.clone())
    }
}

impl Setting for Vec<IpNet> {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Blocks(blocks) => blocks,
            other => mistaken("Vec<IpNet>", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Blocks(self.clone())
    }
}

impl Setting for Overrides {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Overrides(overrides) => overrides,
            other => mistaken("Overrides", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Overrides(self.clone())
    }
}

impl Setting for Vec<ShutdownHook> {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Hooks(hooks) => hooks,
            other => mistaken("Vec<ShutdownHook>", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Hooks(self.clone())
    }
}

impl Setting for String {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) => text,
            other => mistaken("String", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.clone())
    }
}

impl Setting for Option<Secret> {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) => (!text.is_empty()).then_some(Secret(text)),
            other => mistaken("Option<Secret>", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.as_ref().map_or_else(String::new, |secret| secret.0.clone()))
    }
}

impl Setting for Option<PathBuf> {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) => (!text.is_empty()).then(|| PathBuf::from(text)),
            other => mistaken("Option<PathBuf>", &other),
        }
    }

    fn to_value(&self) -> Value {
        Value::Text(self.as_ref().map_or_else(String::new, |path| path.display().to_string()))
    }
}

impl Setting for LogFormat {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) if text == "auto" => LogFormat::Auto,
            Value::Text(text) if text == "human" => LogFormat::Human,
            Value::Text(text) if text == "json" => LogFormat::Json,
            other => mistaken("LogFormat", &other),
        }
    }

    fn to_value(&self) -> Value {
        let name = match self {
            LogFormat::Auto => "auto",
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        };
        Value::Text(name.to_owned())
    }
}

impl Setting for ProxyProtocol {
    fn from_value(value: Value) -> Self {
        match value {
            Value::Text(text) if text == "off" => ProxyProtocol::Off,
            Value::Text(text) if text == "accept" => ProxyProtocol::Accept,
            Value::Text(text) if text == "require" => ProxyProtocol::Require,
            other => mistaken("ProxyProtocol", &other),
        }
    }

    fn to_value(&self) -> Value {
        let name = match self {
            ProxyProtocol::Off => "off",
            ProxyProtocol::Accept => "accept",
            ProxyProtocol::Require => "require",
        };
        Value::Text(name.to_owned())
    }
}
