//! A server in the making: its configuration, and what the program around it brings along. There
//! is one way to start; `tidegate serve` takes it too.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::capacity::Capacity;
use super::handle::{Handle, Parts};
use super::shard_thread::{Mailboxes, Shards};
use super::{NotStarted, advise, cannot_listen, redis, report_file, running, say_hello, steering};
use crate::admin::{self, AdminHandle};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::coordinator::Coordinator;
use crate::coordinator::command::Command;
use crate::coordinator::limits::Limits;
use crate::coordinator::signals::{self, Caught, Forwarding};
use crate::coordinator::state::ServerState;
use crate::environment::KernelEnvironment;
use crate::exit_code;
use crate::handler::{Handler, Routes};
use crate::limits;
use crate::mesh::publisher::Publisher;
use crate::metrics::ShardMetrics;
use crate::pressure::reading::Reader;
use crate::pressure::sampler;
use crate::resources::Resource;
use crate::ring::probe;
use crate::sessions;
use crate::supervisor::{self, Supervisor};
use crate::sys::{kernel, listener, rlimit};

/// How long a server that could not start whole may take to end what it had started.
const UNDO: Duration = Duration::from_secs(1);

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
    /// stopped again.
    pub fn start(self) -> Result<Handle, NotStarted> {
        self.config
            .check_values()
            .map_err(|message| NotStarted { message, exit_code: exit_code::CONFIG })?;
        let caught = match self.catches_signals {
            false => None,
            true => Some(signals::catch().map_err(|error| {
                NotStarted::unavailable(format!("signals cannot be caught: {error}"))
            })?),
        };
        self.routes.check().map_err(NotStarted::unavailable)?;
        probe_elsewhere()?;
        let files = rlimit::raise_open_files()
            .map_err(|error| NotStarted::unavailable(format!("RLIMIT_NOFILE: {error}")))?;
        let mut reader = Reader::new(kernel::page_bytes());
        let memory_bytes = reader.smallest_budget(self.config.admission.max_memory_bytes);
        let capacity = Capacity::new(&self.config, files.soft, memory_bytes)?;
        capacity.log(&self.config);
        advise(&self.config, &capacity, memory_bytes);
        let config = Arc::new(self.config);
        let metrics: Vec<Arc<ShardMetrics>> =
            (0..capacity.shards).map(|_| Arc::default()).collect();
        let state = ServerState::new(Arc::clone(&config), Clock::start(), metrics);
        let state = Arc::new(state.supervised_by(self.supervisor).with_seats(capacity.seats()));
        register(&state, &config, self.resources)?;
        Starting { config, sources: self.sources, state, capacity, reader, caught }
            .start(Arc::new(self.routes))
    }
}

/// Looks whether a ring can be had, on a thread of its own: what is left of a ring is cleaned up by
/// the thread that made it, and would interrupt the next system call of the program's.
fn probe_elsewhere() -> Result<(), NotStarted> {
    let probed = std::thread::Builder::new()
        .name("tidegate-probe".to_owned())
        .spawn(probe::check)
        .map_err(|error| NotStarted::unavailable(format!("no thread can be started: {error}")))?
        .join();
    probed.map_err(|_| NotStarted::unavailable("the look at io_uring panicked"))??;
    Ok(())
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
    reader: Reader,
    caught: Option<Caught>,
}

/// The threads beside the shards and the coordinator.
pub(super) struct Attendants {
    pub(super) admin: AdminHandle,
    pub(super) signals: Option<Forwarding>,
}

impl Starting {
    fn start(self, routes: Arc<Routes>) -> Result<Handle, NotStarted> {
        let (config, capacity) = (Arc::clone(&self.config), self.capacity);
        let address = listener::claim(config.server.listen)
            .map_err(|error| cannot_listen("server.listen", config.server.listen, &error))?;
        let listeners = (0..capacity.shards)
            .map(|_| listener::listen(address, config.server.backlog))
            .collect::<io::Result<Vec<OwnedFd>>>()
            .map_err(|error| cannot_listen("server.listen", address, &error))?;
        let owners = steering::draw_owners(capacity.shards);
        steering::begin(&listeners, owners, &config);
        let admin_listener = admin::bind(config.admin.listen)
            .map_err(|error| cannot_listen("admin.listen", config.admin.listen, &error))?;
        let admin_address = admin_listener.local_addr().unwrap_or(config.admin.listen);

        let (commands, inbox) = bounded(limits::COMMANDS);
        let state = Arc::clone(&self.state);
        let (seats, mailboxes) = (capacity.seats(), Mailboxes::new(capacity.shards)?);
        let limits = Limits::new(
            self.sources.clone(),
            seats,
            &config.admission,
            &mailboxes.postboxes,
            commands.clone(),
        );
        let plan = Arc::new(limits.plan(&config.admission));
        let shards = Shards::start(
            &state, &capacity, &plan, mailboxes, listeners, owners, &commands, &routes,
        )?;
        let sources = self.sources.clone();
        let postboxes = shards.postboxes.clone();
        let coordinator = Coordinator::new(
            KernelEnvironment::new(state.clock),
            Arc::clone(&state),
            inbox.clone(),
            postboxes.clone(),
            limits,
        );
        let attendants = match self.attend(admin_listener, address, &commands, &postboxes) {
            Ok(attendants) => attendants,
            Err(error) => {
                undo(coordinator, &commands, shards);
                return Err(error);
            }
        };
        let inherited = {
            let (state, commands) = (Arc::clone(&state), commands.clone());
            let postboxes = postboxes.clone();
            move || {
                Limits::inherited(sources, seats, &state.config().admission, &postboxes, commands)
            }
        };
        supervisor::watch(Arc::clone(&state))
            .map_err(|error| NotStarted::unavailable(format!("watchdog thread: {error}")))?;
        coordinator.open();
        say_hello(&config, &capacity, address, admin_address);
        let ending = running::begin(coordinator, Arc::clone(&state), inbox, shards, inherited)
            .map_err(|error| NotStarted::unavailable(format!("coordinator thread: {error}")))?;
        Ok(Handle::new(Parts {
            state,
            commands,
            publisher: Publisher::new(postboxes),
            clients: address,
            admin: admin_address,
            attendants,
            ending,
        }))
    }

    /// Starts what stands around the shards.
    fn attend(
        self,
        admin_listener: std::net::TcpListener,
        clients: std::net::SocketAddr,
        commands: &Sender<Command>,
        postboxes: &[crate::mesh::inbox::Postbox],
    ) -> Result<Attendants, NotStarted> {
        let Self { state, config, reader, caught, .. } = self;
        sampler::start(Arc::clone(&state), reader, commands.clone())
            .map_err(|error| NotStarted::unavailable(format!("pressure thread: {error}")))?;
        let publisher = Publisher::new(postboxes.to_vec());
        let store = redis::start(&state, clients, &publisher)?;
        sessions::thread::start(Arc::clone(&state), postboxes.to_vec(), store)
            .map_err(|error| NotStarted::unavailable(format!("sessions thread: {error}")))?;
        let context = admin::AdminContext {
            state,
            commands: commands.clone(),
            publisher,
            last_shutdown: report_file::read(config.shutdown.report_file.as_deref()),
        };
        let admin = admin::start(admin_listener, context)
            .map_err(|error| NotStarted::unavailable(format!("admin listener: {error}")))?;
        let signals = caught
            .map(|caught| caught.forward(commands.clone()))
            .transpose()
            .map_err(|error| NotStarted::unavailable(format!("signal thread: {error}")))?;
        Ok(Attendants { admin, signals })
    }
}

/// Stops shards that nobody will lead.
fn undo(coordinator: Coordinator<KernelEnvironment>, commands: &Sender<Command>, shards: Shards) {
    coordinator.open();
    // The inbox is new: there is room.
    let _ = commands.try_send(Command::Stop { within: UNDO, reason: "not started".to_owned() });
    coordinator.run();
    shards.join();
}
