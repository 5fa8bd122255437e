//! A real Prometheus, set up as `deploy/prometheus` has it, watches a server through a surge and a
//! drain: it takes what it scrapes, every rule can be evaluated, and every query of the dashboard is
//! answered.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use crate::support::installed::repository;
use crate::support::load::Load;
use crate::support::server::Server;
use crate::support::{alone, eventually, http};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A Prometheus of its own; ended whatever happens.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: TempDir,
}

impl Prometheus {
    /// With the files of the repository, and this server for the one that they name. It looks more
    /// often than they say, because nobody wants to wait.
    #[track_caller]
    fn watching(server: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut settings =
            fs::read_to_string(repository("deploy/prometheus/prometheus.yml")).unwrap();
        for (from, to) in [
            ("127.0.0.1:8081", server.admin.to_string().as_str()),
            ("scrape_interval: 5s", "scrape_interval: 200ms"),
            ("evaluation_interval: 15s", "evaluation_interval: 500ms"),
        ] {
            assert!(settings.contains(from), "{from} is not in prometheus.yml");
            settings = settings.replace(from, to);
        }
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, settings).unwrap();
        let rules = directory.path().join("rules.yml");
        fs::copy(repository("deploy/prometheus/rules.yml"), rules).unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus; scripts/test installs it");
        let prometheus = Self { child, address, _directory: directory };
        eventually("Prometheus answers", || prometheus.get("/api/v1/targets", &[]).is_some());
        prometheus
    }

    /// The `data` of an answer; `None` while there is none, or if it is an error.
    fn get(&self, path: &str, arguments: &[&str]) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sSf", "--max-time", "5", "--get"]).args(arguments);
        curl.arg(format!("http://{}{path}", self.address)).stdin(Stdio::null());
        let output = curl.output().expect("curl");
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        (answer["status"] == "success").then(|| answer["data"].clone())
    }

    /// The numbers that a query has for an answer.
    fn ask(&self, query: &str) -> Vec<f64> {
        let data = self.get("/api/v1/query", &["--data-urlencode", &format!("query={query}")]);
        let series = data.unwrap_or_else(|| panic!("not a query: {query}"));
        let values = series["result"].as_array().expect("a vector").iter();
        values.filter_map(|sample| sample["value"][1].as_str()?.parse().ok()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The queries of the dashboard as Grafana would send them, with all jobs and instances chosen.
fn queries() -> BTreeSet<String> {
    let text = fs::read_to_string(repository("deploy/grafana/tidegate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.filter_map(|panel| panel["targets"].as_array()).flatten();
    let filled = targets.map(|target| {
        let query = target["expr"].as_str().expect("a query");
        // An interval written out fits one interval of scraping only, and is empty under a longer one.
        assert!(!query.contains("[1") && !query.contains("[5"), "{query}");
        let query = query.replace("$__rate_interval", "2s").replace("$job", "tidegate.*");
        query.replace("$instance", ".*")
    });
    filled.collect()
}

#[test]
fn every_query_of_the_dashboard_is_answered_in_a_surge_or_in_a_drain() {
    let _alone = alone();
    let mut server = Server::start(&[
        "server.shards=2",
        "admission.global_connections_per_second=200",
        "shutdown.reconnect_per_second=200",
    ]);
    let prometheus = Prometheus::watching(&server);
    let mut unanswered = queries();
    assert!(unanswered.len() > 30, "{unanswered:?}");
    let mut ask_again = |prometheus: &Prometheus| {
        unanswered.retain(|query| prometheus.ask(query).is_empty());
        unanswered.clone()
    };

    let url = format!("ws://{}/ws", server.clients);
    let mut held = Load::start("hold", &url, &["-n", "100"]);
    held.opened();
    let flood = ["--rate", "1000", "--duration", "60s", "--sources", "50"];
    let _flood = Load::start("flood", &url, &flood);
    let refused = "sum(rate(tidegate_admission_refused_total{reason=\"global_rate\"}[2s])) > 300";
    eventually("the surge is seen", || !prometheus.ask(refused).is_empty());
    // What there is only in a drain.
    eventually("the others are answered", || ask_again(&prometheus).len() < 2);

    let wish = json!({ "cause": "deploy", "within_ms": 8_000 });
    http::post(server.admin, "/api/v1/shutdown/shutdown", &wish);
    eventually("all are answered", || ask_again(&prometheus).is_empty());
    let draining = "tidegate_phase{phase=\"draining\"} == 1 and on () tidegate_ready == 0";
    eventually("the drain is seen", || !prometheus.ask(draining).is_empty());
    let gone = "sum(tidegate_drain_outcomes_total{outcome=\"close_acknowledged\"}) > 0";
    eventually("clients are seen to go", || !prometheus.ask(gone).is_empty());

    let rules = prometheus.get("/api/v1/rules", &[]).expect("an answer");
    let groups = rules["groups"].as_array().unwrap().iter();
    let rules: Vec<&Value> = groups.flat_map(|group| group["rules"].as_array().unwrap()).collect();
    assert!(rules.len() > 15, "{rules:?}");
    assert!(rules.iter().all(|rule| rule["health"] == "ok"), "{rules:?}");
    drop(held);
    assert_eq!(server.ended().0, Some(0));
}
