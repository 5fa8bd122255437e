//! A start that fails half-way takes back what it has begun: whichever thread or descriptor cannot
//! be had, the error comes in bounded time and no thread, descriptor or port is left behind.
//!
//! Nothing is injected: the process is given one thread more, or one descriptor more, from one try
//! to the next, until the server starts.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, Uid, getrlimit, kill_process, setrlimit};
use rustix::thread::set_thread_res_uid;
use tidegate::config::{Config, Secret};
use tidegate::{Handle, NotStarted};

use crate::support::server;
use crate::support::{eventually, redis};

/// Until an error on a busy machine: a shutdown of a second, and threads that wait for Redis.
const BOUND: Duration = Duration::from_secs(15);

/// More tries than a server has threads, or descriptors.
const TRIES: u64 = 150;

/// Threads, descriptors and limits are those of the process.
fn alone_in_the_process() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

fn config() -> Config {
    let mut config = Config::default();
    config.server.listen = "127.0.0.1:0".parse().unwrap();
    config.admin.listen = "127.0.0.1:0".parse().unwrap();
    config.server.shards = 3;
    config.shutdown.notice_ms = 50;
    config
}

fn start(config: &Config) -> Result<Handle, NotStarted> {
    tidegate::Server::new(config.clone()).catches_signals().start()
}

/// The threads of servers in this process.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("tidegate-")).collect()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// An address that nobody listens on, so that a port that is kept shows.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A user that nobody else is. Root's threads are not limited.
fn own_user() -> Option<Uid> {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("not tested: a limit on threads needs a user of its own, and so root");
    }
    is_root.then(|| Uid::from_raw(20_000 + std::process::id() % 20_000))
}

/// A user for each try, because the locked memory of one comes back late.
fn another(first: Uid, number: u64) -> Uid {
    Uid::from_raw(first.as_raw() + number as u32 * 100)
}

/// Sets a soft limit of this process; the hard one stays.
fn limit(resource: Resource, soft: Option<u64>) -> Rlimit {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: soft, maximum: before.maximum }).unwrap();
    before
}

/// Tries to start with more and more of what `start` is given, until it does; returns the errors
/// in order, after each of which nothing is left.
fn errors(config: &Config, start: impl Fn(u64) -> Result<Handle, NotStarted>) -> Vec<String> {
    let before = descriptors();
    let mut errors = Vec::new();
    for given in 0..TRIES {
        let begun = Instant::now();
        match start(given) {
            Ok(server) => {
                server.shutdown(BOUND).unwrap();
                eventually("its threads end", || threads().is_empty());
                return errors;
            }
            Err(error) => errors.push(error.to_string()),
        }
        let said = errors.last().unwrap();
        assert!(begun.elapsed() < BOUND, "{:?}: {said}", begun.elapsed());
        // What has been joined may still be listed for a moment.
        let soon = Instant::now() + Duration::from_millis(500);
        while !threads().is_empty() && Instant::now() < soon {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(threads(), Vec::<String>::new(), "with {given}: {said}");
        eventually("descriptors are closed", || descriptors() <= before);
        for address in [config.server.listen, config.admin.listen] {
            eventually("the port is free", || TcpListener::bind(address).is_ok());
        }
    }
    panic!("{TRIES} are not enough: {errors:?}");
}

/// What the errors are about, in the order in which each is first met.
fn subjects(errors: &[String]) -> Vec<&str> {
    let mut subjects = Vec::new();
    for error in errors {
        let subject = error.split(": ").next().unwrap();
        if !subjects.contains(&subject) {
            subjects.push(subject);
        }
    }
    subjects
}

#[test]
fn whichever_thread_cannot_be_made_nothing_is_left() {
    let _alone = alone_in_the_process();
    let Some(first) = own_user() else { return };
    let redis = redis::Redis::start();
    let url = redis.url();
    let mut config = config();
    (config.server.listen, config.admin.listen) = (free_address(), free_address());
    config.redis.url = Some(Secret::new(url.strip_prefix("redis.url=").unwrap().to_owned()));
    // What is made once for a process is there before descriptors are counted.
    start(&config).unwrap().shutdown(BOUND).unwrap();
    eventually("its threads end", || threads().is_empty());
    let errors = errors(&config, |given| {
        // The thread that tries is one of those that the user may have.
        let limited = limit(Resource::Nproc, Some(1 + given));
        let user = another(first, given);
        let tried = std::thread::scope(|scope| {
            let try_it = || {
                set_thread_res_uid(user, user, user).unwrap();
                start(&config)
            };
            scope.spawn(try_it).join().unwrap()
        });
        setrlimit(Resource::Nproc, limited).unwrap();
        tried
    });
    let order = [
        "deadline thread",
        "signals cannot be caught",
        "first thread",
        "shard thread",
        "pressure thread",
        "Redis thread",
    ];
    // Threads that connect to Redis come and go from here on, and take the place of others.
    let last = ["sessions thread", "admin listener", "coordinator thread"];
    let subjects = subjects(&errors);
    let (first, rest) = subjects.split_at(order.len());
    assert_eq!(first, order, "{errors:?}");
    assert!(!rest.is_empty() && rest.iter().all(|one| last.contains(one)), "{errors:?}");
    let shards = errors.iter().filter(|error| error.starts_with("shard thread")).count();
    assert!(shards >= config.server.shards - 1, "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("ulimit -u")), "{errors:?}");
}

#[test]
fn whichever_descriptor_cannot_be_had_nothing_is_left() {
    let _alone = alone_in_the_process();
    const TABLE: u64 = 2_048;
    let mut config = config();
    (config.server.listen, config.admin.listen) = (free_address(), free_address());
    let whole = getrlimit(Resource::Nofile);
    // A server raises the soft limit to the hard one.
    setrlimit(Resource::Nofile, Rlimit { current: Some(TABLE), maximum: Some(TABLE) }).unwrap();
    let restorable = setrlimit(Resource::Nofile, whole).is_ok();
    setrlimit(Resource::Nofile, Rlimit { current: Some(TABLE), maximum: Some(TABLE) }).unwrap();
    start(&config).unwrap().shutdown(BOUND).unwrap();
    eventually("its threads end", || threads().is_empty());
    let errors = errors(&config, |given| {
        let mut all: Vec<File> =
            std::iter::from_fn(|| File::open("/dev/null").ok()).take(TABLE as usize).collect();
        all.truncate(all.len() - given as usize);
        start(&config)
    });
    if restorable {
        setrlimit(Resource::Nofile, whole).unwrap();
    }
    // Before the listeners, for each of them, for the rings, and for what stands around.
    assert!(errors.len() > 2 * config.server.shards, "{errors:?}");
    for part in ["server.listen", "admin.listen", "io_uring", "admin listener"] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
    }
    assert!(errors.iter().all(|error| error.contains("ulimit -n")), "{errors:?}");
}

/// What a process said that may have so many threads, and the code with which it ended; it is told
/// to end once it serves.
fn serve_with(threads: u64, binary: &Path, user: Uid) -> (Vec<String>, Option<i32>) {
    let server = server::command(&["server.shards=2", "shutdown.notice_ms=50"]);
    let notified = binary.with_file_name("notify");
    let mut child = Command::new("/bin/bash")
        .args(["-c", "ulimit -u \"$0\" && exec \"$@\""])
        .arg(threads.to_string())
        .arg(binary)
        .args(server.get_args())
        .env_clear()
        .env("NOTIFY_SOCKET", notified)
        .env("WATCHDOG_USEC", "60000000")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .uid(user.as_raw())
        .gid(user.as_raw())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    let (said, lines) = channel();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let reading = std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if line.contains("Tidegate serves WebSocket clients") {
                kill_process(pid, Signal::TERM).unwrap();
            }
            said.send(line).unwrap();
        }
    });
    let begun = Instant::now();
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        if begun.elapsed() > BOUND {
            child.kill().unwrap();
            panic!("with {threads} threads it neither starts nor ends: {:?}", lines.try_iter());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    reading.join().unwrap();
    (lines.try_iter().collect(), code)
}

#[test]
fn a_process_ends_by_itself_whichever_thread_it_cannot_have() {
    let Some(first) = own_user() else { return };
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let binary = directory.path().join("tidegate");
    std::fs::copy(env!("CARGO_BIN_EXE_tidegate"), &binary).unwrap();
    let notified = directory.path().join("notify");
    let _service_manager = UnixDatagram::bind(&notified).unwrap();
    std::fs::set_permissions(&notified, PermissionsExt::from_mode(0o777)).unwrap();
    let mut missed = Vec::new();
    for threads in 1..TRIES {
        let (said, code) = serve_with(threads, &binary, another(first, threads));
        if code == Some(0) {
            break;
        }
        let last = said.last().cloned().unwrap_or_default();
        assert_eq!(code, Some(69), "{said:#?}");
        let event: serde_json::Value = serde_json::from_str(&last).expect("an event in JSON");
        missed.push(server::text(&event, "message").to_owned());
    }
    let order = [
        "log thread",
        "deadline thread",
        "signals cannot be caught",
        "first thread",
        "shard thread",
        "pressure thread",
        "sessions thread",
        "admin listener",
        "coordinator thread",
        "watchdog thread",
    ];
    assert_eq!(subjects(&missed), order, "{missed:?}");
}
