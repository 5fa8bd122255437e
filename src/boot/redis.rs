//! Starts sharing counts and publications through Redis, if there is one; sessions are saved there.
//! Redis need not be there yet: a server never waits for it.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::ring;

use super::NotStarted;
use crate::coordinator::state::ServerState;
use crate::mesh::publisher::Publisher;
use crate::redis::connector::Connector;
use crate::redis::counts::Identity;
use crate::redis::life::Life;
use crate::redis::session_store::{Asker, Store};
use crate::redis::{endpoint, flush, publication, publish, subscribe};
use crate::sys::kernel;
use crate::threads::Threads;

/// Where sessions are saved, if there is Redis. `clients` is where the server listens, whose port
/// tells nodes of one machine apart.
pub(super) fn start(
    state: &Arc<ServerState>,
    clients: SocketAddr,
    publisher: &Publisher,
    threads: &mut Threads,
) -> Result<Option<Store>, NotStarted> {
    let settings = &state.config().redis;
    let Some(url) = &settings.url else { return Ok(None) };
    // Once a process; somebody else may have made the same choice.
    let _ = ring::default_provider().install_default();
    let (client, shown) = endpoint::open(url.expose())
        .map_err(|why| NotStarted::unavailable(format!("redis.url: {why}")))?;
    let host = kernel::host_name();
    let node = match settings.node_id.as_str() {
        "" => format!("{}:{}", name_part(&host), clients.port()),
        node => node.to_owned(),
    };
    let database = client.get_connection_info().redis_settings().db();
    let life = Life::draw();
    let identity = Identity {
        cluster: settings.cluster_name.clone(),
        node,
        life: life.to_string(),
        host,
        pid: std::process::id(),
        started_at: format!("{:.3}", jiff::Timestamp::now()),
    };
    let connector = Connector::new(client, shown, identity.prefix());
    let topic = publication::channel(&identity.prefix(), database);
    let interval_ms = settings.flush_interval_ms;
    let asker = Asker {
        prefix: identity.prefix(),
        node: identity.node.clone(),
        life,
        expiry_ms: state.config().sessions.expiry_ms,
    };
    let store = Store::new(connector.clone(), asker);
    let no_thread = |error| NotStarted::lacking("Redis thread", &error);
    threads.add(
        flush::start(Arc::clone(state), connector.clone(), identity, interval_ms)
            .map_err(no_thread)?,
    );
    threads.add(
        publish::start(Arc::clone(state), connector.clone(), topic.clone(), life)
            .map_err(no_thread)?,
    );
    let publisher = publisher.clone();
    threads.add(
        subscribe::start(Arc::clone(state), publisher, connector, topic, life)
            .map_err(no_thread)?,
    );
    Ok(Some(store))
}

/// A host's name as a part of a key: what may not be in one becomes a dash.
fn name_part(host: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    host.chars().take(100).map(|c| if plain(c) { c } else { '-' }).collect()
}
