//! Connections of trusted proxies that have not said for whom they connect. They hold a descriptor
//! and a handshake deadline, and no place in any budget of a source, so how many there may be is
//! bounded.

use std::net::SocketAddr;

use crate::client_address::proxy_header::HeaderReader;
use crate::limits;

/// What is known of such a connection. Beside the table of connections, because few are in that
/// state at a time.
#[derive(Debug)]
pub(super) struct Unadmitted {
    pub(super) peer: SocketAddr,
    /// Reads what may be a PROXY header, the beginning of which is kept in `heads`; absent once it is
    /// clear that there is none.
    pub(super) header: Option<HeaderReader>,
}

/// Whether one more may wait beside so many that do, so that they leave descriptors to everybody
/// else. `live`: connections of the shard; `seats`: how many it can have and still answer those that
/// it refuses; `files`: its direct descriptors.
pub(super) fn has_room(unadmitted: usize, live: usize, seats: usize, files: usize) -> bool {
    let beyond = limits::UNADMITTED_BEYOND.min(files / 8);
    let others = live.saturating_sub(unadmitted);
    let seats = seats.saturating_sub(others);
    unadmitted < limits::UNADMITTED.min(seats + beyond)
}
