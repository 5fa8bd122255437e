//! The gate before the worker: of a class so many requests are worked on at once, and the others
//! wait for a permit in the order in which they came.
//!
//! The gate belongs to the listener's thread. A permit goes with its request to the worker's, and
//! comes back from there when the request is done, whether or not its client still waits.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;

use futures_channel::{mpsc, oneshot};

use crate::limits::ADMIN_CONNECTIONS;

/// A gate.
#[derive(Debug)]
pub(super) struct Gate {
    free: Cell<usize>,
    waiting: RefCell<VecDeque<oneshot::Sender<Permit>>>,
    back: mpsc::UnboundedSender<()>,
    returned: RefCell<mpsc::UnboundedReceiver<()>>,
}

/// The right to be worked on, which goes back to the gate when it is dropped, on any thread.
#[derive(Debug)]
pub(super) struct Permit {
    back: mpsc::UnboundedSender<()>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        // Without a gate there is nobody left to have it.
        let _ = self.back.unbounded_send(());
    }
}

impl Gate {
    /// A gate with so many permits.
    pub(super) fn new(permits: usize) -> Self {
        let (back, returned) = mpsc::unbounded();
        let (free, waiting) = (Cell::new(permits), RefCell::default());
        Self { free, waiting, back, returned: RefCell::new(returned) }
    }

    /// A permit, if one is free. None is while somebody waits.
    pub(super) fn try_pass(&self) -> Option<Permit> {
        self.free.set(self.free.get().checked_sub(1)?);
        Some(self.permit())
    }

    /// Waits for a permit, behind those who wait already.
    pub(super) async fn pass(&self) -> Option<Permit> {
        self.line_up().await.ok()
    }

    fn line_up(&self) -> oneshot::Receiver<Permit> {
        let (give, given) = oneshot::channel();
        let mut waiting = self.waiting.borrow_mut();
        // Of the rest the clients have gone or have been refused: each connection waits once.
        if waiting.len() > ADMIN_CONNECTIONS {
            waiting.retain(|one| !one.is_canceled());
        }
        waiting.push_back(give);
        given
    }

    /// Hands permits that come back to those who wait, for ever.
    pub(super) async fn run(&self) {
        while poll_fn(|context| {
            let mut returned = self.returned.borrow_mut();
            let returned = pin!(returned.recv()).poll(context);
            returned.map(|permit| permit.is_ok())
        })
        .await
        {
            self.hand_on();
        }
    }

    fn hand_on(&self) {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(next) = waiting.pop_front() {
            if !next.is_canceled() {
                // If it is cancelled in this moment the permit comes back by itself.
                let _ = next.send(self.permit());
                return;
            }
        }
        self.free.set(self.free.get() + 1);
    }

    fn permit(&self) -> Permit {
        Permit { back: self.back.clone() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    type Passing<'a> = Pin<Box<dyn Future<Output = Option<Permit>> + 'a>>;

    fn now<F: Future + ?Sized>(future: &mut Pin<Box<F>>) -> Option<F::Output> {
        match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }

    #[test]
    fn permits_go_to_those_who_wait_in_their_order() {
        let gate = Gate::new(1);
        let mut run = Box::pin(gate.run());
        let first = gate.try_pass().unwrap();
        assert!(gate.try_pass().is_none());
        let mut waiting: Vec<Passing<'_>> = (0..3).map(|_| Box::pin(gate.pass()) as _).collect();
        for one in &mut waiting {
            assert!(now(one).is_none());
        }
        drop(first);
        assert!(now(&mut run).is_none());
        // The second gives up before its turn comes.
        drop(waiting.remove(1));
        let first = now(&mut waiting[0]).flatten().unwrap();
        assert!(now(&mut waiting[1]).is_none() && gate.try_pass().is_none());
        drop(first);
        assert!(now(&mut run).is_none());
        let last = now(&mut waiting[1]).flatten().unwrap();
        drop(last);
        assert!(now(&mut run).is_none());
        assert!(gate.try_pass().is_some());
    }

    #[test]
    fn a_permit_that_was_given_to_a_client_that_has_gone_comes_back() {
        let gate = Gate::new(1);
        let mut run = Box::pin(gate.run());
        let mut waiting: Passing<'_> = Box::pin(gate.pass());
        let permit = gate.try_pass().unwrap();
        assert!(now(&mut waiting).is_none());
        drop(permit);
        assert!(now(&mut run).is_none());
        drop(waiting);
        assert!(now(&mut run).is_none());
        assert!(gate.try_pass().is_some());
    }

    #[test]
    fn those_who_have_gone_leave_no_trace_in_the_queue() {
        let gate = Gate::new(0);
        for _ in 0..3 * ADMIN_CONNECTIONS {
            let mut waiting: Passing<'_> = Box::pin(gate.pass());
            assert!(now(&mut waiting).is_none());
        }
        assert!(gate.waiting.borrow().len() <= ADMIN_CONNECTIONS + 1);
    }
}
