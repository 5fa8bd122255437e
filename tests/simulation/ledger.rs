//! What must hold in a world after every step, and when it is over.

use tidegate::close_reason::CloseReason;
use tidegate::metrics::ShardMetrics;

use super::client::{End, Manner, Standing};
use super::kernel::MS;
use super::world::{DEADLINE_MS, LATE_MS, World};

/// A gauge that went below zero has wrapped.
const WRAPPED: u64 = 1 << 40;

/// After every step.
pub(crate) fn check(world: &World) {
    for (shard, metrics) in world.metrics.iter().enumerate() {
        let gauges = [
            ("connections", metrics.connections.get()),
            ("handshaking", metrics.handshaking.get()),
            ("subscriptions", metrics.subscriptions.get()),
            ("queued_bytes", metrics.queued_bytes.get()),
            ("output_held_bytes", metrics.output_held_bytes.get()),
            ("unfinished_bytes", metrics.unfinished_bytes.get()),
            ("admitted", metrics.admitted.get()),
        ];
        if let Some((name, value)) = gauges.iter().find(|(_, value)| *value > WRAPPED) {
            world.violate(format!("shard {shard}: {name} is {value}"));
        }
        if let Err(what) = ends_are_counted_once(metrics) {
            world.violate(format!("shard {shard}: {what}"));
        }
    }
    let open: u64 = world.metrics.iter().map(|metrics| metrics.connections.get()).sum();
    if open > world.plan.capacity {
        world.violate(format!("{open} connections are open of {}", world.plan.capacity));
    }
    let began = world.told_to_stop_ns.unwrap_or(u64::MAX);
    let late = began.saturating_add((DEADLINE_MS + LATE_MS) * MS);
    if world.stopped_ns.is_none() && world.now_ns() > late {
        world.violate(format!("not stopped {} ms after it was told to", DEADLINE_MS + LATE_MS));
    }
}

fn sum(counts: &[tidegate::metrics::Count]) -> u64 {
    counts.iter().map(tidegate::metrics::Count::get).sum()
}

/// Opened = open + closed, each with one reason.
fn ends_are_counted_once(metrics: &ShardMetrics) -> Result<(), String> {
    let (opened, open) = (metrics.opened.get(), metrics.connections.get());
    let closed = sum(&metrics.closed);
    if opened != open + closed {
        return Err(format!("{opened} were opened, {open} are open, {closed} were closed"));
    }
    Ok(())
}

/// When the server has ended.
pub(crate) fn check_end(world: &World) {
    let report = world.state.report();
    if let Some(discrepancy) = &report.discrepancy
        && world.all_ended()
    {
        world.violate(format!("the outcomes do not add up: {discrepancy}"));
    }
    for shard in 0..world.metrics.len() {
        if world.ended_in_order(shard)
            && let Err(what) = nothing_is_left(world, shard)
        {
            world.violate(format!("shard {shard}: {what}"));
        }
    }
    if let Err(what) = everybody_was_told(world) {
        world.violate(what);
    }
}

fn nothing_is_left(world: &World, shard: usize) -> Result<(), String> {
    let metrics = &world.metrics[shard];
    let left = [
        ("connections", metrics.connections.get()),
        ("handshaking", metrics.handshaking.get()),
        ("subscriptions", metrics.subscriptions.get()),
        ("queued_bytes", metrics.queued_bytes.get()),
        ("unfinished_bytes", metrics.unfinished_bytes.get()),
    ];
    if let Some((name, value)) = left.iter().find(|(_, value)| *value != 0) {
        return Err(format!("{name} is {value} at the end"));
    }
    let lent = world.kernel.borrow().lent_buffers(shard);
    if lent > 0 {
        return Err(format!("{lent} receive buffers were not given back"));
    }
    let failed = metrics.closed[CloseReason::ShardFailed.index()].get();
    if failed > 0 && world.metrics.len() == 1 {
        return Err(format!("{failed} connections ended by a failure that did not happen"));
    }
    Ok(())
}

/// No client hangs: each one sees the end of its connection, or would if it looked.
fn everybody_was_told(world: &World) -> Result<(), String> {
    let kernel = world.kernel.borrow();
    for client in &world.clients {
        let socket = &kernel.sockets[client.socket];
        let ended = socket.server_fin || socket.server_reset || socket.client_reset;
        if !ended {
            let ring = client.ring;
            return Err(format!("a {:?} client of shard {ring} hangs", client.manner));
        }
        let wrong = matches!(client.manner, Manner::BadHead)
            && matches!(client.end, Some(End::Closed(_)))
            && client.standing == Standing::Done;
        if wrong {
            return Err("a Close for what was never upgraded".to_owned());
        }
    }
    Ok(())
}
