//! What the server has counted while the run went on, and the most connections it had at once.
//!
//! Whoever else connects to the same server meanwhile is counted there and not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::figures::{Admin, AdminUrl, Figures};
use crate::arguments::AdminArguments;
use crate::fates::Fates;

const OPEN: &str = "tidegate_connections";
const OPENED: &str = "tidegate_connections_opened_total";
const REFUSED: &str = "tidegate_admission_refused_total";
const CLOSED: &str = "tidegate_connections_closed_total";
const SENT: &str = "tidegate_messages_sent_total";
const PEAK: &str = "tidegate_connections_peak";

/// How often the number of open connections is looked at where a limit is tried.
const OFTEN: Duration = Duration::from_millis(20);
/// Where the server ends first: it answers for a tenth of a second after its last connection.
const OFTEN_ENOUGH: Duration = Duration::from_millis(40);
/// And elsewhere: a look costs the server about a millisecond, which is in what it is measured by.
const SELDOM: Duration = Duration::from_secs(5);
/// How long the server's figures may take to agree after the last answer.
const AGREE_WITHIN: Duration = Duration::from_secs(3);
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Looks at the number of open connections again and again.
struct Sampler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Samples>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
struct Samples {
    taken: u64,
    most: u64,
    last: Option<Figures>,
}

impl Sampler {
    fn start(admin: Admin, every: Duration) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sample = move || {
            let mut samples = Samples::default();
            while !stopped.load(Relaxed) {
                if let Ok(figures) = admin.scrape() {
                    samples.taken += 1;
                    samples.most = samples.most.max(figures.sum(OPEN));
                    samples.last = Some(figures);
                }
                std::thread::park_timeout(every);
            }
            samples
        };
        let thread = std::thread::Builder::new().name(String::from("sampler")).spawn(sample);
        Ok(Self { stop, thread: thread.map_err(|error| error.to_string())? })
    }

    fn end(self) -> Samples {
        self.stop.store(true, Relaxed);
        self.thread.thread().unpark();
        // A sampler that panicked has seen nothing.
        self.thread.join().unwrap_or_default()
    }
}

/// The server's side of the books, from before the first attempt on.
pub(crate) struct ServerBooks(Option<Open>);

struct Open {
    admin: Admin,
    before: Figures,
    sampler: Sampler,
    /// The server may end before the books are closed.
    ends: bool,
}

/// What the server counted between two moments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) refused: u64,
    pub(crate) messages_sent: u64,
    /// The reasons that have a count.
    pub(crate) refused_by_reason: Vec<(String, u64)>,
    /// Most open connections that were seen at once.
    pub(crate) most: u64,
    pub(crate) samples: u64,
    /// Most at once since the server started, by its own account.
    pub(crate) peak: u64,
    /// The server has ended, and this is what it said last.
    pub(crate) ended: bool,
}

impl ServerBooks {
    /// Reads what the server has counted so far. Without `--admin` it is not an error if nothing
    /// answers at the default place.
    ///
    /// # Errors
    /// The admin listener that was named does not answer with figures.
    pub(crate) fn open(arguments: &AdminArguments) -> Result<Self, String> {
        match arguments.admin() {
            Some(admin) => Self::of(admin, SELDOM),
            None => Ok(Self(None)),
        }
    }

    /// The same for a server that ends before the run does: what it says last counts.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_until_it_ends(arguments: &AdminArguments) -> Result<Self, String> {
        let Some(admin) = arguments.admin() else { return Ok(Self(None)) };
        let mut books = Self::of(admin, OFTEN_ENOUGH)?;
        if let Some(open) = &mut books.0 {
            open.ends = true;
        }
        Ok(books)
    }

    /// The same for one that tries a limit; without `--admin` the usual place is tried.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) fn open_or_try(arguments: &AdminArguments, never: bool) -> Result<Self, String> {
        let token = arguments.admin_token.clone();
        match arguments.admin() {
            _ if never => Ok(Self(None)),
            Some(admin) => Self::of(admin, OFTEN),
            None => {
                let usual = Admin { url: AdminUrl::default(), token };
                Ok(Self::of(usual, OFTEN).unwrap_or(Self(None)))
            }
        }
    }

    fn of(admin: Admin, every: Duration) -> Result<Self, String> {
        let before = admin.scrape()?;
        let sampler = Sampler::start(admin.clone(), every)?;
        Ok(Self(Some(Open { admin, before, sampler, ends: false })))
    }

    /// What the server has counted since; `None` if it was never asked.
    ///
    /// # Errors
    /// It does not answer any more.
    pub(crate) fn close(self, fates: &Fates) -> Result<Option<Counted>, String> {
        let Some(Open { admin, before, sampler, ends }) = self.0 else { return Ok(None) };
        let samples = sampler.end();
        let began = Instant::now();
        loop {
            let after = match (admin.scrape(), &samples.last) {
                (Err(_), Some(last)) if ends => {
                    let counted = counted(&before, last, &samples);
                    return Ok(Some(Counted { ended: true, ..counted }));
                }
                (after, _) => after?,
            };
            let counted = counted(&before, &after, &samples);
            let agrees = fates.differences(&counted).is_empty();
            if agrees || began.elapsed() > AGREE_WITHIN {
                return Ok(Some(counted));
            }
            std::thread::sleep(ASK_AGAIN);
        }
    }
}

fn counted(before: &Figures, after: &Figures, samples: &Samples) -> Counted {
    let growth = |name: &str| after.sum(name).saturating_sub(before.sum(name));
    let earlier = before.by_label(REFUSED);
    let by_reason = after.by_label(REFUSED).into_iter().map(|(reason, count)| {
        let old = earlier.iter().find(|(old, _)| *old == reason).map_or(0, |(_, count)| *count);
        (reason, count.saturating_sub(old))
    });
    Counted {
        opened: growth(OPENED),
        closed: growth(CLOSED),
        refused: growth(REFUSED),
        messages_sent: growth(SENT),
        refused_by_reason: by_reason.filter(|(_, count)| *count > 0).collect(),
        most: samples.most,
        samples: samples.taken,
        peak: after.sum(PEAK),
        ended: false,
    }
}
