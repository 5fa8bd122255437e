//! `tidegate-load flood` against the real server: what the clients saw and what the server counted
//! are the same, to the attempt, and there are never more connections than the limit.

use crate::support::alone;
use crate::support::figures::metric;
use crate::support::load::Load;
use crate::support::server::Server;
use serde_json::Value;

/// Floods a server of one shard, on which every limit is exact, and returns the report, which says
/// that the ledger balances and that the server agrees.
#[track_caller]
fn flood(settings: &[&str], arguments: &[&str]) -> Value {
    let server = Server::start(&[&["server.shards=1"], settings].concat());
    let url = format!("ws://{}/echo", server.clients);
    let admin = format!("http://{}", server.admin);
    let report = Load::start("flood", &url, &[&["--admin", &admin], arguments].concat()).report();
    assert_eq!(report["server"]["agrees"], true, "{report}");
    let counted = metric(&server, "tidegate_admission_refused_total");
    assert_eq!(report["ledger"]["refused"], counted);
    report
}

/// S0.12, S0.37.
#[test]
fn a_full_server_refuses_every_attempt_beyond_its_capacity() {
    let _alone = alone();
    let capacity = ["admission.max_global_connections=50"];
    let report = flood(&capacity, &["-n", "3000", "--sources", "100"]);
    let ledger = &report["ledger"];
    assert_eq!((&ledger["admitted"], &ledger["refused_503"]), (&50.into(), &2950.into()));
    assert_eq!(ledger["open_at_the_end"], 50);
    let server = &report["server"];
    assert_eq!(
        (&server["opened"], &server["refused_by_reason"]["capacity"]),
        (&50.into(), &2950.into())
    );
    assert_eq!(server["peak_since_start"], 50);
    assert_eq!(server["most_at_once"], 50);
    assert_eq!(report["retry_after"]["untold"], 0);
    assert_eq!(report["time_to_refusal_us"]["count"], 2950);
}

/// S0.15, S0.35, S0.68.
#[test]
fn each_source_is_held_to_its_burst() {
    let _alone = alone();
    let burst = [
        // Slow enough that nothing is earned back while the test runs.
        "admission.connections_per_ip_per_minute=1",
        "admission.connections_per_ip_burst=3",
    ];
    let report = flood(&burst, &["-n", "2000", "--sources", "40", "--rings", "2"]);
    let ledger = &report["ledger"];
    assert_eq!((&ledger["admitted"], &ledger["refused_429"]), (&120.into(), &1880.into()));
    assert_eq!(report["server"]["refused_by_reason"]["per_ip_rate"], 1880);
}

#[test]
fn clients_that_come_and_go_never_are_more_than_the_limit() {
    let _alone = alone();
    let capacity = ["admission.max_global_connections=20"];
    let report = flood(&capacity, &["-n", "3000", "--leave", "--in-flight", "100"]);
    let ledger = &report["ledger"];
    let admitted = ledger["admitted"].as_u64().unwrap();
    assert!(admitted > 20, "places that were left are taken again: {report}");
    assert_eq!(admitted + ledger["refused"].as_u64().unwrap(), 3000, "{report}");
    assert_eq!(ledger["open_at_the_end"], 0);
    for most in ["most_at_once", "peak_since_start"] {
        assert!(report["server"][most].as_u64().unwrap() <= 20, "{report}");
    }
}
