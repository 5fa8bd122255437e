//! CPU time of threads and processes, from the scheduler's nanosecond counts in /proc.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The /proc directory of the calling thread.
pub(crate) fn this_task() -> Option<PathBuf> {
    Some(Path::new("/proc").join(fs::read_link("/proc/thread-self").ok()?))
}

/// CPU time of the task with this /proc directory, user and kernel.
pub(crate) fn of_task(directory: &Path) -> Option<Duration> {
    Some(shares_of_task(directory)?.0)
}

/// The same, and the time that it was ready to run and had no processor.
pub(crate) fn shares_of_task(directory: &Path) -> Option<(Duration, Duration)> {
    parse(&fs::read_to_string(directory.join("schedstat")).ok()?)
}

/// CPU time of all threads that a process has now, io_uring's workers included; `None` if it
/// has ended. A thread that ends between two calls takes its time with it.
pub(crate) fn of_process(pid: u32) -> Option<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let mut sum = None;
    for task in tasks.flatten() {
        let time = of_task(&task.path());
        sum = time.map(|time| time + sum.unwrap_or_default()).or(sum);
    }
    sum.filter(|_| !is_zombie(pid))
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    matches!(state, None | Some("Z" | "X"))
}

/// The first field is the time on a CPU in nanoseconds, the second the time of waiting for one.
fn parse(schedstat: &str) -> Option<(Duration, Duration)> {
    let mut fields = schedstat.split_whitespace().map(|field| field.parse().ok());
    let (ran, waited) = (fields.next()??, fields.next()??);
    Some((Duration::from_nanos(ran), Duration::from_nanos(waited)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_field_is_the_time_and_the_second_the_wait() {
        let times = (Duration::from_nanos(1500), Duration::from_nanos(20));
        assert_eq!(parse("1500 20 3\n"), Some(times));
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process_has_used_time_and_a_missing_one_has_none() {
        let mut work = 0_u64;
        for number in 0..20_000_000_u64 {
            work = std::hint::black_box(work ^ number);
        }
        assert!(of_process(std::process::id()).unwrap() > Duration::ZERO);
        assert!(this_task().and_then(|task| of_task(&task)).is_some());
        assert_eq!(of_process(u32::MAX), None);
    }
}
