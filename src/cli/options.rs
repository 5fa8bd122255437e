//! The flags of `serve`, which `config show` takes too, as a layer of the configuration.

use std::path::PathBuf;

use clap::Args;
use tidegate::config::{FlagValue, Sources};

/// Values stay text: the configuration reads them, so that every bad one is reported at once.
#[derive(Debug, Args)]
pub(super) struct ServerOptions {
    /// The configuration file (default: the one named by TIDEGATE_CONFIG, or none)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Start from other defaults; "development" has lenient admission limits
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Where clients connect (server.listen)
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where the admin API is served (admin.listen)
    #[arg(long, value_name = "ADDR")]
    admin_listen: Option<String>,
    /// How many shards; 0 for one per core (server.shards)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    shards: Option<String>,
    /// Serve /echo (server.echo)
    #[arg(long)]
    echo: bool,
    /// Set any key, as in --set keepalive.timeout_ms=5000; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

impl ServerOptions {
    /// These flags over the environment of the process.
    pub(super) fn into_sources(self) -> Sources {
        let single = [
            ("--listen", "server.listen", self.listen),
            ("--admin-listen", "admin.listen", self.admin_listen),
            ("--shards", "server.shards", self.shards),
            ("--echo", "server.echo", self.echo.then(|| "true".to_owned())),
        ];
        let single = single
            .into_iter()
            .filter_map(|(flag, key, value)| Some(FlagValue::new(flag, key, value?)));
        let set = self.set.into_iter().map(|(key, value)| FlagValue::new("--set", key, value));
        Sources {
            file: self.config,
            profile: self.profile,
            flags: single.chain(set).collect(),
            ..Sources::from_environment()
        }
    }
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err("write it as section.key=value".to_owned()),
    }
}
