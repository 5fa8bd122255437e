//! Whatever clients make the server hold, it stays inside the memory limit of its cgroup: it is
//! never killed, established clients keep their echo, and the memory comes back. The ways to do so are
//! those of `support/hoards`; they come one after the other and all at once, from one source and
//! from a thousand.
//!
//! The suite has the most dangerous ones in 64 and 256 MiB. `scripts/memory-trial` runs all of them,
//! in 64 to 512 MiB.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support;
use crate::support::cgroup::Cgroup;
use crate::support::crowd::raise_open_files;
use crate::support::figures::{Figures, metric};
use crate::support::hoards::{self, Held, SETTINGS, Target, WAYS, Way};
use crate::support::server::{Server, command};
use crate::support::wire::Client;
use crate::support::{alone, eventually};

const MIB: u64 = 1 << 20;

/// Clients that are served all the while.
const WITNESSES: usize = 20;

/// Clients that use what there is once, on every shard.
const WARM_UP: u8 = 8;

/// How much more than before may be in use when the attackers have gone, in parts of the limit.
const COMES_BACK: u64 = 10;

/// A server in a cgroup, and clients of it that are served all the while.
struct Siege {
    server: Server,
    cgroup: Cgroup,
    limit: u64,
    witnesses: Vec<Client>,
    before: u64,
}

/// What was seen while something went on.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Of the memory, in bytes: without page cache, sockets included.
    peak: u64,
    /// What of it was in sockets, at most.
    in_sockets: u64,
    /// The longest that an established client waited for its echo.
    echo: Duration,
}

/// Ends a watch, whatever becomes of what is watched.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Siege {
    /// `None` where no cgroup can be made.
    fn new(limit: u64, settings: &[&str]) -> Option<Self> {
        let cgroup = match Cgroup::with_memory_and_sockets(limit) {
            Ok(cgroup) => cgroup,
            Err(why) => {
                eprintln!("NOT TESTED: no cgroup with a memory limit can be made here: {why}");
                return None;
            }
        };
        raise_open_files();
        let settings = [&["server.shards=2"], &SETTINGS[..], settings].concat();
        let mut serve = command(&settings);
        if let Some(other) = std::env::var_os("TRIAL_SERVER").filter(|other| !other.is_empty()) {
            let arguments = serve.get_args().map(ToOwned::to_owned).collect::<Vec<_>>();
            serve = Command::new(other);
            serve.args(arguments);
        }
        let server = Server::from_command(cgroup.command(&serve));
        let connect = |_| Client::connect(server.clients, "/echo");
        let witnesses = (0..WITNESSES).map(connect).collect();
        // What the first connections need is not the attackers' doing.
        drop((0..200).map(connect).collect::<Vec<_>>());
        (0..WARM_UP).for_each(|nth| hoards::use_everything(server.clients, nth));
        let mut siege = Self { server, cgroup, limit, witnesses, before: 0 };
        siege.are_alone();
        siege.before = siege.in_use();
        Some(siege)
    }

    fn in_use(&self) -> u64 {
        self.cgroup.used() + self.cgroup.in_sockets()
    }

    fn are_alone(&self) {
        eventually("the others have left", || {
            let figures = Figures::of(&self.server);
            figures.sum("tidegate_connections") == WITNESSES as u64
                && figures.sum("tidegate_connections_handshaking") == 0
        });
    }

    fn target(&self, sources: usize, many: usize) -> Target {
        let (clients, admin) = (self.server.clients, self.server.admin);
        let capacity = metric(&self.server, "tidegate_connections_capacity");
        Target { clients, admin, sources, many, capacity }
    }

    /// Does something while its clients are served.
    fn watch<T>(&mut self, act: impl FnOnce() -> T) -> (T, Seen) {
        let stop = AtomicBool::new(false);
        let (cgroup, witnesses) = (&self.cgroup, &mut self.witnesses);
        thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let mut seen = Seen::default();
                while !stop.load(Ordering::Relaxed) {
                    for witness in witnesses.iter_mut() {
                        let began = Instant::now();
                        witness.echo("still here");
                        seen.echo = seen.echo.max(began.elapsed());
                    }
                    let in_sockets = cgroup.in_sockets();
                    seen.in_sockets = seen.in_sockets.max(in_sockets);
                    seen.peak = seen.peak.max(cgroup.used() + in_sockets);
                    thread::sleep(Duration::from_millis(5));
                }
                seen
            });
            let done = {
                let _stop = Stop(&stop);
                act()
            };
            (done, watch.join().expect("the witnesses are served"))
        })
    }

    /// The server lives, and serves whom it has let in.
    #[track_caller]
    fn holds(&mut self, what: &str) {
        assert_eq!(self.cgroup.oom_kills(), 0, "{what}: killed");
        assert!(self.server.is_running(), "{what}: ended");
        self.witnesses.iter_mut().for_each(|witness| witness.echo("still here"));
    }

    /// What is in use after all of it, once nothing has changed for a while.
    fn at_rest(&self, sources: usize) -> String {
        thread::sleep(Duration::from_secs(12));
        let now = self.in_use() as f64 / MIB as f64;
        let (limit, before) = (self.limit / MIB, self.before as f64 / MIB as f64);
        format!("| {limit} | at rest | {sources} | | {before:.1} | | | {now:.1} | | |")
    }

    /// These ways at once, from so many sources; then the attackers leave, and the memory is free again.
    #[track_caller]
    fn endures(&mut self, ways: &[&'static Way], sources: usize, many: usize) -> String {
        let target = self.target(sources, many);
        let names = match ways {
            _ if ways.len() == WAYS.len() => "all of these at once".to_owned(),
            _ => ways.iter().map(|way| way.name).collect::<Vec<_>>().join(", "),
        };
        let what = format!("{names} of {sources}");
        let (held, seen) = self.watch(|| -> Vec<Held> {
            thread::scope(|scope| {
                let hold = |way: &&'static Way| {
                    let way = *way;
                    scope.spawn(move || way.hold(&target))
                };
                let ways: Vec<_> = ways.iter().map(hold).collect();
                ways.into_iter().map(|way| way.join().expect("they go on")).collect()
            })
        });
        let sockets = held.iter().map(Held::connections).sum::<usize>();
        self.holds(&what);
        drop(held);
        self.are_alone();
        let (most, started) = (self.before + self.limit / COMES_BACK, Instant::now());
        while self.in_use() > most {
            let figures = Figures::of(&self.server).lines("tidegate_memory_held");
            let now = self.in_use();
            assert!(
                started.elapsed() < 2 * support::PATIENCE,
                "{what}: {now} in use, {} before, {most} allowed; {}\n{figures}",
                self.before,
                self.cgroup.parts()
            );
            thread::sleep(Duration::from_millis(20));
        }
        self.holds(&what);
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / MIB as f64);
        format!(
            "| {} | {names} | {sources} | {sockets} | {} | {} | {} | {} | {} | {} |",
            self.limit / MIB,
            mib(self.before),
            mib(seen.peak),
            mib(seen.in_sockets),
            mib(self.in_use()),
            started.elapsed().as_millis(),
            seen.echo.as_millis(),
        )
    }
}

/// The ways of these names.
fn ways(names: &[&str]) -> Vec<&'static Way> {
    names.iter().map(|name| hoards::way(name)).collect()
}

#[test]
fn what_is_not_admitted_holds_no_more_than_its_part_of_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(64 * MIB, &[]) else { return };
    let dangerous = ways(&[
        "unfinished heads",
        "refused, unfinished heads",
        "refused, uploads",
        "PROXY headers",
        "heads behind PROXY headers",
    ]);
    for (sources, many) in [(1, 6_000), (1_000, 6_000)] {
        for way in &dangerous {
            println!("{}", siege.endures(&[way], sources, many));
        }
    }
    println!("{}", siege.endures(&dangerous, 1_000, 2_500));
}

#[test]
fn messages_that_never_end_hold_no_more_than_their_part_of_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(256 * MIB, &[]) else { return };
    for sources in [5, 1_000] {
        println!("{}", siege.endures(&ways(&["unfinished messages"]), sources, 0));
    }
}

#[test]
fn replies_that_nobody_reads_hold_no_more_than_their_part_of_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(256 * MIB, &[]) else { return };
    for sources in [5, 1_000] {
        println!("{}", siege.endures(&ways(&["replies unread"]), sources, 0));
    }
}

#[test]
fn all_ways_at_once_hold_no_more_than_a_small_container() {
    let _alone = alone();
    let Some(mut siege) = Siege::new(64 * MIB, &[]) else { return };
    let all: Vec<_> = WAYS.iter().collect();
    println!("{}", siege.endures(&all, 1_000, 1_000));
}

/// `TRIAL_LIMITS` (MiB, with commas) and `TRIAL_WAYS` (names, with semicolons) choose a part,
/// `TRIAL_SERVER` another build of the server.
#[test]
#[ignore = "an hour; scripts/memory-trial runs it"]
fn all_ways_in_all_containers() {
    let _alone = alone();
    let list = |name: &str, separator: char| -> Option<Vec<String>> {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some(value.split(separator).map(|part| part.trim().to_owned()).collect())
    };
    let limits = list("TRIAL_LIMITS", ',')
        .unwrap_or_else(|| ["64", "128", "256", "512"].map(str::to_owned).to_vec());
    let wanted = list("TRIAL_WAYS", ';');
    let is_wanted =
        |way: &&Way| wanted.as_ref().is_none_or(|names| names.iter().any(|name| name == way.name));
    let chosen: Vec<_> = WAYS.iter().filter(is_wanted).collect();
    let mut failed = Vec::new();
    for limit in limits {
        let limit = limit.parse::<u64>().expect("MiB") * MIB;
        let many = (limit / 6_000).min(14_600) as usize;
        let mut runs: Vec<_> = chosen.iter().map(|way| (vec![*way], many)).collect();
        if wanted.is_none() {
            runs.push((chosen.clone(), many / 8));
        }
        for sources in [1, 1_000] {
            let mut siege = None;
            for (ways, many) in &runs {
                let row = catch_unwind(AssertUnwindSafe(|| {
                    let siege = siege.get_or_insert_with(|| Siege::new(limit, &[]));
                    siege.as_mut().map(|siege| siege.endures(ways, sources, *many))
                }));
                match row {
                    Ok(row) => println!("{}", row.unwrap_or_default()),
                    Err(panic) => {
                        siege = None;
                        let words = panic.downcast_ref::<String>().map_or("", String::as_str);
                        let first = words.lines().next().unwrap_or_default();
                        println!("TRIAL FAILED {} MiB: {first}", limit / MIB);
                        failed.push(first.to_owned());
                    }
                }
            }
            if let Some(Some(siege)) = &siege {
                println!("{}", siege.at_rest(sources));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
