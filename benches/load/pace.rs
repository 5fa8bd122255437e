//! When attempts are due: pure arithmetic on the time since the first.

use std::time::Duration;

/// How attempts follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// As fast as they are answered.
    AsAnswered,
    /// So many per second.
    Steady(f64),
    /// From one rate to another over a time, in a straight line, and on at the second.
    Rising {
        /// Per second at the beginning.
        from: f64,
        /// Per second at the end.
        to: f64,
        /// How long that takes.
        over_s: f64,
    },
}

impl Pace {
    /// Steady, or as fast as attempts are answered.
    pub(crate) fn of_rate(rate: Option<f64>) -> Self {
        rate.map_or(Self::AsAnswered, Self::Steady)
    }

    /// A part of this pace, for one of several rings.
    pub(crate) fn share(self, share: f64) -> Self {
        match self {
            Self::AsAnswered => Self::AsAnswered,
            Self::Steady(rate) => Self::Steady(rate * share),
            Self::Rising { from, to, over_s } => {
                Self::Rising { from: from * share, to: to * share, over_s }
            }
        }
    }

    /// How many attempts are due after this time, the first at once; `None` sets no limit.
    pub(crate) fn due(self, elapsed_s: f64) -> Option<u64> {
        match self {
            Self::AsAnswered => None,
            Self::Steady(rate) => Some((elapsed_s * rate) as u64 + 1),
            Self::Rising { from, to, over_s } => {
                let rising = elapsed_s.min(over_s);
                let count = from * rising
                    + (to - from) * rising * rising / (2.0 * over_s)
                    + to * (elapsed_s - rising);
                Some(count as u64 + 1)
            }
        }
    }

    /// When attempt number `index` is due, from 0; `None` whenever there is room for it.
    pub(crate) fn at(self, index: u64) -> Option<Duration> {
        let index = index as f64;
        let seconds = match self {
            Self::AsAnswered => return None,
            Self::Steady(rate) => index / rate,
            Self::Rising { from, to, over_s } => {
                let risen = (from + to) / 2.0 * over_s;
                let slope = (to - from) / over_s;
                if index >= risen {
                    over_s + (index - risen) / to
                } else if slope.abs() < 1e-9 {
                    index / from
                } else {
                    ((from * from + 2.0 * slope * index).sqrt() - from) / slope
                }
            }
        };
        Some(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_pace_is_a_line() {
        let pace = Pace::Steady(100.0);
        assert_eq!((pace.due(0.0), pace.due(1.0)), (Some(1), Some(101)));
        assert_eq!(pace.at(150), Some(Duration::from_millis(1_500)));
        assert_eq!(pace.share(0.25), Pace::Steady(25.0));
        assert_eq!((Pace::AsAnswered.due(9.0), Pace::AsAnswered.at(9)), (None, None));
    }

    #[test]
    fn a_rising_pace_has_the_mean_of_both_rates_and_goes_on_at_the_second() {
        let pace = Pace::Rising { from: 100.0, to: 300.0, over_s: 10.0 };
        assert_eq!(pace.due(10.0), Some(2_001));
        assert_eq!(pace.due(11.0), Some(2_301));
        assert_eq!(pace.at(2_300), Some(Duration::from_secs(11)));
    }

    proptest! {
        #[test]
        fn an_attempt_is_due_when_its_time_has_come(
            from in 0.0..1e4_f64, to in 1.0..1e5_f64, over_s in 0.1..100.0_f64, index in 0..1_000_000_u64,
        ) {
            let pace = Pace::Rising { from, to, over_s };
            let at = pace.at(index).map_or(0.0, |at| at.as_secs_f64());
            let after = pace.due(at + 1e-3 * at.max(1e-3)).unwrap_or_default();
            prop_assert!(after > index, "attempt {index} at {at}: {after} due a little later");
            let before = pace.due((at - 1e-3 * at.max(1e-3)).max(0.0)).unwrap_or_default();
            prop_assert!(before <= index + 1, "attempt {index} at {at}: {before} due before");
        }
    }
}
