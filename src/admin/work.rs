//! The worker: a thread on which everything but probes is answered, so that no request, however
//! large its body or its answer, keeps the thread of the listener from the next one.
//!
//! Requests of operators (status, drain, reload) go before those of programs (publications,
//! metrics), and each kind has permits of its own, which requests wait for in their order.

use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use monoio::time::{Instant, sleep, timeout};

use super::answer::{AdminState, Answer};
use super::body::Body;
use super::error::ApiError;
use super::gate::{Gate, Permit};
use super::metrics::exposition::Exposition;
use super::parse;
use super::route::{Class, Route};
use super::stage::{Stage, Standing};
use super::turn::RingTurn;
use crate::limits::{
    ADMIN_BULK_REQUESTS, ADMIN_OPERATOR_REQUESTS, ADMIN_QUEUE_MS, ADMIN_STOP_MS, ADMIN_WORK_MS,
};

/// A request that was let in, as the listener's thread hands it over.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) route: Route,
    pub(super) query: Option<String>,
    pub(super) body: Body,
    /// Of metrics.
    pub(super) format: Exposition,
}

/// An order under way.
#[derive(Debug)]
struct Job {
    order: Order,
    /// Given back when it is done, whether or not its client still waits.
    permit: Permit,
    answer: oneshot::Sender<Result<Answer, ApiError>>,
}

/// The way to the worker.
#[derive(Debug)]
pub(super) struct Work {
    operator: Desk,
    bulk: Desk,
}

/// The queue of a class; its length is bounded by the permits.
#[derive(Debug)]
struct Desk {
    queue: mpsc::UnboundedSender<Job>,
    gate: Gate,
    permits: usize,
}

/// The worker's end.
#[derive(Debug)]
pub(super) struct Jobs {
    operator: mpsc::UnboundedReceiver<Job>,
    bulk: mpsc::UnboundedReceiver<Job>,
}

/// A way to the worker and its end.
pub(super) fn work() -> (Work, Jobs) {
    let (operator, operator_jobs) = Desk::new(ADMIN_OPERATOR_REQUESTS);
    let (bulk, bulk_jobs) = Desk::new(ADMIN_BULK_REQUESTS);
    (Work { operator, bulk }, Jobs { operator: operator_jobs, bulk: bulk_jobs })
}

impl Desk {
    fn new(permits: usize) -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (queue, jobs) = mpsc::unbounded();
        (Self { queue, gate: Gate::new(permits), permits }, jobs)
    }

    /// A permit for the request of a connection, for which it waits its turn.
    async fn permit(&self, client: &Standing) -> Result<Permit, ApiError> {
        if let Some(permit) = self.gate.try_pass() {
            return Ok(permit);
        }
        client.enter(Stage::Queued, Instant::now().into());
        let passed = timeout(Duration::from_millis(ADMIN_QUEUE_MS), self.gate.pass()).await;
        client.enter(Stage::Working, Instant::now().into());
        passed.ok().flatten().ok_or_else(|| {
            let permits = self.permits;
            ApiError::unavailable(format!(
                "not done: {permits} requests were being worked on for {ADMIN_QUEUE_MS} ms; try \
                 again later"
            ))
        })
    }
}

impl Work {
    /// Hands on permits that come back from the worker, for ever.
    pub(super) async fn run(&self) {
        monoio::select! {
            () = self.operator.gate.run() => {}
            () = self.bulk.gate.run() => {}
        }
    }

    /// Has the `order` of a connection done and waits for its answer.
    ///
    /// # Errors
    /// 503 if there is no permit, or no answer, in time; otherwise what is wrong with the request.
    pub(super) async fn ask(&self, order: Order, client: &Standing) -> Result<Answer, ApiError> {
        let desk = match order.route.class() {
            Class::Operator => &self.operator,
            Class::Bulk => &self.bulk,
        };
        let permit = desk.permit(client).await?;
        let (answer, answered) = oneshot::channel();
        let gone = || ApiError::unavailable("the listener is ending");
        desk.queue.unbounded_send(Job { order, permit, answer }).map_err(|_| gone())?;
        match timeout(Duration::from_millis(ADMIN_WORK_MS), answered).await {
            Ok(answer) => answer.map_err(|oneshot::Canceled| gone())?,
            Err(_) => Err(ApiError::unavailable(format!(
                "no answer within {ADMIN_WORK_MS} ms; the request may be done all the same"
            ))),
        }
    }
}

impl Job {
    async fn run(self, state: Rc<AdminState>) {
        let Self { order, permit, answer } = self;
        let Order { route, query, body, format } = order;
        let shards = state.context.state.shards.len();
        let done = match parse::request(route, query.as_deref(), &body.bytes, shards) {
            Ok(request) => state.answer(request, format).await,
            Err(error) => Err(error),
        };
        drop((body, permit));
        // The client may have hung up.
        let _ = answer.send(done);
    }
}

impl Jobs {
    /// Works until the listener's thread has ended.
    pub(super) async fn run(self, state: AdminState, turn: Rc<RingTurn>) {
        monoio::select! {
            () = self.work_off(Rc::new(state), &turn) => {}
            () = turn.run() => {}
        }
    }

    async fn work_off(mut self, state: Rc<AdminState>, turn: &RingTurn) {
        let running = Rc::new(());
        while let Some(job) = self.next().await {
            let (state, running) = (Rc::clone(&state), Rc::clone(&running));
            monoio::spawn(async move {
                job.run(state).await;
                drop(running);
            });
            // One is begun in each turn, and of those that wait an operator's first.
            turn.pass().await;
        }
        let give_up = Instant::now() + Duration::from_millis(ADMIN_STOP_MS);
        while Rc::strong_count(&running) > 1 && Instant::now() < give_up {
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn next(&mut self) -> Option<Job> {
        if let Ok(job) = self.operator.try_recv() {
            return Some(job);
        }
        let job = either(self.operator.recv(), self.bulk.recv()).await;
        job.ok()
    }
}

/// The first of two that is ready, the first first.
async fn either<T>(one: impl Future<Output = T>, other: impl Future<Output = T>) -> T {
    monoio::select! {
        biased;
        one = one => one,
        other = other => other,
    }
}
