//! What the kernel says about this process: /proc/self, read when somebody asks.

use std::cell::{Cell, RefCell};
use std::fs;
use std::time::Duration;

use crate::files::read::small_text;
use crate::pressure::reading::Reader;
use crate::sys::kernel;

/// The clock ticks of /proc are hundredths of a second on every architecture that runs here.
const TICK_MS: u64 = 10;

/// The least time over which a share of the processor is worth stating.
const SPAN: Duration = Duration::from_secs(1);

/// The figures of the process. What could not be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct ProcessFigures {
    pub(super) pid: u32,
    /// Memory that is in use and in RAM.
    pub(super) resident_bytes: u64,
    /// Memory that it can have at most: that of the cgroup, of one above it, or of the machine.
    pub(super) limit_bytes: u64,
    /// Processor time, in user space and in the kernel, of all threads.
    pub(super) cpu_ms: u64,
    /// Processor time per time in percent, 100 for one core that is never idle: since the
    /// previous reading that was at least a second before, at first since the start.
    pub(super) cpu_percent: f64,
    pub(super) threads: u64,
    /// Open descriptors; direct descriptors of the rings are not among them.
    pub(super) open_files: u64,
    pub(super) max_open_files: u64,
}

impl ProcessFigures {
    /// Share of the memory that it can have, in percent (S4.80).
    pub(super) fn memory_percent(&self) -> f64 {
        if self.limit_bytes == 0 {
            return 0.0;
        }
        self.resident_bytes as f64 * 100.0 / self.limit_bytes as f64
    }
}

/// Turns processor time into a share of time.
#[derive(Debug, Default)]
pub(super) struct CpuMeter {
    then: Cell<(Duration, u64)>,
    percent: Cell<f64>,
}

impl CpuMeter {
    fn percent(&self, now: Duration, cpu_ms: u64) -> f64 {
        let (then, cpu_ms_then) = self.then.get();
        let span = now.saturating_sub(then);
        if span >= SPAN || then.is_zero() && !span.is_zero() {
            let busy_ms = cpu_ms.saturating_sub(cpu_ms_then);
            self.percent.set(busy_ms as f64 * 100.0 / (span.as_secs_f64() * 1000.0));
            self.then.set((now, cpu_ms));
        }
        self.percent.get()
    }
}

/// What is kept between two readings.
#[derive(Debug)]
pub(super) struct Meter {
    cpu: CpuMeter,
    memory: RefCell<Reader>,
}

impl Meter {
    pub(super) fn new() -> Self {
        let cpu = CpuMeter::default();
        // The program around the server may have worked before.
        let before = cpu_ms(&small_text("/proc/self/stat").unwrap_or_default());
        cpu.then.set((Duration::ZERO, before.unwrap_or(0)));
        Self { cpu, memory: Reader::new(kernel::page_bytes()).into() }
    }
}

/// Reads the figures, `uptime` after the start of the server.
pub(super) fn read(meter: &Meter, uptime: Duration) -> ProcessFigures {
    let text = |path: &str| small_text(path).unwrap_or_default();
    let status = text("/proc/self/status");
    let cpu_ms = cpu_ms(&text("/proc/self/stat")).unwrap_or(0);
    ProcessFigures {
        pid: std::process::id(),
        resident_bytes: kilobytes(&status, "VmRSS:"),
        limit_bytes: meter.memory.borrow_mut().smallest_limit().unwrap_or(0),
        cpu_ms,
        cpu_percent: meter.cpu.percent(uptime, cpu_ms),
        threads: number(&status, "Threads:"),
        open_files: fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64),
        max_open_files: number(&text("/proc/self/limits"), "Max open files"),
    }
}

/// The first number after `label` at the start of a line.
fn number(text: &str, label: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(label)?.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn kilobytes(text: &str, label: &str) -> u64 {
    number(text, label).saturating_mul(1024)
}

/// Fields 14 and 15 of proc_pid_stat(5). The second field is the program's name in brackets,
/// which may hold anything, so counting begins after the last bracket.
fn cpu_ms(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let kernel: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(kernel).saturating_mul(TICK_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_whatever_the_program_is_called() {
        let stat = "7 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 150 25 13 14";
        assert_eq!(cpu_ms(stat), Some(1750));
        assert_eq!(cpu_ms(""), None);
        assert_eq!(cpu_ms("7 (a) S 1 2"), None);
    }

    #[test]
    fn lines_are_found_by_their_label() {
        let status = "VmHWM:\t 900 kB\nVmRSS:\t  12 kB\nThreads:\tx\n";
        assert_eq!(kilobytes(status, "VmRSS:"), 12 * 1024);
        assert_eq!(number(status, "Threads:"), 0);
        assert_eq!(number("Max open files   20000  20000  files", "Max open files"), 20_000);
    }

    #[test]
    fn the_share_of_the_processor_is_that_of_the_last_span() {
        let meter = CpuMeter::default();
        let at = Duration::from_millis;
        assert_eq!(meter.percent(at(0), 0), 0.0);
        assert_eq!(meter.percent(at(2_000), 1_000), 50.0);
        assert_eq!(meter.percent(at(2_500), 1_500), 50.0, "too soon");
        assert_eq!(meter.percent(at(4_000), 5_000), 200.0);
        assert_eq!(meter.percent(at(6_000), 5_000), 0.0);
    }

    #[test]
    fn this_process_has_figures() {
        let figures = read(&Meter::new(), Duration::from_secs(1));
        assert_eq!(figures.pid, std::process::id());
        assert!(figures.resident_bytes > 100_000, "{figures:?}");
        assert!(figures.limit_bytes > figures.resident_bytes);
        assert!(figures.threads >= 1 && figures.open_files >= 3 && figures.max_open_files > 3);
        assert!((0.0..100.0).contains(&figures.memory_percent()));
    }
}
