//! One connection, from the accept to its end: HTTP by hyper, under the clocks of its stages.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use monoio::io::IntoPollIo;
use monoio::net::TcpStream;
use monoio::time::{Sleep, sleep};
use monoio_compat::hyper::MonoioIo;

use super::connections::{GiveWay, Permit};
use super::exchange::{Client, Front, respond};
use super::stage::Standing;
use super::stream::StagedStream;
use crate::limits::{
    ADMIN_ANSWER_MS, ADMIN_BODY_MS, ADMIN_HEAD_MS, ADMIN_IDLE_MS, ADMIN_LINGER_MS, ADMIN_STOP_MS,
    MAX_ADMIN_HEAD_BYTES, MAX_ADMIN_HEADERS,
};

/// The times that clients are given; [`Patience::SERVER`] except in tests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    pub(super) body: Duration,
    pub(super) answer: Duration,
    pub(super) linger: Duration,
}

impl Patience {
    pub(super) const SERVER: Self = Self {
        head: Duration::from_millis(ADMIN_HEAD_MS),
        idle: Duration::from_millis(ADMIN_IDLE_MS),
        body: Duration::from_millis(ADMIN_BODY_MS),
        answer: Duration::from_millis(ADMIN_ANSWER_MS),
        linger: Duration::from_millis(ADMIN_LINGER_MS),
    };
}

/// Answers the requests of a connection until it ends, gives way, or is called to leave.
pub(super) async fn serve(stream: TcpStream, peer: SocketAddr, front: Rc<Front>, permit: Permit) {
    // Only costs latency if it fails.
    let _ = stream.set_nodelay(true);
    let stream = match stream.into_poll_io() {
        Ok(stream) => MonoioIo::new(stream),
        Err(error) => {
            tracing::debug!(%error, %peer, "an admin connection cannot be served");
            return;
        }
    };
    let standing = Rc::clone(&permit.standing);
    let stream = StagedStream::new(stream, Rc::clone(&standing), Rc::clone(&front.turn));
    let client = Rc::new(Client::new(peer, Rc::clone(&standing)));
    let patience = front.patience;
    let service = service_fn(|request| {
        let (front, client) = (Rc::clone(&front), Rc::clone(&client));
        async move { Ok::<_, Infallible>(respond(&front, &client, request).await) }
    });
    let connection = http1::Builder::new()
        .max_headers(MAX_ADMIN_HEADERS)
        .max_header_size(MAX_ADMIN_HEAD_BYTES)
        // Of what a client sends ahead, no more than one head is stored.
        .max_buf_size(MAX_ADMIN_HEAD_BYTES)
        // A client may say that it sends no more and still wait for its answer.
        .half_close(true)
        .serve_connection(stream, service);
    let (mut connection, mut end) = (pin!(connection), End::new(permit, standing, patience));
    let ended = poll_fn(|context| {
        if end.is_called(context) {
            connection.as_mut().graceful_shutdown();
        }
        if !end.has_come
            && let Poll::Ready(ended) = connection.as_mut().poll(context)
        {
            return Poll::Ready(ended);
        }
        // The stage is the one that the connection has reached in this very step.
        end.poll_due(context).map(Ok)
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, %peer, "an admin connection ended");
    }
}

/// What ends a connection from outside: its stage lasts too long, it gives way, the listener stops.
struct End {
    permit: Permit,
    standing: Rc<Standing>,
    patience: Patience,
    /// The clock of the stage, and what it is set to.
    due: Pin<Box<Sleep>>,
    armed: Option<std::time::Instant>,
    grace: Option<Pin<Box<Sleep>>>,
    has_come: bool,
}

impl End {
    fn new(permit: Permit, standing: Rc<Standing>, patience: Patience) -> Self {
        let (due, armed, grace, has_come) = (Box::pin(sleep(patience.head)), None, None, false);
        Self { permit, standing, patience, due, armed, grace, has_come }
    }

    /// True at the moment when the listener stops.
    fn is_called(&mut self, context: &mut Context<'_>) -> bool {
        if self.grace.is_some() || self.has_come {
            return false;
        }
        match Pin::new(&mut self.permit.called).poll(context) {
            Poll::Pending => false,
            Poll::Ready(Ok(GiveWay)) => {
                self.has_come = true;
                false
            }
            Poll::Ready(Err(_)) => {
                self.grace = Some(Box::pin(sleep(Duration::from_millis(ADMIN_STOP_MS))));
                true
            }
        }
    }

    /// Ready when the connection ends whatever it is doing.
    fn poll_due(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let grace_is_over =
            self.grace.as_mut().is_some_and(|grace| grace.as_mut().poll(context).is_ready());
        if self.has_come || grace_is_over {
            return Poll::Ready(());
        }
        let due = self.standing.due(self.patience);
        if due != self.armed {
            self.armed = due;
            if let Some(due) = due {
                self.due.as_mut().reset(due.into());
            }
        }
        match self.armed {
            Some(_) => self.due.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}
