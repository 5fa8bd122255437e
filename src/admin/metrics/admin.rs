//! What the admin listener counts of itself.

use std::fmt::Error;

use super::page::Page;

pub(super) fn admin(page: &mut Page<'_, '_>) -> Result<(), Error> {
    let counted = &page.moment.admin;
    page.counter_by(
        "tidegate_admin_answers",
        None,
        "Answers of the admin listener, by status",
        "status",
        counted.answers.iter().map(|(status, count)| (status.to_string(), *count)),
    )?;
    page.counter_by(
        "tidegate_admin_api_errors",
        None,
        "Errors of /api/publish and its siblings, which have status 200, by Centrifugo's code",
        "code",
        counted.api_errors.iter().map(|(number, count)| (number.to_string(), *count)),
    )?;
    let help = "Open connections to the admin listener";
    page.gauge("tidegate_admin_connections", None, help, counted.connections)?;
    page.counter(
        "tidegate_admin_connections_evicted",
        None,
        "Connections to the admin listener that were ended to make room for others",
        counted.evicted,
    )?;
    page.counter(
        "tidegate_admin_wrong_tokens",
        None,
        "Requests to the admin listener with a token that is not admin.token",
        counted.wrong_tokens,
    )
}
