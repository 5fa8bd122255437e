//! What becomes of resources: their order, their times, what they say.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::board::Board;
use super::*;
use crate::coordinator::report::{StageReport, StageResult};

/// Closes everything, within `left`.
fn close(board: &Board, left: Duration) -> Vec<StageReport> {
    board.begin(Stage::Last, left);
    let started = Instant::now();
    while !board.is_idle() {
        assert!(started.elapsed() < left + Duration::from_secs(10), "it does not end");
        thread::sleep(Duration::from_millis(1));
    }
    board.take_reports()
}

fn results(reports: &[StageReport]) -> Vec<(&str, StageResult)> {
    reports.iter().map(|report| (report.name.as_ref(), report.result)).collect()
}

fn shell(name: &str, script: &str) -> Resource {
    Resource::command(name, Stage::Last, ["sh", "-c", script].map(str::to_owned).to_vec())
}

const LONG: Duration = Duration::from_secs(60);

/// Rule 8: stages in order, and in a stage the order of registration, whatever that was between
/// stages.
#[test]
fn stages_come_in_order_and_one_resource_after_the_other() {
    let (board, order) = (Board::default(), Arc::new(Mutex::new(Vec::new())));
    for (index, stage) in Stage::ALL.into_iter().rev().flat_map(|s| [(1, s), (2, s)]) {
        if stage == Stage::Background {
            continue;
        }
        let order = Arc::clone(&order);
        let close = move || {
            thread::sleep(Duration::from_millis(2));
            order.lock().unwrap().push(format!("{stage}:{index}"));
            Ok(Statistics::none())
        };
        board.register(Resource::blocking(index.to_string(), stage, close)).unwrap();
    }
    let reports = close(&board, LONG);
    let names: Vec<_> = reports.iter().map(|report| report.name.to_string()).collect();
    assert_eq!(*order.lock().unwrap(), names);
    assert_eq!(names[..3], ["before:1", "before:2", "cache:1"]);
    assert_eq!((names.len(), names.last().unwrap().as_str()), (10, "last:2"));
}

/// Cargo tells tests the name of the package by a variable, which stands for any here.
#[test]
fn a_command_knows_of_the_environment_what_it_asks_for() {
    let board = Board::default();
    let is_empty = "test -z \"$CARGO_PKG_NAME\"";
    board.register(shell("modest", is_empty)).unwrap();
    let asks = shell("asks", is_empty).environment(vec!["CARGO_PKG_NAME".to_owned()]);
    board.register(asks).unwrap();
    let reports = close(&board, LONG);
    assert_eq!(
        results(&reports),
        [("last:modest", StageResult::Done), ("last:asks", StageResult::Failed)]
    );
}

/// S1.6 to S1.8: each is told before any is waited for.
#[test]
fn background_tasks_end_beside_each_other() {
    let board = Board::default();
    let (meet, barrier) = (6, Arc::new(std::sync::Barrier::new(6)));
    for task in 0..meet {
        let barrier = Arc::clone(&barrier);
        // One after the other they would never meet.
        let close = move || {
            barrier.wait();
            Ok(Statistics::none())
        };
        board.register(Resource::blocking(task.to_string(), Stage::Background, close)).unwrap();
    }
    let reports = close(&board, LONG);
    assert!(reports.iter().all(|report| report.result == StageResult::Done), "{reports:?}");
    assert_eq!(reports.len(), meet);
}

/// S1.49: what fails, panics or hangs is reported, and the next one is closed.
#[test]
fn nothing_that_goes_wrong_stops_the_sequence() {
    let board = Board::default();
    let short = Duration::from_millis(50);
    let (dropped, is_dropped) = crossbeam_channel::bounded::<()>(0);
    for resource in [
        Resource::blocking("fails", Stage::Cache, || Err("it is full".into())),
        Resource::blocking("panics", Stage::Cache, || panic!("on purpose")),
        Resource::blocking("hangs", Stage::Cache, || {
            thread::sleep(LONG);
            Ok(Statistics::none())
        })
        .timeout(short),
        Resource::future("never", Stage::Database, async move {
            std::future::pending::<()>().await;
            drop(dropped);
            Ok(Statistics::none())
        })
        .timeout(short),
        Resource::command("absent", Stage::External, vec!["/does/not/exist".to_owned()]),
        Resource::blocking("closes", Stage::Last, || Ok(Statistics::none().with("Hits", 3))),
    ] {
        board.register(resource).unwrap();
    }
    let reports = close(&board, LONG);
    assert_eq!(
        results(&reports),
        [
            ("cache:fails", StageResult::Failed),
            ("cache:panics", StageResult::Failed),
            ("cache:hangs", StageResult::TimedOut),
            ("database:never", StageResult::TimedOut),
            ("external:absent", StageResult::Failed),
            ("last:closes", StageResult::Done),
        ]
    );
    assert_eq!(reports[0].detail.as_deref(), Some("it is full"));
    assert!(reports[4].detail.as_ref().unwrap().starts_with("it cannot be started: "));
    assert_eq!(reports[5].detail.as_deref(), Some("Hits: 3"));
    let gone = is_dropped.recv_timeout(Duration::from_secs(5));
    assert!(gone.unwrap_err().is_disconnected(), "a future that is given up is dropped");
}

/// Rule 2: all times shrink to what is left, and nobody is left out.
#[test]
fn under_a_short_deadline_everybody_has_a_part() {
    let board = Board::default();
    for name in ["one", "two", "three"] {
        let hang = || {
            thread::sleep(LONG);
            Ok(Statistics::none())
        };
        board.register(Resource::blocking(name, Stage::Last, hang)).unwrap();
    }
    board.register(shell("quick", "true").timeout(LONG)).unwrap();
    let started = Instant::now();
    let reports = close(&board, Duration::from_millis(2_000));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(reports.len(), 4);
    assert_eq!(reports[3].result, StageResult::Done, "{reports:?}");
}

#[test]
fn a_command_that_takes_too_long_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("child");
    let script = format!(
        "sleep 600 & echo $! > {}; echo first >&2; echo 'still at it' >&2; wait",
        file.display()
    );
    let board = Board::default();
    board.register(shell("stuck", &script).timeout(Duration::from_millis(1_500))).unwrap();
    let reports = close(&board, LONG);
    assert_eq!(results(&reports), [("last:stuck", StageResult::TimedOut)]);
    assert_eq!(reports[0].detail.as_deref(), Some("still at it"));
    let child = std::fs::read_to_string(&file).unwrap();
    let stat = format!("/proc/{}/stat", child.trim());
    let started = Instant::now();
    // Killed, it may be a zombie until somebody takes note.
    let lives = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
    while lives() {
        assert!(started.elapsed() < Duration::from_secs(5), "what it started is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_command_fails_with_its_code_and_its_last_line() {
    let board = Board::default();
    board.register(shell("fails", "echo one >&2; echo 'no such node' >&2; exit 3")).unwrap();
    board.register(shell("noisy", "head -c 1000000 /dev/zero >&2; exit 0")).unwrap();
    let reports = close(&board, LONG);
    let results = results(&reports);
    assert_eq!(results, [("last:fails", StageResult::Failed), ("last:noisy", StageResult::Done)]);
    let detail = reports[0].detail.as_deref().unwrap();
    assert!(detail.contains('3') && detail.ends_with(": no such node"), "{detail}");
}

#[test]
fn names_are_one_of_a_kind_and_nothing_is_taken_that_would_not_be_closed() {
    let board = Board::default();
    let resource = |stage| Resource::blocking("one", stage, || Ok(Statistics::none()));
    board.register(resource(Stage::Before)).unwrap();
    board.register(resource(Stage::Last)).unwrap();
    let taken = board.register(resource(Stage::Last));
    assert_eq!(taken, Err(NotRegistered::NameTaken("one".to_owned())));
    board.begin(Stage::Before, LONG);
    assert_eq!(board.register(resource(Stage::Before)), Err(NotRegistered::TooLate));
    board.register(resource(Stage::Cache)).unwrap();
    for number in 0.. {
        let more = Resource::blocking(number.to_string(), Stage::Last, || Ok(Statistics::none()));
        if board.register(more) == Err(NotRegistered::TooMany) {
            break;
        }
        assert!(number < 1_000, "there is no bound");
    }
}
