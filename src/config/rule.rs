//! Which values a key takes, and reading one from text (environment, flags) or from TOML.
//!
//! A value that leaves here obeys its rule; nothing after this checks a range again.

use std::net::SocketAddr;

use toml::Spanned;
use toml::de::DeValue;

use super::value::{LogFormat, ProxyProtocol, Value};
use super::written::{QUOTED, is_quoted};
use super::{address_block, allowed_origin, network, shutdown_hook, source_override};
use crate::limits::REDIS_NAME_CHARS;
use crate::redis::endpoint;

/// The values a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `IP:PORT`; a name is not looked up, because what it means can change between starts.
    Address,
    /// A whole number from `min` to `max`.
    Number {
        /// The least, in the key's unit.
        min: u64,
        /// The most, in the key's unit.
        max: u64,
        /// What 0 means, where 0 is allowed besides the range.
        zero: Option<&'static str>,
    },
    /// A power of two from `min` to `max`.
    PowerOfTwo {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A WebSocket close code that may be sent (RFC 6455, section 7.4).
    CloseCode,
    /// The same, or 0, which means this.
    CloseCodeOr(&'static str),
    /// `true` or `false`; the environment and flags may also say `1` or `0`.
    Switch,
    /// The name of a log format.
    LogFormat,
    /// `off`, `accept` or `require`.
    ProxyProtocol,
    /// Networks in CIDR form, or single addresses; separated by commas outside the file.
    Networks,
    /// Origins, each exact or with a leading `*.` label; separated by commas outside the file.
    Origins,
    /// Tokens (RFC 9110, section 5.6.2), each once; separated by commas outside the file.
    Tokens,
    /// Blocks of addresses; separated by commas outside the file.
    Blocks,
    /// Limits by block of addresses.
    Overrides,
    /// Commands that run at a shutdown.
    Hooks,
    /// Empty, or visible ASCII (it travels in a header) of at least `min_chars`.
    Secret {
        /// The least number of characters.
        min_chars: usize,
    },
    /// A path; empty for none.
    Path,
    /// The URL of a Redis, which may hold a password; empty for none.
    RedisUrl,
    /// A few words for clients.
    Phrase,
    /// The name of a header; empty for the default.
    HeaderName,
    /// A name that is part of a key in Redis.
    Name {
        /// Whether it may be left out.
        may_be_empty: bool,
    },
}

/// A number from `min` to `max`.
pub(super) const fn between(min: u64, max: u64) -> Rule {
    Rule::Number { min, max, zero: None }
}

/// 0, which means `zero`, or a number from `min` to `max`.
pub(super) const fn zero_or(zero: &'static str, min: u64, max: u64) -> Rule {
    Rule::Number { min, max, zero: Some(zero) }
}

/// A power of two from `min` to `max`.
pub(super) const fn power_of_two(min: u64, max: u64) -> Rule {
    Rule::PowerOfTwo { min, max }
}

/// The close codes that may be sent.
const CLOSE_CODES: &str =
    "1000 to 1014 without 1004, 1005 and 1006, which are never sent, or 3000 to 4999";

/// The longest phrase in bytes: it is in every notice.
const PHRASE_MAX_BYTES: usize = 100;

/// The longest secret: what fits in a request head beside everything else.
const SECRET_MAX_CHARS: usize = 1024;

/// Why a value is refused, where the range alone does not say it.
pub(super) type Hint = Option<String>;

/// Why a value in the file, or a part of it, is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    /// Of a part: where it is in the file, in bytes, and what is written there.
    pub(super) part: Option<(usize, String)>,
    pub(super) hint: Hint,
}

impl Fault {
    pub(super) fn whole(hint: Hint) -> Self {
        Self { part: None, hint }
    }

    pub(super) fn part(at: usize, found: &str, hint: String) -> Self {
        Self { part: Some((at, found.to_owned())), hint: Some(hint) }
    }
}

impl Rule {
    /// The allowed values in words, without the unit.
    #[must_use]
    pub fn allowed(&self) -> String {
        match self {
            Rule::Address => "IP:PORT, as in 127.0.0.1:8080 or [::1]:8080".to_owned(),
            Rule::Number { min, max, zero: None } => format!("{min} to {max}"),
            Rule::Number { min, max, zero: Some(zero) } => {
                format!("0 ({zero}), or {min} to {max}")
            }
            Rule::PowerOfTwo { min, max } => format!("a power of two from {min} to {max}"),
            Rule::CloseCode => CLOSE_CODES.to_owned(),
            Rule::CloseCodeOr(zero) => format!("0 ({zero}), or {CLOSE_CODES}"),
            Rule::Switch => "true or false".to_owned(),
            Rule::LogFormat => LogFormat::NAMES.join(", "),
            Rule::ProxyProtocol => ProxyProtocol::NAMES.join(", "),
            Rule::Networks => {
                "addresses and networks, as in 10.0.0.7, 10.0.0.0/8 or fd00::/8".to_owned()
            }
            Rule::Origins => "origins as a browser sends them, as in https://example.com, \
                 https://*.example.com for every name below it, app://host for an embedded \
                 browser, file:// or null"
                .to_owned(),
            Rule::Tokens => "names of letters, digits and !#$%&'*+-.^_`|~, each once".to_owned(),
            Rule::Blocks => format!("blocks of addresses; each is {}", address_block::FORM),
            Rule::Overrides => source_override::allowed(),
            Rule::Hooks => shutdown_hook::allowed(),
            Rule::Secret { min_chars } => {
                format!("empty, or {min_chars} to {SECRET_MAX_CHARS} visible ASCII characters")
            }
            Rule::Path => "a path, or empty for none".to_owned(),
            Rule::RedisUrl => format!("empty for none, or {}", endpoint::FORM),
            Rule::Phrase => format!("1 to {PHRASE_MAX_BYTES} bytes without control characters"),
            Rule::HeaderName => format!(
                "empty, {}, or another name of 1 to {HEADER_NAME_CHARS} letters, digits and \
                 !#$%&'*+-.^_`|~",
                CLIENT_HEADERS.join(", ")
            ),
            Rule::Name { may_be_empty } => {
                let empty = if *may_be_empty { "empty, or " } else { "" };
                format!("{empty}1 to {REDIS_NAME_CHARS} letters, digits and . _ : -")
            }
        }
    }

    /// Reads a value from the environment or a flag.
    pub(super) fn read_text(&self, text: &str) -> Result<Value, Hint> {
        self.read_scaled(text, 1)
    }

    /// Reads a value that, if it is a number, is written in a unit `factor` times the key's.
    pub(super) fn read_scaled(&self, text: &str, factor: u64) -> Result<Value, Hint> {
        let value = match self {
            Rule::Address => Value::Address(read_address(text)?),
            Rule::Number { .. }
            | Rule::PowerOfTwo { .. }
            | Rule::CloseCode
            | Rule::CloseCodeOr(_) => {
                Value::Number(read_number(text)?.checked_mul(factor).ok_or(None)?)
            }
            Rule::Switch => match text {
                "true" | "1" => Value::Switch(true),
                "false" | "0" => Value::Switch(false),
                _ => return Err(None),
            },
            Rule::LogFormat
            | Rule::ProxyProtocol
            | Rule::Secret { .. }
            | Rule::Path
            | Rule::RedisUrl
            | Rule::Phrase
            | Rule::HeaderName
            | Rule::Name { .. } => Value::Text(text.to_owned()),
            Rule::Networks => {
                let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
                read_networks(entries)?
            }
            Rule::Blocks => Value::Blocks(address_block::read_list(text)?),
            Rule::Overrides => Value::Overrides(source_override::read_text(text)?),
            Rule::Hooks => Value::Hooks(shutdown_hook::read_text(text)?),
            Rule::Origins | Rule::Tokens => Value::List(
                text.split(',')
                    .map(str::trim)
                    .filter(|entry| !entry.is_empty())
                    .map(str::to_owned)
                    .collect(),
            ),
        };
        self.check(&value)?;
        Ok(value)
    }

    /// Reads a value from the file, where its TOML type must be the right one.
    pub(super) fn read_toml(&self, written: &Spanned<DeValue<'_>>) -> Result<Value, Vec<Fault>> {
        match self {
            Rule::Blocks => address_block::read_toml(written).map(Value::Blocks),
            Rule::Overrides => source_override::read_toml(written).map(Value::Overrides),
            Rule::Hooks => shutdown_hook::read_toml(written).map(Value::Hooks),
            _ => self.read_whole(written.get_ref()).map_err(|hint| vec![Fault::whole(hint)]),
        }
    }

    /// Reads a value that is right or wrong as a whole.
    fn read_whole(&self, written: &DeValue<'_>) -> Result<Value, Hint> {
        let wrong_type = |expected: &str| Some(format!("{expected} is expected here"));
        let value = match self {
            Rule::Address => {
                let text = written.as_str().ok_or_else(|| wrong_type("a string"))?;
                Value::Address(read_address(text)?)
            }
            Rule::Number { .. }
            | Rule::PowerOfTwo { .. }
            | Rule::CloseCode
            | Rule::CloseCodeOr(_) => {
                let number =
                    written.as_integer().ok_or_else(|| wrong_type("a number without quotes"))?;
                // What does not fit is far out of range: the message shows what was written.
                Value::Number(
                    u64::from_str_radix(number.as_str(), number.radix()).map_err(|_| None)?,
                )
            }
            Rule::Switch => Value::Switch(written.as_bool().ok_or(None)?),
            Rule::LogFormat
            | Rule::ProxyProtocol
            | Rule::Secret { .. }
            | Rule::Path
            | Rule::RedisUrl
            | Rule::Phrase
            | Rule::HeaderName
            | Rule::Name { .. } => {
                Value::Text(written.as_str().ok_or_else(|| wrong_type("a string"))?.to_owned())
            }
            Rule::Origins | Rule::Tokens | Rule::Networks => {
                let texts = written.as_array().ok_or_else(|| wrong_type("a list of strings"))?;
                let texts: Option<Vec<_>> =
                    texts.iter().map(|text| text.get_ref().as_str()).collect();
                let texts = texts.ok_or_else(|| wrong_type("a list of strings"))?;
                if *self == Rule::Networks {
                    read_networks(texts.into_iter())?
                } else {
                    Value::List(texts.into_iter().map(str::to_owned).collect())
                }
            }
            Rule::Blocks | Rule::Overrides | Rule::Hooks => return Err(None), // read in parts
        };
        self.check(&value)?;
        Ok(value)
    }

    /// Whether a value of the right type is one of the allowed ones.
    pub(super) fn check(&self, value: &Value) -> Result<(), Hint> {
        let allowed = match (self, value) {
            (Rule::Number { min, max, zero }, Value::Number(number)) => {
                (min..=max).contains(&number) || (zero.is_some() && *number == 0)
            }
            (Rule::PowerOfTwo { min, max }, Value::Number(number)) => {
                (min..=max).contains(&number) && number.is_power_of_two()
            }
            (Rule::CloseCode, Value::Number(code)) => may_be_sent(*code),
            (Rule::CloseCodeOr(_), Value::Number(code)) => *code == 0 || may_be_sent(*code),
            (Rule::Phrase, Value::Text(text)) => {
                (1..=PHRASE_MAX_BYTES).contains(&text.len()) && !text.contains(char::is_control)
            }
            (Rule::LogFormat, Value::Text(name)) => LogFormat::NAMES.contains(&name.as_str()),
            (Rule::ProxyProtocol, Value::Text(name)) => {
                ProxyProtocol::NAMES.contains(&name.as_str())
            }
            (Rule::Secret { min_chars }, Value::Text(text)) => {
                return check_secret(text, *min_chars);
            }
            (Rule::Origins, Value::List(origins)) => {
                for origin in origins {
                    allowed_origin::check(origin)
                        .map_err(|problem| Some(format!("{origin:?}: {problem}")))?;
                }
                true
            }
            (Rule::Tokens, Value::List(tokens)) => {
                let is_token = |token: &String| !token.is_empty() && token.bytes().all(is_tchar);
                let once = |(at, token): (usize, &String)| !tokens[..at].contains(token);
                tokens.iter().all(is_token) && tokens.iter().enumerate().all(once)
            }
            (Rule::Path, Value::Text(path)) => !path.contains('\0'),
            (Rule::RedisUrl, Value::Text(url)) => {
                check_secret(url, 0)?;
                if !url.is_empty() {
                    endpoint::check(url).map_err(Some)?;
                }
                true
            }
            (Rule::HeaderName, Value::Text(name)) => return check_header_name(name),
            (Rule::Name { may_be_empty }, Value::Text(name)) => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
                let fits = name.len() <= REDIS_NAME_CHARS && (*may_be_empty || !name.is_empty());
                fits && name.bytes().all(plain)
            }
            _ => true,
        };
        if allowed { Ok(()) } else { Err(None) }
    }
}

/// Headers in which proxies say who the client is.
const CLIENT_HEADERS: [&str; 5] =
    ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip", "none"];

/// The longest name of a header: twice what any proxy uses.
const HEADER_NAME_CHARS: usize = 64;

/// A slip in one of the known names would make another header of it, which no proxy writes.
fn check_header_name(name: &str) -> Result<(), Hint> {
    let lower = name.to_ascii_lowercase();
    if lower.len() > HEADER_NAME_CHARS || !lower.bytes().all(is_tchar) {
        return Err(None);
    }
    let near = |known: &&&str| (1..=2).contains(&strsim::osa_distance(&lower, known));
    match CLIENT_HEADERS.iter().find(near) {
        Some(meant) if !lower.is_empty() => Err(Some(format!("did you mean {meant}?"))),
        _ => Ok(()),
    }
}

/// A character of a token.
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether a close code may be sent (RFC 6455, section 7.4).
const fn may_be_sent(code: u64) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// The hint counts characters and never repeats them.
fn check_secret(text: &str, min_chars: usize) -> Result<(), Hint> {
    let chars = text.chars().count();
    if is_quoted(text) {
        return Err(Some(QUOTED.to_owned()));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Some("it contains a space, a line end or something else".to_owned()));
    }
    if chars != 0 && !(min_chars..=SECRET_MAX_CHARS).contains(&chars) {
        return Err(Some(format!("it has {chars} characters")));
    }
    Ok(())
}

fn read_networks<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Value, Hint> {
    let read =
        |entry| network::parse(entry).map_err(|problem| Some(format!("{entry:?}: {problem}")));
    entries.map(read).collect::<Result<_, _>>().map(Value::Blocks)
}

fn read_address(text: &str) -> Result<SocketAddr, Hint> {
    text.parse().map_err(|_| None)
}

/// Digits, with `_` between them as in TOML. A sign is not a digit, so `-1` and `+1` are not
/// numbers here, although `u64::from_str` would take the latter.
fn read_number(text: &str) -> Result<u64, Hint> {
    let framed = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    let digits = text.replace('_', "");
    if framed || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(None);
    }
    digits.parse().map_err(|_| None)
}
