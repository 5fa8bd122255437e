//! Starts sharing counts through Redis, if there is one. Redis need not be there yet: a server never
//! waits for it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::ring;

use super::NotStarted;
use crate::coordinator::stage::timestamp;
use crate::coordinator::state::ServerState;
use crate::redis::counts::Identity;
use crate::redis::{endpoint, flush};
use crate::sys::kernel;

/// `clients` is where the server listens, whose port tells nodes of one machine apart.
pub(super) fn start(state: &Arc<ServerState>, clients: SocketAddr) -> Result<(), NotStarted> {
    let settings = &state.config().redis;
    let Some(url) = &settings.url else { return Ok(()) };
    // Once a process; somebody else may have made the same choice.
    let _ = ring::default_provider().install_default();
    let (client, shown) = endpoint::open(url.expose())
        .map_err(|why| NotStarted::unavailable(format!("redis.url: {why}")))?;
    let host = kernel::host_name();
    let node = match settings.node_id.as_str() {
        "" => format!("{}:{}", name_part(&host), clients.port()),
        node => node.to_owned(),
    };
    let identity = Identity {
        cluster: settings.cluster_name.clone(),
        node,
        life: flush::draw_life(),
        host,
        pid: std::process::id(),
        started_at: timestamp(),
    };
    flush::start(Arc::clone(state), client, shown, identity, settings.flush_interval_ms)
        .map_err(|error| NotStarted::unavailable(format!("redis thread: {error}")))
}

/// A host's name as a part of a key: what may not be in one becomes a dash.
fn name_part(host: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    host.chars().take(100).map(|c| if plain(c) { c } else { '-' }).collect()
}
