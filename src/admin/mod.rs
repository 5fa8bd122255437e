//! The admin listener: health, metrics, the drain, publishing; HTTP/1.1 on an address and a
//! thread of its own.
//!
//! It parses requests and renders answers. What is done is done elsewhere: the coordinator
//! shuts down, the shards deliver. With the admin thread blocked or dead, connections notice
//! nothing. monoio and hyper stay inside this directory.
//!
//! | method | path | token | what |
//! |---|---|---|---|
//! | GET | `/livez` | no | 200 while the process can answer |
//! | GET | `/readyz` | no | 200 if new clients should be sent here, 503 otherwise |
//! | GET | `/healthz` | no | 200 while the server serves, 503 otherwise |
//! | GET | `/health/alive` | yes | as `/livez` |
//! | GET | `/health/ready` | yes | as `/readyz` |
//! | GET | `/health/status` | yes | counts, limits and refusals as JSON (S0.20) |
//! | GET | `/metrics` | yes | everything that is counted, as OpenMetrics or Prometheus text |
//! | GET | `/api/v1/shards` | yes | one entry for each shard |
//! | GET | `/api/v1/admission/refused` | yes | the sources that are refused most; `?limit=N` |
//! | GET | `/api/v1/shutdown/status` | yes | the shutdown report as it stands |
//! | GET | `/api/v1/shutdown/health` | yes | as `/healthz` |
//! | GET | `/api/v1/shutdown/ready` | yes | as `/readyz` |
//! | GET | `/api/v1/shutdown/alive` | yes | as `/livez` |
//! | GET | `/api/v1/shutdown/process` | yes | process, memory, processor time |
//! | GET | `/api/v1/shutdown/metrics` | yes | connections and how they ended, as JSON |
//! | GET | `/api/v1/shutdown/config` | yes | every setting in force, with its source |
//! | GET | `/api/v1/shutdown/overview` | yes | all of the above at once |
//! | POST | `/api/v1/shutdown/shutdown` | yes | start a drain: 202, or 200 if one is under way |
//! | DELETE | `/api/v1/shutdown/shutdown` | yes | cut what is left and end: 202, or 200 |
//! | POST | `/api/v1/shutdown/pause` | yes | tell nobody more to go: 202, 200 if so already, 409 |
//! | POST | `/api/v1/shutdown/resume` | yes | go on: 202, 200, 409 |
//! | POST | `/api/v1/shutdown/pace` | yes | another pace of the drain under way: 202, 409 |
//! | POST | `/api/v1/shutdown/cancel` | yes | the server stays: 202, 409 |
//! | POST | `/api/v1/config/reload` | yes | read the configuration again, apply its limits: 202, 200 |
//! | POST | `/api/v1/broadcast` | yes | a message to every connection (S2.27) |
//! | POST | `/api/publish` | yes | data to the subscribers of a channel |
//! | POST | `/api/broadcast` | yes | data to the subscribers of several channels |
//! | POST | `/api/info` | yes | this node in the form of Centrifugo's `info` |
//! | POST | `/api/v1/debug/fault` | yes | make a shard misbehave; only with `debug.fault_injection` |
//!
//! HEAD is answered wherever GET is. "Token" means: if `admin.token` is set. Without one the
//! listener is on loopback and refuses what a web page could have sent; see `access`.
//!
//! Two threads: that of the listener holds the connections, lets requests in and answers probes;
//! the worker does everything else. Neither waits for the other's clients.
//!
//! A request is read downwards: `server` -> `connection` -> `exchange` -> `access` -> `route` ->
//! `body` -> `work` -> `parse` -> `answer` -> `render`, `metrics`, `publishing`, or a command to
//! the coordinator. `stage` and `connections` say which connection ends when, `unauthorized` and
//! `pace` what is slowed down, `gate` what waits for the worker, `turn` how connections take turns, `event_loop` how a thread begins.

mod access;
mod answer;
mod body;
mod budget;
mod connection;
mod connections;
mod drain_request;
mod error;
mod event_loop;
mod exchange;
mod figures;
mod foresight;
mod gate;
mod last_shutdown;
mod metrics;
mod moment;
mod pace;
mod parse;
mod process;
mod publishing;
mod render;
mod route;
mod server;
mod stage;
mod stream;
mod turn;
mod unauthorized;
mod work;

pub use server::{AdminContext, AdminHandle, bind, start};

/// The status that a request gets as far as that follows from the request alone: 200 for one that
/// would be done. Nothing is done. For tests that try what can be sent.
pub fn judge(
    method: &str,
    path: &str,
    query: Option<&str>,
    content_type: &[u8],
    body: &[u8],
) -> u16 {
    let judged = route::find(method, path, true).and_then(|endpoint| {
        parse::check_content_type(endpoint.method, Some(content_type), !body.is_empty())?;
        parse::request(endpoint.route, query, body, 1)
    });
    judged.map_or_else(|error| error.kind.status(), |_| 200)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
