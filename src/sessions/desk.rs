//! Where others speak to the thread that keeps sessions: shards hand over what they have to say and
//! never wait, the coordinator orders the flush of a shutdown, the admin reads what is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use crossbeam_channel::Sender;

use super::directory::Holder;
use super::figures::{Figures, Loss};
use super::id::SessionId;
use super::keeper::Event;
use super::record::Record;
use crate::clock::Now;
use crate::limits::SESSION_QUEUE;

/// How the flush of a shutdown stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flush {
    /// There is no Redis to save to, or no session to save.
    #[default]
    Skipped,
    /// It has not been ordered, or is under way.
    UnderWay,
    /// Everything is saved.
    Done,
    /// Its time ran out.
    TimedOut,
    /// The thread is gone.
    Failed,
}

/// The desk.
#[derive(Debug, Default)]
pub struct Desk {
    queue: OnceLock<Sender<Event>>,
    /// Records that there was no room for in the queue.
    turned_away: AtomicU64,
    figures: Mutex<Figures>,
    flush: Mutex<(Flush, Option<Now>)>,
}

impl Desk {
    /// A connection asks for a session; the answer is a message to its shard. False if there is no
    /// room for the question.
    pub fn attach(&self, id: SessionId, holder: Holder) -> bool {
        self.tell(Event::Attach { id, holder }).is_ok()
    }

    /// A connection has let go of a session; if there is no room for that, the record is lost and
    /// counted.
    pub fn release(&self, id: SessionId, holder: Holder, record: Record) {
        if self.tell(Event::Release { id, holder, record }).is_err() {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Another node has the session now. Dropped, this node's connection keeps it until it ends.
    pub fn claimed(&self, id: SessionId) {
        let _ = self.tell(Event::Claimed { id });
    }

    /// The queue grows as it is used, and is bounded here: all shards together may be a few above.
    fn tell(&self, event: Event) -> Result<(), Event> {
        match self.queue.get() {
            Some(queue) if queue.len() < SESSION_QUEUE => {
                queue.send(event).map_err(|unsent| unsent.into_inner())
            }
            _ => Err(event),
        }
    }

    /// What is waiting to be looked at.
    pub fn queued(&self) -> usize {
        self.queue.get().map_or(0, Sender::len)
    }

    /// What is counted.
    pub fn figures(&self) -> Figures {
        let mut figures = *self.figures.lock().unwrap_or_else(PoisonError::into_inner);
        figures.lose(Loss::QueueFull, self.turned_away.load(Ordering::Relaxed));
        figures
    }

    /// Orders to save what there is until that moment. Ordering twice changes the moment only.
    pub fn order_flush(&self, until: Now) {
        let mut flush = self.flush.lock().unwrap_or_else(PoisonError::into_inner);
        if flush.0 == Flush::UnderWay {
            flush.1 = Some(until);
        }
    }

    /// How that stands.
    pub fn flush(&self) -> Flush {
        self.flush.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn flush_until(&self) -> Option<Now> {
        self.flush.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    pub(crate) fn set_flush(&self, flush: Flush) {
        self.flush.lock().unwrap_or_else(PoisonError::into_inner).0 = flush;
    }

    pub(super) fn show(&self, figures: Figures) {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner) = figures;
    }

    pub(super) fn open(&self, queue: Sender<Event>) {
        // A process opens it once.
        let _ = self.queue.set(queue);
    }
}
