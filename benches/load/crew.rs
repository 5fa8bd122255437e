//! The threads of a run, one ring each, and the conductor that takes them through its phases.
//!
//! Rings share nothing but counters that each publishes once a turn and the phase that the
//! conductor sets; results come back when a thread ends.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tidegate::files::write;
use tidegate::ring::probe;
use tidegate::sys::affinity;

use crate::client::{Client, Job, Scenario};
use crate::cpu;
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::series::{Sample, Series};
use crate::server::memory::Memory;

/// How long the closing handshakes at the end of a run may take.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// What each connection adds to that.
const LEAVE_EACH: Duration = Duration::from_micros(100);
/// What may still follow an answer to an attempt, a Close behind 101, is waited for so long;
/// more than a ring sleeps.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long a pipe that is told that the run is ready may take nothing.
const READY_PATIENCE: Duration = Duration::from_secs(10);
/// How often the conductor looks.
const BEAT: Duration = Duration::from_millis(20);

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Attempts are being made.
    Opening,
    /// Every attempt has its answer; load may flow, nothing is measured.
    Warming,
    /// The window that is reported.
    Measuring,
    /// The window is over; what was not read is read, to learn how it ended.
    Settling,
    /// The books are closed.
    Leaving,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// What the connections do once every attempt has its answer.
    Held,
    /// The attempts themselves; settling waits for the answers that are missing.
    Attempts {
        /// Admitted connections end by themselves, which settling waits for too.
        leave: bool,
    },
    /// What the scenario does once every attempt has its answer, until it is done.
    UntilDone,
}

/// The phase of a run, for whoever has something to do beside the rings.
#[derive(Clone, Debug, Default)]
pub(crate) struct PhaseSign(Arc<AtomicU8>);

impl PhaseSign {
    /// The present phase.
    pub(crate) fn now(&self) -> Phase {
        match self.0.load(Relaxed) {
            0 => Phase::Opening,
            1 => Phase::Warming,
            2 => Phase::Measuring,
            3 => Phase::Settling,
            _ => Phase::Leaving,
        }
    }

    fn enter(&self, phase: Phase) {
        self.0.store(phase as u8, Relaxed);
    }
}

/// What a run consists of.
pub(crate) struct Plan {
    /// Where the run is.
    pub(crate) phase: PhaseSign,
    /// One ring each.
    pub(crate) jobs: Vec<Job>,
    /// Cores to pin the threads to, in turn; empty leaves it to the scheduler.
    pub(crate) cores: Vec<usize>,
    /// Load without measuring.
    pub(crate) warm_up: Duration,
    /// What the window is about.
    pub(crate) window: Window,
    /// Length of the window; `None` until interrupted, or until every attempt has its answer if
    /// it is about them.
    pub(crate) measure: Option<Duration>,
    /// The longest that settling may take.
    pub(crate) settle: Duration,
    /// End open connections by a closing handshake.
    pub(crate) politely: bool,
    /// Process whose CPU time is charged to the window; the run ends with it.
    pub(crate) server_pid: Option<u32>,
    /// File that is written once every attempt has its answer.
    pub(crate) ready_file: Option<PathBuf>,
}

/// What one ring brings home.
pub(crate) struct Finished<S> {
    pub(crate) ledger: Ledger,
    pub(crate) again: Ledger,
    pub(crate) admissions: Latencies,
    pub(crate) last_answer: Option<Instant>,
    pub(crate) pings: u64,
    pub(crate) scenario: S,
}

/// What the conductor saw.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// From the first attempt to the last answer.
    pub(crate) opening: Duration,
    /// Length of the window.
    pub(crate) window: Duration,
    /// Messages received in it.
    pub(crate) messages: u64,
    /// Attempts that were answered in it.
    pub(crate) answered: u64,
    /// CPU time of each of our threads while the connections were opened.
    pub(crate) opening_cpu: Vec<Duration>,
    /// How long that was; nothing if the window is about the attempts.
    pub(crate) opening_window: Duration,
    /// CPU time of the server in the window, user and kernel.
    pub(crate) server_cpu: Option<Duration>,
    /// CPU time of each of our threads in it.
    pub(crate) threads_cpu: Vec<Duration>,
    /// Time that each of our threads waited for a processor in it.
    pub(crate) threads_waited: Vec<Duration>,
    /// Ended by a signal before its time.
    pub(crate) interrupted: bool,
    /// The run over time.
    pub(crate) series: Series,
    /// Memory before the first attempt, and at the end of the opening (or of the attempts).
    pub(crate) memory: (Memory, Memory),
    /// Open connections when memory was read again.
    pub(crate) memory_at: u64,
}

impl Default for Measured {
    fn default() -> Self {
        Self {
            opening: Duration::ZERO,
            window: Duration::ZERO,
            opening_cpu: Vec::new(),
            opening_window: Duration::ZERO,
            messages: 0,
            answered: 0,
            server_cpu: None,
            threads_cpu: Vec::new(),
            threads_waited: Vec::new(),
            interrupted: false,
            series: Series::new(BEAT.as_millis() as u64),
            memory: (Memory::default(), Memory::default()),
            memory_at: 0,
        }
    }
}

/// A finished run.
pub(crate) struct Run<S> {
    pub(crate) rings: Vec<Finished<S>>,
    pub(crate) measured: Measured,
}

impl<S> Run<S> {
    /// The books of all rings.
    pub(crate) fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.rings.iter().for_each(|ring| sum.add(&ring.ledger));
        sum
    }

    /// The books of clients that came back.
    pub(crate) fn again(&self) -> Ledger {
        let mut sum = Ledger::default();
        self.rings.iter().for_each(|ring| sum.add(&ring.again));
        sum
    }

    /// Times to 101 of all rings.
    pub(crate) fn admissions(&self) -> Latencies {
        let mut sum = Latencies::new();
        self.rings.iter().for_each(|ring| sum.add(&ring.admissions));
        sum
    }
}

/// Counters of one ring, published once a turn.
#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) attempts: AtomicU64,
    pub(crate) admitted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) ended: AtomicU64,
    pub(crate) messages: AtomicU64,
    /// Of the first attempts of clients.
    answered: AtomicU64,
    done: AtomicBool,
    stopped: AtomicBool,
    thread: OnceLock<PathBuf>,
}

pub(crate) struct Shared {
    phase: PhaseSign,
    pub(crate) counters: Vec<Counters>,
}

impl Shared {
    /// A counter over all rings.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| counter(counters).load(Relaxed)).sum()
    }

    fn answered(&self) -> u64 {
        self.sum(|c| &c.answered)
    }

    /// Attempts of whatever life that have no answer yet.
    fn unanswered(&self) -> u64 {
        let answered =
            self.sum(|c| &c.admitted) + self.sum(|c| &c.refused) + self.sum(|c| &c.failed);
        self.sum(|c| &c.attempts).saturating_sub(answered)
    }

    fn all_done(&self) -> bool {
        self.counters.iter().all(|counters| counters.done.load(Relaxed))
    }

    fn open(&self) -> u64 {
        self.sum(|c| &c.admitted).saturating_sub(self.sum(|c| &c.ended))
    }

    fn sample(&self, at_ms: u64, server_pid: Option<u32>) -> Sample {
        Sample {
            at_ms,
            attempts: self.sum(|c| &c.attempts),
            open: self.open(),
            refused: self.sum(|c| &c.refused),
            failed: self.sum(|c| &c.failed),
            ended: self.sum(|c| &c.ended),
            messages: self.sum(|c| &c.messages),
            server_bytes: server_pid.and_then(Memory::of_process),
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.enter(phase);
    }

    /// Of each ring's thread: time on a processor, and time of waiting for one.
    fn threads(&self) -> Vec<(Duration, Duration)> {
        let of =
            |counters: &Counters| counters.thread.get().and_then(|path| cpu::shares_of_task(path));
        self.counters.iter().map(|counters| of(counters).unwrap_or_default()).collect()
    }
}

/// The clients of one thread, whatever they are made of.
pub(crate) trait Worker {
    /// What it brings home beside the ledger.
    type Books: Send + 'static;

    /// The run has entered another phase; in the last one everybody leaves, politely or not.
    fn enter(&mut self, phase: Phase, politely: bool);

    /// One turn.
    ///
    /// # Errors
    /// It has become unusable.
    fn turn(&mut self) -> io::Result<()>;

    /// Connections that are not yet over.
    fn live(&self) -> u64;

    /// Shows its counts.
    fn publish(&self, counters: &Counters);

    /// The end.
    fn finish(self) -> Finished<Self::Books>;
}

/// Runs the plan; `make` gives each ring its scenario.
///
/// # Errors
/// A ring could not be set up or has become unusable, or a thread could not be started.
pub(crate) fn run<S>(plan: &Plan, make: impl Fn(&Job) -> S) -> io::Result<Run<S>>
where
    S: Scenario + Send + 'static,
{
    run_workers(plan, |job| {
        let (job, scenario) = (job.clone(), make(job));
        move || {
            Client::new(job, scenario)
                .map_err(|error| io::Error::new(error.kind(), probe::explain(&error)))
        }
    })
}

/// Runs the plan; what `hire` returns makes a thread's clients, on that thread.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_workers<W, B>(plan: &Plan, hire: impl Fn(&Job) -> B) -> io::Result<Run<W::Books>>
where
    W: Worker,
    B: FnOnce() -> io::Result<W> + Send + 'static,
{
    let interrupted = watch_signals()?;
    let began = Instant::now();
    let counters = plan.jobs.iter().map(|_| Counters::default()).collect();
    let shared = Arc::new(Shared { phase: plan.phase.clone(), counters });
    let mut threads = Vec::new();
    for (number, job) in plan.jobs.iter().enumerate() {
        let core = plan.cores.get(number % plan.cores.len().max(1)).copied();
        let (shared, build) = (Arc::clone(&shared), hire(job));
        let politely = plan.politely;
        threads.push(std::thread::Builder::new().name(format!("ring-{number}")).spawn(
            move || {
                let result = work(&shared, number, build, core, politely);
                shared.counters[number].stopped.store(true, Relaxed);
                result
            },
        )?);
    }
    let measured = conduct(plan, &shared, &interrupted);
    shared.enter(Phase::Leaving);
    let (rings, mut measured) = (join(threads)?, measured?);
    if let Some(last) = rings.iter().filter_map(|ring| ring.last_answer).max() {
        measured.opening = last.saturating_duration_since(began);
    }
    Ok(Run { rings, measured })
}

fn join<S>(threads: Vec<JoinHandle<io::Result<Finished<S>>>>) -> io::Result<Vec<Finished<S>>> {
    let ended = threads.into_iter().map(JoinHandle::join);
    let results: Vec<_> = ended
        .map(|result| result.unwrap_or_else(|_| Err(io::Error::other("a thread panicked"))))
        .collect();
    results.into_iter().collect()
}

fn work<W: Worker>(
    shared: &Shared,
    number: usize,
    build: impl FnOnce() -> io::Result<W>,
    core: Option<usize>,
    politely: bool,
) -> io::Result<Finished<W::Books>> {
    let counters = &shared.counters[number];
    if let Some(core) = core
        && !affinity::pin_to_core(core)
    {
        crate::say(&format!("cannot pin a thread to core {core}; it runs unpinned"));
    }
    if let Some(thread) = cpu::this_task() {
        let _ = counters.thread.set(thread);
    }
    let mut worker = build()?;
    let mut phase = Phase::Opening;
    let mut leave_by = None;
    loop {
        let entered = shared.phase.now();
        if entered != phase {
            phase = entered;
            worker.enter(phase, politely);
            if phase == Phase::Leaving {
                let patience = LEAVE_PATIENCE + worker.live() as u32 * LEAVE_EACH;
                leave_by = Some(Instant::now() + patience);
            }
        }
        worker.turn()?;
        worker.publish(counters);
        if let Some(until) = leave_by
            && (!politely || worker.live() == 0 || Instant::now() > until)
        {
            break;
        }
    }
    Ok(worker.finish())
}

impl Counters {
    /// Shows the books of first attempts, and of those who come back.
    pub(crate) fn publish(&self, first: &Ledger, again: &Ledger) {
        self.attempts.store(first.attempts + again.attempts, Relaxed);
        self.admitted.store(first.admitted + again.admitted, Relaxed);
        self.refused.store(first.refused_total() + again.refused_total(), Relaxed);
        self.failed.store(first.failed_total() + again.failed_total(), Relaxed);
        self.ended.store(first.ended_total() + again.ended_total(), Relaxed);
        self.answered.store(first.answered(), Relaxed);
    }

    /// Shows how many messages have come.
    pub(crate) fn publish_messages(&self, messages: u64) {
        self.messages.store(messages, Relaxed);
    }
}

impl<S: Scenario + Send + 'static> Worker for Client<S> {
    type Books = S;

    fn enter(&mut self, phase: Phase, politely: bool) {
        self.scenario.on_phase(&mut self.core, phase);
        if phase == Phase::Leaving {
            self.core.finish(politely);
        }
    }

    fn turn(&mut self) -> io::Result<()> {
        Client::turn(self)
    }

    fn live(&self) -> u64 {
        self.core.live() as u64
    }

    fn publish(&self, counters: &Counters) {
        counters.publish(&self.core.ledger, &self.core.again);
        counters.done.store(self.scenario.is_done(&self.core), Relaxed);
        counters.publish_messages(self.scenario.messages());
    }

    fn finish(self) -> Finished<S> {
        let Self { core, scenario, .. } = self;
        let finished = Finished {
            ledger: core.ledger.clone(),
            again: core.again.clone(),
            admissions: core.admissions.clone(),
            last_answer: core.last_answer,
            pings: core.pings,
            scenario,
        };
        if core.live() > 0 {
            // Cancelling one by one takes seconds with many thousand watches armed. The end of
            // the thread takes them all at once, and the end of the process is near.
            std::mem::forget(core);
        }
        finished
    }
}

/// Ctrl+C ends the run with a report, a second one at once.
fn watch_signals() -> io::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

fn say_ready(plan: &Plan, shared: &Shared) -> io::Result<()> {
    let Some(file) = &plan.ready_file else { return Ok(()) };
    let text = format!("{}\n", shared.open());
    write::write(file, text.as_bytes(), 0o644, Instant::now() + READY_PATIENCE)
        .map(drop)
        .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
}

fn conduct(plan: &Plan, shared: &Shared, interrupted: &AtomicBool) -> io::Result<Measured> {
    let mut progress = Progress::new();
    let mut measured = Measured::default();
    measured.memory.0 = Memory::read(plan.server_pid);
    let began = Instant::now();
    let mut series = measured.series.clone();
    let total: u64 = plan.jobs.iter().map(|job| job.connections).sum();
    let mut wait = |until: Option<Instant>, enough: &dyn Fn() -> bool| loop {
        let stopped = shared.counters.iter().any(|counters| counters.stopped.load(Relaxed));
        let late = until.is_some_and(|until| Instant::now() >= until);
        if late || stopped || interrupted.load(Relaxed) || enough() {
            break;
        }
        progress.show(shared, total);
        let at_ms = began.elapsed().as_millis() as u64;
        if series.is_due(at_ms) {
            series.add(shared.sample(at_ms, plan.server_pid));
        }
        std::thread::sleep(BEAT);
    };
    let all_answered = || shared.answered() >= total;
    if matches!(plan.window, Window::Held | Window::UntilDone) {
        wait(None, &all_answered);
        measured.opening_cpu = shared.threads().into_iter().map(|(ran, _)| ran).collect();
        measured.opening_window = began.elapsed();
        say_ready(plan, shared)?;
    }
    shared.enter(Phase::Warming);
    let server_gone = || plan.server_pid.is_some_and(|pid| cpu::of_process(pid).is_none());
    let over = || match plan.window {
        Window::Held => shared.open() == 0 || server_gone(),
        Window::Attempts { .. } => all_answered() || server_gone(),
        Window::UntilDone => shared.all_done(),
    };
    if !plan.warm_up.is_zero() {
        wait(Some(Instant::now() + plan.warm_up), &over);
    }
    let server_before = plan.server_pid.and_then(cpu::of_process);
    let (threads_before, messages_before) = (shared.threads(), shared.sum(|c| &c.messages));
    let answered_before = shared.answered();
    let started = Instant::now();
    shared.enter(Phase::Measuring);
    measured.memory.1 = Memory::read(plan.server_pid);
    measured.memory_at = shared.open();
    wait(plan.measure.map(|length| started + length), &over);
    measured.window = started.elapsed();
    measured.messages = shared.sum(|c| &c.messages) - messages_before;
    measured.answered = shared.answered() - answered_before;
    let threads_after = shared.threads();
    let server_after = plan.server_pid.and_then(cpu::of_process);
    measured.server_cpu = server_after.zip(server_before).and_then(|(b, a)| b.checked_sub(a));
    for (after, before) in threads_after.iter().zip(&threads_before) {
        measured.threads_cpu.push(after.0.saturating_sub(before.0));
        measured.threads_waited.push(after.1.saturating_sub(before.1));
    }
    if !plan.settle.is_zero() {
        shared.enter(Phase::Settling);
        let until = |length| Some(Instant::now() + length);
        match plan.window {
            Window::Held => wait(until(plan.settle), &|| shared.open() == 0 || shared.all_done()),
            Window::UntilDone => wait(until(plan.settle), &|| false),
            Window::Attempts { leave } => {
                // The rings first have to notice that no more attempts are made.
                wait(until(LAST_WORDS), &|| false);
                let answered = || shared.unanswered() == 0;
                wait(until(plan.settle), &|| answered() && !(leave && shared.open() > 0));
                wait(until(LAST_WORDS), &|| false);
                say_ready(plan, shared)?;
            }
        }
    }
    measured.interrupted = interrupted.load(Relaxed);
    series.add(shared.sample(began.elapsed().as_millis() as u64, plan.server_pid));
    measured.series = series;
    progress.clear();
    Ok(measured)
}
