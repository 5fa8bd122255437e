//! The inbox of a shard and the postbox of those who write to it.
//!
//! The bell is rung only when the shard sleeps. Invariant: a shard that is about to sleep first
//! says so and then looks into its inbox once more, so a message is never left lying.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::message::ShardMessage;
use crate::sys::event_fd::EventFd;

/// What wakes a shard that sleeps.
pub trait Bell: Send + Sync + fmt::Debug {
    /// Completes the `Wake` operation of the shard's ring. Never blocks; ringing twice is as once.
    fn ring(&self);
}

impl Bell for EventFd {
    fn ring(&self) {
        EventFd::ring(self);
    }
}

/// The receiving end, owned by the shard.
#[derive(Debug)]
pub struct Inbox {
    messages: Receiver<ShardMessage>,
    asleep: Arc<AtomicBool>,
}

/// The sending end; one clone for everybody who may write.
#[derive(Clone, Debug)]
pub struct Postbox {
    messages: Sender<ShardMessage>,
    asleep: Arc<AtomicBool>,
    bell: Arc<dyn Bell>,
}

/// Why a message was not taken; the message comes back.
#[derive(Debug)]
pub enum NotTaken {
    /// The inbox is full; the shard has been woken.
    Full(ShardMessage),
    /// The shard is gone.
    Gone(ShardMessage),
}

/// Makes the two ends of an inbox with room for `capacity` messages.
pub fn inbox(capacity: usize, bell: impl Bell + 'static) -> (Postbox, Inbox) {
    let (sender, receiver) = bounded(capacity);
    let asleep = Arc::new(AtomicBool::new(false));
    let postbox = Postbox { messages: sender, asleep: Arc::clone(&asleep), bell: Arc::new(bell) };
    (postbox, Inbox { messages: receiver, asleep })
}

impl Postbox {
    /// Hands over a message without waiting.
    ///
    /// # Errors
    /// [`NotTaken`], with the message.
    pub fn post(&self, message: ShardMessage) -> Result<(), NotTaken> {
        let result = self.messages.try_send(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.ring();
        }
        result.map_err(|error| match error {
            TrySendError::Full(message) => NotTaken::Full(message),
            TrySendError::Disconnected(message) => NotTaken::Gone(message),
        })
    }

    /// Messages waiting.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// True if nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Inbox {
    /// The next message, if one waits.
    pub fn take(&self) -> Option<ShardMessage> {
        self.messages.try_recv().ok()
    }

    /// Announces that the shard is going to sleep. False if a message came in meanwhile: do not.
    pub fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        if self.messages.is_empty() {
            return true;
        }
        self.asleep.store(false, Ordering::SeqCst);
        false
    }

    /// The shard is awake again: no bell is needed.
    pub fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_inbox_gives_the_message_back() {
        let Ok(bell) = EventFd::new() else { panic!("eventfd") };
        let (postbox, inbox) = inbox(1, bell);
        let message = || ShardMessage::Fault(super::super::message::Fault::Stall(1));
        assert!(inbox.may_sleep());
        assert!(postbox.post(message()).is_ok());
        assert!(!inbox.may_sleep(), "a message waits");
        assert!(matches!(postbox.post(message()), Err(NotTaken::Full(_))));
        assert!(inbox.take().is_some());
        drop(inbox);
        assert!(matches!(postbox.post(message()), Err(NotTaken::Gone(_))));
    }
}
