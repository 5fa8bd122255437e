//! The limits of a source in the form in which its bucket is compared with them.

const NS_PER_MINUTE: u64 = 60_000_000_000;

/// What one source may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Between two connections, rounded up; 0 is no limit.
    pub(super) interval_ns: u64,
    /// How far the theoretical arrival time may be ahead.
    pub(super) tolerance_ns: u64,
    /// Connections open at the same time; 0 is no limit.
    pub(super) max_concurrent: u32,
}

impl Pace {
    /// No limits.
    pub const UNLIMITED: Self = Self { interval_ns: 0, tolerance_ns: 0, max_concurrent: 0 };

    /// From limits as they are configured: 0 is no limit, and a burst of 0 counts as 1.
    pub fn new(connections_per_minute: u32, burst: u32, max_concurrent: u32) -> Self {
        let rate = u64::from(connections_per_minute);
        let interval_ns = if rate == 0 { 0 } else { NS_PER_MINUTE.div_ceil(rate) };
        let tolerance_ns = interval_ns.saturating_mul(u64::from(burst.max(1)) - 1);
        Self { interval_ns, tolerance_ns, max_concurrent }
    }

    /// The time in which a used-up burst is whole again.
    pub(super) fn full_ns(self) -> u64 {
        self.tolerance_ns.saturating_add(self.interval_ns)
    }
}
