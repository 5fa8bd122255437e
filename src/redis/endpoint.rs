//! Which Redis a URL names, and which URLs are not taken and why. Pure: nothing is looked up.
//!
//! A reason never repeats the URL, since a password may be in it.

use ::redis::{Client, ConnectionAddr, IntoConnectionInfo};

/// What a URL looks like, for messages.
pub const FORM: &str = "redis://[USER:PASSWORD@]HOST[:PORT][/DATABASE], rediss:// for TLS, or \
                        unix:///PATH";

/// Schemes of the URLs that are taken.
const SCHEMES: [&str; 4] = ["redis", "rediss", "unix", "redis+unix"];

/// Whether this URL can be used.
///
/// # Errors
/// Why not, without anything of the URL but its scheme.
pub fn check(url: &str) -> Result<(), String> {
    let Some((scheme, rest)) = url.split_once(':') else {
        return Err("it has no scheme".to_owned());
    };
    let scheme = scheme.to_ascii_lowercase();
    if scheme.contains("sentinel") {
        return Err("Redis Sentinel is not supported: name the master, or an address that \
                    follows it"
            .to_owned());
    }
    if scheme.contains("cluster") {
        return Err("Redis Cluster is not supported: name a Redis that is not part of one".into());
    }
    if !SCHEMES.contains(&scheme.as_str()) {
        return Err("its scheme is none of redis, rediss and unix".to_owned());
    }
    let authority = rest.trim_start_matches('/').split(['/', '?', '#']).next().unwrap_or_default();
    let hosts = authority.rsplit('@').next().unwrap_or_default();
    if hosts.contains(',') && scheme != "unix" && scheme != "redis+unix" {
        return Err("it names several hosts, as for Sentinel or a cluster, which are not \
                    supported: name one"
            .to_owned());
    }
    if rest.contains('#') {
        return Err("it has a fragment: TLS without checking the certificate is not offered; a \
                    # in a password is written %23"
            .to_owned());
    }
    match url.into_connection_info() {
        Ok(_) => Ok(()),
        // The text is the client's own; what it adds about the URL is left out.
        Err(error) if error.detail().is_none() => Err(strip(&error.to_string())),
        Err(_) => Err("a part of it is not what belongs there".to_owned()),
    }
}

/// Whether a password is in the URL.
pub fn has_password(url: &str) -> bool {
    url.contains('@') || url.contains("pass=")
}

/// A client for the URL, and its address as it may be shown.
///
/// # Errors
/// As [`check`].
pub fn open(url: &str) -> Result<(Client, String), String> {
    check(url)?;
    let client = Client::open(url).map_err(|error| strip(&error.to_string()))?;
    let database = match client.get_connection_info().redis_settings().db() {
        0 => String::new(),
        number => format!("/{number}"),
    };
    let shown = match client.get_connection_info().addr() {
        ConnectionAddr::Tcp(host, port) => format!("redis://{host}:{port}{database}"),
        ConnectionAddr::TcpTls { host, port, .. } => format!("rediss://{host}:{port}{database}"),
        ConnectionAddr::Unix(path) => format!("unix://{}", path.display()),
        _ => "another kind of address".to_owned(),
    };
    Ok((client, shown))
}

/// The client's message without the kind of error that it ends with.
fn strip(message: &str) -> String {
    let text = message.split(" - ").next().unwrap_or(message);
    text.trim_end_matches(" (InvalidClientConfig)").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// S0.29.
    #[test]
    fn usual_urls_are_taken_and_shown_without_their_password() {
        for (url, shown) in [
            ("redis://redis:6379", "redis://redis:6379"),
            ("redis://10.0.0.1", "redis://10.0.0.1:6379"),
            ("redis://:hunter2@[::1]:7000/3", "redis://::1:7000/3"),
            ("rediss://user:hunter2@redis.example", "rediss://redis.example:6379"),
            ("unix:///run/redis.sock?db=1&pass=hunter2", "unix:///run/redis.sock"),
        ] {
            assert_eq!(open(url).unwrap().1, shown, "{url}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        for (url, said) in [
            ("redis-sentinel://a:26379/mymaster", "Sentinel"),
            ("redis+sentinel://a/mymaster", "Sentinel"),
            ("redis-cluster://a:7000", "Redis Cluster"),
            ("rediss+cluster://a:7000", "Redis Cluster"),
            ("redis://:hunter2@a:7000,b:7000", "several hosts"),
            ("rediss://:hunter2@a/#insecure", "without checking"),
            ("http://a", "scheme"),
            ("a:6379", "scheme"),
            ("redis", "no scheme"),
            ("redis://:hunter2@a:port", ""),
            ("redis://:hunter2@a/db", ""),
            ("redis://:hunter2@0.0.0.0", ""),
            ("redis://:hunter2@a?protocol=hunter2", ""),
            ("redis://", ""),
        ] {
            let refused = check(url).unwrap_err();
            assert!(refused.contains(said), "{url}: {refused}");
            assert!(!refused.contains("hunter2"), "{url}: {refused}");
        }
    }
}
