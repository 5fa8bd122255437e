//! The listener and its thread; how many connections there are, and their end.
//!
//! Everything a client can hold is bounded: connections here, the head and the body of a
//! request in bytes and in time in `connection`, the time an answer waits for its reader in
//! `write_deadline`.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use monoio::FusionDriver;
use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::TcpStream;
use monoio::time::{Instant, sleep, timeout};

use super::answer::{Answer, Office};
use super::connection::{Patience, serve};
use super::error::ApiError;
use super::publishing::publications;
use super::seats::{Seat, Seats};
use crate::coordinator::command::{Command, ShardFailure};
use crate::coordinator::state::ServerState;
use crate::limits::{ADMIN_CONNECTIONS, ADMIN_REFUSALS, ADMIN_STOP_MS};
use crate::mesh::publisher::Publisher;

/// What the admin listener looks at and speaks to.
#[derive(Debug)]
pub struct AdminContext {
    /// The server as it stands, and its settings.
    pub state: Arc<ServerState>,
    /// To the coordinator.
    pub commands: Sender<Command>,
    /// To the shards.
    pub publisher: Publisher,
    /// What the previous process wrote into `shutdown.report_file` when it ended.
    pub last_shutdown: Option<serde_json::Value>,
}

/// The running listener. Dropped, it goes on until the process ends.
#[derive(Debug)]
pub struct AdminHandle {
    thread: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    /// The thread has heard that it is to stop.
    heard: Arc<AtomicBool>,
    address: SocketAddr,
}

/// A process that was killed holds its ports until its rings are torn down.
const PORT_PATIENCE: Duration = Duration::from_millis(800);

/// Entries of the thread's ring: the least that monoio makes.
const RING_ENTRIES: u32 = 256;

/// The thread's name.
const THREAD: &str = "tidegate-admin";

/// Opens the listener, before its thread exists, so that a taken port is an error at the start.
/// It is not shared with another process (no SO_REUSEPORT).
///
/// # Errors
/// EADDRINUSE after some patience, EACCES, EADDRNOTAVAIL.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let give_up = std::time::Instant::now() + PORT_PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && std::time::Instant::now() < give_up =>
            {
                thread::sleep(Duration::from_millis(10));
            }
            bound => return bound,
        }
    }
}

/// Starts the thread that answers on `listener`.
///
/// # Errors
/// The listener can be reached from other machines and there is no `admin.token`; no thread or
/// no event loop can be made.
pub fn start(listener: TcpListener, context: AdminContext) -> io::Result<AdminHandle> {
    start_with(listener, context, Patience::SERVER)
}

pub(super) fn start_with(
    listener: TcpListener,
    context: AdminContext,
    patience: Patience,
) -> io::Result<AdminHandle> {
    let address = listener.local_addr()?;
    if !address.ip().to_canonical().is_loopback() && context.state.config().admin.token.is_none() {
        let message = format!("{address} can be reached from other machines; it needs admin.token");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    listener.set_nonblocking(true)?;
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = crossbeam_channel::bounded(1);
    let commands = context.commands.clone();
    let heard = Arc::new(AtomicBool::new(false));
    let hears = Arc::clone(&heard);
    let thread = thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
        let builder = monoio::RuntimeBuilder::<FusionDriver>::new();
        let build = || builder.enable_timer().with_entries(RING_ENTRIES).build();
        let runtime = check_descriptors(&listener).and_then(|()| build());
        match runtime {
            Ok(mut runtime) => {
                // The receiver is there until it has this.
                let _ = ready.send(Ok(()));
                let serving =
                    || runtime.block_on(run(listener, context, patience, stopped, &hears));
                if let Err(panic) = catch_unwind(AssertUnwindSafe(serving)) {
                    // A server that can neither be watched nor drained must not go on as if
                    // nothing had happened.
                    let cause = ShardFailure::Panic(message_of(panic));
                    let thread = THREAD.to_owned();
                    let _ = commands.send(Command::ThreadDied { thread, shard: None, cause });
                }
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    let thread_ended = || Err(io::Error::other("the admin thread ended at its start"));
    match is_ready.recv().unwrap_or_else(|_| thread_ended()) {
        Ok(()) => Ok(AdminHandle { thread, stop, heard, address }),
        Err(error) => {
            // It has nothing left to do, and with it the listener closes.
            let _ = thread.join();
            Err(error)
        }
    }
}

/// An event loop takes a ring, an eventfd and an epoll, and monoio leaves the ring open if it cannot
/// have the others: whether there are three descriptors is found out before.
fn check_descriptors(listener: &TcpListener) -> io::Result<()> {
    let _three = (listener.try_clone()?, listener.try_clone()?, listener.try_clone()?);
    Ok(())
}

impl AdminHandle {
    /// Where it listens; with the port that the kernel chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True if the thread has ended, which without [`Self::stop`] is a fault.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends the listener, and waits until its thread has heard that, for `patience` at most; and
    /// then for answers that are being made, for `answers` at most. False if it hears nothing: the
    /// thread stands still.
    pub fn stop_within(self, patience: Duration, answers: Duration) -> bool {
        let Self { thread, stop, heard, .. } = self;
        // Errors mean that the thread has ended already.
        let _ = stop.send(());
        let wait = |patience: Duration, done: &dyn Fn() -> bool| {
            let started = std::time::Instant::now();
            while !done() && started.elapsed() < patience {
                thread::sleep(LOOK);
            }
            done()
        };
        let has_heard = wait(patience, &|| heard.load(Ordering::Acquire) || thread.is_finished());
        // Whoever reads an answer slowly is cut by the end of the process, or left to its thread.
        let _ = has_heard && wait(answers, &|| thread.is_finished());
        has_heard
    }

    /// Ends the listener, after answers that are being made, and waits for its thread.
    pub fn stop(self) {
        let Self { thread, stop, .. } = self;
        // Errors mean that the thread has ended already.
        let _ = stop.send(());
        let _ = thread.join();
    }
}

/// How often the end of the thread is looked for.
const LOOK: Duration = Duration::from_millis(1);

fn message_of(panic: Box<dyn Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

async fn run(
    listener: TcpListener,
    context: AdminContext,
    patience: Patience,
    stopped: oneshot::Receiver<()>,
    hears: &AtomicBool,
) {
    let listener = match monoio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "the admin listener cannot be used");
            return;
        }
    };
    let (publications, deliveries) = publications();
    monoio::spawn(deliveries.run(context.publisher.clone()));
    let office = Rc::new(Office::new(context, publications));
    let (served, refused) = (Seats::new(ADMIN_CONNECTIONS), Seats::new(ADMIN_REFUSALS));
    // Part of this future and not a task, because what is still a task when the event loop is
    // dropped keeps its sockets: the listener must close here.
    monoio::select! {
        () = accept(listener, office, patience, &served, &refused) => {}
        () = told(stopped) => {}
    }
    hears.store(true, Ordering::Release);
    served.call();
    let give_up = Instant::now() + Duration::from_millis(2 * ADMIN_STOP_MS);
    loop {
        // At least once: the kernel is to see that nothing is accepted any more.
        sleep(Duration::from_millis(5)).await;
        if served.are_free() && refused.are_free() || Instant::now() > give_up {
            return;
        }
    }
}

/// Waits for the order to stop; for ever if nobody can give it any more.
async fn told(stopped: oneshot::Receiver<()>) {
    if stopped.await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn accept(
    listener: monoio::net::TcpListener,
    office: Rc<Office>,
    patience: Patience,
    served: &Seats,
    refused: &Seats,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                if let Some(seat) = served.take() {
                    monoio::spawn(serve(stream, peer, Rc::clone(&office), patience, seat));
                } else if let Some(seat) = refused.take() {
                    office.count(503);
                    monoio::spawn(refuse(stream, seat));
                }
            }
            Err(error) => {
                // Out of descriptors, most likely. They come back with time, not with trying.
                tracing::warn!(%error, "the admin listener cannot accept");
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Tells a connection above the limit so, and waits for its end for a moment: closing with
/// unread bytes would reset it before the answer is read.
async fn refuse(mut stream: TcpStream, _seat: Seat) {
    let error = ApiError::unavailable(format!(
        "{ADMIN_CONNECTIONS} connections are open already; try again later"
    ));
    let Answer { content_type, body, .. } = Answer::error(error, "/");
    let mut text = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: {content_type}\r\ncontent-length: \
         {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n",
        body.len()
    )
    .into_bytes();
    text.extend_from_slice(&body);
    let _ = timeout(Duration::from_secs(1), async move {
        if stream.write_all(text).await.0.is_err() || stream.shutdown().await.is_err() {
            return;
        }
        let mut buffer = vec![0; 4096];
        loop {
            let (read, back) = stream.read(buffer).await;
            if !matches!(read, Ok(1..)) {
                return;
            }
            buffer = back;
        }
    })
    .await;
}
