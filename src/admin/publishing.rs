//! Publications on their way to the shards, strictly one after the other in the order in which
//! they arrived, so that every subscriber on every shard sees the same order.
//!
//! A task of its own, because a client that hangs up ends the task of its request: a
//! publication must not stop half way between two shards for that.

use std::cell::RefCell;
use std::fmt::Write;
use std::time::Duration;

use futures_channel::{mpsc, oneshot};
use monoio::time::{Instant, sleep, timeout};

use super::error::ApiError;
use crate::limits::{PUBLISH_PATIENCE_MS, PUBLISH_QUEUE, REDIS_REPLY_MS};
use crate::mesh::message::ShardMessage;
use crate::mesh::publisher::Publisher;
use crate::redis::relay::Reach;

/// How long a full inbox is left alone: a shard takes a batch from its inbox in less.
const PAUSE: Duration = Duration::from_millis(2);

/// How long an answer from Redis is waited for: the time that a publication is sent again for, and
/// one answer that does not come.
const RELAY_PATIENCE_MS: u64 = PUBLISH_PATIENCE_MS + REDIS_REPLY_MS;

/// Where publications wait for their turn.
pub(super) struct Publications {
    queue: RefCell<mpsc::Sender<Publication>>,
}

/// The other end of the queue.
pub(super) struct Deliveries {
    queue: mpsc::Receiver<Publication>,
}

/// A publication that has its place in the queue.
pub(super) struct Begun {
    missed: oneshot::Receiver<Missed>,
    count: usize,
}

/// What one request wants to have handed out.
struct Publication {
    messages: Vec<ShardMessage>,
    patience_until: Instant,
    answer: oneshot::Sender<Missed>,
}

/// Who did not get a publication.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Missed {
    /// Shards whose inbox stayed full for at least one message.
    shards: Vec<usize>,
    /// Messages that not every shard took.
    messages: usize,
    /// True if there is no shard any more.
    nobody: bool,
}

pub(super) fn publications() -> (Publications, Deliveries) {
    let (sender, receiver) = mpsc::channel(PUBLISH_QUEUE);
    (Publications { queue: RefCell::new(sender) }, Deliveries { queue: receiver })
}

impl Publications {
    /// Puts `messages` behind the others; they are handed to every shard whether somebody waits for
    /// that or not.
    ///
    /// # Errors
    /// 503 if too many publications wait.
    pub(super) fn begin(&self, messages: Vec<ShardMessage>) -> Result<Begun, ApiError> {
        let (answer, missed) = oneshot::channel();
        let patience_until = Instant::now() + Duration::from_millis(PUBLISH_PATIENCE_MS);
        let count = messages.len();
        let publication = Publication { messages, patience_until, answer };
        let queued = self.queue.borrow_mut().try_send(publication);
        if queued.is_err() {
            return Err(ApiError::unavailable(format!(
                "not published: {PUBLISH_QUEUE} publications wait already; try again later"
            )));
        }
        Ok(Begun { missed, count })
    }
}

impl Begun {
    /// Waits until all shards have it.
    ///
    /// # Errors
    /// 503, naming the shards that did not take all of it in time; the other shards have it then.
    pub(super) async fn done(self) -> Result<(), ApiError> {
        match self.missed.await {
            Ok(missed) => missed.into_result(self.count),
            Err(oneshot::Canceled) => Err(ApiError::unavailable("the listener is ending")),
        }
    }
}

/// How far a publication went beyond this node; `None` without Redis.
pub(super) async fn reach(handed_over: Option<oneshot::Receiver<Reach>>) -> Option<Reach> {
    let answer = timeout(Duration::from_millis(RELAY_PATIENCE_MS), handed_over?).await;
    Some(answer.ok().and_then(Result::ok).unwrap_or(Reach::TimedOut))
}

impl Deliveries {
    /// Hands out publications until nobody can bring any more.
    pub(super) async fn run(mut self, publisher: Publisher) {
        while let Ok(Publication { messages, patience_until, answer }) = self.queue.recv().await {
            let mut missed = Missed::default();
            for message in messages {
                deliver(&publisher, message, patience_until, &mut missed).await;
            }
            // Whoever asked may have hung up.
            let _ = answer.send(missed);
        }
    }
}

/// Offers a message at least once, even if it has waited in the queue for too long: shards
/// with room do not miss what another has no room for.
async fn deliver(
    publisher: &Publisher,
    message: ShardMessage,
    patience_until: Instant,
    missed: &mut Missed,
) {
    let mut delivery = publisher.begin(message);
    while !delivery.is_done() && Instant::now() < patience_until {
        sleep(PAUSE).await;
        publisher.go_on(&mut delivery);
    }
    if !delivery.is_done() {
        missed.messages += 1;
        missed.shards.extend_from_slice(delivery.waiting());
        missed.shards.sort_unstable();
        missed.shards.dedup();
    }
    missed.nobody |= delivery.gone() > 0 && publisher.postbox(delivery.gone()).is_none();
}

impl Missed {
    fn into_result(self, count: usize) -> Result<(), ApiError> {
        if self.nobody {
            return Err(ApiError::unavailable("not published: no shard is left"));
        }
        if self.shards.is_empty() {
            return Ok(());
        }
        let mut message = String::from("the inbox of shard ");
        for (at, shard) in self.shards.iter().enumerate() {
            let _ = write!(message, "{}{shard}", if at == 0 { "" } else { ", " });
        }
        let _ = write!(
            message,
            " stayed full for {PUBLISH_PATIENCE_MS} ms: {} of {count} publications did not reach \
             every shard; those that were reached have delivered it, so a repetition arrives \
             there twice",
            self.messages,
        );
        Err(ApiError::unavailable(message))
    }
}
