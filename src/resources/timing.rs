//! How long each resource may take in the time that is left: pure arithmetic.

use super::Stage;

/// What the resources of these stages and times want, in milliseconds, one entry for each that
/// has to be waited for by itself: background tasks end beside each other and are one.
fn entries(resources: impl Iterator<Item = (Stage, u64)>) -> Vec<u64> {
    let (mut background, mut entries) = (None, Vec::new());
    for (stage, timeout_ms) in resources {
        match stage {
            Stage::Background => background = background.max(Some(timeout_ms)),
            _ => entries.push(timeout_ms),
        }
    }
    entries.extend(background);
    entries
}

/// What all of them want together.
pub(super) fn wanted_ms(resources: impl Iterator<Item = (Stage, u64)>) -> u64 {
    entries(resources).into_iter().fold(0, u64::saturating_add)
}

/// The longest that one of these may take if all are to fit into what is left: everybody has what
/// he wants up to this, so one that wants much takes nothing from those who want little.
pub(super) fn level_ms(resources: impl Iterator<Item = (Stage, u64)>, left_ms: u64) -> u64 {
    let mut wanted = entries(resources);
    wanted.sort_unstable();
    let (mut left_ms, count) = (left_ms, wanted.len() as u64);
    for (index, wants) in (0..).zip(wanted) {
        let share = left_ms / (count - index);
        if wants > share {
            return share;
        }
        left_ms -= wants;
    }
    u64::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(Stage, u64); 4] = [
        (Stage::Before, 1_000),
        (Stage::Background, 10_000),
        (Stage::Background, 4_000),
        (Stage::Cache, 5_000),
    ];

    fn fitted(left_ms: u64) -> [u64; 4] {
        let level = level_ms(ALL.into_iter(), left_ms);
        ALL.map(|(_, ms)| ms.min(level))
    }

    /// Rule 2, S1.6.
    #[test]
    fn who_wants_much_gives_way_first_and_background_tasks_count_once() {
        assert_eq!(wanted_ms(ALL.into_iter()), 16_000);
        assert_eq!(fitted(16_000), [1_000, 10_000, 4_000, 5_000]);
        assert_eq!(fitted(12_000), [1_000, 6_000, 4_000, 5_000]);
        assert_eq!(fitted(9_000), [1_000, 4_000, 4_000, 4_000]);
        assert_eq!(fitted(1_500), [500; 4]);
        assert_eq!(fitted(0), [0; 4]);
    }

    #[test]
    fn times_without_end_do_not_overflow() {
        let endless = [(Stage::Last, u64::MAX); 2];
        assert_eq!(wanted_ms(endless.into_iter()), u64::MAX);
        assert_eq!(level_ms(endless.into_iter(), 3_000), 1_500);
        assert_eq!(level_ms([].into_iter(), 0), u64::MAX);
    }
}
