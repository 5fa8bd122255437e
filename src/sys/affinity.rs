//! One shard per core, pinned.

/// How many cores this process may run on (its affinity mask and cgroup quota counted), at
/// least 1.
pub fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Pins the calling thread to the `index`-th available core, counted round. False if the kernel
/// does not allow it; the shard then runs where the scheduler puts it.
pub fn pin_to_core(index: usize) -> bool {
    let Some(cores) = core_affinity::get_core_ids().filter(|cores| !cores.is_empty()) else {
        return false;
    };
    core_affinity::set_for_current(cores[index % cores.len()])
}
