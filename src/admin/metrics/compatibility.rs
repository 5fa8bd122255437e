//! The names under which the dashboards of other systems look: S0.49 to S0.55, S2.30, S4.67 to
//! S4.70 (rule 10). Switched by `metrics.compatibility_names`.

use std::fmt::Error;

use super::page::{Page, SECONDS};
use super::shutdown::Shutdowns;

pub(super) fn compatibility(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let moment = page.moment;
    let connections = moment.state.connections();
    let shutdowns = Shutdowns::of(moment);
    let help = "Same as the sum of tidegate_connections";
    page.gauge("concurrent_connections", None, help, connections)?;
    page.gauge(
        "peak_connections",
        None,
        "Same as tidegate_connections_peak",
        moment.state.connections_peak(),
    )?;
    page.untyped(
        "total_connection_seconds",
        "Same as tidegate_connection_seconds_total, in whole seconds",
        moment.connection_seconds(),
    )?;
    page.untyped(
        "connections_rejected",
        "Same as the sum of tidegate_admission_refused_total",
        moment.refused_in_all(),
    )?;
    page.gauge(
        "rate_limited_ips",
        None,
        "Same as tidegate_admission_limited_sources",
        moment.sum(|shard| &shard.limited_sources),
    )?;
    page.untyped(
        "global_rate_limited",
        "Same as tidegate_admission_refused_total of reason global_rate",
        moment.refused("global_rate"),
    )?;
    page.gauge(
        "accepting_connections",
        None,
        "Same as tidegate_accepting",
        u64::from(moment.phase().accepts()),
    )?;
    let help = "Duration of graceful shutdown in seconds";
    page.durations("app_shutdown_duration", SECONDS, help, &shutdowns.seconds)?;
    page.durations("graceful_shutdown_duration", SECONDS, help, &shutdowns.seconds)?;
    page.gauge("graceful_shutdown_active_connections", None, "Open connections", connections)?;
    let help = "Shutdowns that drained: the previous process's and this one's";
    page.counter("graceful_shutdown_success", None, help, shutdowns.succeeded)?;
    let help =
        "Shutdowns that were forced or ran out of time: the previous process's and this one's";
    page.counter("graceful_shutdown_failure", None, help, shutdowns.failed)
}
