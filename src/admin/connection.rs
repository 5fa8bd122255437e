//! HTTP on one connection, and one request on its way from its head to its answer.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, RETRY_AFTER,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use monoio::io::IntoPollIo;
use monoio::net::TcpStream;
use monoio::time::{sleep, timeout};
use monoio_compat::hyper::{MonoioIo, MonoioTimer};

use super::access;
use super::answer::{Answer, Office};
use super::error::{ApiError, ErrorKind};
use super::parse;
use super::route::{self, Method};
use super::seats::Seat;
use super::write_deadline::WriteDeadline;
use crate::limits::{
    ADMIN_BODY_MS, ADMIN_DISCARD_BYTES, ADMIN_HEAD_MS, ADMIN_STOP_MS, ADMIN_WRITE_MS,
    MAX_ADMIN_BODY_BYTES, MAX_ADMIN_HEAD_BYTES, MAX_ADMIN_HEADERS,
};

/// The times that clients are given; [`Patience::SERVER`] except in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) body: Duration,
    pub(super) write: Duration,
}

impl Patience {
    pub(super) const SERVER: Self = Self {
        head: Duration::from_millis(ADMIN_HEAD_MS),
        body: Duration::from_millis(ADMIN_BODY_MS),
        write: Duration::from_millis(ADMIN_WRITE_MS),
    };
}

/// Answers the requests of a connection until it ends, or until its seat is called.
pub(super) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    office: Rc<Office>,
    patience: Patience,
    mut seat: Seat,
) {
    // Only costs latency if it fails.
    let _ = stream.set_nodelay(true);
    let stream = match stream.into_poll_io() {
        Ok(stream) => WriteDeadline::new(MonoioIo::new(stream), patience.write),
        Err(error) => {
            tracing::warn!(%error, %peer, "an admin connection cannot be served");
            return;
        }
    };
    let service = service_fn(|request| {
        let office = Rc::clone(&office);
        async move { Ok::<_, Infallible>(respond(&office, request, peer, patience).await) }
    });
    let connection = http1::Builder::new()
        .timer(MonoioTimer)
        .header_read_timeout(patience.head)
        .max_headers(MAX_ADMIN_HEADERS)
        .max_header_size(MAX_ADMIN_HEAD_BYTES)
        // A client may say that it sends no more and still wait for its answer.
        .half_close(true)
        .serve_connection(stream, service);
    let (mut connection, mut grace) = (pin!(connection), None);
    let ended = poll_fn(|context| {
        if grace.is_none() && Pin::new(&mut seat.called).poll(context).is_ready() {
            connection.as_mut().graceful_shutdown();
            grace = Some(Box::pin(sleep(Duration::from_millis(ADMIN_STOP_MS))));
        }
        if grace.as_mut().is_some_and(|grace| grace.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, %peer, "an admin connection ended");
    }
}

async fn respond(
    office: &Office,
    request: Request<Incoming>,
    peer: SocketAddr,
    patience: Patience,
) -> Response<Full<Bytes>> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answer = match handle(office, request, patience).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%peer, %method, path, ?error, "admin request refused");
            Answer::error(error, &path)
        }
    };
    office.count(answer.status);
    if !method.is_safe() && answer.status < 400 {
        let status = answer.status;
        // Traffic is counted in the figures; what else changes something is an operator's doing.
        if route::is_traffic(&path) {
            tracing::debug!(%peer, %method, path, status, "admin request");
        } else {
            tracing::info!(%peer, %method, path, status, "admin request");
        }
    }
    response(answer)
}

async fn handle(
    office: &Office,
    request: Request<Incoming>,
    patience: Patience,
) -> Result<Answer, ApiError> {
    let config = office.context.state.config();
    let (head, body) = request.into_parts();
    let found = route::find(head.method.as_str(), head.uri.path(), config.debug.fault_injection);
    // First who, then what: a stranger is not told what there is.
    let open = found.as_ref().is_ok_and(|endpoint| endpoint.open);
    access::check(config.admin.token.as_ref(), open, head.version, &head.uri, &head.headers)?;
    let endpoint = found?;
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    parse::check_content_type(endpoint.method, content_type, !body.is_end_stream())?;
    let body = match endpoint.method {
        Method::Get => Bytes::new(),
        Method::Post | Method::Delete => {
            let declared = head.headers.get(CONTENT_LENGTH).and_then(|len| len.to_str().ok());
            let declared = declared.and_then(|len| len.parse().ok()).unwrap_or(0);
            let waits = head.headers.contains_key(EXPECT);
            read_body(body, declared, waits, patience.body).await?
        }
    };
    let request =
        parse::request(endpoint.route, head.uri.query(), &body, office.context.state.shards.len())?;
    office.answer(request).await
}

/// Reads a body to its end, even one that is too long, within a limit: a client that is still
/// sending does not see the answer.
async fn read_body(
    mut body: Incoming,
    declared: u64,
    client_waits: bool,
    patience: Duration,
) -> Result<Bytes, ApiError> {
    let too_large = || {
        let message = format!("the body is longer than {MAX_ADMIN_BODY_BYTES} bytes");
        ApiError::new(ErrorKind::BodyTooLarge, message)
    };
    if declared > MAX_ADMIN_BODY_BYTES as u64 && client_waits {
        return Err(too_large());
    }
    let reading = async {
        let (mut bytes, mut discarded) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| ApiError::bad_request(format!("the body is broken: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if discarded == 0 && bytes.len() + data.len() <= MAX_ADMIN_BODY_BYTES {
                bytes.extend_from_slice(&data);
                continue;
            }
            discarded += bytes.len() + data.len();
            bytes = Vec::new();
            if discarded > ADMIN_DISCARD_BYTES {
                break;
            }
        }
        if discarded > 0 { Err(too_large()) } else { Ok(Bytes::from(bytes)) }
    };
    timeout(patience, reading).await.unwrap_or_else(|_| {
        let message = format!("the body took longer than {} ms", patience.as_millis());
        Err(ApiError::new(ErrorKind::RequestTimeout, message))
    })
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let Answer { status, content_type, body, allow } = answer;
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(allow) = allow.and_then(|allow| HeaderValue::from_str(&allow).ok()) {
        headers.insert(ALLOW, allow);
    }
    if status == 401 {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if status == 503 {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
