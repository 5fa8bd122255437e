//! Whether what this node publishes comes back to it: the proof that its way out and its way in end
//! in the same Redis. Both ways may be well by themselves and lead to two servers, as after a
//! failover. Pure.
//!
//! A beat that Redis has taken is to be heard; whatever else of this node is heard after it was sent
//! will do. Beats from before a subscription began are not waited for.

use crate::clock::Now;
use crate::limits::REDIS_ECHO_MS;

/// What is waited for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    /// When something of this node was heard at last, or the subscription began.
    heard: Option<Now>,
    /// When the first beat was sent that has not come back.
    waits_since: Option<Now>,
}

impl Echo {
    /// A beat that was sent at that moment was taken. `None` before there is a subscription:
    /// nothing is waited for.
    pub fn taken(&mut self, sent: Now) {
        if self.heard.is_some_and(|heard| heard < sent) {
            self.waits_since.get_or_insert(sent);
        }
    }

    /// Something of this node came back.
    pub fn heard(&mut self, now: Now) {
        (self.heard, self.waits_since) = (Some(now), None);
    }

    /// A subscription begins.
    pub fn subscribed(&mut self, now: Now) {
        self.heard(now);
    }

    /// There is no subscription: nothing can come back.
    pub fn unsubscribed(&mut self) {
        *self = Self::default();
    }

    /// Whether a beat has been waited for too long.
    pub fn is_overdue(&self, now: Now) -> bool {
        self.waits_since.is_some_and(|since| now >= since.plus_ms(REDIS_ECHO_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now::from_ms(10_000 + ms)
    }

    #[test]
    fn a_beat_that_does_not_come_back_is_overdue_however_many_follow() {
        let mut echo = Echo::default();
        echo.subscribed(at(0));
        for beat in 1..10 {
            echo.taken(at(beat * 1_000));
            assert_eq!(echo.is_overdue(at(beat * 1_000)), beat * 1_000 >= 1_000 + REDIS_ECHO_MS);
        }
        echo.heard(at(9_500));
        assert!(!echo.is_overdue(at(99_000)));
    }

    #[test]
    fn what_was_heard_before_it_was_known_to_be_taken_counts() {
        let mut echo = Echo::default();
        echo.subscribed(at(0));
        echo.heard(at(1_001));
        echo.taken(at(1_000));
        assert!(!echo.is_overdue(at(99_000)));
    }

    #[test]
    fn nothing_is_waited_for_while_nobody_listens() {
        let mut echo = Echo::default();
        echo.taken(at(1));
        assert!(!echo.is_overdue(at(99_000)));
        echo.subscribed(at(2));
        echo.taken(at(1));
        assert!(!echo.is_overdue(at(99_000)), "sent before the subscription began");
        echo.taken(at(3));
        echo.unsubscribed();
        assert!(!echo.is_overdue(at(99_000)));
    }
}
