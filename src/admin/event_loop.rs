//! A thread with an event loop of its own, which says that it is ready once it has everything
//! that it needs: what cannot be had is an error of the start.

use std::any::Any;
use std::future::Future;
use std::io;
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::Sender;
use monoio::FusionDriver;

use crate::coordinator::command::{Command, ShardFailure};
use crate::threads::join_within;

/// Entries of each thread's ring: the least that monoio makes.
const RING_ENTRIES: u32 = 256;

/// How long a thread may take to set up its event loop.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// How long a thread may take to end that has nothing left to do.
pub(super) const END_PATIENCE: Duration = Duration::from_secs(2);

/// Starts a thread with an event loop. There it runs `prepare`, which gets every descriptor that
/// the thread will need for itself, and then the future that this gives, to its end. Its panic is
/// told to the coordinator: a server that can neither be watched nor drained must not go on as if
/// nothing had happened.
///
/// # Errors
/// No thread, no event loop, or what `prepare` answers; the thread has ended then.
pub(super) fn spawn<R: Future<Output = ()>>(
    name: &'static str,
    probe: &TcpListener,
    commands: Sender<Command>,
    prepare: impl FnOnce() -> io::Result<R> + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    check_descriptors(probe)?;
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        let runtime = monoio::RuntimeBuilder::<FusionDriver>::new()
            .enable_timer()
            .with_entries(RING_ENTRIES)
            .build();
        let mut runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        let run = async {
            // The receiver is there until it has one of these, or has given up.
            match prepare() {
                Ok(run) => {
                    let _ = ready.send(Ok(()));
                    run.await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| runtime.block_on(run))) {
            let cause = ShardFailure::Panic(message_of(panic));
            let thread = name.to_owned();
            let _ = commands.send(Command::ThreadDied { thread, shard: None, cause });
        }
    })?;
    let no_word = |_| Err(io::Error::other(format!("{name} did not begin")));
    let begun = is_ready.recv_timeout(START_PATIENCE).unwrap_or_else(no_word);
    match begun {
        Ok(()) => Ok(thread),
        Err(error) => {
            // With the thread what it was given has closed, the listener among it.
            join_within(thread, END_PATIENCE);
            Err(error)
        }
    }
}

/// An event loop takes a ring, an eventfd and an epoll, and monoio leaves the ring open if it cannot
/// have the others: whether there are three descriptors is found out before.
fn check_descriptors(probe: &TcpListener) -> io::Result<()> {
    let _three = (probe.try_clone()?, probe.try_clone()?, probe.try_clone()?);
    Ok(())
}

fn message_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
