//! Each command as a run: its plan, its scenario, the books of both sides, its report.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::arguments::{
    self, Broadcast, Churn, Clients, Common, Ramp, Reconnect, SlowReaders, Through,
};
use crate::broadcast::Broadcasting;
use crate::broadcast::publisher::{Means, Publisher, Schedule};
use crate::churn::Churning;
use crate::client::{Job, Scenario};
use crate::crew::{self, Plan, Run, Window};
use crate::drain_watch::Watching;
use crate::echo::Echoing;
use crate::flood::Flooding;
use crate::hold::Holding;
use crate::plan::{Origins, Refused};
use crate::ramp::Ramping;
use crate::reconnect::Reconnecting;
use crate::report::Report;
use crate::server::{AdminUrl, ServerBooks};
use crate::target::Target;
use crate::tun::{Ranges, TunClients};
use crate::{broadcast, churn, drain_watch, echo, flood, hold, plan, ramp, reconnect, tun};
use tidegate::http::query::pairs;

/// How long connections that were never read are read at the end of a drain.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs the plan between two looks at the server's counters.
fn measured<S: Scenario + Send + 'static>(
    common: &Common,
    plan: &Plan,
    make: impl Fn(&Job) -> S,
    describe: impl FnOnce(&Run<S>) -> Report,
) -> Result<Report, Refused> {
    let books = ServerBooks::open(&common.admin).map_err(Refused::Usage)?;
    measured_by(books, plan, make, describe)
}

/// The same with books that are open already.
fn measured_by<S: Scenario + Send + 'static>(
    books: ServerBooks,
    plan: &Plan,
    make: impl Fn(&Job) -> S,
    describe: impl FnOnce(&Run<S>) -> Report,
) -> Result<Report, Refused> {
    let run = crew::run(plan, make)?;
    let mut report = describe(&run);
    report.memory(&run.measured);
    report.server(books, &run.ledger());
    report.keep_series(&run.measured);
    Ok(report)
}

pub(crate) fn hold(hold: &arguments::Hold) -> Result<Report, Refused> {
    if hold.client == Clients::Tun {
        return hold_tun(hold);
    }
    let mut plan = plan::plan(&hold.common, hold.rate, hold.raw)?;
    plan.measure = hold.hold_for;
    measured(&hold.common, &plan, |_| Holding::new(hold), |run| hold::report(hold, run))
}

/// Clients in user space.
fn hold_tun(hold: &arguments::Hold) -> Result<Report, Refused> {
    let common = &hold.common;
    let per_source = common.per_source;
    let ranges =
        Ranges::new(common.connections, per_source, common.source_base, std::process::id());
    let plan = plan::tun(hold, &ranges)?;
    let books = ServerBooks::open(&hold.common.admin).map_err(Refused::Usage)?;
    let run = crew::run_workers(&plan, |job| {
        let job = job.clone();
        move || TunClients::new(job, &ranges, per_source)
    })?;
    let mut report = tun::report(hold, &run);
    report.memory(&run.measured);
    report.server(books, &run.ledger());
    report.keep_series(&run.measured);
    Ok(report)
}

pub(crate) fn ramp(ramp: &Ramp) -> Result<Report, Refused> {
    let plan = plan::ramp(ramp)?;
    measured(&ramp.common, &plan, |_| Ramping::new(ramp), |run| ramp::report(ramp, run))
}

pub(crate) fn churn(churn: &Churn) -> Result<Report, Refused> {
    let plan = plan::churn(churn)?;
    measured(&churn.common, &plan, |_| Churning::new(churn), |run| churn::report(churn, run))
}

pub(crate) fn echo(echo: &arguments::Echo) -> Result<Report, Refused> {
    let plan = Plan {
        measure: Some(echo.measure_for),
        warm_up: echo.warm_up,
        ..plan::plan(&echo.common, echo.open_rate, echo.raw)?
    };
    let share = |connections: u64| connections as f64 / echo.common.connections as f64;
    let make = |job: &Job| Echoing::new(echo, echo.rate.map(|rate| rate * share(job.connections)));
    measured(&echo.common, &plan, make, |run| echo::report(echo, run))
}

pub(crate) fn drain_watch(watch: &arguments::DrainWatch) -> Result<Report, Refused> {
    if watch.stuck + watch.mid_message > watch.common.connections {
        return Err(Refused::Usage(String::from(
            "--stuck and --mid-message together are more than --connections",
        )));
    }
    let mut plan = plan::plan(&watch.common, watch.rate, false)?;
    plan.measure = Some(watch.timeout);
    plan.settle = SETTLE;
    let books = ServerBooks::open_until_it_ends(&watch.common.admin).map_err(Refused::Usage)?;
    measured_by(books, &plan, |_| Watching::new(watch), |run| drain_watch::report(watch, run))
}

/// The server's counters are those of the server that the clients come back to.
pub(crate) fn reconnect(reconnect: &Reconnect) -> Result<Report, Refused> {
    let mut plan = plan::plan(&reconnect.common, reconnect.rate, false)?;
    plan.window = Window::UntilDone;
    plan.measure = Some(reconnect.timeout);
    plan.settle = reconnect.stay;
    let origins = Origins::of(&reconnect.common);
    let elsewhere = reconnect.target.as_ref().map(|target| origins.door(target));
    let elsewhere = elsewhere.transpose().map_err(Refused::Usage)?;
    let books = ServerBooks::open(&reconnect.common.admin).map_err(Refused::Usage)?;
    let run = crew::run(&plan, |_| Reconnecting::new(reconnect, elsewhere.clone()))?;
    let mut report = reconnect::report(reconnect, &run);
    report.server(books, &run.again());
    report.keep_series(&run.measured);
    Ok(report)
}

pub(crate) fn slow_readers(slow: &mut SlowReaders) -> Result<Report, Refused> {
    let broadcast = &mut slow.broadcast;
    if broadcast.slow.slow == 0 {
        broadcast.slow.slow = (broadcast.common.connections / 10).max(1);
    }
    self::broadcast(broadcast)
}

pub(crate) fn broadcast(broadcast: &Broadcast) -> Result<Report, Refused> {
    if broadcast.slow.slow >= broadcast.common.connections {
        return Err(Refused::Usage(String::from("--slow leaves nobody who reads")));
    }
    let mut plan = plan::plan(&broadcast.common, broadcast.rate, false)?;
    plan.warm_up = broadcast.warm_up;
    plan.measure = Some(broadcast.measure_for);
    plan.settle = broadcast.settle;
    let Some(epoch) = plan.jobs.first().map(|job| job.epoch) else {
        return Err(Refused::Usage(String::from("no connections")));
    };
    let schedule = Schedule {
        means: means(broadcast).map_err(Refused::Usage)?,
        per_second: broadcast.publish_rate,
        bytes: broadcast.payload as usize,
        epoch,
    };
    let published = Arc::new(AtomicU64::new(0));
    let publisher = Publisher::start(schedule, plan.phase.clone(), Arc::clone(&published))?;
    let make = |_: &Job| Broadcasting::new(broadcast, Arc::clone(&published));
    measured(&broadcast.common, &plan, make, |run| {
        broadcast::report(broadcast, run, &publisher.end())
    })
}

/// Who publishes, and where to.
fn means(broadcast: &Broadcast) -> Result<Means, String> {
    let url = broadcast.publish_url.as_deref();
    let missing = || String::from("--through post and --through client need --publish-url");
    match broadcast.through {
        Through::Api => {
            let query = broadcast.common.url.path.split_once('?').map_or("", |(_, query)| query);
            let channel = pairs(query)
                .find(|(name, _)| name.decode().as_deref() == Ok("channel"))
                .ok_or("the URL subscribes to no channel: want ?channel=NAME")?;
            let channel = channel.1.decode().map_err(|_| "the channel's name is not UTF-8")?;
            let channel = channel.into_owned();
            let admin = broadcast.common.admin.admin();
            Ok(Means::Api { admin: admin.ok_or("publishing needs --admin")?, channel })
        }
        Through::Post => {
            let rest = url.and_then(|url| url.strip_prefix("http://")).ok_or_else(missing)?;
            let at = rest.find('/').unwrap_or(rest.len());
            let authority = format!("http://{}", &rest[..at]).parse::<AdminUrl>()?.authority;
            let path = if at < rest.len() { &rest[at..] } else { "/" };
            Ok(Means::Post { authority, path: path.to_owned() })
        }
        Through::Client => {
            let url = url.ok_or_else(missing)?;
            url.parse::<Target>().map(Means::Client).map_err(|error| error.to_string())
        }
    }
}

pub(crate) fn flood(flood: &arguments::Flood) -> Result<Report, Refused> {
    let plan = plan::flood(flood)?;
    let books = ServerBooks::open_or_try(&flood.admin, flood.no_admin).map_err(Refused::Usage)?;
    let run = crew::run(&plan, |_| Flooding::new(flood.leave))?;
    let mut report = flood::report(&run, books);
    report.keep_series(&run.measured);
    Ok(report)
}
