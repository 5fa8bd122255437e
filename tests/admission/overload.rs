//! What the server does when it runs short: at its memory budget it refuses with 503 and is never
//! killed, and admits again when memory is free; while a shard stands still it lowers the rate,
//! and says so.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use crate::support::cgroup::Cgroup;
use crate::support::figures::metric;
use crate::support::server::{Server, command, text};
use crate::support::wire::{Client, End, Response, read_to_end};
use crate::support::{alone, eventually, http, socket};
use serde_json::{Value, json};

const LIMIT: u64 = 512 << 20;
/// What something else in the same cgroup takes: with what the server has of its own it is above
/// nine tenths of the limit.
const TAKEN: u64 = 462 << 20;

fn status(server: &Server) -> Value {
    let status: Value = serde_json::from_str(&http::get(server.admin, "/health/status")).unwrap();
    status["backpressure"]["pressure"].clone()
}

/// Another process of the cgroup, which holds [`TAKEN`] bytes until it is dropped.
struct Neighbour(Child);

impl Neighbour {
    fn begin(cgroup: &Cgroup) -> Self {
        let mut command = Command::new("/bin/sh");
        // What is at the end of the pipe cannot write what it has gathered, and so keeps it.
        let gather = format!("head -c {TAKEN} /dev/zero | tail -c {TAKEN}");
        command.args(["-c", gather.as_str()]);
        let mut command = cgroup.command(&command);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        drop(self.0.stdout.take());
        // It ends by SIGPIPE.
        self.0.wait().unwrap();
    }
}

/// The answer to a client that is not let in.
#[track_caller]
fn refused(server: &Server) -> Response {
    Client::try_connect(server.clients, "/echo").unwrap().err().expect("a refusal")
}

/// S0.69, S0.72.
#[test]
fn at_its_memory_budget_the_server_refuses_and_is_never_killed() {
    let _alone = alone();
    let cgroup = match Cgroup::with_memory(LIMIT) {
        Ok(cgroup) => cgroup,
        Err(why) => {
            eprintln!("NOT TESTED: no cgroup with a memory limit can be made here: {why}");
            return;
        }
    };
    let mut server = Server::from_command(cgroup.command(&command(&["server.shards=2"])));
    let mut witness = Client::connect(server.clients, "/echo");
    assert_eq!(status(&server)["memory_limit_bytes"], LIMIT);
    // The same twice: what was used is free again.
    for round in 1..=2 {
        let neighbour = Neighbour::begin(&cgroup);
        eventually("nobody enters", || status(&server)["level"] == 5);
        eventually("the shards know it", || {
            Client::try_connect(server.clients, "/echo").unwrap().is_err()
        });
        let all = server.log();
        let overloads = all.iter().filter(|event| {
            event["message"] == "overload: nobody new is admitted" && event["cause"] == "memory"
        });
        assert_eq!(overloads.count(), round);
        assert_eq!(status(&server)["admission_share_ratio"], 0.0);
        // It stays like that while the memory is taken, and whoever is in is served.
        for _ in 0..20 {
            let response = refused(&server);
            assert_eq!((response.status, response.header("retry-after")), (503, Some("5")));
            assert!(response.body().contains("server is overloaded"), "{response:?}");
            witness.echo("still here");
        }
        // Nothing is kept of a request that does not come at once.
        let mut slow = socket::connect(server.clients).unwrap();
        slow.write_all(b"GET /echo HTTP/1.1\r\n").unwrap();
        assert_eq!(read_to_end(&mut slow).unwrap(), (Vec::new(), End::Reset));
        assert_eq!(cgroup.oom_kills(), 0);
        drop(neighbour);
        eventually("the load is back to normal", || status(&server)["level"] == 0);
        println!("after round {round}: memory {:?}", cgroup.memory());
    }
    assert!(server.is_running());
    assert_eq!(cgroup.oom_kills(), 0);
    Client::connect(server.clients, "/echo").echo("admitted again");
    witness.echo("from the beginning to the end");
    let (code, _) = server.drain();
    assert_eq!(code, Some(0));
}

/// Has shard 0 stand still for two seconds; the shares that were logged with this beginning of the
/// message, and the least share of the server's rate meanwhile.
fn while_a_shard_stands_still(shards: usize, message: &str) -> (Vec<f64>, f64) {
    let shards = format!("server.shards={shards}");
    let settings = [&*shards, "debug.fault_injection=true", "admission.shed_load=true"];
    let mut server = Server::start(&settings);
    let come_round = "tidegate_uptime_seconds";
    eventually("the shards have come round", || metric(&server, come_round) >= 1);
    let stall = json!({ "shard": 0, "fault": "stall", "ms": 2_000 });
    http::post(server.admin, "/api/v1/debug/fault", &stall);
    let stalled = |event: &Value| event["cause"] == "stall" && event["share"] == 0.125;
    let mut least = 1.0_f64;
    eventually("it stands still for a while", || {
        least = least.min(status(&server)["admission_share_ratio"].as_f64().unwrap());
        server.log().iter().any(stalled)
    });
    let last = server.log().into_iter().find(stalled).unwrap();
    assert_eq!((text(&last, "level"), &last["limit"]), ("WARN", &json!(50)));
    server.wait_for_log(&format!("{message} back to normal"));
    eventually("nothing is left of it", || status(&server)["admission_share_ratio"] == 1.0);
    let events = server.log();
    let shares: Vec<_> = events
        .iter()
        .filter(|event| text(event, "message").starts_with(message))
        .map(|event| event["share"].as_f64().unwrap())
        .collect();
    let steps = shares.windows(2).all(|pair| pair[0] / pair[1] <= 2.0 && pair[1] / pair[0] <= 2.0);
    assert!(steps, "one step at a time: {shares:?}");
    Client::connect(server.clients, "/echo").echo("admitted");
    (shares, least)
}

/// S0.72.
#[test]
fn a_shard_that_stands_still_lowers_the_rate_until_it_goes_on() {
    let _alone = alone();
    let (_, least) = while_a_shard_stands_still(1, "load is");
    assert!(least < 1.0, "{least}");
}

/// What presses one shard lowers what that shard admits, and not the rate of the server.
#[test]
fn one_shard_of_several_that_stands_still_lowers_only_its_own_share() {
    let _alone = alone();
    let (shares, least) = while_a_shard_stands_still(2, "load of a shard is");
    assert!(shares.contains(&0.125), "{shares:?}");
    assert_eq!(least, 1.0, "the server's");
}
