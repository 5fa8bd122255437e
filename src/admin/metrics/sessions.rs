//! Sessions: how many there are, how they began, and what became of what was kept of them.

use std::fmt::Error;

use super::page::{BYTES, Page};
use crate::sessions::figures::Loss;
use crate::sessions::keeper::Shortfall;

pub(super) fn sessions(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let figures = page.moment.state.sessions.figures();
    let help = "Sessions that connections of this node have";
    page.gauge("tidegate_sessions", None, help, figures.held)?;
    let help = "Sessions without a connection that are kept in memory: without Redis all of them, \
                with it those that are not saved yet";
    page.gauge("tidegate_sessions_kept", None, help, figures.in_memory)?;
    let help = "Memory that these take";
    page.gauge("tidegate_sessions_kept", BYTES, help, figures.in_memory_bytes)?;
    page.counter_by(
        "tidegate_sessions_attached",
        None,
        "Connections that were given a session: a new one, or one of which something was kept",
        "result",
        [("new".to_owned(), figures.started), ("resumed".to_owned(), figures.resumed)],
    )?;
    page.counter_by(
        "tidegate_sessions_short",
        None,
        "Of these, those that may have lost something, by why",
        "reason",
        Shortfall::ALL.map(|of| (of.label().to_owned(), figures.shortfalls[of as usize])),
    )?;
    let help = "Records of sessions that were written to Redis";
    page.counter("tidegate_sessions_saved", None, help, figures.saved)?;
    let help = "Records of sessions that were kept in memory, without Redis";
    page.counter("tidegate_sessions_remembered", None, help, figures.kept)?;
    let help = "Of these, those for which nobody came back in time";
    page.counter("tidegate_sessions_expired", None, help, figures.expired)?;
    page.counter_by(
        "tidegate_sessions_lost",
        None,
        "Records of sessions that were lost, by why",
        "reason",
        Loss::ALL.map(|of| (of.label().to_owned(), figures.lost[of as usize])),
    )
}
