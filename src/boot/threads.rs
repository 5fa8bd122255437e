//! Threads that a start has made, and the bounded wait for their end.

use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

/// How long a look at unfinished threads is put off.
const PAUSE: Duration = Duration::from_millis(1);

/// Threads in the order of their start. Dropped, they go on by themselves.
#[derive(Debug, Default)]
pub(super) struct Threads(Vec<JoinHandle<()>>);

impl Threads {
    pub(super) fn add(&mut self, thread: JoinHandle<()>) {
        self.0.push(thread);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Joins every thread that ends within `patience`; returns the names of the others, which are
    /// left to themselves.
    pub(super) fn join_within(mut self, patience: Duration) -> Vec<String> {
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
            sleep(PAUSE);
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
}
