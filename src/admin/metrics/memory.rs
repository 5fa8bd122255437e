//! What each use of the memory may have and has: the plan beside what is counted.

use std::fmt::Error;

use super::page::{BYTES, Page};
use crate::limits::BYTES_PER_CONNECTION;
use crate::memory_plan::{HALF_OPEN_BYTES, SOURCE_BYTES, Use};

pub(super) fn memory(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let plan = page.moment.state.memory_plan();
    let budgets = Use::ALL.into_iter().filter_map(|of| Some((label(of), plan.budget(of)?)));
    let help = "What each use of the memory may have; all together are what may be used";
    page.gauge_by("tidegate_memory_budget", BYTES, help, "use", budgets)?;
    let held = Use::ALL.into_iter().filter_map(|of| Some((label(of), held(page, of)?)));
    let held: Vec<_> = held.collect();
    let help = "What each use of the memory has, as the server counts it";
    page.gauge_by("tidegate_memory_held", BYTES, help, "use", held)
}

fn label(of: Use) -> String {
    of.label().to_owned()
}

/// What a use has; `None` where nothing counts it.
fn held(page: &Page<'_, '_>, of: Use) -> Option<u64> {
    let moment = page.moment;
    let held = match of {
        Use::Connections => moment.sum(|shard| &shard.connections) * BYTES_PER_CONNECTION,
        Use::HalfOpen => moment.sum(|shard| &shard.handshaking) * HALF_OPEN_BYTES,
        Use::Heads => moment.sum(|shard| &shard.head_bytes),
        Use::Unfinished => moment.sum(|shard| &shard.unfinished_bytes),
        Use::Output => moment.sum(|shard| &shard.output_held_bytes),
        Use::Channels => moment.sum(|shard| &shard.channel_bytes),
        Use::Sources => moment.sum(|shard| &shard.tracked_sources) * SOURCE_BYTES,
        Use::Sessions => moment.state.sessions.figures().in_memory_bytes,
        Use::SocketData => moment.state.pressure().tcp?.used,
        Use::Process | Use::ReceiveBuffers => return None,
    };
    Some(held)
}
