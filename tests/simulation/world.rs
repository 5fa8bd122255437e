//! A machine with its server, its clients and its operator, in one thread, in simulated time, from
//! one seed: the real shards and the real coordinator on a simulated kernel.

use std::any::Any;
use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use crossbeam_channel::{Receiver, Sender, bounded};
use tidegate::admission::{Admission, Owners, Prefixes, Seats};
use tidegate::channels::publish::text_frame;
use tidegate::clock::Clock;
use tidegate::config::Config;
use tidegate::coordinator::Coordinator;
use tidegate::coordinator::cause::Cause;
use tidegate::coordinator::command::{Command, ShardFailure, Steering, Wish};
use tidegate::coordinator::drain::Pace;
use tidegate::coordinator::limits::Limits;
use tidegate::coordinator::state::ServerState;
use tidegate::handler::{Handler, ShardRoutes, echo::Echo, plain::Plain};
use tidegate::limits::MIN_FILES;
use tidegate::memory_plan::MemoryPlan;
use tidegate::mesh::inbox::{Postbox, inbox};
use tidegate::mesh::message::{Fault as Injected, ShardMessage};
use tidegate::mesh::outbox::Outbox;
use tidegate::mesh::publisher::{Delivery, Publisher};
use tidegate::metrics::ShardMetrics;
use tidegate::ring::Wait;
use tidegate::shard::settings::Settings;
use tidegate::shard::{Parts, Shard};

use super::client::{CHANNELS, Client, Manner, Standing};
use super::fault::{Fault, Faults};
use super::kernel::{Kernel, MS, RingSizes};
use super::ledger;
use super::random::Random;
use super::ring::{SimulatedEnvironment, SimulatedRing};

/// Longest shutdown of a world, and what its end may be late by.
pub(crate) const DEADLINE_MS: u64 = 5_000;
pub(crate) const LATE_MS: u64 = 1_500;

/// What a world is made of; it follows from the seed, and can be made smaller.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) shards: usize,
    pub(crate) clients: usize,
    /// Addresses that they come from.
    pub(crate) sources: usize,
    /// Milliseconds between two of them at most.
    pub(crate) spacing_ms: u64,
    pub(crate) files: usize,
    pub(crate) buffers: u16,
    pub(crate) buffer_bytes: usize,
    pub(crate) room: usize,
    pub(crate) capacity: u64,
    pub(crate) per_second: u64,
    /// When the server is told to stop.
    pub(crate) stop_ns: u64,
    pub(crate) faults: Faults,
    pub(crate) manners: Vec<Manner>,
    /// Steps after which the world is not looked at any more.
    pub(crate) most_steps: u64,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x0073_6561_6c65_6400);
        let shards = random.of(&[1, 1, 2, 2, 3, 4]);
        let manners = match random.below(3) {
            0 => vec![Manner::Echo, Manner::Subscriber],
            1 => Manner::ALL.to_vec(),
            _ => (0..1 + random.below(3)).map(|_| random.of(&Manner::ALL)).collect(),
        };
        Self {
            seed,
            shards,
            clients: random.of(&[1, 3, 3, 10, 10, 30, 80]),
            sources: random.of(&[1, 2, 5]),
            spacing_ms: random.of(&[1, 20, 300]),
            // The least that the server starts with, and more.
            files: random.of(&[MIN_FILES as usize, 300, 700]),
            buffers: random.of(&[2, 4, 64]),
            buffer_bytes: random.of(&[64, 512, 4_096]),
            room: random.of(&[2, 30, 8_192]),
            capacity: random.of(&[2, 10, 1_000]),
            per_second: random.of(&[0, 5, 1_000]),
            stop_ns: (200 + random.below(3_000) as u64) * MS,
            faults: Faults::draw(&mut random),
            manners,
            most_steps: 400_000,
        }
    }
}

/// How a world ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<String>,
    pub(crate) faults: Faults,
    pub(crate) steps: u64,
    pub(crate) opened: u64,
    pub(crate) publications: u64,
}

#[derive(Default)]
struct Place {
    shard: Option<Shard<SimulatedEnvironment>>,
    /// When it has waited for long enough.
    wake_ns: u64,
    /// Its thread stands still until then.
    blocked_ns: u64,
    /// It ended with connections that its ring cut.
    cut_short: bool,
    /// It had not ended when the server had.
    abandoned: bool,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) kernel: Rc<RefCell<Kernel>>,
    pub(crate) state: Arc<ServerState>,
    pub(crate) metrics: Vec<Arc<ShardMetrics>>,
    coordinator: Coordinator<SimulatedEnvironment>,
    coordinator_ns: u64,
    pub(crate) stopped_ns: Option<u64>,
    commands: (Sender<Command>, Receiver<Command>),
    postboxes: Vec<Postbox>,
    publisher: Publisher,
    delivery: Option<Delivery>,
    published: [u64; CHANNELS],
    places: Vec<Place>,
    owners: Owners,
    pub(crate) clients: Vec<Client>,
    to_come: usize,
    arrival_ns: u64,
    operator_ns: u64,
    pub(crate) told_to_stop_ns: Option<u64>,
    /// No thread is made to stand still before.
    stall_ns: u64,
    random: Random,
    steps: u64,
}

fn config(plan: &Plan) -> Config {
    let mut config = Config::default();
    config.server.echo = true;
    config.server.receive_buffer_bytes = plan.buffer_bytes as u32;
    config.admission.max_global_connections = plan.capacity;
    config.admission.global_connections_per_second = plan.per_second;
    config.admission.connections_per_ip_per_minute = 0;
    config.handshake.timeout_ms = 1_500;
    config.keepalive.ping_interval_ms = 1_200;
    config.keepalive.timeout_ms = 1_200;
    config.server.write_timeout_ms = 1_000;
    config.server.message_timeout_ms = 3_000;
    config.shutdown.deadline_ms = DEADLINE_MS;
    config.shutdown.notice_ms = 100;
    config.shutdown.drain_ms = 1_500;
    config.shutdown.close_timeout_ms = 500;
    config.drain_deploy.deadline_ms = DEADLINE_MS;
    config.drain_deploy.drain_ms = config.shutdown.drain_ms;
    config
}

fn routes() -> ShardRoutes {
    let plain: Box<dyn Handler> = Box::new(Plain);
    let echo: Box<dyn Handler> = Box::new(Echo);
    vec![("/ws".into(), plain), ("/echo".into(), echo)]
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut random = Random::new(plan.seed);
        let sizes =
            RingSizes { files: plan.files, buffers: plan.buffers, buffer_bytes: plan.buffer_bytes };
        let kernel_random = Random::new(random.next());
        let kernel = Kernel::new(kernel_random, plan.faults.clone(), plan.shards, sizes);
        let kernel = Rc::new(RefCell::new(kernel));
        let config = Arc::new(config(&plan));
        let metrics: Vec<Arc<ShardMetrics>> = (0..plan.shards).map(|_| Arc::default()).collect();
        let seats =
            Seats { shards: plan.shards, per_shard: plan.files as u32, by_memory: u64::MAX };
        let state = ServerState::new(Arc::clone(&config), Clock::start(), metrics.clone());
        let memory = MemoryPlan::unbounded(&config, plan.shards);
        let state = Arc::new(state.with_room(seats, memory));
        let commands = bounded(plan.room * 4);
        let room = plan.room;
        let ends: Vec<_> =
            kernel.borrow().rings.iter().map(|ring| inbox(room, ring.bell.clone())).collect();
        let (postboxes, inboxes): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let limits =
            Limits::new(None, seats, memory, &config.admission, &postboxes, commands.0.clone());
        let admission = limits.plan(&config.admission);
        let owners = Owners::new(plan.shards, random.next() as u32);
        let environment = || SimulatedEnvironment::new(Rc::clone(&kernel));
        let mut places = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let hash = RandomState::with_seeds(plan.seed, 1, 2, index as u64);
            let settings = Settings::new(&config, &memory, plan.shards);
            let parts = Parts {
                index,
                environment: environment(),
                inbox,
                outbox: Outbox::new(index, &postboxes),
                owners,
                shards: metrics.clone(),
                commands: commands.0.clone(),
                metrics: Arc::clone(&metrics[index]),
                settings: settings.unwrap_or_else(|_| unreachable!("the default has no origin")),
                admission: Admission::begin(&admission, hash.clone()),
                routes: routes(),
                server: Arc::clone(&state),
                hash,
            };
            let ring = SimulatedRing::new(Rc::clone(&kernel), index);
            let mut shard = Shard::new(ring, parts);
            shard.begin();
            places.push(Place { shard: Some(shard), ..Place::default() });
        }
        let coordinator = Coordinator::new(
            environment(),
            Arc::clone(&state),
            commands.1.clone(),
            postboxes.clone(),
            limits,
        );
        coordinator.open();
        Self {
            to_come: plan.clients,
            plan,
            kernel,
            state,
            metrics,
            coordinator,
            coordinator_ns: 0,
            stopped_ns: None,
            commands,
            publisher: Publisher::new(postboxes.clone()),
            postboxes,
            delivery: None,
            published: [0; CHANNELS],
            places,
            owners,
            clients: Vec::new(),
            arrival_ns: 0,
            operator_ns: 10 * MS,
            told_to_stop_ns: None,
            stall_ns: 0,
            random,
            steps: 0,
        }
    }

    /// Runs to the end, or to the first violation.
    pub(crate) fn run(mut self) -> Outcome {
        while self.violation().is_none() && self.steps < self.plan.most_steps && !self.is_over() {
            self.step();
            ledger::check(&self);
        }
        if self.violation().is_none() && self.is_over() {
            ledger::check_end(&self);
        } else if self.violation().is_none() && self.plan.most_steps >= 400_000 {
            self.violate("the world does not come to its end".to_owned());
        }
        let kernel = self.kernel.borrow();
        Outcome {
            violation: kernel.violation.clone(),
            faults: kernel.faults.clone(),
            steps: self.steps,
            opened: self.metrics.iter().map(|shard| shard.opened.get()).sum(),
            publications: self.clients.iter().map(|client| client.publications).sum(),
        }
    }

    pub(crate) fn violate(&self, what: String) {
        self.kernel.borrow_mut().violated(what);
    }

    fn violation(&self) -> Option<String> {
        self.kernel.borrow().violation.clone()
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.kernel.borrow().now_ns
    }

    /// Whether a shard's thread was ended in order and with nothing left.
    pub(crate) fn ended_in_order(&self, shard: usize) -> bool {
        !self.places[shard].cut_short
    }

    /// Whether all shards had ended when the server had, so that all is counted.
    pub(crate) fn all_ended(&self) -> bool {
        !self.places.iter().any(|place| place.abandoned)
    }

    fn is_over(&self) -> bool {
        let gone = self.places.iter().all(|place| place.shard.is_none());
        self.stopped_ns.is_some() && gone
    }

    /// Moves time to whatever is next and lets it happen.
    fn step(&mut self) {
        self.steps += 1;
        let mut next = self.coordinator_ns.min(self.operator_ns);
        if self.to_come > 0 {
            next = next.min(self.arrival_ns);
        }
        if self.stopped_ns.is_some() {
            next = u64::MAX;
        }
        let acting = self.clients.iter().filter(|client| client.standing != Standing::Done);
        next = acting.map(|client| client.next_ns).fold(next, u64::min);
        for index in 0..self.places.len() {
            if let Some(wake) = self.wake_of(index) {
                next = next.min(wake);
            }
        }
        let now = {
            let mut kernel = self.kernel.borrow_mut();
            kernel.now_ns = kernel.now_ns.max(next);
            kernel.now_ns
        };
        self.let_clients_act(now);
        for index in 0..self.places.len() {
            self.kernel.borrow_mut().poll(index);
            if self.wake_of(index).is_some_and(|wake| wake <= now) {
                self.turn(index);
            }
        }
        if self.stopped_ns.is_none() {
            if self.operator_ns <= now {
                self.operate(now);
            }
            self.deliver();
            self.coordinate(now);
        }
    }

    /// When a shard's thread goes on.
    fn wake_of(&self, index: usize) -> Option<u64> {
        let place = &self.places[index];
        place.shard.as_ref()?;
        let ready = self.kernel.borrow().next_ready(index).unwrap_or(u64::MAX);
        Some(place.wake_ns.min(ready).max(place.blocked_ns))
    }

    /// One turn of a shard: what the kernel has for it, its own work, and its next wait.
    fn turn(&mut self, index: usize) {
        self.kernel.borrow_mut().collect(index);
        let Some(shard) = &mut self.places[index].shard else { return };
        let acted = catch_unwind(AssertUnwindSafe(|| {
            shard.act();
            if shard.is_finished() {
                return None;
            }
            Some(shard.sleep_time())
        }));
        match acted {
            Ok(Some(wait)) => self.wait(index, wait),
            Ok(None) => self.end_shard(index),
            Err(panic) => self.bury(index, panic.as_ref()),
        }
    }

    fn wait(&mut self, index: usize, wait: Wait) {
        let mut kernel = self.kernel.borrow_mut();
        kernel.submit(index);
        let now = kernel.now_ns;
        let (stalled, work) = (std::mem::take(&mut kernel.stalled_ns), kernel.random.below(40_000));
        let place = &mut self.places[index];
        place.blocked_ns = now + stalled;
        place.wake_ns = match wait {
            Wait::AtMost(Duration::ZERO) => now + 1_000 + work as u64,
            Wait::AtMost(most) => now + most.as_nanos() as u64,
            Wait::ForOne | Wait::ForMany(_) => u64::MAX,
        };
    }

    /// What the thread of a shard does when its loop has ended.
    fn end_shard(&mut self, index: usize) {
        let metrics = Arc::clone(&self.metrics[index]);
        let Some(mut shard) = self.places[index].shard.take() else { return };
        self.places[index].cut_short = metrics.connections.get() + metrics.handshaking.get() > 0;
        shard.account_for_rest();
        let (held, whole) = (self.kernel.borrow().held_files(index), !self.places[index].cut_short);
        if whole && held > 0 {
            self.violate(format!("shard {index} ended with {held} descriptors and no connection"));
        }
        drop(shard);
        self.kernel.borrow_mut().close_ring(index);
        let _ = self.commands.0.try_send(Command::ShardStopped { shard: index });
    }

    fn bury(&mut self, index: usize, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
        if !text.contains("injected through the admin API") {
            return self.violate(format!("shard {index} panicked: {text}"));
        }
        self.places[index].shard = None;
        self.places[index].cut_short = true;
        self.kernel.borrow_mut().close_ring(index);
        self.metrics[index].lose_everything();
        let died = Command::ThreadDied {
            thread: format!("shard {index}"),
            shard: Some(index),
            cause: ShardFailure::Panic(text),
        };
        let _ = self.commands.0.try_send(died);
    }

    fn let_clients_act(&mut self, now: u64) {
        if self.to_come > 0 && self.arrival_ns <= now {
            self.arrive(now);
        }
        let mut kernel = self.kernel.borrow_mut();
        for client in &mut self.clients {
            if client.standing != Standing::Done && client.next_ns <= now {
                client.act(&mut kernel);
            }
        }
    }

    fn arrive(&mut self, now: u64) {
        self.to_come -= 1;
        let pause = self.random.of(&[0, 1, self.plan.spacing_ms, self.plan.spacing_ms]) * MS;
        self.arrival_ns = now + pause;
        let last = self.random.below(self.plan.sources) as u8 + 1;
        let port = 1_024 + self.random.below(60_000) as u16;
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, last), port));
        let owner = self.owners.of(Prefixes::default().key(peer.ip()));
        let ring = match self.random.one_in(4) {
            true => self.random.below(self.plan.shards),
            false => owner,
        };
        let manner = self.random.of(&self.plan.manners);
        let mut kernel = self.kernel.borrow_mut();
        if let Some(socket) = kernel.connect(ring, peer) {
            let client = Client::new(manner, ring, socket, now, &mut self.random);
            self.clients.push(client);
        }
    }

    /// What back ends and an operator do now and then.
    fn operate(&mut self, now: u64) {
        self.operator_ns = now + 1 + self.random.below(30 * MS as usize) as u64;
        if now >= self.plan.stop_ns && self.told_to_stop_ns.is_none() {
            self.told_to_stop_ns = Some(now);
            let word = self.first_word();
            return self.command(word);
        }
        if self.told_to_stop_ns.is_some() && self.random.one_in(60) {
            let steering = self.random.of(&[
                Steering::Pause,
                Steering::Resume,
                Steering::Pace(Pace::PerSecond(50)),
            ]);
            let (answer, _) = futures_channel::oneshot::channel();
            // One that nobody takes back would make the world wait.
            if steering != Steering::Pause {
                return self.command(Command::Steer { steering, answer });
            }
        }
        self.injure();
        if self.delivery.is_none() && self.random.one_in(2) {
            let channel = self.random.below(CHANNELS);
            self.published[channel] += 1;
            let text = format!("c{channel}:{}", self.published[channel]);
            let channel = Arc::from(format!("c{channel}"));
            let message = ShardMessage::Publish { channel, frame: text_frame(&text) };
            self.delivery = Some(self.publisher.begin(message));
        }
    }

    fn first_word(&mut self) -> Command {
        match self.random.below(4) {
            0 => Command::Signal(libc::SIGTERM),
            1 => {
                let (answer, _) = futures_channel::oneshot::channel();
                let wish = Wish { cause: Cause::Deploy, ..Wish::default() };
                Command::Shutdown { force: false, reason: "deploy".to_owned(), wish, answer }
            }
            2 => Command::Stop { within: Duration::from_secs(2), reason: "program".to_owned() },
            _ => Command::Signal(libc::SIGINT),
        }
    }

    /// Faults that a thread meets as a whole.
    fn injure(&mut self) {
        let shard = self.random.below(self.plan.shards);
        let mut kernel = self.kernel.borrow_mut();
        let kernel = &mut *kernel;
        if kernel.faults.strikes(Fault::Stall, &mut kernel.random) {
            let ms = kernel.random.of(&[5, 100, 700]);
            // One at a time: a thread that never runs cannot be held to anything.
            if self.places[shard].blocked_ns <= kernel.now_ns && self.stall_ns <= kernel.now_ns {
                self.stall_ns = kernel.now_ns + 2_000 * MS;
                let _ = self.postboxes[shard].post(ShardMessage::Fault(Injected::Stall(ms)));
            }
        }
        if kernel.faults.strikes(Fault::CoordinatorStall, &mut kernel.random) {
            self.coordinator_ns = kernel.now_ns + 400 * MS;
        }
        let rare = kernel.faults.is_on(Fault::Death) && kernel.random.one_in(40);
        if rare && kernel.faults.strikes(Fault::Death, &mut kernel.random) {
            let _ = self.postboxes[shard].post(ShardMessage::Fault(Injected::Panic));
        }
    }

    fn command(&mut self, command: Command) {
        // A world's commands are few, but its queue may be small.
        if self.commands.0.try_send(command).is_err() {
            self.told_to_stop_ns = None;
        }
    }

    fn deliver(&mut self) {
        let Some(delivery) = &mut self.delivery else { return };
        self.publisher.go_on(delivery);
        if !delivery.is_done() {
            self.kernel.borrow_mut().faults.saw(Fault::FullInbox);
            return;
        }
        self.delivery = None;
    }

    fn coordinate(&mut self, now: u64) {
        let waits = !self.commands.1.is_empty();
        if now < self.coordinator_ns && !waits {
            return;
        }
        if waits && now + 400 * MS / 2 < self.coordinator_ns {
            return; // it stands still
        }
        let command = self.commands.1.try_recv().ok();
        let stepped = catch_unwind(AssertUnwindSafe(|| self.coordinator.step(command)));
        if stepped.is_err() {
            return self.violate("the coordinator panicked".to_owned());
        }
        self.coordinator_ns = now + self.coordinator.patience().as_nanos() as u64;
        if self.coordinator.is_stopped() {
            self.stopped_ns = Some(now);
            // Threads that did not end are left to the end of the process.
            for index in 0..self.places.len() {
                if self.places[index].shard.take().is_some() {
                    let place = &mut self.places[index];
                    (place.cut_short, place.abandoned) = (true, true);
                    if place.blocked_ns < self.told_to_stop_ns.unwrap_or(now) {
                        self.violate(format!("shard {index} had not ended when the server had"));
                    }
                    self.kernel.borrow_mut().close_ring(index);
                }
            }
        }
    }
}
