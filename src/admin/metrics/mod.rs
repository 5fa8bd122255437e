//! The text of `/metrics`: what every number is called, what it means, its unit.
//!
//! Counters live with the shards, so nothing is registered and kept: a scrape reads them.

mod admin;
mod compatibility;
pub(super) mod exposition;
mod memory;
mod page;
mod redis;
mod sessions;
mod shutdown;

use std::fmt::Error;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use self::admin::admin;
use self::compatibility::compatibility;
use self::memory::memory;
use self::page::{BYTES, Page, SECONDS, ratio, seconds};
use self::redis::redis;
use self::sessions::sessions;
use self::shutdown::{last_shutdown, shutdown};
use super::moment::Moment;
use crate::admission::Rung;
use crate::channels::ChannelRefusal;
use crate::close_reason::CloseReason;
use crate::log;
use crate::metrics::REFUSAL_LABELS;
use crate::pressure::Cause;

/// The OpenMetrics text for one scrape.
///
/// # Errors
/// None that writing into a string can have.
pub(super) fn text(moment: Moment) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(moment)));
    let mut text = String::with_capacity(16 << 10);
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Moment);

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let moment = &self.0;
        let mut page = Page { encoder, moment };
        connections(&mut page)?;
        pressure(&mut page)?;
        memory(&mut page)?;
        messages(&mut page)?;
        leases(&mut page)?;
        shards(&mut page)?;
        redis(&mut page)?;
        sessions(&mut page)?;
        shutdown(&mut page)?;
        last_shutdown(&mut page)?;
        process(&mut page)?;
        admin(&mut page)?;
        if moment.state.config().metrics.compatibility_names {
            compatibility(&mut page)?;
        }
        Ok(())
    }
}

fn connections(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    page.gauge_by_shard("tidegate_connections", None, "Open WebSocket connections", |shard| {
        shard.connections.get()
    })?;
    page.gauge_by_shard(
        "tidegate_connections_handshaking",
        None,
        "Accepted connections that have not finished their handshake",
        |shard| shard.handshaking.get(),
    )?;
    page.gauge(
        "tidegate_connections_peak",
        None,
        "Most connections that were open at once since the start",
        moment.state.connections_peak(),
    )?;
    page.gauge(
        "tidegate_connections_limit",
        None,
        "Most connections that the configuration admits at once: admission.max_global_connections",
        moment.state.config().admission.max_global_connections,
    )?;
    page.gauge(
        "tidegate_connections_capacity",
        None,
        "Most connections that are held at once: by the configuration, the shards' tables or the \
         memory, whichever is least",
        moment.state.capacity(),
    )?;
    page.total("tidegate_connections_accepted", None, "Accepted TCP connections", |shard| {
        &shard.accepted
    })?;
    page.total("tidegate_connections_opened", None, "Connections that were upgraded", |shard| {
        &shard.opened
    })?;
    page.counter_by(
        "tidegate_connections_closed",
        None,
        "WebSocket connections that ended, by what ended them",
        "reason",
        CloseReason::ALL.map(|reason| {
            (reason.label().to_owned(), moment.sum(|shard| &shard.closed[reason.index()]))
        }),
    )?;
    page.counter_by(
        "tidegate_handshakes_ended",
        None,
        "Accepted connections that ended before the upgrade, by what ended them",
        "reason",
        CloseReason::ALL.map(|reason| {
            (reason.label().to_owned(), moment.sum(|shard| &shard.handshakes_ended[reason.index()]))
        }),
    )?;
    page.counter(
        "tidegate_connection",
        SECONDS,
        "Time that all connections, ended and open, have been open, added up",
        moment.connection_ms() as f64 / 1000.0,
    )?;
    page.counter_by(
        "tidegate_admission_refused",
        None,
        "Connections that admission refused, by reason",
        "reason",
        REFUSAL_LABELS.map(|reason| (reason.to_owned(), moment.refused(reason))),
    )?;
    page.counter_by(
        "tidegate_refusals",
        None,
        "What was done with connections that admission refused: Close 1013 after 101, an HTTP answer, RST, or RST and a pause of accepting",
        "rung",
        Rung::ALL.map(|rung| {
            (rung.label().to_owned(), moment.sum(|shard| &shard.refusals[rung.index()]))
        }),
    )?;
    page.gauge(
        "tidegate_admission_tracked_sources",
        None,
        "Source addresses whose rate is being tracked",
        moment.sum(|shard| &shard.tracked_sources),
    )?;
    page.gauge(
        "tidegate_admission_limited_sources",
        None,
        "Source addresses that would be refused now",
        moment.sum(|shard| &shard.limited_sources),
    )
}

/// How pressed the server is. A figure that could not be read is not there.
fn pressure(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let pressure = page.moment.state.pressure();
    let help = "Part of the configured rate at which connections are admitted; 0 is nobody";
    page.gauge("tidegate_admission_share", ratio(), help, pressure.share.ratio())?;
    let help = "1 for what lowers the rate of admission";
    let causes = Cause::ALL
        .map(|cause| (cause.label().to_owned(), u64::from(pressure.cause == Some(cause))));
    page.gauge_by("tidegate_admission_pressure", None, help, "cause", causes)?;
    page.gauge_by_shard(
        "tidegate_shard_admission_share",
        ratio(),
        "What a shard that is pressed more than the server leaves of what it could admit",
        |shard| 1.0 - shard.withheld.get() as f64 / 1024.0,
    )?;
    if let Some(memory) = pressure.memory {
        let help = "Memory in use by what is nearest to its limit: the cgroup, one above it, the \
                    machine, or the server against admission.max_memory_bytes";
        page.gauge("tidegate_memory_used", BYTES, help, memory.used)?;
        page.gauge("tidegate_memory_limit", BYTES, "The limit of that", memory.limit)?;
        let help = "Memory from which on nobody new is admitted";
        page.gauge("tidegate_capacity", BYTES, help, memory.budget)?;
    }
    if let Some(tcp) = pressure.tcp {
        let help = "What sockets hold that is unread or not acknowledged: of the cgroup if it has \
                    a limit for that which is nearer, otherwise of the machine";
        page.gauge("tidegate_tcp_memory", BYTES, help, tcp.used)?;
    }
    page.total(
        "tidegate_shard_long_turns",
        None,
        "Turns of a shard's loop of 50 ms and longer",
        |shard| &shard.long_turns,
    )
}

fn messages(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    page.total("tidegate_messages_received", None, "Data messages from clients", |shard| {
        &shard.messages_received
    })?;
    page.total("tidegate_messages_sent", None, "Data messages to clients", |shard| {
        &shard.messages_sent
    })?;
    page.total("tidegate_received", BYTES, "Bytes from clients after the upgrade", |shard| {
        &shard.bytes_received
    })?;
    page.total("tidegate_sent", BYTES, "Bytes that the kernel took for clients", |shard| {
        &shard.bytes_sent
    })?;
    page.counter_by_shard(
        "tidegate_publications",
        None,
        "Publications that a shard took from its inbox; each publication goes to every shard",
        |shard| shard.publications.get(),
    )?;
    page.gauge(
        "tidegate_subscriptions",
        None,
        "Subscriptions of channels",
        moment.sum(|shard| &shard.subscriptions),
    )?;
    page.gauge_by_shard(
        "tidegate_channels",
        BYTES,
        "Memory of channels that somebody is subscribed to: names and what belongs to each",
        |shard| shard.channel_bytes.get(),
    )?;
    channels_refused(page)?;
    page.counter_by_shard(
        "tidegate_heavy_reads",
        None,
        "Reads of compressed messages that cost a quarter of a millisecond or more, after which the \
         client waits its turn",
        |shard| shard.heavy_reads.get(),
    )?;
    page.counter_by_shard(
        "tidegate_heavy_reads_time",
        SECONDS,
        "What such reads cost; all clients together have a quarter of a shard's time for them",
        |shard| seconds(shard.heavy_ns.get()),
    )?;
    page.gauge_by_shard(
        "tidegate_queued",
        BYTES,
        "Bytes queued for clients that the kernel has not taken yet",
        |shard| shard.queued_bytes.get(),
    )?;
    page.gauge_by_shard(
        "tidegate_output_held",
        BYTES,
        "Memory that messages to clients hold until the kernel has taken them",
        |shard| shard.output_held_bytes.get(),
    )?;
    page.gauge_by_shard(
        "tidegate_unfinished_messages",
        BYTES,
        "Memory that messages of clients hold that have not arrived completely",
        |shard| shard.unfinished_bytes.get(),
    )?;
    page.total("tidegate_pings_sent", None, "Pings to silent clients", |shard| &shard.pings_sent)?;
    compression(page)
}

fn channels_refused(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    let by_reason = ChannelRefusal::ALL.map(|refusal| {
        let count = moment.sum(|shard| &shard.channels_refused[refusal.index()]);
        (refusal.label().to_owned(), count)
    });
    let help = "Connections that were not subscribed to what they asked for";
    page.counter_by("tidegate_channels_refused", None, help, "reason", by_reason)
}

fn compression(page: &mut Page<'_, '_>) -> Result<(), Error> {
    page.gauge(
        "tidegate_compressing_connections",
        None,
        "Open connections that have negotiated permessage-deflate",
        page.moment.sum(|shard| &shard.compressing),
    )?;
    page.total("tidegate_messages_inflated", None, "Compressed messages from clients", |shard| {
        &shard.messages_inflated
    })?;
    page.total("tidegate_replies_compressed", None, "Compressions for one client", |shard| {
        &shard.replies_compressed
    })?;
    page.counter_by_shard(
        "tidegate_publications_compressed",
        None,
        "Compressions of a publication, each for all clients of the shard that negotiated it",
        |shard| shard.publications_compressed.get(),
    )
}

/// What is leased to the shards of the global budgets, and what passes between shards.
fn leases(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    page.gauge_by_shard(
        "tidegate_lease_granted",
        None,
        "Places that are leased to the shard, those in use among them",
        |shard| shard.slots_granted.get(),
    )?;
    page.gauge_by_shard(
        "tidegate_lease_used",
        None,
        "Places that connections of the shard's sources take, wherever they are held",
        |shard| shard.admitted.get(),
    )?;
    let equal_part = moment.equal_part();
    page.gauge_by_shard(
        "tidegate_lease_borrowed",
        None,
        "Places that the shard has beyond an equal part of the capacity",
        move |shard| shard.slots_granted.get().saturating_sub(equal_part),
    )?;
    page.counter_by_shard(
        "tidegate_lease_reclaimed",
        None,
        "Places that the shard gave back because they had run out elsewhere",
        |shard| shard.slots_reclaimed.get(),
    )?;
    page.gauge_by_shard(
        "tidegate_lease_tokens",
        None,
        "Connections that the shard may admit before it needs more of the global rate",
        |shard| shard.tokens_held.get(),
    )?;
    page.counter_by_shard(
        "tidegate_admission_deferred",
        None,
        "Attempts that waited because the shard's lease was empty",
        |shard| shard.admission_deferred.get(),
    )?;
    page.counter_by_shard(
        "tidegate_owner_questions",
        None,
        "Attempts whose source belongs to another shard, which was asked",
        |shard| shard.owner_asked.get(),
    )?;
    page.counter_by_shard(
        "tidegate_placements",
        None,
        "Connections that the shard handed to a lighter one",
        |shard| shard.placed.get(),
    )?;
    page.total(
        "tidegate_placements_failed",
        None,
        "Connections that a lighter shard had no room for after all",
        |shard| &shard.placements_failed,
    )
}

fn shards(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    page.gauge_by_shard(
        "tidegate_shard_capacity",
        None,
        "Most connections that the shard can hold",
        |shard| shard.capacity.get(),
    )?;
    page.gauge_by_shard(
        "tidegate_shard_stall",
        SECONDS,
        "Longest turn of the shard's loop since the start",
        |shard| seconds(shard.stall_max_ns.get()),
    )?;
    page.gauge_by_shard(
        "tidegate_shard_stall_own",
        SECONDS,
        "Most processor time that the shard's own thread took in a turn since the start",
        |shard| seconds(shard.stall_own_max_ns.get()),
    )?;
    page.counter_by_shard(
        "tidegate_shard_busy",
        SECONDS,
        "Time that the shard was at work and not waiting",
        |shard| seconds(shard.busy_ns.get()),
    )?;
    page.gauge_by_shard(
        "tidegate_shard_last_turn_age",
        SECONDS,
        "Time since the shard last came round",
        |shard| moment.turn_age_ms(shard) as f64 / 1000.0,
    )?;
    let waiting = moment.inboxes.iter().enumerate();
    page.gauge_by(
        "tidegate_shard_inbox_messages",
        None,
        "Messages that wait in the shard's inbox",
        "shard",
        waiting.map(|(shard, waiting)| (shard.to_string(), *waiting as u64)),
    )?;
    page.gauge_by_shard(
        "tidegate_shard_epoch",
        None,
        "Shutdown epoch that the shard has acknowledged",
        |shard| shard.epoch.get(),
    )?;
    page.gauge(
        "tidegate_shard_imbalance",
        ratio(),
        "Connections of the fullest shard per connections of the average one",
        moment.imbalance(),
    )?;
    page.total(
        "tidegate_receive_buffers_starved",
        None,
        "Times that no receive buffer was free",
        |shard| &shard.buffers_starved,
    )?;
    page.total(
        "tidegate_accept_paused",
        None,
        "Times that accepting was paused because a table or a limit was full",
        |shard| &shard.accept_paused,
    )?;
    page.total(
        "tidegate_stale_completions",
        None,
        "Completions for connections that had ended, dropped",
        |shard| &shard.stale_completions,
    )
}

fn process(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    let process = &moment.process;
    page.encoder
        .encode_descriptor("tidegate_build", "The program", None, MetricType::Info)?
        .encode_info(&[
            ("version", env!("CARGO_PKG_VERSION")),
            ("arch", std::env::consts::ARCH),
            ("profile", if cfg!(debug_assertions) { "debug" } else { "release" }),
        ])?;
    page.gauge("tidegate_uptime", SECONDS, "Time since the start", seconds(moment.now.ns()))?;
    page.counter(
        "tidegate_coordinator_ticks",
        None,
        "Ticks of the coordinator, one each five seconds",
        moment.state.ticks(),
    )?;
    page.counter_by(
        "tidegate_log_lines_dropped",
        None,
        "Lines of the log that were lost because standard error was not read or could not be written",
        "level",
        log::LEVELS.into_iter().zip(log::lost()).map(|(level, lost)| (level.to_owned(), lost)),
    )?;
    let cpu_seconds = process.cpu_ms as f64 / 1000.0;
    page.counter("process_cpu", SECONDS, "Processor time of all threads", cpu_seconds)?;
    page.gauge("process_resident_memory", BYTES, "Memory in RAM", process.resident_bytes)?;
    page.gauge("process_threads", None, "Threads", process.threads)?;
    let help = "Open descriptors; those in the tables of the rings are not among them";
    page.gauge("process_open_fds", None, help, process.open_files)?;
    page.gauge("process_max_fds", None, "Limit on open descriptors", process.max_open_files)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
