//! The bounded wait for the end of threads: none is joined before it has ended.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a look at unfinished threads is put off.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for the end of `thread`, for `patience` at most, and joins it then; `None` if it
/// goes on, which it does by itself.
pub(crate) fn join_within<T>(
    thread: JoinHandle<T>,
    patience: Duration,
) -> Option<thread::Result<T>> {
    let give_up = Instant::now() + patience;
    while !thread.is_finished() {
        if Instant::now() >= give_up {
            return None;
        }
        thread::sleep(PAUSE);
    }
    Some(thread.join())
}

/// Threads in the order of their start. Dropped, they go on by themselves.
#[derive(Debug, Default)]
pub(crate) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    pub(crate) fn add(&mut self, thread: JoinHandle<()>) {
        self.0.push(thread);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Joins every thread that ends within `patience`; returns the names of the others, which are
    /// left to themselves.
    pub(crate) fn join_within(mut self, patience: Duration) -> Vec<String> {
        let give_up = Instant::now() + patience;
        loop {
            // A thread that panicked has ended too, and its panic is logged where it happened.
            self.0.extract_if(.., |thread| thread.is_finished()).for_each(|ended| {
                let _ = ended.join();
            });
            if self.0.is_empty() || Instant::now() >= give_up {
                let name = |thread: &JoinHandle<()>| thread.thread().name().unwrap_or("?").into();
                return self.0.iter().map(name).collect();
            }
            thread::sleep(PAUSE);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread::Builder;

    #[test]
    fn threads_that_end_are_joined_and_the_others_named_in_time() {
        let (go, wait) = channel::<()>();
        let mut threads = Threads::default();
        threads.add(Builder::new().name("ends".into()).spawn(|| {}).unwrap());
        let panics = || std::panic::resume_unwind(Box::new("on purpose"));
        threads.add(Builder::new().name("panics".into()).spawn(panics).unwrap());
        let hangs = move || {
            let _ = wait.recv();
        };
        threads.add(Builder::new().name("hangs".into()).spawn(hangs).unwrap());
        let started = Instant::now();
        assert_eq!(threads.join_within(Duration::from_millis(500)), ["hangs"]);
        assert!(started.elapsed() < Duration::from_secs(5));
        drop(go);
        assert_eq!(Threads::default().join_within(Duration::ZERO), Vec::<String>::new());
    }

    #[test]
    fn a_thread_is_joined_once_it_has_ended_and_never_before() {
        let (go, wait) = channel::<()>();
        let hangs = Builder::new().spawn(move || wait.recv().is_ok()).unwrap();
        assert!(join_within(hangs, Duration::from_millis(50)).is_none());
        drop(go);
        let ends = Builder::new().spawn(|| 7).unwrap();
        let ended = join_within(ends, Duration::from_secs(10));
        assert_eq!(ended.and_then(Result::ok), Some(7));
    }
}
