//! The configuration as resolved: the layers laid over each other, what depends on another key
//! filled in, and the checks between keys.
//!
//! Every error of every source is collected before the answer is given.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::allowed_origin;
use super::environment;
use super::error::{ConfigError, ConfigErrors};
use super::file_source::{self, Occasion};
use super::key::{KEYS, Key};
use super::rule::Rule;
use super::secret_file;
use super::source::{Origin, Source, Sources};
use super::table::{Admission, Config};
use super::value::{ProxyProtocol, Secret, Value};
use super::written::{Layer, Written, shown_name};
use crate::redis::endpoint;

/// Limits for a machine on which people write software: a reload of a page full of sockets,
/// again and again from one address, is no attack there.
const PROFILES: &[(&str, &[(&str, u64)])] = &[(
    "development",
    &[
        ("admission.connections_per_ip_per_minute", 120),
        ("admission.global_connections_per_second", 2_000),
        ("admission.max_global_connections", 100_000),
    ],
)];

/// A resolved value for people and for `/api/v1/shutdown/config`; a secret is masked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownValue {
    /// The key's name, `section.key`.
    pub key: &'static str,
    /// The value in force, in the key's unit.
    pub value: Value,
    /// Where it was written: `default`, `profile NAME`, `file PATH:LINE`, `environment NAME`
    /// or `flag NAME`, with a note if it was changed to fit another key.
    pub source: String,
}

impl Config {
    /// Reads the sources and resolves them.
    ///
    /// # Errors
    ///
    /// Every value that is refused, every unknown name, every contradiction, and a file that
    /// cannot be read: the process should print them and end with
    /// [`exit_code::CONFIG`](crate::exit_code::CONFIG).
    pub fn load(sources: Sources) -> Result<Config, ConfigErrors> {
        Self::read(&sources, Occasion::Start)
    }

    /// Reads the sources again for a server that runs. The file has to be a regular one that is
    /// not empty and that nobody is writing.
    ///
    /// # Errors
    /// As [`load`](Self::load), and what can be read at the start only.
    pub fn load_again(sources: &Sources) -> Result<Config, ConfigErrors> {
        Self::read(sources, Occasion::Reload)
    }

    /// Reads the sources for a command that only wants to know addresses or limits: secrets that
    /// are in files of their own are left there, since not everybody may read them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_without_secrets(sources: &Sources) -> Result<Config, ConfigErrors> {
        Self::read(sources, Occasion::WithoutSecrets)
    }

    fn read(sources: &Sources, occasion: Occasion) -> Result<Config, ConfigErrors> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let profile = profile_layer(sources, &mut errors);
        let file = file_source::layer(sources, occasion, &mut errors, &mut warnings);
        let environment = environment::read(&sources.environment);
        let flags = Layer::from_flags(&sources.flags);

        let mut values = BTreeMap::new();
        for layer in [profile, file, environment, flags] {
            values.extend(layer.values);
            errors.extend(layer.errors);
        }
        if occasion != Occasion::WithoutSecrets {
            secret_file::read_all(&mut values, &mut errors);
        }
        let mut config = Config::from_written(&values);
        config.warnings = warnings;
        config.fill_in();
        config.check(&mut errors);
        if errors.is_empty() { Ok(config) } else { Err(ConfigErrors(errors)) }
    }

    /// Every key in the order of the table, with the value in force and its source.
    #[must_use]
    pub fn shown(&self) -> Vec<ShownValue> {
        let values = KEYS.iter().zip(self.values()).zip(&self.origins);
        values
            .map(|((key, value), origin)| ShownValue {
                key: key.name,
                value: mask(key, value),
                source: origin.to_string(),
            })
            .collect()
    }

    /// Where the value of the key of this name was written; `None` if there is no such key.
    #[must_use]
    pub fn source(&self, key: &str) -> Option<&Source> {
        Key::position(key).and_then(|at| self.origins.get(at)).map(|origin| &origin.source)
    }

    /// Whether the value of this key was made from that of another.
    pub(super) fn is_derived(&self, key: &str) -> bool {
        let origin = Key::position(key).and_then(|at| self.origins.get(at));
        origin.is_some_and(|origin| origin.note.is_some())
    }

    fn from_written(written: &BTreeMap<&'static str, Written>) -> Config {
        let mut values = Vec::with_capacity(KEYS.len());
        let mut origins = Vec::with_capacity(KEYS.len());
        for key in KEYS {
            let (value, source, file) = match written.get(key.name) {
                Some(Written { value, source, file, .. }) => {
                    (value.clone(), source.clone(), file.clone())
                }
                None => (key.preset_value(), Source::Default, None),
            };
            values.push(value);
            origins.push(Origin { source, note: None, file });
        }
        Config::from_values(values, origins)
    }

    fn note(&mut self, key: &str, note: String) {
        let at = Key::position(key);
        if let Some(origin) = at.and_then(|at| self.origins.get_mut(at)) {
            origin.note = Some(note);
        }
    }

    /// Gives values that stand for "as another key says" that key's value, and makes the
    /// stages of a shutdown fit into its deadline.
    fn fill_in(&mut self) {
        self.fill_in_overrides();
        let admission = &mut self.admission;
        if admission.connections_per_ip_burst == 0 {
            admission.connections_per_ip_burst = admission.connections_per_ip_per_minute;
            let note = "same as admission.connections_per_ip_per_minute".to_owned();
            self.note("admission.connections_per_ip_burst", note);
        }
        if self.shutdown.reconnect_per_second == 0 {
            self.shutdown.reconnect_per_second = self.admission.global_connections_per_second;
            let note = "same as admission.global_connections_per_second".to_owned();
            self.note("shutdown.reconnect_per_second", note);
        }
        self.cut_stages();
        self.fill_in_profiles();
        if self.server.proxy_protocol != ProxyProtocol::Off
            && self.server.trusted_proxies.is_empty()
        {
            self.warnings.push(
                "server.proxy_protocol is set but server.trusted_proxies is empty: a PROXY header \
                 is a malformed request from everybody"
                    .to_owned(),
            );
        }
        if !self.server.forwarded_header.is_empty() && self.server.trusted_proxies.is_empty() {
            self.warnings.push(
                "server.forwarded_header is set but server.trusted_proxies is empty: the header \
                 is believed of nobody"
                    .to_owned(),
            );
        }
        let warn_of = |origin: &String| {
            allowed_origin::warning(origin)
                .map(|why| format!("server.allowed_origins has {origin}: {why}"))
        };
        self.warnings.extend(self.server.allowed_origins.iter().filter_map(warn_of));
        if self.server.trusted_proxies.iter().any(|network| network.prefix_len() == 0) {
            self.warnings.push(
                "server.trusted_proxies trusts every address: whoever connects can claim to be \
                 anybody"
                    .to_owned(),
            );
        }
        if self.debug.fault_injection {
            self.warnings.push(
                "debug.fault_injection is on: the admin API can make a shard panic or stall"
                    .to_owned(),
            );
        }
        self.warn_of_visible_secrets();
    }

    /// Every user of the machine sees the command line of every process.
    fn warn_of_visible_secrets(&mut self) {
        let values = self.values();
        for (secret, file) in secret_file::pairs() {
            let at = Key::position(secret.name).unwrap_or_default();
            let Value::Text(text) = &values[at] else { continue };
            let Origin { source: Source::Flag(_), file: None, .. } = &self.origins[at] else {
                continue;
            };
            let is_visible = match secret.rule {
                Rule::RedisUrl => endpoint::has_password(text),
                _ => !text.is_empty(),
            };
            if is_visible {
                self.warnings.push(format!(
                    "{} is on the command line, where every user of this machine can read it (ps); \
                     write it into a file that only the server can read and set {} to its path",
                    secret.name, file.name
                ));
            }
        }
    }

    /// A burst that is not set follows the rate next to it, as it does for everybody; one that is
    /// set for everybody holds in a block too.
    fn fill_in_overrides(&mut self) {
        let admission = &mut self.admission;
        let general_burst = admission.connections_per_ip_burst;
        for limits in admission.overrides.values_mut() {
            let rate = limits.connections_per_minute;
            if limits.burst.unwrap_or(general_burst) == 0 {
                limits.burst = Some(rate.unwrap_or(admission.connections_per_ip_per_minute));
            }
        }
    }

    /// What the profile of a cause leaves out is as for a signal.
    fn fill_in_profiles(&mut self) {
        let shutdown = self.shutdown.clone();
        let mut filled = Vec::new();
        macro_rules! fill_in {
            ($($section:ident),*) => {$({
                let profile = &mut self.$section;
                let numbers = [
                    ("deadline_ms", &mut profile.deadline_ms, shutdown.deadline_ms, "deadline_ms"),
                    ("drain_ms", &mut profile.drain_ms, shutdown.drain_ms, "drain_ms"),
                    (
                        "connections_per_second",
                        &mut profile.connections_per_second,
                        shutdown.drain_connections_per_second,
                        "drain_connections_per_second",
                    ),
                ];
                for (field, value, general, key) in numbers {
                    if *value == 0 && general != 0 {
                        *value = general;
                        filled.push((concat!(stringify!($section), "."), field, key));
                    }
                }
                if profile.close_code == 0 {
                    profile.close_code = shutdown.close_code;
                    filled.push((concat!(stringify!($section), "."), "close_code", "close_code"));
                }
            })*};
        }
        fill_in!(drain_deploy, drain_scale_in, drain_emergency, drain_operator);
        for (section, field, key) in filled {
            self.note(&format!("{section}{field}"), format!("same as shutdown.{key}"));
        }
    }

    /// A cap longer than the deadline is no error: an operator who wants to be done in 10 s
    /// sets the one deadline. Caps that fit one by one and not together are left as they are,
    /// because a stage that ends early leaves its time to the next.
    fn cut_stages(&mut self) {
        let deadline_ms = self.shutdown.deadline_ms;
        let stages = [
            ("shutdown.pre_drain_delay_ms", &mut self.shutdown.pre_drain_delay_ms),
            ("shutdown.notice_ms", &mut self.shutdown.notice_ms),
            ("shutdown.drain_ms", &mut self.shutdown.drain_ms),
            ("shutdown.close_timeout_ms", &mut self.shutdown.close_timeout_ms),
        ];
        let mut cut = Vec::new();
        for (name, stage_ms) in stages {
            if *stage_ms > deadline_ms {
                cut.push((name, *stage_ms));
                *stage_ms = deadline_ms;
            }
        }
        let stages = &self.shutdown;
        let sum_ms = stages.pre_drain_delay_ms + stages.notice_ms + stages.drain_ms;
        if cut.is_empty() && sum_ms > deadline_ms {
            self.warnings.push(format!(
                "shutdown.pre_drain_delay_ms, shutdown.notice_ms and shutdown.drain_ms add up to \
                 {sum_ms} ms; the last of them gets what shutdown.deadline_ms = {deadline_ms} ms \
                 leaves"
            ));
        }
        for (name, written_ms) in cut {
            self.note(name, "cut to shutdown.deadline_ms".to_owned());
            self.warnings.push(format!(
                "{name} = {written_ms} ms is longer than shutdown.deadline_ms and is cut to \
                 {deadline_ms} ms"
            ));
        }
    }

    /// The checks between keys. One whose keys have an error already is left out: what they
    /// would resolve to is not what the operator meant.
    fn check(&self, errors: &mut Vec<ConfigError>) {
        errors.extend(self.twice_ruled());
        errors.extend(self.blocks_within_a_source().into_iter().map(ConfigError::from));
        let mut refuse = |keys: &'static [&'static str], message: String| {
            let unclear = keys.iter().any(|key| errors.iter().any(|error| error.concerns(key)));
            if !unclear {
                errors.push(ConfigError::Contradiction { keys, message });
            }
        };
        let has_token = self.admin.token.is_some() || self.admin.token_file.is_some();
        if !self.admin.listen.ip().to_canonical().is_loopback() && !has_token {
            refuse(
                &["admin.listen", "admin.token", "admin.token_file"],
                format!(
                    "{}: admin.listen = {} can be reached from other machines, and admin.token \
                     is not set; write at least 16 characters into a file and set \
                     admin.token_file to its path, or listen on 127.0.0.1",
                    self.source("admin.listen").unwrap_or(&Source::Default),
                    self.admin.listen,
                ),
            );
        }
        if collide(self.server.listen, self.admin.listen) {
            refuse(
                &["server.listen", "admin.listen"],
                format!(
                    "{}: server.listen = {} takes the port of admin.listen = {} ({}); give one \
                     of them another port",
                    self.source("server.listen").unwrap_or(&Source::Default),
                    self.server.listen,
                    self.admin.listen,
                    self.source("admin.listen").unwrap_or(&Source::Default),
                ),
            );
        }
    }
}

impl Config {
    /// Blocks that two kinds of rules name: neither of them is longer than the other.
    fn twice_ruled(&self) -> Vec<ConfigError> {
        const DENY_ALLOW: &[&str] = &["admission.deny", "admission.allow"];
        const DENY_OVERRIDES: &[&str] = &["admission.deny", "admission.overrides"];
        const ALLOW_OVERRIDES: &[&str] = &["admission.allow", "admission.overrides"];
        let source = |key| self.source(key).unwrap_or(&Source::Default);
        let twice = |keys: &'static [&'static str], block: &IpNet| {
            let (one, other) = (keys[0], keys[1]);
            let message = format!(
                "{block} is in {one} ({}) and in {other} ({}); leave it in one of them",
                source(one),
                source(other),
            );
            ConfigError::Contradiction { keys, message }
        };
        let Admission { deny, allow, overrides, .. } = &self.admission;
        let (deny, allow): (HashSet<_>, HashSet<_>) =
            (deny.iter().collect(), allow.iter().collect());
        // In the order of the file, as far as there is one.
        let allowed = self.admission.allow.iter().filter(|block| deny.contains(block));
        let mut errors: Vec<_> = allowed.map(|block| twice(DENY_ALLOW, block)).collect();
        for block in overrides.keys() {
            if deny.contains(block) {
                errors.push(twice(DENY_OVERRIDES, block));
            }
            if allow.contains(block) {
                errors.push(twice(ALLOW_OVERRIDES, block));
            }
        }
        errors
    }
}

/// All defaults, without looking at any source.
impl Default for Config {
    fn default() -> Self {
        let mut config = Config::from_written(&BTreeMap::new());
        config.fill_in();
        config
    }
}

pub(super) fn mask(key: &Key, value: Value) -> Value {
    match value {
        Value::Text(text) if key.is_secret() && !text.is_empty() => {
            Value::Text(Secret::MASK.to_owned())
        }
        value => value,
    }
}

/// Whether one of two listeners would get in the way of the other. A wildcard covers every
/// address; port 0 takes a free port.
fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |ip: std::net::IpAddr| ip.is_unspecified();
    one.port() != 0
        && one.port() == other.port()
        && (one.ip() == other.ip() || covers(one.ip()) || covers(other.ip()))
}

fn profile_layer(sources: &Sources, errors: &mut Vec<ConfigError>) -> Layer {
    let in_environment = environment::lookup(&sources.environment, environment::PROFILE_NAME);
    let (name, source) = match (&sources.profile, in_environment) {
        (Some(name), _) => (name.clone(), Source::Flag("--profile".to_owned())),
        (None, Some(name)) => (
            name.to_string_lossy().into_owned(),
            Source::Environment(environment::PROFILE_NAME.to_owned()),
        ),
        (None, None) => return Layer::default(),
    };
    let Some((profile, values)) = PROFILES.iter().find(|(profile, _)| *profile == name) else {
        let known: Vec<_> = PROFILES.iter().map(|(profile, _)| *profile).collect();
        errors.push(ConfigError::UnknownName {
            source,
            name: format!("profile {}", shown_name(&name)),
            advice: format!("this version has {}", known.join(", ")),
        });
        return Layer::default();
    };
    let mut layer = Layer::default();
    for (name, number) in *values {
        if let Some(key) = Key::find(name) {
            let found = number.to_string();
            let read = key.rule.read_text(&found);
            layer.take(key, Source::Profile(profile), found, read);
        }
    }
    layer
}
