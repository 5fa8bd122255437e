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

use tidegate::ring::probe;
use tidegate::sys::affinity;

use crate::client::{Client, Job, Scenario};
use crate::cpu;
use crate::latency::Latencies;
use crate::ledger::Ledger;
use crate::progress::Progress;

/// How long the closing handshakes at the end of a run may take.
const LEAVE_PATIENCE: Duration = Duration::from_secs(10);
/// What may still follow an answer to an attempt, a Close behind 101, is waited for so long;
/// more than a ring sleeps.
const LAST_WORDS: Duration = Duration::from_millis(300);
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
}

/// What a run consists of.
pub(crate) struct Plan {
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
    pub(crate) admissions: Latencies,
    pub(crate) last_answer: Option<Instant>,
    pub(crate) pings: u64,
    pub(crate) scenario: S,
}

/// What the conductor saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    /// From the first attempt to the last answer.
    pub(crate) opening: Duration,
    /// Length of the window.
    pub(crate) window: Duration,
    /// Messages received in it.
    pub(crate) messages: u64,
    /// Attempts that were answered in it.
    pub(crate) answered: u64,
    /// CPU time of the server in it, user and kernel.
    pub(crate) server_cpu: Option<Duration>,
    /// CPU time of each of our threads in it.
    pub(crate) threads_cpu: Vec<Duration>,
    /// Ended by a signal before its time.
    pub(crate) interrupted: bool,
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
    stopped: AtomicBool,
    thread: OnceLock<PathBuf>,
}

pub(crate) struct Shared {
    phase: AtomicU8,
    pub(crate) counters: Vec<Counters>,
}

impl Shared {
    /// A counter over all rings.
    pub(crate) fn sum(&self, counter: impl Fn(&Counters) -> &AtomicU64) -> u64 {
        self.counters.iter().map(|counters| counter(counters).load(Relaxed)).sum()
    }

    fn answered(&self) -> u64 {
        self.sum(|c| &c.admitted) + self.sum(|c| &c.refused) + self.sum(|c| &c.failed)
    }

    fn open(&self) -> u64 {
        self.sum(|c| &c.admitted).saturating_sub(self.sum(|c| &c.ended))
    }

    fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Opening,
            1 => Phase::Warming,
            2 => Phase::Measuring,
            3 => Phase::Settling,
            _ => Phase::Leaving,
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    fn threads_cpu(&self) -> Vec<Duration> {
        let of = |counters: &Counters| counters.thread.get().and_then(|path| cpu::of_task(path));
        self.counters.iter().map(|counters| of(counters).unwrap_or_default()).collect()
    }
}

/// Runs the plan; `make` gives each ring its scenario.
///
/// # Errors
/// A ring could not be set up or has become unusable, or a thread could not be started.
pub(crate) fn run<S>(plan: &Plan, make: impl Fn(&Job) -> S) -> io::Result<Run<S>>
where
    S: Scenario + Send + 'static,
{
    let interrupted = watch_signals()?;
    let began = Instant::now();
    let counters = plan.jobs.iter().map(|_| Counters::default()).collect();
    let shared = Arc::new(Shared { phase: AtomicU8::new(Phase::Opening as u8), counters });
    let mut threads = Vec::new();
    for (number, job) in plan.jobs.iter().enumerate() {
        let core = plan.cores.get(number % plan.cores.len().max(1)).copied();
        let (shared, job, scenario) = (Arc::clone(&shared), job.clone(), make(job));
        let politely = plan.politely;
        threads.push(std::thread::Builder::new().name(format!("ring-{number}")).spawn(
            move || {
                let result = work(&shared, number, job, scenario, core, politely);
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

fn work<S: Scenario>(
    shared: &Shared,
    number: usize,
    job: Job,
    scenario: S,
    core: Option<usize>,
    politely: bool,
) -> io::Result<Finished<S>> {
    let counters = &shared.counters[number];
    if let Some(core) = core
        && !affinity::pin_to_core(core)
    {
        eprintln!("tidegate-load: cannot pin a thread to core {core}; it runs unpinned");
    }
    if let Some(thread) = cpu::this_task() {
        let _ = counters.thread.set(thread);
    }
    let mut client = Client::new(job, scenario)
        .map_err(|error| io::Error::new(error.kind(), probe::explain(&error)))?;
    let mut phase = Phase::Opening;
    let mut leave_by = None;
    loop {
        let entered = shared.phase();
        if entered != phase {
            phase = entered;
            client.scenario.on_phase(&mut client.core, phase);
            if phase == Phase::Leaving {
                client.core.finish(politely);
                leave_by = Some(Instant::now() + LEAVE_PATIENCE);
            }
        }
        client.turn()?;
        publish(counters, &client);
        if let Some(until) = leave_by
            && (!politely || client.core.live() == 0 || Instant::now() > until)
        {
            break;
        }
    }
    let Client { core, scenario, .. } = client;
    let finished = Finished {
        ledger: core.ledger.clone(),
        admissions: core.admissions.clone(),
        last_answer: core.last_answer,
        pings: core.pings,
        scenario,
    };
    if core.live() > 0 {
        // Cancelling one by one takes seconds with many thousand watches armed. The end of the
        // thread takes them all at once, and the end of the process is near.
        std::mem::forget(core);
    }
    Ok(finished)
}

fn publish<S: Scenario>(counters: &Counters, client: &Client<S>) {
    let ledger = &client.core.ledger;
    counters.attempts.store(ledger.attempts, Relaxed);
    counters.admitted.store(ledger.admitted, Relaxed);
    counters.refused.store(ledger.refused_total(), Relaxed);
    counters.failed.store(ledger.failed_total(), Relaxed);
    counters.ended.store(ledger.ended_total(), Relaxed);
    counters.messages.store(client.scenario.messages(), Relaxed);
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
    std::fs::write(file, format!("{}\n", shared.open()))
        .map_err(|error| io::Error::other(format!("{}: {error}", file.display())))
}

fn conduct(plan: &Plan, shared: &Shared, interrupted: &AtomicBool) -> io::Result<Measured> {
    let mut progress = Progress::new();
    let total: u64 = plan.jobs.iter().map(|job| job.connections).sum();
    let mut wait = |until: Option<Instant>, enough: &dyn Fn() -> bool| loop {
        let stopped = shared.counters.iter().any(|counters| counters.stopped.load(Relaxed));
        let late = until.is_some_and(|until| Instant::now() >= until);
        if late || stopped || interrupted.load(Relaxed) || enough() {
            break;
        }
        progress.show(shared, total);
        std::thread::sleep(BEAT);
    };
    let all_answered = || shared.answered() >= total;
    let mut measured = Measured::default();
    if plan.window == Window::Held {
        wait(None, &all_answered);
        say_ready(plan, shared)?;
    }
    shared.enter(Phase::Warming);
    let server_gone = || plan.server_pid.is_some_and(|pid| cpu::of_process(pid).is_none());
    let over = || match plan.window {
        Window::Held => shared.open() == 0 || server_gone(),
        Window::Attempts { .. } => all_answered() || server_gone(),
    };
    if !plan.warm_up.is_zero() {
        wait(Some(Instant::now() + plan.warm_up), &over);
    }
    let server_before = plan.server_pid.and_then(cpu::of_process);
    let (threads_before, messages_before) = (shared.threads_cpu(), shared.sum(|c| &c.messages));
    let answered_before = shared.answered();
    let started = Instant::now();
    shared.enter(Phase::Measuring);
    wait(plan.measure.map(|length| started + length), &over);
    measured.window = started.elapsed();
    measured.messages = shared.sum(|c| &c.messages) - messages_before;
    measured.answered = shared.answered() - answered_before;
    let threads_after = shared.threads_cpu();
    let server_after = plan.server_pid.and_then(cpu::of_process);
    measured.server_cpu = server_after.zip(server_before).and_then(|(b, a)| b.checked_sub(a));
    measured.threads_cpu = threads_after
        .iter()
        .zip(&threads_before)
        .map(|(after, before)| after.saturating_sub(*before))
        .collect();
    if !plan.settle.is_zero() {
        shared.enter(Phase::Settling);
        let until = |length| Some(Instant::now() + length);
        match plan.window {
            Window::Held => wait(until(plan.settle), &|| shared.open() == 0),
            Window::Attempts { leave } => {
                // The rings first have to notice that no more attempts are made.
                wait(until(LAST_WORDS), &|| false);
                let answered = || shared.answered() >= shared.sum(|c| &c.attempts);
                wait(until(plan.settle), &|| answered() && !(leave && shared.open() > 0));
                wait(until(LAST_WORDS), &|| false);
                say_ready(plan, shared)?;
            }
        }
    }
    measured.interrupted = interrupted.load(Relaxed);
    progress.clear();
    Ok(measured)
}
