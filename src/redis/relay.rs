//! The way of a publication to the other nodes, as those see it who publish or look: handing over
//! never waits, and what becomes of it is answered.
//!
//! The threads behind it are in `publish` and `subscribe`. Invariant: every publication that is
//! handed over uses up a number, whether it can be sent or not, so that the others notice.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crossbeam_channel::{Sender, TrySendError};
use futures_channel::oneshot;

use super::echo::Echo;
use super::life::Life;
use super::publication::{claim, to_channels, to_everybody};
use super::reason::Reason;
use crate::clock::Now;
use crate::limits::REDIS_PUBLISH_QUEUE_BYTES;

/// How far a publication went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Redis has it, and passes it on to every node that listens.
    Cluster,
    /// This node only: Redis is not available.
    Unavailable,
    /// This node only: too many wait for Redis.
    QueueFull,
    /// This node only: it is longer than others take.
    TooLong,
    /// This node, and perhaps others: Redis did not answer in time.
    TimedOut,
    /// This node, and perhaps others: Redis has it, but what this node publishes there does not
    /// come back.
    Unheard,
}

impl Reach {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Cluster,
        Self::Unavailable,
        Self::QueueFull,
        Self::TooLong,
        Self::TimedOut,
        Self::Unheard,
    ];

    /// For metrics, and the `reason` of an answer.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Cluster => "published",
            Self::Unavailable => "unavailable",
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::TimedOut => "timed_out",
            Self::Unheard => "unheard",
        }
    }
}

/// What became of something that came from Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All shards have it.
    Delivered,
    /// A shard's inbox stayed full: not all shards have it.
    InboxFull,
    /// It was heard before, or came after a later one.
    Duplicate,
    /// It is longer than any node sends.
    TooLong,
    /// It is not of the form that nodes send.
    Malformed,
}

impl Arrival {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Delivered, Self::InboxFull, Self::Duplicate, Self::TooLong, Self::Malformed];

    /// For metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::InboxFull => "inbox_full",
            Self::Duplicate => "duplicate",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
        }
    }
}

/// How one of the two links is.
#[derive(Debug, Default)]
pub struct LinkStatus {
    is_up: AtomicBool,
    ups: AtomicU64,
    downs: AtomicU64,
    reason: Mutex<Option<Reason>>,
}

impl LinkStatus {
    /// Whether it works.
    pub fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }

    /// Why it does not.
    pub fn reason(&self) -> Option<Reason> {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often it began to work, and to fail.
    pub fn changes(&self) -> (u64, u64) {
        (self.ups.load(Ordering::Relaxed), self.downs.load(Ordering::Relaxed))
    }

    /// True if that is a change, which is counted.
    pub(super) fn set(&self, failure: Option<Reason>) -> bool {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        let is_up = failure.is_none();
        let first = self.changes() == (0, 0);
        let changed = self.is_up.swap(is_up, Ordering::Relaxed) != is_up || first;
        if changed {
            let count = if is_up { &self.ups } else { &self.downs };
            count.fetch_add(1, Ordering::Relaxed);
        }
        changed
    }
}

/// Something on its way to Redis.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// With its number left open.
    pub(super) bytes: Vec<u8>,
    /// From when on it is not sent any more.
    pub(super) until: Now,
    pub(super) answer: oneshot::Sender<Reach>,
}

#[derive(Debug)]
struct Queue {
    life: Life,
    sender: Sender<Outgoing>,
}

/// The relay. Without Redis there is none, and whoever hands something over is told so.
#[derive(Debug, Default)]
pub struct Relay {
    queue: OnceLock<Queue>,
    /// Bytes in the queue.
    pub(super) queued: AtomicUsize,
    /// Numbers used by what was never queued.
    pub(super) skipped: AtomicU64,
    /// Publications of this node by [`Reach`].
    sent: [AtomicU64; Reach::ALL.len()],
    /// What came from Redis, by [`Arrival`].
    arrived: [AtomicU64; Arrival::ALL.len()],
    missed: AtomicU64,
    echo: Mutex<Echo>,
    publishers: AtomicUsize,
    /// To Redis.
    pub outgoing: LinkStatus,
    /// From Redis.
    pub incoming: LinkStatus,
}

impl Relay {
    /// Whether there is one.
    pub fn exists(&self) -> bool {
        self.queue.get().is_some()
    }

    /// Hands over a text for channels, which is sent until `until`; `None` without Redis.
    pub fn to_channels(
        &self,
        channels: &[String],
        text: &str,
        until: Now,
    ) -> Option<oneshot::Receiver<Reach>> {
        let names = channels.iter().map(String::as_str);
        self.hand_over(until, |life| to_channels(life, names, text))
    }

    /// Hands over a text for everybody; as [`Self::to_channels`].
    pub fn to_everybody(&self, text: &str, until: Now) -> Option<oneshot::Receiver<Reach>> {
        self.hand_over(until, |life| to_everybody(life, text))
    }

    /// Tells the life that has a session that this node's client wants it, until `until`.
    pub fn to_holder(&self, holder: Life, session: &str, until: Now) {
        // Whoever waits for the session sees in Redis what became of it.
        let _ = self.hand_over(until, |life| Some(claim(life, holder, session)));
    }

    fn hand_over(
        &self,
        until: Now,
        encode: impl FnOnce(Life) -> Option<Vec<u8>>,
    ) -> Option<oneshot::Receiver<Reach>> {
        let queue = self.queue.get()?;
        let (answer, answered) = oneshot::channel();
        let refused = if !self.outgoing.is_up() {
            Some((answer, Reach::Unavailable))
        } else {
            match encode(queue.life) {
                None => Some((answer, Reach::TooLong)),
                Some(bytes) => self.enqueue(queue, Outgoing { bytes, until, answer }),
            }
        };
        if let Some((answer, reach)) = refused {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            self.note_sent(reach);
            // The other end is at hand.
            let _ = answer.send(reach);
        }
        Some(answered)
    }

    /// Gives back what there is no room for.
    fn enqueue(&self, queue: &Queue, item: Outgoing) -> Option<(oneshot::Sender<Reach>, Reach)> {
        let bytes = item.bytes.len();
        if self.queued.load(Ordering::Relaxed) + bytes > REDIS_PUBLISH_QUEUE_BYTES {
            return Some((item.answer, Reach::QueueFull));
        }
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        let (item, reach) = match queue.sender.try_send(item) {
            Ok(()) => return None,
            Err(TrySendError::Full(item)) => (item, Reach::QueueFull),
            Err(TrySendError::Disconnected(item)) => (item, Reach::Unavailable),
        };
        self.queued.fetch_sub(bytes, Ordering::Relaxed);
        Some((item.answer, reach))
    }

    /// Bytes that wait for Redis.
    pub fn queued_bytes(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Publications of this node that went so far.
    pub fn sent(&self, reach: Reach) -> u64 {
        self.sent[reach as usize].load(Ordering::Relaxed)
    }

    /// What came from Redis and of which this became.
    pub fn arrived(&self, arrival: Arrival) -> u64 {
        self.arrived[arrival as usize].load(Ordering::Relaxed)
    }

    /// Publications of other nodes that did not arrive.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    /// Other nodes that have been heard, those that have ended among them.
    pub fn publishers(&self) -> usize {
        self.publishers.load(Ordering::Relaxed)
    }

    /// How far something that Redis has taken went.
    pub(super) fn taken_reach(&self) -> Reach {
        match self.incoming.reason() {
            Some(Reason::Unheard) => Reach::Unheard,
            _ => Reach::Cluster,
        }
    }

    /// Looks at what is waited for to come back, or changes it.
    pub(super) fn echo<T>(&self, look: impl FnOnce(&mut Echo) -> T) -> T {
        look(&mut self.echo.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// There is Redis from now on.
    pub(super) fn open(&self, life: Life, sender: Sender<Outgoing>) {
        // A process opens it once.
        let _ = self.queue.set(Queue { life, sender });
    }

    pub(super) fn note_sent(&self, reach: Reach) {
        self.sent[reach as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_arrival(&self, arrival: Arrival) {
        self.arrived[arrival as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_missed(&self, missed: u64) {
        self.missed.store(self.missed().saturating_add(missed), Ordering::Relaxed);
    }

    pub(super) fn note_publishers(&self, publishers: usize) {
        self.publishers.store(publishers, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crossbeam_channel::bounded;

    use super::*;
    use crate::limits::REDIS_PUBLICATION_BYTES;

    fn reach(answer: Option<oneshot::Receiver<Reach>>) -> Option<Reach> {
        answer.unwrap().try_recv().unwrap()
    }

    #[test]
    fn without_redis_nothing_is_handed_over() {
        let relay = Relay::default();
        assert!(relay.to_everybody("x", Now::default()).is_none());
        assert!(!relay.exists());
    }

    #[test]
    fn whoever_cannot_be_served_is_told_at_once_and_uses_up_a_number() {
        let relay = Relay::default();
        let (sender, receiver) = bounded(2);
        relay.open(Life::default(), sender);
        let publish = |text: &str| relay.to_everybody(text, Now::default());
        assert_eq!(reach(publish("x")), Some(Reach::Unavailable));
        assert!(relay.outgoing.set(None));
        assert_eq!(reach(publish(&"x".repeat(REDIS_PUBLICATION_BYTES))), Some(Reach::TooLong));
        assert_eq!(reach(publish("x")), None, "it waits");
        assert_eq!(reach(publish("y")), None);
        assert_eq!(reach(publish("z")), Some(Reach::QueueFull));
        assert_eq!(relay.skipped.load(Ordering::Relaxed), 3);
        let queued: usize = receiver.try_iter().map(|item| item.bytes.len()).sum();
        assert_eq!(relay.queued_bytes(), queued);
        drop(receiver);
        assert_eq!(reach(publish("x")), Some(Reach::Unavailable));
        let sent = Reach::ALL.map(|reach| relay.sent(reach));
        assert_eq!(sent, [0, 2, 1, 1, 0, 0]);
    }

    #[test]
    fn the_queue_is_bounded_in_bytes() {
        let relay = Relay::default();
        let (sender, _receiver) = bounded(100);
        relay.open(Life::default(), sender);
        relay.outgoing.set(None);
        let text = "x".repeat(REDIS_PUBLICATION_BYTES / 2);
        let taken = (0..100).take_while(|_| {
            reach(relay.to_everybody(&text, Now::default())) != Some(Reach::QueueFull)
        });
        assert_eq!(taken.count(), REDIS_PUBLISH_QUEUE_BYTES / (text.len() + 28));
    }

    #[test]
    fn a_link_changes_when_it_does_and_at_first() {
        let link = LinkStatus::default();
        assert!(link.set(Some(Reason::Unreachable)));
        assert!(!link.set(Some(Reason::TimedOut)));
        assert_eq!((link.is_up(), link.reason()), (false, Some(Reason::TimedOut)));
        assert!(link.set(None) && !link.set(None));
        assert_eq!((link.is_up(), link.changes()), (true, (1, 1)));
    }
}
