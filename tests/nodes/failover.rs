//! Links to Redis follow its name: when it leads to another server, whatever becomes of the old one,
//! publications and counts go to the new one within seconds, and until then every answer is true.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::figures::metric;
use crate::support::forwarder::Forwarder;
use crate::support::redis::Redis;
use crate::support::server::{Server, command};
use crate::support::wire::{Client, Next};
use crate::support::{PATIENCE, eventually, http};

fn settings(url: &str, id: &str) -> [String; 5] {
    [
        "server.shards=1".to_owned(),
        "shutdown.notice_ms=10".to_owned(),
        "redis.flush_interval_ms=200".to_owned(),
        format!("redis.url={url}"),
        format!("redis.node_id={id}"),
    ]
}

fn command_for(url: &str, id: &str) -> Command {
    let settings = settings(url, id);
    command(&settings.each_ref().map(String::as_str))
}

#[track_caller]
fn two_nodes(start: impl Fn(&str) -> Server) -> [Server; 2] {
    let nodes = ["one", "other"].map(start);
    for node in &nodes {
        eventually("both ways are up", || links(node) == (true, true));
        eventually("the other is heard", || metric(node, "tidegate_cluster_publishers") == 1);
        eventually("it is counted", || redis_of(node)["nodes"] == 2);
    }
    nodes
}

#[track_caller]
fn behind(forwarder: &Forwarder) -> [Server; 2] {
    let url = format!("redis://{}", forwarder.address());
    two_nodes(|id| Server::from_command(command_for(&url, id)))
}

#[track_caller]
fn redis_of(node: &Server) -> Value {
    let status: Value = serde_json::from_str(&http::get(node.admin, "/health/status")).unwrap();
    status["redis"].clone()
}

/// Whether publications go out and come in.
#[track_caller]
fn links(node: &Server) -> (bool, bool) {
    let is_up = |direction: &str| {
        metric(node, &format!("tidegate_cluster_link{{direction=\"{direction}\"}}")) == 1
    };
    (is_up("out"), is_up("in"))
}

#[track_caller]
fn publish(node: &Server, number: u64) -> Value {
    let body = json!({ "channel": "news", "data": number });
    http::post(node.admin, "/api/publish", &body)["result"].clone()
}

fn says(node: &Server, part: &str) -> usize {
    let has = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(part));
    node.log().iter().filter(|event| has(event)).count()
}

/// Publications of one node, and which of them a client of the other one has heard.
struct Stream<'a> {
    from: &'a Server,
    listener: Client,
    next: u64,
    /// Numbers whose answer was that the cluster has them.
    promised: Vec<u64>,
    heard: Vec<u64>,
}

impl<'a> Stream<'a> {
    fn new(from: &'a Server, to: &Server) -> Self {
        let listener = Client::connect(to.clients, "/ws?channel=news");
        Self { from, listener, next: 0, promised: Vec::new(), heard: Vec::new() }
    }

    /// One more, and what the listener has heard meanwhile.
    fn publish(&mut self) -> Value {
        let answer = publish(self.from, self.next);
        if answer["scope"] == "cluster" {
            self.promised.push(self.next);
        }
        self.next += 1;
        self.listen(Duration::from_millis(20));
        answer
    }

    fn listen(&mut self, patience: Duration) {
        while let Some(Next::Frame(frame)) = self.listener.next_within(patience) {
            self.heard.push(frame.text().parse().unwrap());
        }
    }

    /// Publishes until one that was published after everything else is heard.
    #[track_caller]
    fn publish_until_heard(&mut self) {
        let started = Instant::now();
        loop {
            let last = self.next;
            self.publish();
            if self.heard.last() == Some(&last) {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "not heard: {last} of {:?}", self.heard);
        }
    }

    /// Nothing was heard twice or out of order, and what was not heard is counted by `to`.
    #[track_caller]
    fn adds_up(&self, to: &Server) {
        assert!(self.heard.is_sorted_by(|a, b| a < b), "{:?}", self.heard);
        let missed = || metric(to, "tidegate_cluster_publications_missed_total");
        let silent = self.next - self.heard.len() as u64;
        eventually("what is missing is counted", || missed() == silent);
    }
}

/// Everything that the nodes do is done at `new`, and nothing at `old`.
#[track_caller]
fn have_moved(nodes: &[Server; 2], old: &Redis, new: &Redis) {
    for node in nodes {
        eventually("both ways are up", || links(node) == (true, true));
        eventually("it is counted there", || {
            let status = redis_of(node);
            status["status"] == "ok" && status["nodes"] == 2
        });
    }
    eventually("nobody is left at the old one", || old.clients() == 0);
    assert_eq!(new.ask(&["exists", "{tidegate:default}:lease:one"]).trim(), "1");
    let listening = new.ask(&["pubsub", "numsub", "{tidegate:default}:publications"]);
    assert!(listening.lines().last().unwrap().parse::<u64>().unwrap() >= 2, "{listening}");
}

/// The name moves, and the old master becomes a replica of the new one, as Sentinel does it. What
/// is published in between is answered as it is.
#[test]
fn publications_follow_a_name_whose_old_master_becomes_a_replica() {
    let (old, new) = (Redis::start(), Redis::start());
    let forwarder = Forwarder::to(old.address());
    let nodes = behind(&forwarder);
    let mut stream = Stream::new(&nodes[0], &nodes[1]);
    stream.publish_until_heard();
    let witness = Witness::at(&new);
    forwarder.lead_to(new.address());
    old.follow(&new);
    let (first, before) = (stream.next, stream.promised.len());
    for _ in 0..20 {
        stream.publish();
    }
    stream.publish_until_heard();
    stream.listen(Duration::from_millis(200));
    stream.adds_up(&nodes[1]);
    have_moved(&nodes, &old, &new);
    for node in &nodes {
        assert!(says(node, "links to Redis are made anew") >= 1);
    }
    let seen = witness.numbers();
    let untrue = stream.promised[before..].iter().find(|number| !seen.contains(number));
    assert_eq!(untrue, None, "from {first} on answered as the cluster's; the new one has {seen:?}");
}

/// Hears what is published at one Redis.
struct Witness {
    heard: Arc<Mutex<Vec<u64>>>,
}

impl Witness {
    fn at(redis: &Redis) -> Self {
        let client = redis::Client::open(format!("redis://{}", redis.address())).unwrap();
        let heard = Arc::<Mutex<Vec<u64>>>::default();
        let numbers = Arc::clone(&heard);
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut connection = client.get_connection().unwrap();
            let mut subscription = connection.as_pubsub();
            subscription.subscribe("{tidegate:default}:publications").unwrap();
            ready.send(()).unwrap();
            // Until that Redis ends.
            while let Ok(message) = subscription.get_message() {
                let text = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                let number =
                    text.rsplit_once("news").and_then(|(_, number)| number.parse::<u64>().ok());
                numbers.lock().unwrap().extend(number);
            }
        });
        is_ready.recv().unwrap();
        Self { heard }
    }

    fn numbers(&self) -> Vec<u64> {
        self.heard.lock().unwrap().clone()
    }
}

/// A replica that has lost its master: nothing reaches it, and nothing leaves it.
#[test]
fn a_name_that_still_leads_to_a_replica_is_told_in_every_place() {
    let (old, new) = (Redis::start(), Redis::start());
    let forwarder = Forwarder::to(old.address());
    let nodes = behind(&forwarder);
    let mut own = Client::connect(nodes[0].clients, "/ws?channel=news");
    old.ask(&["replicaof", "127.0.0.1", "1"]);
    // The very next answer, and not only after a while.
    let answer = publish(&nodes[0], 0);
    assert_eq!(answer["scope"], "node", "{answer}");
    assert_eq!(own.frame().text(), "0", "its own clients have it");
    for node in &nodes {
        eventually("it is told", || {
            let redis = redis_of(node);
            let down = json!({ "up": false, "reason": "read_only" });
            let links = json!({ "out": down, "in": down });
            redis["links"] == links && redis["reason"] == "read_only"
        });
        assert_eq!(links(node), (false, false));
        let said = |event: &Value| event["remedy"].as_str().is_some_and(|r| r.contains("replica"));
        assert!(node.log().iter().any(said));
    }
    assert_eq!(publish(&nodes[0], 1), json!({ "scope": "node", "reason": "unavailable" }));
    forwarder.lead_to(new.address());
    have_moved(&nodes, &old, &new);
    assert_eq!(publish(&nodes[0], 2), json!({ "scope": "cluster" }));
}

/// HELLO may be hidden from clients, and so may ROLE.
#[test]
fn a_replica_is_known_however_it_can_be_asked() {
    for hidden in [&["HELLO"][..], &["HELLO", "ROLE"]] {
        let hidden: Vec<_> =
            hidden.iter().flat_map(|command| ["--rename-command", *command, ""]).collect();
        let (old, new) = (Redis::with(&hidden), Redis::start());
        let forwarder = Forwarder::to(old.address());
        let nodes = behind(&forwarder);
        old.ask(&["replicaof", "127.0.0.1", "1"]);
        assert_eq!(publish(&nodes[0], 0)["scope"], "node");
        forwarder.lead_to(new.address());
        have_moved(&nodes, &old, &new);
        assert_eq!(publish(&nodes[0], 1), json!({ "scope": "cluster" }));
    }
}

/// The old master lives on, cut off from the name alone: no error tells of it.
#[test]
fn links_follow_a_name_whose_old_master_goes_on_being_one() {
    let (old, new) = (Redis::start(), Redis::start());
    let forwarder = Forwarder::to(old.address());
    let nodes = behind(&forwarder);
    let mut stream = Stream::new(&nodes[0], &nodes[1]);
    stream.publish_until_heard();
    forwarder.lead_to(new.address());
    have_moved(&nodes, &old, &new);
    stream.publish_until_heard();
    stream.adds_up(&nodes[1]);
}

/// No connection ends and no address answers differently: only the name resolves to another one.
#[test]
fn links_follow_a_name_that_resolves_to_another_address() {
    let (old, new) = (Redis::start(), Redis::start());
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let resolve = |to: SocketAddr| {
        // In place: it is mounted.
        std::fs::write(&hosts, format!("{} redis.test\n", to.ip())).unwrap();
    };
    resolve(old.address());
    if !can_mount(&hosts) {
        eprintln!("not tested: no mount namespace can be made here");
        return;
    }
    let nodes = two_nodes(|id| {
        let served = command_for("redis://redis.test:6379", id);
        Server::from_command(with_hosts(&hosts, &served))
    });
    let mut stream = Stream::new(&nodes[0], &nodes[1]);
    stream.publish_until_heard();
    resolve(new.address());
    have_moved(&nodes, &old, &new);
    stream.publish_until_heard();
    stream.adds_up(&nodes[1]);
    for node in &nodes {
        let why = |event: &Value| event["why"] == "its name leads to other addresses";
        assert!(node.log().iter().any(why));
    }
}

/// `command` in a mount namespace of its own, in which this file is /etc/hosts.
fn with_hosts(hosts: &Path, command: &Command) -> Command {
    let mut inside = Command::new("unshare");
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-rm" };
    let script = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    inside.args([namespaces, "/bin/sh", "-c", script]).arg(hosts);
    inside.arg(command.get_program()).args(command.get_args());
    inside.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
    inside.stdout(Stdio::null());
    inside
}

fn can_mount(hosts: &Path) -> bool {
    let mut tried = with_hosts(hosts, &Command::new("true"));
    tried.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// Both ways work, and lead to two servers.
#[test]
fn ways_that_lead_to_different_servers_are_found_out_and_told() {
    let (one, other) = (Redis::start(), Redis::start());
    let forwarder = Forwarder::to(one.address());
    forwarder.split(one.address(), other.address());
    let url = format!("redis://{}", forwarder.address());
    let node = Server::from_command(command_for(&url, "one"));
    let unheard = json!({ "up": false, "reason": "unheard" });
    eventually("it is found out", || redis_of(&node)["links"]["in"] == unheard);
    let answer = publish(&node, 0);
    assert_eq!(answer, json!({ "scope": "node", "reason": "unheard" }), "Redis has taken it");
    assert_eq!(metric(&node, "tidegate_cluster_publications_sent_total{result=\"unheard\"}"), 1);
    let before = says(&node, "subscribing again");
    // Subscribing anew, in vain, changes nothing and is not told again.
    let connections = || one.ask(&["info", "stats"]);
    let many = |stats: String| {
        let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let (from, lag) = (many(connections()), Instant::now());
    while lag.elapsed() < Duration::from_secs(5) {
        assert_eq!(redis_of(&node)["links"]["in"], unheard);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(says(&node, "subscribing again"), before);
    let asked = lag.elapsed().as_millis() as u64 / 50;
    assert!(many(connections()) - from < 20 + asked, "it connects all the time");
    forwarder.lead_to(one.address());
    eventually("it is heard again", || links(&node) == (true, true));
    assert_eq!(publish(&node, 1), json!({ "scope": "cluster" }));
}

/// What a failover does to Redis never touches clients, nor does a name that leads nowhere.
#[test]
fn a_name_that_leads_nowhere_leaves_links_that_work_alone() {
    let redis = Redis::start();
    let forwarder = Forwarder::to(redis.address());
    let nodes = behind(&forwarder);
    let mut stream = Stream::new(&nodes[0], &nodes[1]);
    stream.publish_until_heard();
    // New connections are reset; those that there are go on.
    forwarder.lead_to((std::net::Ipv4Addr::LOCALHOST, 1).into());
    let said = "no new connection to Redis can be made";
    eventually("it is noticed", || says(&nodes[0], said) == 1);
    for _ in 0..20 {
        assert_eq!(stream.publish(), json!({ "scope": "cluster" }));
    }
    assert_eq!(links(&nodes[0]), (true, true));
    assert_eq!(redis_of(&nodes[0])["status"], "ok");
    forwarder.lead_to(redis.address());
    let said = "new connections to Redis can be made again";
    eventually("that is told", || says(&nodes[0], said) == 1);
    stream.publish_until_heard();
    assert_eq!(stream.heard.len() as u64, stream.next);
}
