//! One request on its way from its head to its answer.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, VARY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use monoio::time::sleep;

use super::access::{self, Denied};
use super::answer::{Answer, ErrorMode};
use super::body::{self, Body, Limits};
use super::budget::{Budget, Charge};
use super::connection::Patience;
use super::connections::Connections;
use super::error::ApiError;
use super::figures::Figures;
use super::metrics::exposition;
use super::pace::{Pace, Rate};
use super::parse;
use super::render;
use super::route::{self, Method, Route, Show};
use super::stage::{Stage, Standing};
use super::turn::RingTurn;
use super::unauthorized::{Sentence, Unauthorized};
use super::work::{Order, Work};
use crate::admission::{Prefixes, SourceKey};
use crate::coordinator::state::ServerState;
use crate::limits::{
    ADMIN_ANSWERS_BYTES, ADMIN_BODIES_BYTES, ADMIN_HOLD_MS, ADMIN_KEEP_ALIVE_SECONDS,
    ADMIN_OPEN_BURST, ADMIN_OPEN_INTERVAL_MS, ADMIN_ROOM_MS, ADMIN_SMALL_BYTES,
};

/// How often a connection may send what needs no token or is refused.
const OPEN_RATE: Rate = Rate {
    burst: ADMIN_OPEN_BURST,
    interval: Duration::from_millis(ADMIN_OPEN_INTERVAL_MS),
    most: Duration::from_millis(ADMIN_OPEN_INTERVAL_MS),
};

/// Centrifugo's header that asks for errors as statuses.
const ERROR_MODE: &str = "x-centrifugo-error-mode";

/// What all connections share.
pub(super) struct Front {
    pub(super) state: Arc<ServerState>,
    pub(super) turn: Rc<RingTurn>,
    pub(super) patience: Patience,
    pub(super) connections: Connections,
    pub(super) figures: Arc<Figures>,
    work: Work,
    unauthorized: RefCell<Unauthorized>,
    bodies: Budget,
    answers: Budget,
}

/// The client of one connection.
pub(super) struct Client {
    peer: SocketAddr,
    source: SourceKey,
    standing: Rc<Standing>,
    pace: RefCell<Pace>,
}

/// A refusal, and how long it is held back for its source's sake.
struct Refused {
    error: ApiError,
    delay: Duration,
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self { error, delay: Duration::ZERO }
    }
}

impl Client {
    pub(super) fn new(peer: SocketAddr, standing: Rc<Standing>) -> Self {
        let source = Prefixes::default().key(peer.ip());
        Self { peer, source, standing, pace: RefCell::default() }
    }

    fn enter(&self, stage: Stage) {
        self.standing.enter(stage, Instant::now());
    }
}

impl Front {
    pub(super) fn new(
        state: Arc<ServerState>,
        work: Work,
        figures: Arc<Figures>,
        turn: Rc<RingTurn>,
        connections: Connections,
        patience: Patience,
    ) -> Self {
        Self {
            state,
            turn,
            patience,
            connections,
            figures,
            work,
            unauthorized: RefCell::default(),
            bodies: Budget::new(ADMIN_BODIES_BYTES),
            answers: Budget::new(ADMIN_ANSWERS_BYTES),
        }
    }

    /// Hands on what comes back from the worker, for ever.
    pub(super) async fn run(&self) {
        self.work.run().await;
    }

    /// Waits for memory that `fits`. If there is none, clients that have held some in `stage` for
    /// longer than the patience with them give way.
    ///
    /// # Errors
    /// 503 if there is none for so long.
    pub(super) async fn room(
        &self,
        stage: Stage,
        client: &Rc<Standing>,
        mut fits: impl FnMut() -> bool,
    ) -> Result<(), ApiError> {
        let patience = Duration::from_millis(ADMIN_HOLD_MS);
        let give_up = Instant::now() + Duration::from_millis(ADMIN_ROOM_MS);
        loop {
            if fits() {
                return Ok(());
            }
            let now = Instant::now();
            if self.connections.evict_from(stage, patience, client, now) {
                self.figures.evicted();
                // The connection that gave way ends in the next turn.
                self.turn.pass().await;
            } else if now < give_up {
                sleep(patience / 8).await;
            } else {
                break;
            }
        }
        let what = if stage == Stage::Body { "bodies" } else { "answers" };
        let message = format!("the memory for long {what} is in use; try again later");
        Err(ApiError::unavailable(message))
    }

    /// A refusal for want of the token: recorded, logged, and to be held back.
    fn unauthorized(&self, client: &Client, has_token: bool, error: ApiError) -> Refused {
        if has_token {
            self.figures.wrong_token();
        }
        let mut unauthorized = self.unauthorized.borrow_mut();
        let Sentence { delay, line } =
            unauthorized.record(client.source, has_token, Instant::now());
        if let Some(counts) = line {
            tracing::warn!(
                peer = %client.peer,
                wrong_tokens = counts.wrong,
                without_token = counts.missing,
                "admin requests are answered 401; a client of yours needs admin.token, and others \
                 are kept away from admin.listen by a firewall"
            );
        }
        Refused { error, delay }
    }
}

/// Answers a request. Each takes a turn of the event loop at least, so a connection that always has
/// a further one gets one done in each turn, as the others do.
pub(super) async fn respond(
    front: &Front,
    client: &Client,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    client.enter(Stage::Working);
    front.turn.pass().await;
    let (head, mut body) = request.into_parts();
    let path = head.uri.path();
    let mode = ErrorMode::asked(path, head.headers.get(ERROR_MODE).map(HeaderValue::as_bytes));
    let handled = handle(front, client, &head, &mut body).await;
    let (mut answer, mut delay) = match handled {
        Ok(answer) => (answer, Duration::ZERO),
        Err(Refused { error, delay }) => {
            tracing::debug!(peer = %client.peer, method = %head.method, path, ?error,
                "admin request refused");
            (Answer::error(error, path, mode), delay)
        }
    };
    let mut charge = None;
    if answer.body.len() > ADMIN_SMALL_BYTES {
        let made = hold_answer(front, client, answer.body.len()).await;
        match made {
            Ok(held) => charge = Some(held),
            Err(error) => answer = Answer::error(error, path, mode),
        }
    }
    if client.standing.is_stranger() {
        delay = delay.max(client.pace.borrow_mut().delay(OPEN_RATE, Instant::now()));
    }
    if !delay.is_zero() {
        client.enter(Stage::Delayed);
        sleep(delay).await;
    }
    front.figures.answered(answer.status);
    if let Some(number) = answer.api_error {
        front.figures.api_error(number);
    }
    if !head.method.is_safe() && answer.api_error.is_none() && answer.status < 400 {
        let (peer, method, status) = (client.peer, &head.method, answer.status);
        // Traffic is counted in the figures; what else changes something is an operator's doing.
        if route::is_traffic(path) {
            tracing::debug!(%peer, %method, path, status, "admin request");
        } else {
            tracing::info!(%peer, %method, path, status, "admin request");
        }
    }
    let closes = closes_after(&head, &body);
    client.enter(Stage::Answering);
    if let Some(charge) = charge {
        client.standing.hold(charge);
    }
    response(answer, &head, closes)
}

async fn hold_answer(front: &Front, client: &Client, count: usize) -> Result<Charge, ApiError> {
    let mut held = None;
    front
        .room(Stage::Answering, &client.standing, || {
            held = front.answers.take(count);
            held.is_some()
        })
        .await?;
    held.ok_or_else(|| ApiError::unavailable("the memory for long answers is in use"))
}

/// Whether the connection ends with the answer: the rest of the body would have to be read first,
/// or the length of the body was said in a way that proxies disagree about (RFC 9112, section 6.1:
/// after a request with both Transfer-Encoding and Content-Length, which hyper does not tell apart
/// from one with Transfer-Encoding alone).
fn closes_after(head: &Parts, body: &Incoming) -> bool {
    !body.is_end_stream() || head.headers.contains_key(TRANSFER_ENCODING)
}

async fn handle(
    front: &Front,
    client: &Client,
    head: &Parts,
    body: &mut Incoming,
) -> Result<Answer, Refused> {
    let config = front.state.config();
    let found = route::find(head.method.as_str(), head.uri.path(), config.debug.fault_injection);
    // First who, then what: a stranger is not told what there is.
    let open = found.as_ref().is_ok_and(|endpoint| endpoint.open);
    let token = config.admin.token.as_ref();
    client.standing.set_trusted(false);
    match access::check(token, open, head.version, &head.uri, &head.headers) {
        Ok(()) => {}
        Err(Denied::Unauthorized { has_token, error }) => {
            return Err(front.unauthorized(client, has_token, error));
        }
        Err(Denied::Other(error)) => return Err(error.into()),
    }
    let endpoint = found?;
    client.standing.set_trusted(!open);
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    parse::check_content_type(endpoint.method, content_type, !body.is_end_stream())?;
    if let Some(answer) = probe(front, endpoint.route) {
        return Ok(answer);
    }
    let body = match endpoint.method {
        Method::Get => Body::default(),
        Method::Post | Method::Delete => {
            let encodings = head.headers.get_all(CONTENT_ENCODING).iter();
            parse::check_content_encoding(encodings.map(HeaderValue::as_bytes))?;
            client.enter(Stage::Body);
            let read = read_body(front, client, &head.headers, body).await;
            client.enter(Stage::Working);
            read?
        }
    };
    let accept = head.headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes);
    let order = Order {
        route: endpoint.route,
        query: head.uri.query().map(str::to_owned),
        body,
        format: exposition::negotiate(accept),
    };
    Ok(front.work.ask(order, &client.standing).await?)
}

async fn read_body(
    front: &Front,
    client: &Client,
    headers: &HeaderMap,
    body: &mut Incoming,
) -> Result<Body, ApiError> {
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let limits = Limits {
        declared: declared.unwrap_or(0),
        client_waits: headers.contains_key(EXPECT),
        patience: front.patience.body,
    };
    body::read(front, &client.standing, front.bodies.charge(), limits, body).await
}

/// What probes ask for is answered from the phase alone, without the worker, which clients can keep
/// busy.
fn probe(front: &Front, route: Route) -> Option<Answer> {
    let timestamp = || format!("{:.3}", jiff::Timestamp::now());
    let (is_well, value) = match route {
        Route::Show(Show::Alive) => (true, render::alive(&timestamp())),
        Route::Show(Show::Ready) => render::ready(front.state.phase(), &timestamp()),
        Route::Show(Show::Healthy) => render::healthy(front.state.phase(), &timestamp()),
        _ => return None,
    };
    Some(Answer::json(if is_well { 200 } else { 503 }, &value))
}

fn response(answer: Answer, head: &Parts, closes: bool) -> Response<Full<Bytes>> {
    let Answer { status, content_type, body, allow, only_identity, varies, .. } = answer;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    let mut insert = |name: HeaderName, value: &'static str| {
        headers.insert(name, HeaderValue::from_static(value));
    };
    insert(CONTENT_TYPE, content_type);
    insert(CACHE_CONTROL, "no-store");
    insert(X_CONTENT_TYPE_OPTIONS, "nosniff");
    match status {
        401 => insert(WWW_AUTHENTICATE, "Bearer"),
        503 => insert(RETRY_AFTER, "1"),
        _ => {}
    }
    if only_identity {
        insert(ACCEPT_ENCODING, "identity");
    }
    if varies {
        insert(VARY, "Accept");
    }
    if closes {
        insert(CONNECTION, "close");
    } else if head.version == Version::HTTP_11 && !is_last(head) {
        let announced = format!("timeout={ADMIN_KEEP_ALIVE_SECONDS}");
        if let Ok(announced) = HeaderValue::from_str(&announced) {
            headers.insert(HeaderName::from_static("keep-alive"), announced);
        }
    }
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        headers.insert(ALLOW, allow);
    }
    response
}

/// Whether the client says that it sends no further request.
fn is_last(head: &Parts) -> bool {
    let values = head.headers.get_all(CONNECTION).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}
