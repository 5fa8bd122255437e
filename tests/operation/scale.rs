//! What holds for a few connections holds for very many: 100,000 are held by one process with
//! the descriptors of an ordinary limit, a publication reaches each of 20,000 clients exactly
//! once and in order, and 20,000 leave a draining server with one outcome each. The clients are
//! `tidegate-load`, whose ledger must balance with the server's counters.

use std::net::SocketAddr;
use std::process::Command;

use crate::support::figures::{descriptors, metric, nothing_is_unread, own_memory};
use crate::support::load::Load;
use crate::support::server::{Server, outcomes};
use crate::support::{alone, eventually, http};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};

/// Established connections of the server, as the kernel counts them; the address keeps out
/// clients that happen to have the same port.
fn established(server: SocketAddr) -> usize {
    let output = Command::new("ss")
        .args(["-Htn", "state", "established", "src", &server.to_string()])
        .output()
        .expect("ss");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.iter().filter(|byte| **byte == b'\n').count()
}

/// Shards for so many connections under this machine's limit of descriptors, which counts for
/// each of them, with a fifth to spare for uneven hashing.
fn shards_for(connections: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let files = limit.maximum.unwrap_or(1 << 20).min(1 << 20);
    (connections * 6 / 5).div_ceil(files - 320).max(4)
}

/// S0.1, S0.4, S1.27, S3.1, S3.30, S4.55.
#[test]
fn a_hundred_thousand_connections_are_held_counted_and_drained() {
    let _alone = alone();
    let report_directory = tempfile::tempdir().unwrap();
    let report_file = report_directory.path().join("report.json");
    let report_setting = format!("shutdown.report_file={}", report_file.display());
    // Time enough for clients on a machine that is busy with other things.
    let shards = shards_for(100_000);
    let mut server = Server::start(&[
        &format!("server.shards={shards}"),
        &report_setting,
        // Those follow the load, which here is the arrival of everybody at once.
        "server.receive_buffers=16",
        "shutdown.deadline_ms=90000",
        "shutdown.drain_ms=60000",
        "shutdown.close_timeout_ms=30000",
    ]);
    let empty = own_memory(server.pid());
    let url = format!("ws://{}/ws?channel=a", server.clients);
    let mut load = Load::start("drain-watch", &url, &["-n", "100000", "--timeout", "90s"]);
    assert_eq!(load.opened(), 100_000);
    let each = own_memory(server.pid()).saturating_sub(empty) / 100_000;
    assert!(each <= 120, "{each} bytes for each connection; docs/memory.md says which there are");

    assert_eq!(metric(&server, "tidegate_connections"), 100_000);
    assert_eq!(established(server.clients), 100_000);
    let descriptors = descriptors(server.pid());
    assert!(descriptors < 100, "{descriptors} descriptors: connections must not use any");

    let (code, last_words) = server.drain();
    let report = load.report();
    assert_eq!(code, Some(0), "{last_words}");
    assert_eq!(last_words["connections_at_start"], 100_000);
    assert_eq!(outcomes(&last_words)["close_acknowledged"], 100_000);
    assert_eq!(report["ledger"]["ended_by_reason"], json!({ "code 1001": 100_000 }));
    assert_eq!(report["drain"]["notices"], 100_000);
    assert_eq!(report["drain"]["byes"], 100_000);
    let written: Value = serde_json::from_slice(&std::fs::read(&report_file).unwrap()).unwrap();
    assert_eq!(written["outcomes"]["close_acknowledged"], 100_000);
    assert_eq!(written["forced"], false);
}

#[test]
fn a_publication_reaches_each_of_20000_clients_exactly_once_and_in_order() {
    const PUBLICATIONS: u64 = 50;
    let _alone = alone();
    let server = Server::start(&["server.shards=4"]);
    let url = format!("ws://{}/ws?channel=news", server.clients);
    let expected = PUBLICATIONS.to_string();
    let arguments =
        ["-n", "20000", "--for", "600s", "--check-sequence", "seq", "--expect-messages", &expected];
    let mut load = Load::start("hold", &url, &arguments);
    assert_eq!(load.opened(), 20_000);
    for shard in 0..4 {
        let label = format!("tidegate_connections{{shard=\"{shard}\"}}");
        assert!(metric(&server, &label) > 0, "every shard has some");
    }
    for seq in 1..=PUBLICATIONS {
        let body = json!({ "channel": "news", "data": { "seq": seq, "text": "tide" } });
        assert_eq!(http::post(server.admin, "/api/publish", &body), json!({ "result": {} }));
    }
    eventually("every delivery is queued, sent and read", || {
        metric(&server, "tidegate_messages_sent_total") == 20_000 * PUBLICATIONS
            && nothing_is_unread(server.clients, "127.0.0.0/8")
    });
    load.stop();
    let report = load.report();
    assert_eq!(report["held"]["messages"], 20_000 * PUBLICATIONS, "{report}");
    assert_eq!(report["held"]["messages_per_open_connection_min"], PUBLICATIONS);
    assert_eq!(report["sequence"]["missing"], 0);
    assert_eq!(report["sequence"]["repeated_or_late"], 0);
    assert_eq!(report["sequence"]["connections"], 20_000);
}

/// S0.17, S1.54, S2.2, S2.15, S3.7 to S3.10, S4.52.
#[test]
fn twenty_thousand_leave_with_one_outcome_each() {
    let _alone = alone();
    let mut server = Server::start(&["server.shards=4", "shutdown.drain_ms=10000"]);
    let url = format!("ws://{}/ws", server.clients);
    let admin = format!("http://{}", server.admin);
    let who = ["-n", "20000", "--stuck", "500", "--mid-message", "500"];
    let arguments = [&who[..], &["--timeout", "60s", "--admin", &admin]].concat();
    let mut load = Load::start("drain-watch", &url, &arguments);
    assert_eq!(load.opened(), 20_000);
    let (code, last_words) = server.drain();
    let report = load.report();
    assert_eq!(code, Some(0), "{last_words}");
    assert_eq!(last_words["connections_at_start"], 20_000);
    let outcomes = outcomes(&last_words);
    assert_eq!(outcomes.values().sum::<u64>(), 20_000, "{outcomes:?}");
    assert_eq!((outcomes["close_acknowledged"], outcomes["forced"]), (19_500, 500));
    let drain = &report["drain"];
    assert_eq!(drain["notices"], 19_500, "{report}");
    assert_eq!(drain["byes"], 19_500);
    assert_eq!(drain["mid_message_replied"], 500, "what was in flight was answered");
    assert_eq!(drain["stuck_ended_by_reason"], json!({ "reset": 500 }));
    let counted = &report["server_counted"];
    assert_eq!((&counted["opened"], &counted["has_ended"]), (&json!(20_000), &json!(true)));
    assert_eq!(counted["agrees"], true);
}

/// S0.52, S0.69.
#[test]
fn above_the_table_of_descriptors_everybody_gets_an_answer() {
    let _alone = alone();
    let server = Server::start(&["server.shards=1", "server.direct_descriptors=1000"]);
    let url = format!("ws://{}/ws", server.clients);
    // 384 of the thousand are kept for refusals, accepts in flight and other shards' connections.
    let load =
        Load::start("hold", &url, &["-n", "5000", "--for", "1s", "--expect-admitted", "616"]);
    let report = load.report();
    assert_eq!(report["ledger"]["admitted"], 616, "{report}");
    assert_eq!(report["ledger"]["refused_by_status"], json!({ "503": 4384 }));
    assert_eq!(report["ledger"]["failed"], 0, "nobody was dropped without a word");
    assert_eq!(metric(&server, "tidegate_admission_refused_total"), 4384);
    // The places come free again.
    eventually("the 616 have left", || metric(&server, "tidegate_connections") == 0);
    let again = Load::start("hold", &url, &["-n", "616", "--for", "1s"]).report();
    assert_eq!(again["ledger"]["admitted"], 616);
}
