//! Turns of the event loop, as something that can be waited for.
//!
//! monoio runs tasks as long as one is ready, and looks at timers and at its sockets only when
//! none is: a client that always has a further request in its socket keeps the loop from all
//! others. A task that waits for [`RingTurn::pass`] after each step is not ready until the ring
//! has come round, so every connection gets its step in each turn.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::task::{Poll, Waker};

use monoio::net::UnixStream;

/// The turns of one event loop.
pub(super) struct RingTurn {
    number: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
    driver: RefCell<Option<Waker>>,
    /// A socket that is always writable: a poll of it completes in the next turn of the ring.
    socket: UnixStream,
    _peer: UnixStream,
}

impl RingTurn {
    /// Within the runtime whose turns are meant.
    ///
    /// # Errors
    /// EMFILE.
    pub(super) fn new() -> io::Result<Self> {
        let (socket, peer) = UnixStream::pair()?;
        Ok(Self {
            number: Cell::new(0),
            waiting: RefCell::default(),
            driver: RefCell::default(),
            socket,
            _peer: peer,
        })
    }

    /// Completes in the next turn.
    pub(super) async fn pass(&self) {
        let (now, mut is_waiting) = (self.number.get(), false);
        poll_fn(|context| {
            if self.number.get() != now {
                return Poll::Ready(());
            }
            // A task has one waker, however often it is polled meanwhile.
            if !is_waiting {
                self.waiting.borrow_mut().push(context.waker().clone());
                is_waiting = true;
            }
            if let Some(driver) = self.driver.borrow_mut().take() {
                driver.wake();
            }
            Poll::Pending
        })
        .await;
    }

    /// Counts the turns that somebody waits for; part of the runtime's main future.
    pub(super) async fn run(&self) {
        loop {
            poll_fn(|context| {
                if !self.waiting.borrow().is_empty() {
                    return Poll::Ready(());
                }
                *self.driver.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            })
            .await;
            // An error would be one of the ring; the turn is over either way.
            let _ = self.socket.writable(false).await;
            self.number.set(self.number.get() + 1);
            let waiting = self.waiting.take();
            waiting.into_iter().for_each(Waker::wake);
        }
    }
}
