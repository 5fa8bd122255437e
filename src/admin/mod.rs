//! (being built)
#![allow(missing_docs)]

use crate::coordinator::{command::Command, state::ServerState};
use crate::mesh::publisher::Publisher;
use std::sync::Arc;

pub struct AdminContext {
    pub state: Arc<ServerState>,
    pub commands: crossbeam_channel::Sender<Command>,
    pub publisher: Publisher,
    pub last_shutdown: Option<serde_json::Value>,
}
pub fn bind(address: std::net::SocketAddr) -> std::io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
}
pub fn start(_: std::net::TcpListener, _: AdminContext) -> std::io::Result<()> {
    Ok(())
}
