//! A server in the making: its configuration, and what the program around it brings along. There
//! is one way to start; `tidegate serve` takes it too.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::capacity::Capacity;
use super::handle::{Handle, Parts};
use super::overdue::{self, Known, Owner};
use super::rollback::{CoordinatorParts, Started};
use super::running::Ending;
use super::shard_thread::{Mailboxes, Shards};
use super::signals::{self, Caught};
use super::{NotStarted, advise, cannot_listen, redis, report_file, running, say_hello, steering};
use crate::admin::{self, AdminHandle};
use crate::admission::{AdmissionPlan, Owners};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::coordinator::deadline::Deadline;
use crate::coordinator::limits::Limits;
use crate::coordinator::state::ServerState;
use crate::exit_code;
use crate::handler::{Handler, Routes};
use crate::limits::{self, END_ADMIN_MS};
use crate::mesh::publisher::Publisher;
use crate::metrics::ShardMetrics;
use crate::pressure::reading::Reader;
use crate::pressure::sampler;
use crate::resources::Resource;
use crate::ring::probe;
use crate::sessions;
use crate::shard::settings::Settings;
use crate::supervisor::{self, Supervisor};
use crate::sys::{kernel, listener, rlimit};
use crate::threads::join_within;

/// How long the kernel may take to show what its io_uring can do.
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

/// How long the thread that keeps the deadline may take to end once that is over: it waits for
/// nothing.
const KEEPER_END: Duration = Duration::from_secs(1);

/// A server that has not been started.
///
/// A library: it installs no logger and, unless asked, no signal handler. What it does to the
/// process is raising its soft RLIMIT_NOFILE to the hard one.
///
/// ```
/// use std::time::Duration;
/// use tidegate::config::Config;
/// use tidegate::handler::{Effects, Handler, Inbound};
/// use tidegate::Server;
///
/// /// Says how long a message was.
/// struct Length;
///
/// impl Handler for Length {
///     fn receive(&mut self, inbound: Inbound<'_>, effects: &mut Effects) {
///         if let Inbound::Text(text) = inbound {
///             effects.text(&text.len().to_string());
///         }
///     }
/// }
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut config = Config::default();
/// config.server.listen = "127.0.0.1:0".parse()?;
/// config.admin.listen = "127.0.0.1:0".parse()?;
/// let server = Server::new(config).handler("/length", || Length).start()?;
/// println!("ws://{}/length", server.clients());
/// let report = server.shutdown(Duration::from_secs(10))?;
/// assert_eq!(report.exit_code, Some(0));
/// # Ok(())
/// # }
/// ```
pub struct Server {
    config: Config,
    sources: Option<Sources>,
    routes: Routes,
    resources: Vec<Resource>,
    catches_signals: bool,
    owns_process: bool,
    supervisor: Supervisor,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("routes", &self.routes)
            .field("resources", &self.resources)
            .field("catches_signals", &self.catches_signals)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server with this configuration, which serves `/ws`, and `/echo` if `server.echo` is set.
    pub fn new(config: Config) -> Self {
        let routes = Routes::new(config.server.echo);
        Self {
            config,
            sources: None,
            routes,
            resources: Vec::new(),
            catches_signals: false,
            owns_process: false,
            supervisor: Supervisor::default(),
        }
    }

    /// Serves `path`, which begins with a slash and is compared as it is written. `make` is called
    /// once for each shard, on its thread; see [`Handler`].
    #[must_use]
    pub fn handler<H: Handler + 'static>(
        mut self,
        path: impl Into<String>,
        make: impl Fn() -> H + Send + Sync + 'static,
    ) -> Self {
        self.routes.add(path.into(), Arc::new(move || Box::new(make())));
        self
    }

    /// Closes `resource` at the shutdown. [`Handle::register`] does the same later.
    #[must_use]
    pub fn resource(mut self, resource: Resource) -> Self {
        self.resources.push(resource);
        self
    }

    /// Where the configuration was read from: it can be read again then, which without this is
    /// refused.
    #[must_use]
    pub fn reloads_from(mut self, sources: Sources) -> Self {
        self.sources = Some(sources);
        self
    }

    /// SIGTERM, SIGINT and SIGUSR2 stop the server, a second one cuts it short, and SIGHUP reads
    /// the configuration again. Without this the signals are left to the program.
    #[must_use]
    pub fn catches_signals(mut self) -> Self {
        self.catches_signals = true;
        self
    }

    /// The process is the server's own: a shutdown that is not over at its deadline, whatever
    /// hangs, ends it.
    pub(super) fn owns_process(mut self) -> Self {
        self.owns_process = true;
        self
    }

    /// Tells a service manager when the server is ready, stops, and is alive. Without this nobody is
    /// told: whether the program is ready is for the program to say.
    #[must_use]
    pub fn supervised_by(mut self, supervisor: Supervisor) -> Self {
        self.supervisor = supervisor;
        self
    }

    /// Starts the server; it serves when this returns.
    ///
    /// # Errors
    /// A value of the configuration is out of its range; io_uring, an address or enough descriptors
    /// cannot be had; a path or the name of a resource is there twice. What had been started is
    /// stopped again: threads are joined, for some seconds at most, and sockets are closed.
    pub fn start(self) -> Result<Handle, NotStarted> {
        self.config
            .check_values()
            .map_err(|message| NotStarted { message, exit_code: exit_code::CONFIG })?;
        let clock = Clock::start();
        let deadline = Arc::new(Deadline::new(self.config.shutdown.deadline_ms));
        let (ending, known) = (Arc::new(Ending::default()), Known::default());
        let owner = match self.owns_process {
            true => Owner::Process,
            false => Owner::Program(Arc::clone(&ending)),
        };
        let keeper = overdue::start(&deadline, clock, owner, &known)
            .map_err(|error| NotStarted::lacking("deadline thread", &error))?;
        let started = self.start_kept(clock, &deadline, ending, &known);
        if started.is_err() {
            deadline.close();
            if join_within(keeper, KEEPER_END).is_none() {
                tracing::warn!("the deadline thread of a server that did not start still runs");
            }
        }
        started
    }

    /// The same under a deadline that is kept.
    fn start_kept(
        self,
        clock: Clock,
        deadline: &Arc<Deadline>,
        ending: Arc<Ending>,
        known: &Known,
    ) -> Result<Handle, NotStarted> {
        let caught = match self.catches_signals {
            false => None,
            true => Some(
                signals::catch(Arc::clone(deadline), clock)
                    .map_err(|error| NotStarted::lacking("signals cannot be caught", &error))?,
            ),
        };
        self.routes.check().map_err(NotStarted::unavailable)?;
        probe_elsewhere()?;
        let files = rlimit::raise_open_files()
            .map_err(|error| NotStarted::unavailable(format!("RLIMIT_NOFILE: {error}")))?;
        let mut reader = Reader::new(kernel::page_bytes());
        let memory_bytes = reader.smallest_budget(self.config.admission.max_memory_bytes);
        let capacity = Capacity::new(&self.config, files.soft, memory_bytes)?;
        let settings =
            Settings::new(&self.config, &capacity.memory, capacity.shards).map_err(|error| {
                let message = format!("server.allowed_origins: {error}");
                NotStarted { message, exit_code: exit_code::CONFIG }
            })?;
        capacity.log(&self.config);
        advise(&self.config, &capacity, memory_bytes);
        let config = Arc::new(self.config);
        let metrics: Vec<Arc<ShardMetrics>> =
            (0..capacity.shards).map(|_| Arc::default()).collect();
        let state = ServerState::new(Arc::clone(&config), clock, metrics)
            .with_deadline(Arc::clone(deadline))
            .supervised_by(self.supervisor)
            .with_room(capacity.seats(), capacity.memory);
        let state = Arc::new(state);
        // There is one server under this deadline.
        let _ = known.set(Arc::clone(&state));
        register(&state, &config, self.resources)?;
        let routes = Arc::new(self.routes);
        Starting {
            config,
            sources: self.sources,
            state,
            capacity,
            settings,
            routes,
            reader,
            caught,
            ending,
        }
        .start()
    }
}

/// Looks whether a ring can be had, on a thread of its own: what is left of a ring is cleaned up by
/// the thread that made it, and would interrupt the next system call of the program's.
fn probe_elsewhere() -> Result<(), NotStarted> {
    let probed = std::thread::Builder::new()
        .name("tidegate-probe".to_owned())
        .spawn(probe::check)
        .map_err(|error| NotStarted::lacking("first thread", &error))?;
    match join_within(probed, PROBE_PATIENCE) {
        Some(Ok(found)) => Ok(found?),
        Some(Err(_)) => Err(NotStarted::unavailable("the look at io_uring panicked")),
        None => Err(NotStarted::unavailable(format!(
            "io_uring: the kernel has not answered within {} s; `dmesg` and \
             `cat /proc/{}/task/*/stack` (as root) say where it stands",
            PROBE_PATIENCE.as_secs(),
            std::process::id()
        ))),
    }
}

/// The hooks of the configuration and the resources of the program.
fn register(
    state: &ServerState,
    config: &Config,
    resources: Vec<Resource>,
) -> Result<(), NotStarted> {
    let shutdown = &config.shutdown;
    state.resources.set_times(shutdown.resource_timeout_ms, shutdown.background_ms);
    let hooks = shutdown.hooks.iter().cloned().map(|hook| {
        let resource =
            Resource::command(hook.name, hook.stage, hook.command).environment(hook.environment);
        match hook.timeout_ms {
            Some(ms) => resource.timeout(Duration::from_millis(ms)),
            None => resource,
        }
    });
    resources
        .into_iter()
        .chain(hooks)
        .try_for_each(|resource| state.resources.register(resource))
        .map_err(NotStarted::unavailable)
}

/// Everything that was found to be there.
struct Starting {
    config: Arc<Config>,
    sources: Option<Sources>,
    state: Arc<ServerState>,
    capacity: Capacity,
    settings: Settings,
    routes: Arc<Routes>,
    reader: Reader,
    caught: Option<Caught>,
    ending: Arc<Ending>,
}

/// The threads beside the shards and the coordinator that are told to end.
#[derive(Default)]
pub(super) struct Attendants {
    pub(super) admin: Option<AdminHandle>,
    pub(super) signals: Option<Caught>,
}

impl Attendants {
    /// Ends them; false if the admin listener does not hear it in time.
    pub(super) fn dismiss(self) -> bool {
        let Self { admin, signals } = self;
        drop(signals);
        let patience = Duration::from_millis(END_ADMIN_MS);
        admin.is_none_or(|admin| admin.stop_within(patience, patience))
    }
}

/// What is open before the first thread.
struct Listeners {
    address: SocketAddr,
    clients: Vec<OwnedFd>,
    owners: Owners,
    admin: TcpListener,
    admin_address: SocketAddr,
}

impl Starting {
    fn start(self) -> Result<Handle, NotStarted> {
        let listeners = self.listen()?;
        let mailboxes = Mailboxes::new(self.capacity.shards)?;
        let (commands, inbox) = bounded(limits::COMMANDS);
        let parts = CoordinatorParts {
            state: Arc::clone(&self.state),
            sources: self.sources.clone(),
            seats: self.capacity.seats(),
            commands,
            inbox,
        };
        let mut started = Started::nothing(Shards::of(&mailboxes));
        match self.start_threads(listeners, mailboxes, &parts, &mut started) {
            Ok(ready) => Ok(ready.begin(parts, started)),
            Err(error) => {
                parts.roll_back(started);
                Err(error)
            }
        }
    }

    fn listen(&self) -> Result<Listeners, NotStarted> {
        let (server, admin) = (&self.config.server, self.config.admin.listen);
        let address = listener::claim(server.listen)
            .map_err(|error| cannot_listen("server.listen", server.listen, &error))?;
        let clients = (0..self.capacity.shards)
            .map(|_| listener::listen(address, server.backlog))
            .collect::<io::Result<Vec<OwnedFd>>>()
            .map_err(|error| cannot_listen("server.listen", address, &error))?;
        let owners = steering::draw_owners(self.capacity.shards);
        steering::begin(&clients, owners, &self.config);
        let listener =
            admin::bind(admin).map_err(|error| cannot_listen("admin.listen", admin, &error))?;
        let admin_address = listener.local_addr().unwrap_or(admin);
        Ok(Listeners { address, clients, owners, admin: listener, admin_address })
    }

    /// Starts every thread. What runs is in `started`, also after an error.
    fn start_threads(
        self,
        listeners: Listeners,
        mailboxes: Mailboxes,
        parts: &CoordinatorParts,
        started: &mut Started,
    ) -> Result<Ready, NotStarted> {
        let Listeners { address, clients, owners, admin, admin_address } = listeners;
        let (config, state) = (Arc::clone(&self.config), Arc::clone(&self.state));
        let capacity = self.capacity;
        let commands = &parts.commands;
        let postboxes = mailboxes.postboxes.clone();
        let limits = Limits::new(
            parts.sources.clone(),
            parts.seats,
            capacity.memory,
            &config.admission,
            &postboxes,
            commands.clone(),
        );
        let plan: Arc<AdmissionPlan> = Arc::new(limits.plan(&config.admission));
        started.shards.start(
            &state,
            &capacity,
            &plan,
            &self.settings,
            mailboxes,
            clients,
            owners,
            commands,
            &self.routes,
        )?;
        let ending = Arc::clone(&self.ending);
        self.attend(admin, address, parts, started)?;
        let coordinator = parts.coordinator(limits, &started.shards);
        let prepared = running::prepare(coordinator, parts.clone(), ending, &mut started.threads)
            .map_err(|error| NotStarted::lacking("coordinator thread", &error))?;
        // The last: a start that has a watchdog does not fail any more, and so nobody waits for it.
        supervisor::watch(state).map_err(|error| NotStarted::lacking("watchdog thread", &error))?;
        Ok(Ready { config, capacity, address, admin_address, prepared })
    }

    /// Starts what stands around the shards.
    fn attend(
        self,
        admin_listener: TcpListener,
        clients: SocketAddr,
        parts: &CoordinatorParts,
        started: &mut Started,
    ) -> Result<(), NotStarted> {
        let Self { state, config, reader, caught, .. } = self;
        let commands = &parts.commands;
        let postboxes = &started.shards.postboxes;
        let threads = &mut started.threads;
        let sampler = sampler::start(Arc::clone(&state), reader, commands.clone())
            .map_err(|error| NotStarted::lacking("pressure thread", &error))?;
        threads.add(sampler);
        let publisher = Publisher::new(postboxes.clone());
        let store = redis::start(&state, clients, &publisher, threads)?;
        let keeper = sessions::thread::start(Arc::clone(&state), postboxes.clone(), store)
            .map_err(|error| NotStarted::lacking("sessions thread", &error))?;
        threads.add(keeper);
        let context = admin::AdminContext {
            state,
            commands: commands.clone(),
            publisher,
            last_shutdown: report_file::read(config.shutdown.report_file.as_deref()),
        };
        let admin = admin::start(admin_listener, context)
            .map_err(|error| NotStarted::lacking("admin listener", &error))?;
        started.attendants.admin = Some(admin);
        if let Some(caught) = caught {
            caught.forward(commands.clone());
            started.attendants.signals = Some(caught);
        }
        Ok(())
    }
}

/// A server of which every thread runs.
struct Ready {
    config: Arc<Config>,
    capacity: Capacity,
    address: SocketAddr,
    admin_address: SocketAddr,
    prepared: running::PreparedCoordinator,
}

impl Ready {
    /// Opens the server. Nothing of this can fail.
    fn begin(self, parts: CoordinatorParts, started: Started) -> Handle {
        // Threads that are not waited for end by themselves.
        let Started { shards, threads: _, attendants: Attendants { admin, signals } } = started;
        let postboxes = shards.postboxes.clone();
        parts.state.open();
        let ending = self.prepared.begin(shards, admin);
        say_hello(&self.config, &self.capacity, self.address, self.admin_address);
        Handle::new(Parts {
            state: parts.state,
            commands: parts.commands,
            publisher: Publisher::new(postboxes),
            clients: self.address,
            admin: self.admin_address,
            signals,
            ending,
        })
    }
}
