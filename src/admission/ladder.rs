//! How those who are not admitted are told, as far as there is budget for it.
//!
//! From the friendliest to the cheapest: a Close with its reason inside a WebSocket, for
//! browsers, which show a page no HTTP status; an HTTP answer; a reset; silence, while the
//! backlog holds who comes. Each rung but the last has a rate of its own, and what is above it is
//! left to the next one below: under moderate overload everybody has an answer, under a flood a
//! reset, under a greater flood nothing.
//!
//! A source that is refused more often than its share ([`RefusalShares`](super::RefusalShares))
//! leaves half of each budget to others, and is reset where the other half is used up: it costs
//! nobody an answer, and nobody waits because of it.
//!
//! What a client is worth is known only when its request has been read, so a place is kept for
//! its answer when it is accepted ([`Ladder::begin`]), and changed for another if the request
//! says so ([`Ladder::answer`]). Not here: what the answers look like, and how silence is kept.

/// A way to be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// 101 and then a Close frame with the reason.
    Close,
    /// An HTTP response.
    Http,
    /// RST.
    Reset,
    /// The same, because nothing else can be done with a connection that is accepted already;
    /// and nobody is accepted for a while.
    Silence,
}

impl Rung {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 4] = [Self::Close, Self::Http, Self::Reset, Self::Silence];

    /// Position in an array of counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The value of the metric's `rung` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Http => "http",
            Self::Reset => "reset",
            Self::Silence => "silence",
        }
    }
}

/// Whether a source has had more than its share of refusals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// It has not.
    Within,
    /// It has.
    Above,
}

/// What a place was kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// An HTTP answer.
    Http,
    /// A Close, because no HTTP answer was left.
    Close,
}

/// What becomes of a connection when it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its request is read, then it is answered.
    Answer(Place),
    /// It is reset at once.
    Reset,
    /// The same, and accepting stops for a moment.
    Silence,
}

/// Refusals in a second on each rung, of the whole server; 0 leaves the rung out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LadderRates {
    /// [`Rung::Close`].
    pub close: u64,
    /// [`Rung::Http`].
    pub http: u64,
    /// [`Rung::Reset`].
    pub reset: u64,
}

/// One shard's budgets.
#[derive(Debug)]
pub struct Ladder {
    close: Budget,
    http: Budget,
    reset: Budget,
}

impl Ladder {
    /// The part of one of `shards` shards.
    pub fn new(rates: LadderRates, shards: usize) -> Self {
        let budget = |rate| Budget::new(rate, shards as u64);
        Self { close: budget(rates.close), http: budget(rates.http), reset: budget(rates.reset) }
    }

    /// A connection is refused whose request is not known yet. When no HTTP answer is left, it
    /// might still be a browser's: as many requests are read to find out as browsers could be
    /// answered, and a place that was kept for none is lost. So a flood costs what the rates say,
    /// whatever it consists of.
    pub fn begin(&mut self, share: Share, now_ns: u64) -> Step {
        if self.http.take(share, now_ns) {
            return Step::Answer(Place::Http);
        }
        if self.close.take(share, now_ns) {
            return Step::Answer(Place::Close);
        }
        match self.reset(share, now_ns) {
            Rung::Silence => Step::Silence,
            _ => Step::Reset,
        }
    }

    /// A connection is reset. One of a source above its share is so in any case, which costs little;
    /// were everybody silent for it, it would keep out others.
    fn reset(&mut self, share: Share, now_ns: u64) -> Rung {
        match share {
            _ if self.reset.take(share, now_ns) => Rung::Reset,
            Share::Above => Rung::Reset,
            Share::Within => Rung::Silence,
        }
    }

    /// Whether a connection can be answered that is refused before anybody knows whose it is, and
    /// that no limit of a source counts. It takes the place of an HTTP answer.
    pub fn answer_unidentified(&mut self, now_ns: u64) -> bool {
        self.http.take(Share::Within, now_ns)
    }

    /// Whether a connection that is not refused can be told why it ends, and be waited for until it
    /// has read that: it costs what a Close costs.
    pub fn answer_timeout(&mut self, now_ns: u64) -> bool {
        self.close.take(Share::Within, now_ns)
    }

    /// The request of a connection that has a place is known: whether it is a browser's that can
    /// be upgraded.
    pub fn answer(&mut self, place: Place, is_browser: bool, share: Share, now_ns: u64) -> Rung {
        match (place, is_browser) {
            (Place::Close, true) => Rung::Close,
            (Place::Http, false) => Rung::Http,
            (Place::Http, true) if self.close.take(share, now_ns) => {
                self.http.give_back();
                Rung::Close
            }
            (Place::Http, true) => Rung::Http,
            (Place::Close, false) => {
                if self.http.take(share, now_ns) {
                    return Rung::Http;
                }
                self.reset(share, now_ns)
            }
        }
    }
}

/// A rate with a burst of one second's worth, as the generic cell rate algorithm: nothing to
/// refill.
#[derive(Debug)]
struct Budget {
    /// 0 if nothing is ever left.
    interval_ns: u64,
    tolerance_ns: u64,
    /// The theoretical arrival time of the next one.
    arrival_ns: u64,
}

const NS_PER_SECOND: u64 = 1_000_000_000;

impl Budget {
    /// One of `shards` parts of a rate per second.
    fn new(rate: u64, shards: u64) -> Self {
        let interval_ns = match rate {
            0 => 0,
            rate => shards.max(1).saturating_mul(NS_PER_SECOND).div_ceil(rate),
        };
        // A part of less than one in a second has a burst of one.
        let tolerance_ns = NS_PER_SECOND.saturating_sub(interval_ns);
        Self { interval_ns, tolerance_ns, arrival_ns: 0 }
    }

    fn take(&mut self, share: Share, now_ns: u64) -> bool {
        let tolerance_ns = match share {
            Share::Within => self.tolerance_ns,
            Share::Above => self.tolerance_ns / 2,
        };
        let is_left =
            self.interval_ns > 0 && self.arrival_ns <= now_ns.saturating_add(tolerance_ns);
        if is_left {
            self.arrival_ns = self.arrival_ns.max(now_ns).saturating_add(self.interval_ns);
        }
        is_left
    }

    /// What was taken last was not used.
    fn give_back(&mut self) {
        self.arrival_ns = self.arrival_ns.saturating_sub(self.interval_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATES: LadderRates = LadderRates { close: 5, http: 10, reset: 20 };

    fn refused(ladder: &mut Ladder, is_browser: bool, now_ns: u64) -> Rung {
        refused_by(ladder, Share::Within, is_browser, now_ns)
    }

    fn refused_by(ladder: &mut Ladder, share: Share, is_browser: bool, now_ns: u64) -> Rung {
        match ladder.begin(share, now_ns) {
            Step::Answer(place) => ladder.answer(place, is_browser, share, now_ns),
            Step::Reset => Rung::Reset,
            Step::Silence => Rung::Silence,
        }
    }

    fn counts(ladder: &mut Ladder, is_browser: bool, attempts: usize, now_ns: u64) -> [usize; 4] {
        let mut counts = [0; 4];
        for _ in 0..attempts {
            counts[refused(ladder, is_browser, now_ns).index()] += 1;
        }
        counts
    }

    #[test]
    fn browsers_go_down_all_rungs_and_others_leave_the_first_out() {
        assert_eq!(counts(&mut Ladder::new(RATES, 1), true, 100, 0), [5, 10, 20, 65]);
        let mut ladder = Ladder::new(RATES, 1);
        assert_eq!(counts(&mut ladder, false, 10, 0), [0, 10, 0, 0]);
        // Five are read, because they might be browsers, and then reset like the others.
        assert_eq!(counts(&mut ladder, false, 90, 0), [0, 0, 20, 70]);
        assert_eq!(counts(&mut ladder, true, 10, 0), [0, 0, 0, 10]);
        assert_eq!(counts(&mut ladder, false, 100, NS_PER_SECOND / 2), [0, 5, 10, 85]);
        assert_eq!(counts(&mut ladder, true, 10, NS_PER_SECOND), [3, 5, 2, 0]);
        assert_eq!(counts(&mut ladder, true, 100, 60 * NS_PER_SECOND), [5, 10, 20, 65]);
    }

    #[test]
    fn shards_have_equal_parts_and_a_rung_of_none_is_left_out() {
        assert_eq!(counts(&mut Ladder::new(RATES, 5), true, 100, 0), [1, 2, 4, 93]);
        let none = LadderRates { close: 0, http: 0, reset: 0 };
        assert_eq!(counts(&mut Ladder::new(none, 1), true, 9, NS_PER_SECOND), [0, 0, 0, 9]);
        let resets = LadderRates { reset: 1, ..none };
        let mut ladder = Ladder::new(resets, 4);
        assert_eq!(counts(&mut ladder, true, 9, 0), [0, 0, 1, 8]);
        assert_eq!(counts(&mut ladder, true, 9, 4 * NS_PER_SECOND - 1), [0, 0, 0, 9]);
        assert_eq!(counts(&mut ladder, true, 9, 4 * NS_PER_SECOND), [0, 0, 1, 8]);
    }

    #[test]
    fn a_source_above_its_share_leaves_half_to_others_and_silences_nobody() {
        let mut ladder = Ladder::new(RATES, 1);
        let loud = |ladder: &mut Ladder, now_ns| {
            let mut counts = [0; 4];
            (0..1_000).for_each(|_| {
                counts[refused_by(ladder, Share::Above, true, now_ns).index()] += 1;
            });
            counts
        };
        let [close, http, reset, silence] = loud(&mut ladder, 0);
        assert!((2..=3).contains(&close) && (5..=6).contains(&http), "{close} {http}");
        assert_eq!((silence, close + http + reset), (0, 1_000));
        // The rate stays whole: what comes goes to whoever asks.
        let mut http = 0;
        (1..=200).for_each(|step| http += loud(&mut ladder, step * NS_PER_SECOND / 100)[1]);
        assert!((19..=21).contains(&http), "{http} in two seconds");
        let others = counts(&mut ladder, true, 100, 2 * NS_PER_SECOND);
        assert!(others[0] >= 2 && others[1] >= 4 && others[2] >= 9, "{others:?}");
    }

    #[test]
    fn an_answer_to_nobody_takes_the_place_of_one_to_somebody() {
        let mut ladder = Ladder::new(RATES, 1);
        assert_eq!((0..99).filter(|_| ladder.answer_unidentified(0)).count(), 10);
        assert_eq!(counts(&mut ladder, false, 100, 0)[Rung::Http.index()], 0);
    }

    #[test]
    fn a_408_takes_the_place_of_a_close() {
        let mut ladder = Ladder::new(RATES, 1);
        assert_eq!((0..9).filter(|_| ladder.answer_timeout(0)).count(), 5);
        assert_eq!(counts(&mut ladder, true, 100, 0), [0, 10, 20, 70]);
        assert!(!Ladder::new(LadderRates { close: 0, ..RATES }, 1).answer_timeout(0));
    }

    #[test]
    fn the_index_is_the_position_in_all() {
        for (position, rung) in Rung::ALL.into_iter().enumerate() {
            assert_eq!(rung.index(), position, "{}", rung.label());
        }
    }

    proptest! {
        /// Whoever comes in whatever order: no rung is used beyond its rate and a second's worth.
        #[test]
        fn no_rung_is_used_more_than_its_rate_allows(
            steps in prop::collection::vec((any::<bool>(), 0u64..NS_PER_SECOND / 20), 1..400),
        ) {
            let mut ladder = Ladder::new(RATES, 1);
            let mut used = [0u64; 4];
            let mut now = 0;
            for (is_browser, gap) in steps {
                now += gap;
                used[refused(&mut ladder, is_browser, now).index()] += 1;
                for (rung, rate) in [(Rung::Close, 5), (Rung::Http, 10)] {
                    let allowed = rate + now * rate / NS_PER_SECOND;
                    prop_assert!(used[rung.index()] <= allowed, "{:?} {:?}", rung, used);
                }
            }
        }
    }
}
