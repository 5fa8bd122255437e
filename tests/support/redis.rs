//! A Redis of a test's own: the real server, on an address of its own on loopback, empty.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::eventually;

/// A running Redis, or one that is stopped for a while.
pub(crate) struct Redis {
    child: Option<Child>,
    first_arguments: Vec<String>,
    arguments: Vec<String>,
    password: Option<String>,
    address: Ipv4Addr,
    directory: TempDir,
}

impl Redis {
    /// Starts an empty one.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts an empty one with these arguments.
    #[track_caller]
    pub(crate) fn with(arguments: &[&str]) -> Self {
        let mut redis = Self::stopped();
        redis.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let password = arguments.iter().position(|&argument| argument == "--requirepass");
        redis.password = password.map(|at| arguments[at + 1].to_owned());
        redis.start_again();
        redis
    }

    /// Starts an empty one that is reached with TLS as well. Its certificate is signed by itself.
    #[track_caller]
    pub(crate) fn with_tls() -> Self {
        let mut redis = Self::stopped();
        let name = format!("subjectAltName=IP:{}", redis.address);
        let mut openssl = Command::new("openssl");
        openssl.args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=redis",
        ]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext", &name]);
        openssl.arg("-keyout").arg(redis.path("key")).arg("-out").arg(redis.path("certificate"));
        let made = openssl.stdin(Stdio::null()).stderr(Stdio::null()).status();
        assert!(made.expect("openssl; scripts/test installs it").success());
        let (key, certificate) = (redis.path("key"), redis.certificate());
        let arguments = [
            ["--tls-port", "6380"],
            ["--tls-auth-clients", "no"],
            ["--tls-key-file", &key],
            ["--tls-cert-file", &certificate],
            ["--tls-ca-cert-file", &certificate],
        ];
        redis.arguments = arguments.iter().flatten().map(|&text| text.to_owned()).collect();
        redis.start_again();
        redis
    }

    /// Starts a Sentinel that watches nothing.
    #[track_caller]
    pub(crate) fn sentinel() -> Self {
        let mut redis = Self::stopped();
        let configuration = redis.path("sentinel.conf");
        std::fs::write(&configuration, "").expect("a file");
        redis.first_arguments = vec![configuration, "--sentinel".to_owned()];
        redis.start_again();
        redis
    }

    /// One that is yet to be started. Its address is that of no other test: the port stays free
    /// while it is stopped.
    pub(crate) fn stopped() -> Self {
        static COUNT: AtomicU16 = AtomicU16::new(1);
        let [high, low] = (std::process::id() as u16).to_be_bytes();
        let count = COUNT.fetch_add(1, Ordering::Relaxed) as u8;
        let address = Ipv4Addr::new(127, 64 + high % 128, low, count);
        let directory = tempfile::tempdir().expect("a directory");
        let first_arguments = Vec::new();
        Self {
            child: None,
            first_arguments,
            arguments: Vec::new(),
            password: None,
            address,
            directory,
        }
    }

    /// Starts it, empty; waits until it answers.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        assert!(self.child.is_none(), "it runs");
        let mut command = Command::new("redis-server");
        command.args(&self.first_arguments);
        command.args(["--bind", &self.address.to_string(), "--port", "6379"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(self.directory.path());
        command.arg("--unixsocket").arg(self.socket()).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        self.child = Some(child.expect("redis-server; scripts/test installs it"));
        eventually("Redis answers", || self.try_ask(&["ping"]).contains("PONG"));
    }

    /// Kills it; what it knew is gone.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("a child");
        child.wait().expect("a child");
    }

    /// Makes it stand still (SIGSTOP); connections stay, and new ones are made by the kernel.
    #[track_caller]
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    #[track_caller]
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it takes the signal");
    }

    /// The setting that leads a server here.
    pub(crate) fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis.url=redis://:{password}@{}", self.address),
            None => format!("redis.url=redis://{}", self.address),
        }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        (self.address, 6379).into()
    }

    /// Makes it a replica of another one, and waits until it has what that one has.
    #[track_caller]
    pub(crate) fn follow(&self, master: &Self) {
        self.ask(&["replicaof", &master.address.to_string(), "6379"]);
        eventually("it follows", || self.ask(&["role"]).contains("connected"));
    }

    /// Makes a directory where it would write this file.
    pub(crate) fn block(&self, name: &str) {
        std::fs::create_dir(self.path(name)).expect("a directory");
    }

    /// Clients that are connected, this question's own not among them.
    #[track_caller]
    pub(crate) fn clients(&self) -> usize {
        let list = self.ask(&["client", "list", "type", "normal"]);
        let pubsub = self.ask(&["client", "list", "type", "pubsub"]);
        list.lines().chain(pubsub.lines()).filter(|line| line.contains("addr=")).count() - 1
    }

    /// The same, through its socket in the file system.
    pub(crate) fn unix_url(&self) -> String {
        format!("redis.url=unix://{}", self.socket())
    }

    /// The same, with TLS.
    pub(crate) fn tls_url(&self) -> String {
        format!("redis.url=rediss://{}:6380", self.address)
    }

    /// The certificate of one that has TLS: a path.
    pub(crate) fn certificate(&self) -> String {
        self.path("certificate")
    }

    fn socket(&self) -> String {
        self.path("socket")
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    /// The answer to a command, a line for each element.
    #[track_caller]
    pub(crate) fn ask(&self, command: &[&str]) -> String {
        let answer = self.try_ask(command);
        assert!(!answer.contains("ERR"), "{command:?}: {answer}");
        answer
    }

    /// A field of a hash, as a number; 0 if it is not there.
    #[track_caller]
    pub(crate) fn number(&self, key: &str, field: &str) -> u64 {
        let key = format!("{{tidegate:default}}:{key}");
        self.ask(&["hget", &key, field]).trim().parse().unwrap_or(0)
    }

    /// Publishes these bytes on a channel of the cluster.
    #[track_caller]
    pub(crate) fn publish(&self, channel: &str, bytes: &[u8]) {
        let mut client = Command::new("redis-cli");
        client.args(["-h", &self.address.to_string(), "-x", "publish"]);
        client.arg(format!("{{tidegate:default}}:{channel}"));
        let mut client =
            client.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("redis-cli");
        client.stdin.take().expect("a pipe").write_all(bytes).expect("redis-cli reads");
        assert!(client.wait().expect("a child").success());
    }

    fn try_ask(&self, command: &[&str]) -> String {
        let mut client = Command::new("redis-cli");
        client.args(["-h", &self.address.to_string(), "--no-auth-warning"]);
        if let Some(password) = &self.password {
            client.args(["-a", password]);
        }
        let output = client.args(command).stdin(Stdio::null()).output();
        String::from_utf8(output.expect("redis-cli").stdout).expect("UTF-8")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended already; either way it is gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
