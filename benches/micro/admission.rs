//! What admission costs by itself: one attempt with a million sources remembered, and the growth
//! of the table to ten million.
//!
//! `cargo bench --bench admission` measures attempts of random sources of a million.
//! `cargo bench --bench admission -- growth [SOURCES]` lets sources come one by one and prints
//! what each costs in memory and how long the slowest attempts took; pages that the kernel has to
//! hand out meanwhile are part of it, as they are in the server. The times that count are those
//! on the processor: on a busy machine the time on the clock has other processes' turns in it.
//!
//! Not here: sockets and answers, which `tidegate-load flood` measures.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ahash::RandomState;
use divan::Bencher;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use tidegate::admission::leases::{Chunk, Reply};
use tidegate::admission::{Admission, IpLimits, SourceKey, Verdict};

/// Sources in the table while attempts are measured.
const SOURCES: u32 = 1_000_000;
/// Sources that the growth ends at, unless the command line says otherwise.
const GROWTH: u64 = 10_000_000;
/// Attempts of a sample, and samples: together so few that the table does not grow while new
/// sources are measured.
const SAMPLE: u32 = 1_000;
const SAMPLES: u32 = 200;
/// How many of the slowest attempts are listed.
const SLOWEST: usize = 12;

const SECOND: u64 = 1_000_000_000;

/// Limits that one attempt of each source does not meet, and all of them are computed.
const LIMITS: IpLimits = IpLimits {
    connections_per_minute: 1_000_000,
    burst: 1_000_000,
    max_concurrent: 1_000_000,
    max_sources: 100_000_000,
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["growth"] => grow(GROWTH),
        ["growth", sources] => match sources.parse() {
            Ok(sources) => grow(sources),
            Err(_) => {
                eprintln!("usage: admission growth [SOURCES]");
                return ExitCode::from(64);
            }
        },
        _ => divan::main(),
    }
    ExitCode::SUCCESS
}

/// Source number `n`: different for each number, and as scattered as if attackers had chosen them
/// (the finalizer of SplitMix64, which is a bijection).
fn source(n: u64) -> SourceKey {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    SourceKey::from_bits(z ^ (z >> 31))
}

/// Books with so many slots and tokens leased, and a coordinator that has no more to give for the
/// next second.
fn books(limits: IpLimits, slots: u32, tokens: u32) -> Admission {
    let mut books = Admission::new(limits, RandomState::with_seeds(1, 2, 3, 4));
    books.leases_mut().set(Chunk::default(), true);
    let all = Reply::Answer { slots, tokens, full: true, no_tokens_before_ns: 2 * SECOND };
    books.leases_mut().hear(all, 0);
    books
}

/// Books that remember [`SOURCES`] sources, each with one connection.
fn full_books(limits: IpLimits, slots: u32, tokens: u32) -> Admission {
    let mut books = books(limits, slots, tokens);
    for n in 0..u64::from(SOURCES) {
        assert_eq!(books.admit(source(n), SECOND), Verdict::Admitted);
    }
    books
}

/// Measures one attempt after the other, each of the source that `next` names; `admitted` is what
/// every one of them must come to.
fn measure(
    bencher: Bencher<'_, '_>,
    mut books: Admission,
    admitted: bool,
    next: impl Fn(u64) -> SourceKey,
) {
    let attempts = Cell::new(0_u64);
    bencher
        .with_inputs(|| {
            attempts.set(attempts.get() + 1);
            next(attempts.get())
        })
        .bench_local_values(|source| {
            let verdict = books.admit(source, SECOND);
            match admitted {
                true => assert_eq!(verdict, Verdict::Admitted),
                false => assert!(matches!(verdict, Verdict::Refused { .. })),
            }
            verdict
        });
}

/// One of the sources in the table, at random.
fn known(attempt: u64) -> SourceKey {
    source(source(attempt).to_bits() % u64::from(SOURCES))
}

/// One that is not in the table.
fn unknown(attempt: u64) -> SourceKey {
    source(u64::from(SOURCES) + attempt)
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn admitted_known_source(bencher: Bencher<'_, '_>) {
    measure(bencher, full_books(LIMITS, u32::MAX, u32::MAX), true, known);
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn admitted_new_source(bencher: Bencher<'_, '_>) {
    measure(bencher, full_books(LIMITS, u32::MAX, u32::MAX), true, unknown);
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn refused_per_ip_rate(bencher: Bencher<'_, '_>) {
    let once = IpLimits { connections_per_minute: 1, burst: 1, ..LIMITS };
    measure(bencher, full_books(once, u32::MAX, u32::MAX), false, known);
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn refused_per_ip_concurrent(bencher: Bencher<'_, '_>) {
    let one = IpLimits { max_concurrent: 1, ..LIMITS };
    measure(bencher, full_books(one, u32::MAX, u32::MAX), false, known);
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn refused_global_rate(bencher: Bencher<'_, '_>) {
    measure(bencher, full_books(LIMITS, u32::MAX, SOURCES), false, unknown);
}

#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn refused_capacity(bencher: Bencher<'_, '_>) {
    measure(bencher, full_books(LIMITS, SOURCES, u32::MAX), false, unknown);
}

/// The table may hold no more sources, and none in it has expired.
#[divan::bench(sample_size = SAMPLE, sample_count = SAMPLES)]
fn refused_table_full(bencher: Bencher<'_, '_>) {
    let full = IpLimits { max_sources: SOURCES as usize, ..LIMITS };
    measure(bencher, full_books(full, u32::MAX, u32::MAX), false, unknown);
}

/// An attempt that took long.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slow {
    on_processor: Duration,
    on_clock: Duration,
    /// Sources remembered before it.
    sources: u64,
}

/// The slowest attempts, and how long all of them took.
struct Times {
    all: Option<Histogram<u64>>,
    slowest: BTreeSet<Slow>,
}

impl Times {
    fn new() -> Self {
        // The bounds are constants that the library accepts.
        let all = Histogram::new_with_bounds(1, 60 * SECOND, 3).ok();
        Self { all, slowest: BTreeSet::new() }
    }

    fn note(&mut self, slow: Slow) {
        if let Some(all) = &mut self.all {
            all.saturating_record((slow.on_clock.as_nanos() as u64).max(1));
        }
        self.slowest.insert(slow);
        if self.slowest.len() > SLOWEST {
            self.slowest.pop_first();
        }
    }

    fn print(&self) {
        let quantiles = [("median", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)];
        for (name, share) in quantiles {
            let ns = self.all.as_ref().map_or(0, |all| all.value_at_quantile(share));
            println!("one attempt, {name:<16} {ns} ns on the clock");
        }
        println!("slowest attempts: ms on the processor, ms on the clock, sources before");
        for slow in self.slowest.iter().rev() {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            let (cpu, clock) = (ms(slow.on_processor), ms(slow.on_clock));
            println!("  {cpu:>10.3} {clock:>10.3} {:>10}", slow.sources);
        }
    }
}

fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn grow(sources: u64) {
    let before = memory();
    let mut books = books(LIMITS, u32::MAX, u32::MAX);
    let mut times = Times::new();
    for n in 0..sources {
        let key = source(n);
        let (processor, clock) = (processor_time(), Instant::now());
        let verdict = books.admit(key, SECOND);
        let on_clock = clock.elapsed();
        // Whatever came between two readings of two clocks is not the attempt's.
        let on_processor = processor_time().saturating_sub(processor).min(on_clock);
        assert_eq!(verdict, Verdict::Admitted);
        times.note(Slow { on_processor, on_clock, sources: n });
    }
    let after = memory();
    let each = |bytes: u64| bytes.saturating_sub(before.now) as f64 / sources.max(1) as f64;
    println!("sources remembered            {}", books.ip().len());
    println!("places in the table           {}", books.ip().places());
    println!("bytes a source (RssAnon)      {:.1}", each(after.now));
    println!("bytes a source at the peak    {:.1}", each(after.peak));
    times.print();
}

/// Memory of this process, in bytes.
struct Memory {
    /// Anonymous pages now.
    now: u64,
    /// The most that was ever resident, without what files back now.
    peak: u64,
}

fn memory() -> Memory {
    let bytes = |name| status(name) * 1024;
    let peak = bytes("VmHWM").saturating_sub(bytes("RssFile"));
    Memory { now: bytes("RssAnon"), peak }
}

/// A number in /proc/self/status; 0 if it is not there.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
