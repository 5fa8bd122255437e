//! The endpoints, as a table, and finding the one that a request is for.

use super::error::{ApiError, ErrorKind, quoted};
use crate::likeness::likeness;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Only looks; never changes anything (rule 5).
    Show(Show),
    /// Only looks, and asks the shards.
    Refused,
    Drain,
    Force,
    Pause,
    Resume,
    Pace,
    Cancel,
    Reload,
    BroadcastAll,
    Publish,
    PublishMany,
    Info,
    Fault,
}

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    Alive,
    Ready,
    Healthy,
    HealthStatus,
    Metrics,
    Shards,
    ShutdownStatus,
    Process,
    Figures,
    Config,
    Overview,
}

/// Whose requests a route is for, which decides what they wait behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// People, and what acts for them: they see and change how the server stands.
    Operator,
    /// Programs, which may send many and large ones.
    Bulk,
}

impl Route {
    pub(super) const fn class(self) -> Class {
        match self {
            Self::Drain
            | Self::Force
            | Self::Pause
            | Self::Resume
            | Self::Pace
            | Self::Cancel
            | Self::Reload
            | Self::Fault
            | Self::Show(
                Show::Alive
                | Show::Ready
                | Show::Healthy
                | Show::HealthStatus
                | Show::ShutdownStatus
                | Show::Process
                | Show::Figures
                | Show::Config
                | Show::Overview,
            ) => Class::Operator,
            Self::Refused
            | Self::BroadcastAll
            | Self::Publish
            | Self::PublishMany
            | Self::Info
            | Self::Show(Show::Metrics | Show::Shards) => Class::Bulk,
        }
    }
}

/// The methods that endpoints have; HEAD goes where GET does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
    Delete,
}

/// A method of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) route: Route,
    /// Answered without a token even if there is one: probes have none.
    pub(super) open: bool,
}

const fn get(path: &'static str, show: Show) -> Endpoint {
    Endpoint { method: Method::Get, path, route: Route::Show(show), open: false }
}

const fn probe(path: &'static str, show: Show) -> Endpoint {
    Endpoint { method: Method::Get, path, route: Route::Show(show), open: true }
}

const fn post(path: &'static str, route: Route) -> Endpoint {
    Endpoint { method: Method::Post, path, route, open: false }
}

/// Every endpoint, in the order of the table in the module's documentation.
pub(super) const ENDPOINTS: &[Endpoint] = &[
    probe("/livez", Show::Alive),
    probe("/readyz", Show::Ready),
    probe("/healthz", Show::Healthy),
    get("/health/alive", Show::Alive),
    get("/health/ready", Show::Ready),
    get("/health/status", Show::HealthStatus),
    get("/metrics", Show::Metrics),
    get("/api/v1/shards", Show::Shards),
    Endpoint {
        method: Method::Get,
        path: "/api/v1/admission/refused",
        route: Route::Refused,
        open: false,
    },
    get("/api/v1/shutdown/status", Show::ShutdownStatus),
    get("/api/v1/shutdown/health", Show::Healthy),
    get("/api/v1/shutdown/ready", Show::Ready),
    get("/api/v1/shutdown/alive", Show::Alive),
    get("/api/v1/shutdown/process", Show::Process),
    get("/api/v1/shutdown/metrics", Show::Figures),
    get("/api/v1/shutdown/config", Show::Config),
    get("/api/v1/shutdown/overview", Show::Overview),
    post("/api/v1/shutdown/shutdown", Route::Drain),
    Endpoint {
        method: Method::Delete,
        path: "/api/v1/shutdown/shutdown",
        route: Route::Force,
        open: false,
    },
    post("/api/v1/shutdown/pause", Route::Pause),
    post("/api/v1/shutdown/resume", Route::Resume),
    post("/api/v1/shutdown/pace", Route::Pace),
    post("/api/v1/shutdown/cancel", Route::Cancel),
    post("/api/v1/config/reload", Route::Reload),
    post("/api/v1/broadcast", Route::BroadcastAll),
    post("/api/publish", Route::Publish),
    post("/api/broadcast", Route::PublishMany),
    post("/api/info", Route::Info),
    post("/api/v1/debug/fault", Route::Fault),
];

/// Whether requests for this path are what a back end sends all the time, thousands a second
/// maybe: messages for clients, and questions that change nothing.
pub(super) fn is_traffic(path: &str) -> bool {
    let carries = |route| match route {
        Route::BroadcastAll | Route::Publish | Route::PublishMany | Route::Info => true,
        Route::Show(_) | Route::Refused | Route::Drain | Route::Force | Route::Pause => false,
        Route::Resume | Route::Pace | Route::Cancel | Route::Reload | Route::Fault => false,
    };
    ENDPOINTS.iter().any(|endpoint| endpoint.path == path && carries(endpoint.route))
}

/// How alike a path must be to one that exists to be taken for it, from 0 to 1.
const ALIKE: f64 = 0.5;
/// Paths offered for one that does not exist.
const OFFERED: usize = 3;

/// Finds the endpoint of a request. With `with_debug` false the debug endpoints do not exist.
///
/// # Errors
/// 404 with the nearest paths, 405 with the methods of the path.
pub(super) fn find(
    method: &str,
    path: &str,
    with_debug: bool,
) -> Result<&'static Endpoint, ApiError> {
    let exists = |endpoint: &&Endpoint| with_debug || endpoint.route != Route::Fault;
    let wanted = match method {
        "GET" | "HEAD" => Some(Method::Get),
        "POST" => Some(Method::Post),
        "DELETE" => Some(Method::Delete),
        _ => None,
    };
    let mut allowed = Vec::new();
    for endpoint in ENDPOINTS.iter().filter(exists).filter(|endpoint| endpoint.path == path) {
        if Some(endpoint.method) == wanted {
            return Ok(endpoint);
        }
        allowed.push(endpoint.method.allow());
    }
    if allowed.is_empty() {
        return Err(unknown(path, ENDPOINTS.iter().filter(exists)));
    }
    let allowed = allowed.join(", ");
    let message = format!("{} is not a method of {path}; it has {allowed}", quoted(method));
    Err(ApiError { allow: Some(allowed), ..ApiError::new(ErrorKind::MethodNotAllowed, message) })
}

/// True for the server API, whose errors carry Centrifugo's numbers.
pub(super) fn speaks_centrifugo(path: &str) -> bool {
    path.starts_with("/api/") && !path.starts_with("/api/v1/")
}

impl Method {
    const fn allow(self) -> &'static str {
        match self {
            Self::Get => "GET, HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

fn unknown<'a>(path: &str, endpoints: impl Iterator<Item = &'a Endpoint>) -> ApiError {
    let mut near: Vec<_> = endpoints
        .map(|endpoint| (likeness(path, endpoint.path), endpoint.path))
        .filter(|(alike, _)| *alike > ALIKE)
        .collect();
    near.sort_by(|one, other| other.0.total_cmp(&one.0));
    near.dedup_by_key(|(_, path)| *path);
    let near: Vec<_> = near.into_iter().take(OFFERED).map(|(_, path)| path).collect();
    let advice = match near.as_slice() {
        [] => "docs/admin-api.md lists what there is".to_owned(),
        near => format!("near to it: {}", near.join(", ")),
    };
    ApiError::new(ErrorKind::NotFound, format!("there is no {}; {advice}", quoted(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(method: &str, path: &str) -> ApiError {
        match find(method, path, false) {
            Err(error) => error,
            Ok(endpoint) => panic!("{method} {path} is {endpoint:?}"),
        }
    }

    #[test]
    fn head_goes_where_get_does() {
        assert_eq!(find("HEAD", "/metrics", false), find("GET", "/metrics", false));
    }

    /// Rule 5: a GET never drains.
    /// Rule 5, S4.65.
    #[test]
    fn get_of_the_drain_is_refused_with_its_methods() {
        let error = refusal("GET", "/api/v1/shutdown/shutdown");
        assert_eq!(error.kind, ErrorKind::MethodNotAllowed);
        assert_eq!(error.allow.as_deref(), Some("POST, DELETE"));
    }

    #[test]
    fn a_misspelt_path_is_answered_with_the_nearest() {
        let error = refusal("GET", "/api/v1/shutdown/stats");
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.message.contains("near to it: /api/v1/shutdown/status"), "{error:?}");
        assert!(refusal("GET", &"/x".repeat(100_000)).message.len() < 400);
        assert!(refusal("GET", "").message.contains("there is no ``"));
    }

    #[test]
    fn debug_endpoints_exist_only_when_asked_for() {
        assert_eq!(refusal("POST", "/api/v1/debug/fault").kind, ErrorKind::NotFound);
        assert!(!refusal("POST", "/api/v1/debug/faul").message.contains("debug/fault,"));
        assert!(find("POST", "/api/v1/debug/fault", true).is_ok());
    }

    /// The tables that people read have exactly the rows of the table that the server obeys.
    #[test]
    fn the_documentation_lists_exactly_these() {
        let rows = |text: &str, line_start: &str| -> Vec<String> {
            let rows = text.lines().filter_map(|line| line.strip_prefix(line_start));
            rows.filter_map(|row| {
                let mut cells = row.split('|').map(str::trim);
                let method = cells.next()?;
                let path = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
                path.strip_prefix('/')?;
                Some(format!("{method} {path} {}", cells.next()?))
            })
            .collect()
        };
        let table: Vec<_> = ENDPOINTS
            .iter()
            .map(|endpoint| {
                let method = match endpoint.method {
                    Method::Get => "GET",
                    Method::Post => "POST",
                    Method::Delete => "DELETE",
                };
                format!("{method} {} {}", endpoint.path, if endpoint.open { "no" } else { "yes" })
            })
            .collect();
        assert_eq!(rows(include_str!("mod.rs"), "//! | "), table);
        let page = include_str!("../../docs/admin-api.md");
        assert_eq!(rows(page, "| "), table);
        for endpoint in ENDPOINTS {
            let shown = format!("curl {}", endpoint.path);
            let example = page.lines().any(|line| {
                line.contains("curl")
                    && line
                        .split(['\'', ' ', '"'])
                        .any(|word| word.strip_prefix("$ADMIN") == Some(endpoint.path))
            });
            assert!(example, "docs/admin-api.md has no example of {shown}");
        }
    }
}
