//! The listener, its two threads, and accepting.
//!
//! Everything a client can hold is bounded: connections in `connections`, the time of each stage in
//! `stage`, heads in `connection`, bodies in `body`, answers in `exchange`, work in `work`.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use monoio::net::TcpStream;
use monoio::time::sleep;

use super::answer::AdminState;
use super::connection::{Patience, serve};
use super::connections::{Admitted, Connections};
use super::event_loop::{self, END_PATIENCE};
use super::exchange::Front;
use super::figures::Figures;
use super::publishing::publications;
use super::turn::RingTurn;
use super::unauthorized::LogSampler;
use super::work::{Work, work};
use crate::admission::Prefixes;
use crate::coordinator::command::Command;
use crate::coordinator::state::ServerState;
use crate::limits::{
    ADMIN_ACCEPTS_PER_TURN, ADMIN_BACKLOG, ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_PER_SOURCE,
    ADMIN_STOP_MS,
};
use crate::mesh::publisher::Publisher;
use crate::sys::listener;
use crate::threads::join_within;

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
    threads: [JoinHandle<()>; 2],
    /// To each.
    stop: [oneshot::Sender<()>; 2],
    /// It has heard that it is to stop.
    heard: [Arc<AtomicBool>; 2],
    address: SocketAddr,
}

/// A process that was killed holds its ports until its rings are torn down.
const PORT_PATIENCE: Duration = Duration::from_millis(800);

/// The names of the threads. The kernel shows 15 characters.
const THREAD: &str = "tidegate-admin";
/// See [`THREAD`].
const WORKER: &str = "tidegate-admin-worker";

/// How long accepting rests when it cannot.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listener, before its thread exists, so that a taken port is an error at the start.
/// It is not shared with another process (no SO_REUSEPORT).
///
/// # Errors
/// EADDRINUSE after some patience, EACCES, EADDRNOTAVAIL.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let give_up = Instant::now() + PORT_PATIENCE;
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error),
            Ok(bound) => {
                listener::set_backlog(bound.as_raw_fd(), ADMIN_BACKLOG)?;
                return Ok(bound);
            }
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
    let (work, jobs) = work();
    let figures = Arc::<Figures>::default();
    let commands = context.commands.clone();
    let probe = listener.try_clone()?;
    let (stop_worker, worker_stopped) = oneshot::channel();
    let heard = [Arc::<AtomicBool>::default(), Arc::default()];
    let [hears, worker_hears] = heard.clone();
    let front = Seed { listener, state: Arc::clone(&context.state), work, figures, patience };
    let figures = Arc::clone(&front.figures);
    let worker = event_loop::spawn(WORKER, &probe, commands.clone(), move || {
        let turn = Rc::new(RingTurn::new()?);
        let (publications, deliveries) = publications();
        let deliveries = deliveries.run(context.publisher.clone());
        let state = AdminState::new(context, publications, figures);
        Ok(async move {
            monoio::spawn(deliveries);
            monoio::spawn(async move {
                told(worker_stopped).await;
                worker_hears.store(true, Ordering::Release);
            });
            jobs.run(state, turn).await;
        })
    })?;
    match event_loop::spawn(THREAD, &probe, commands, move || front.prepare(stopped, hears)) {
        Ok(front) => {
            Ok(AdminHandle { threads: [front, worker], stop: [stop, stop_worker], heard, address })
        }
        Err(error) => {
            // The way to it has gone with the listener's thread, so it ends.
            join_within(worker, END_PATIENCE);
            Err(error)
        }
    }
}

impl AdminHandle {
    /// Where it listens; with the port that the kernel chose if it was 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True if a thread has ended, which without [`Self::stop_within`] is a fault.
    pub fn is_finished(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends the listener, and waits until its threads have heard that, for `patience` at most; and
    /// then for answers that are being made, for `answers` at most. False if one hears nothing: it
    /// stands still.
    pub fn stop_within(self, patience: Duration, answers: Duration) -> bool {
        let Self { threads, stop, heard, .. } = self;
        for stop in stop {
            // An error means that the thread has ended already.
            let _ = stop.send(());
        }
        let wait = |patience: Duration, done: &dyn Fn() -> bool| {
            let give_up = Instant::now() + patience;
            while !done() && Instant::now() < give_up {
                thread::sleep(LOOK);
            }
            done()
        };
        let has_heard = wait(patience, &|| {
            let hears = |(thread, heard): (&JoinHandle<()>, &Arc<AtomicBool>)| {
                heard.load(Ordering::Acquire) || thread.is_finished()
            };
            threads.iter().zip(&heard).all(hears)
        });
        // Whoever reads an answer slowly is cut by the end of the process, or left to its thread.
        let _ = has_heard && wait(answers, &|| threads.iter().all(JoinHandle::is_finished));
        has_heard
    }
}

/// How often the end of the thread is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// Everything that moves into the listener's thread.
struct Seed {
    listener: TcpListener,
    state: Arc<ServerState>,
    work: Work,
    figures: Arc<Figures>,
    patience: Patience,
}

impl Seed {
    /// Gets the descriptors that accepting needs; what is left is to run.
    fn prepare(
        self,
        stopped: oneshot::Receiver<()>,
        hears: Arc<AtomicBool>,
    ) -> io::Result<impl Future<Output = ()>> {
        let Self { listener, state, work, figures, patience } = self;
        let turn = Rc::new(RingTurn::new()?);
        let connections = Connections::new(ADMIN_CONNECTIONS, ADMIN_CONNECTIONS_PER_SOURCE);
        let front =
            Front::new(state, work, figures, Rc::clone(&turn), connections.clone(), patience);
        let front = Rc::new(front);
        let acceptor = Acceptor::new(listener, Rc::clone(&front))?;
        Ok(async move {
            monoio::select! {
                () = serve_until(acceptor, stopped, &hears, &connections) => {}
                () = turn.run() => {}
                () = front.run() => {}
            }
        })
    }
}

async fn serve_until(
    acceptor: Acceptor,
    stopped: oneshot::Receiver<()>,
    hears: &AtomicBool,
    connections: &Connections,
) {
    // Part of this future and not a task, because what is still a task when the event loop is
    // dropped keeps its sockets: the listener must close here.
    monoio::select! {
        () = acceptor.run() => {}
        () = told(stopped) => {}
    }
    hears.store(true, Ordering::Release);
    connections.call_all();
    let give_up = Instant::now() + Duration::from_millis(2 * ADMIN_STOP_MS);
    loop {
        // At least once: the kernel is to see that nothing is accepted any more.
        sleep(Duration::from_millis(5)).await;
        if connections.count() == 0 || Instant::now() > give_up {
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

/// What accepts connections, many in one turn of the event loop: a burst must not wait a turn for
/// each.
struct Acceptor {
    /// For its readiness.
    readable: monoio::net::TcpListener,
    listener: TcpListener,
    front: Rc<Front>,
    log: LogSampler,
}

impl Acceptor {
    fn new(listener: TcpListener, front: Rc<Front>) -> io::Result<Self> {
        let readable = monoio::net::TcpListener::from_std(listener.try_clone()?)?;
        Ok(Self { readable, listener, front, log: LogSampler::default() })
    }

    async fn run(mut self) {
        loop {
            let accepted = match self.readable.readable(false).await {
                Ok(()) => self.accept(),
                Err(error) => Err(error),
            };
            if let Err(error) = accepted {
                self.log_trouble(&error);
                // Out of descriptors, most likely. An idle connection has one.
                if self.front.connections.evict_any() {
                    self.front.figures.evicted();
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    /// Accepts what waits, up to a bound.
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ADMIN_ACCEPTS_PER_TURN {
            let (stream, peer) = match self.listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => return Err(error),
            };
            self.admit(stream, peer)?;
        }
        Ok(())
    }

    fn admit(&mut self, stream: std::net::TcpStream, peer: SocketAddr) -> io::Result<()> {
        let now = Instant::now();
        let front = &self.front;
        let admitted = front.connections.admit(Prefixes::default().key(peer.ip()), now);
        front.figures.set_connections(front.connections.count());
        // Closed without an answer: all others are known clients whose requests are being done.
        let Some(Admitted { permit, evicted }) = admitted else { return Ok(()) };
        if let Some((source, stage)) = evicted {
            front.figures.evicted();
            if self.log.may_log(1, now) {
                tracing::warn!(
                    %source,
                    ?stage,
                    "the admin listener is full ({ADMIN_CONNECTIONS} connections, or \
                     {ADMIN_CONNECTIONS_PER_SOURCE} of one source): the longest idle connections \
                     end for new ones, of which this is one; `ss -tn sport = :PORT` shows all, a \
                     firewall keeps strangers from admin.listen"
                );
            }
        }
        let stream = TcpStream::from_std(stream)?;
        monoio::spawn(serve(stream, peer, Rc::clone(front), permit));
        Ok(())
    }

    fn log_trouble(&mut self, error: &io::Error) {
        if self.log.may_log(1, Instant::now()) {
            tracing::warn!(%error, "the admin listener cannot accept");
        }
    }
}

/// Whether an error of accept(2) is about the connection, which is gone, and not about the
/// listener.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, TimedOut};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | TimedOut)
}
