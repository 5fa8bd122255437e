//! The deadline of a shutdown holds whatever hangs: the process ends with code 70, and its last line
//! says what had not ended.

use std::time::{Duration, Instant};

use crate::support::leaving::{bye, clients, close, notice};
use crate::support::server::{Server, text};
use crate::support::wire::Client;
use crate::support::{eventually, http};
use rustix::process::Signal;
use serde_json::{Value, json};

/// What the end may take beyond a deadline: the second that is documented, and a busy machine.
const GRACE: Duration = Duration::from_millis(1_000 + 1_500);

/// Longer than any test waits.
const FOR_EVER_MS: u64 = 120_000;

/// A server with two shards, a deadline of two seconds, and these settings.
fn start(settings: &[&str]) -> Server {
    let mut all = vec!["server.shards=2", "debug.fault_injection=true"];
    all.extend(["shutdown.deadline_ms=2000", "shutdown.notice_ms=50", "shutdown.drain_ms=800"]);
    all.extend(["shutdown.close_timeout_ms=400", "shutdown.force_timeout_ms=1500"]);
    all.extend(settings);
    Server::start(&all)
}

/// A thread stands still from now on.
fn hang(server: &Server, thread: &str) {
    stall(server, json!({ "thread": thread }));
}

fn hang_shard(server: &Server, shard: usize) {
    stall(server, json!({ "shard": shard }));
}

fn stall(server: &Server, mut fault: Value) {
    fault["fault"] = json!("stall");
    fault["ms"] = json!(FOR_EVER_MS);
    http::post(server.admin, "/api/v1/debug/fault", &fault);
}

const DEADLINE: Duration = Duration::from_secs(2);

/// The exit code and the last line of a server that ends within `bound` after `since`.
#[track_caller]
fn ended(server: &mut Server, since: Instant, bound: Duration) -> (Option<i32>, Value) {
    let left = (bound + GRACE).saturating_sub(since.elapsed());
    let code = server.wait_at_most(left).code();
    (code, server.last_line())
}

/// A server that was told to end at `since` ends at its deadline, and its last line says what had
/// not ended.
#[track_caller]
fn is_overdue(server: &mut Server, since: Instant, not_done: &str) {
    let (code, last) = ended(server, since, DEADLINE);
    assert_eq!((code, &last["exit_code"]), (Some(70), &json!(70)), "{last}");
    assert_eq!((text(&last, "not_done"), text(&last, "level")), (not_done, "ERROR"), "{last}");
}

fn terminate(server: &Server) -> Instant {
    server.signal(Signal::TERM);
    Instant::now()
}

/// Everybody is told, and leaves in order.
#[track_caller]
fn all_leave(clients: &mut [Client]) {
    for client in clients {
        notice(client);
        bye(client, 0);
        close(client);
    }
}

#[test]
fn with_a_coordinator_that_hangs_a_signal_still_ends_the_process() {
    let mut server = start(&[]);
    let _clients = clients(&server, 10);
    hang(&server, "coordinator");
    let since = terminate(&server);
    is_overdue(&mut server, since, "coordinator");
}

#[test]
fn a_coordinator_that_hangs_in_the_middle_of_a_drain_does_not_hold_it() {
    // Begun by an operator: no signal, and nobody asks again.
    let mut server = start(&["drain_operator.deadline_ms=2000", "drain_operator.drain_ms=1200"]);
    let _clients = clients(&server, 10);
    http::post(server.admin, "/api/v1/shutdown/shutdown", &json!({}));
    let since = Instant::now();
    hang(&server, "coordinator");
    is_overdue(&mut server, since, "coordinator");
}

#[test]
fn a_second_signal_ends_the_process_although_the_coordinator_hangs() {
    let mut server = start(&["shutdown.deadline_ms=600000"]);
    let _clients = clients(&server, 10);
    hang(&server, "coordinator");
    server.signal(Signal::TERM);
    // Not at once: two signals that come together are one to the kernel.
    std::thread::sleep(Duration::from_millis(200));
    let since = terminate(&server);
    let (code, last) = ended(&mut server, since, Duration::from_secs(5));
    assert_eq!((code, &last["exit_code"]), (Some(75), &json!(75)), "{last}");
    assert_eq!(text(&last, "not_done"), "coordinator");
}

#[test]
fn shards_that_hang_beside_it_are_named_too() {
    let mut server = start(&[]);
    let _clients = clients(&server, 40);
    hang_shard(&server, 1);
    hang(&server, "coordinator");
    let since = terminate(&server);
    is_overdue(&mut server, since, "coordinator, shard 1");
}

#[test]
fn a_shard_that_hangs_is_named() {
    let mut server = start(&[]);
    let _clients = clients(&server, 40);
    hang_shard(&server, 0);
    let since = terminate(&server);
    is_overdue(&mut server, since, "shard 0");
}

#[test]
fn an_admin_thread_that_hangs_is_named_and_delays_no_client() {
    let mut server = start(&[]);
    let mut clients = clients(&server, 20);
    hang(&server, "admin");
    eventually("what answers all but probes stands still", || {
        let request =
            b"GET /health/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut stream = std::net::TcpStream::connect(server.admin).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        std::io::Write::write_all(&mut stream, request).unwrap();
        std::io::Read::read(&mut stream, &mut [0]).is_err()
    });
    let since = terminate(&server);
    all_leave(&mut clients);
    is_overdue(&mut server, since, "admin listener");
    let words = server.wait_for_log("Graceful shutdown completed");
    assert!(text(&words, "outcomes").contains("\"close_acknowledged\":20"), "{words}");
}

#[test]
fn a_log_writer_that_hangs_is_named_past_it() {
    let mut server = start(&[]);
    let mut clients = clients(&server, 20);
    hang(&server, "log");
    let since = terminate(&server);
    all_leave(&mut clients);
    is_overdue(&mut server, since, "log writer");
}

#[test]
fn a_thread_of_resources_that_hangs_is_named() {
    let hook = json!([{ "name": "last words", "command": ["true"] }]);
    let mut server = start(&[&format!("shutdown.hooks={hook}")]);
    hang(&server, "resources");
    let since = terminate(&server);
    is_overdue(&mut server, since, "resources");
}

/// A hook can stop itself and what it has started; SIGKILL ends both, in the hook's time.
#[test]
fn a_hook_that_is_stopped_is_killed_with_its_group_in_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let child = directory.path().join("child");
    let script =
        format!("sleep 600 & echo $! > {0}.new; mv {0}.new {0}; kill -STOP $! $$", child.display());
    let hook = json!([{ "name": "stopped", "command": ["sh", "-c", script], "timeout_ms": 500 }]);
    let mut server = start(&[&format!("shutdown.hooks={hook}")]);
    let since = terminate(&server);
    let (code, last) = ended(&mut server, since, DEADLINE);
    assert_eq!((code, text(&last, "resources")), (Some(74), "last:stopped"), "{last}");
    assert_eq!(server.wait_for_log("Stopped: closing timed out")["resource"], "stopped");
    let child: u32 = std::fs::read_to_string(child).unwrap().trim().parse().unwrap();
    eventually("what the hook had started is gone", || {
        // A process that nobody waits for any more may remain as a name.
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        !status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
    });
}

/// A shutdown that was cancelled has no deadline any more, and the next one has its own.
#[test]
fn a_cancelled_shutdown_has_no_deadline() {
    let settings = ["shutdown.deadline_ms=1500", "shutdown.pre_drain_delay_ms=1000"];
    let mut server = start(&settings);
    server.signal(Signal::TERM);
    server.wait_for_log("Received signal 15");
    http::post(server.admin, "/api/v1/shutdown/cancel", &json!({}));
    let cancelled = Instant::now();
    while cancelled.elapsed() < Duration::from_millis(1_500 + 1_000 + 500) {
        assert!(server.is_running(), "the deadline of what was cancelled has ended it");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(server.drain().0, Some(0));
}
