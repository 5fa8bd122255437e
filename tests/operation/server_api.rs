//! The server API as Centrifugo's own client for back ends uses it: PyPI's `cent` publishes, and
//! learns of what is refused in the form that it knows.

use serde_json::{Value, json};

use crate::support::installed::python;
use crate::support::server::Server;
use crate::support::wire::Client;

const KEY: &str = "correct-horse-battery-staple";

#[test]
fn cent_publishes_and_reads_refusals_as_those_of_centrifugo() {
    let server = Server::start(&[&format!("admin.token={KEY}")]);
    let mut reader = Client::connect(server.clients, "/ws?channel=news");
    let said = python("cent_client.py", &[&format!("http://{}/api", server.admin), KEY]);
    let reports: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |call: &str| {
        reports.iter().find(|report| report["call"] == call).expect("a report").clone()
    };
    for data in [json!({ "grüße": [1, null, 1.5] }), json!("goal"), json!("asynchronous")] {
        assert_eq!(serde_json::from_str::<Value>(reader.frame().text()).unwrap(), data);
    }
    // Nothing that was refused has been published.
    assert_eq!(reader.frame().text(), "\"last\"");
    assert_eq!(of("broadcast"), json!({ "call": "broadcast", "responses": 2 }));
    assert_eq!((&of("info")["clients"], &of("info")["subscriptions"]), (&json!(1), &json!(1)));
    let ineffective = of("no effect");
    assert_eq!(ineffective["code"], 107, "{ineffective}");
    assert!(ineffective["message"].as_str().unwrap().contains("`skip_history`"), "{ineffective}");
    assert_eq!(of("no channel")["code"], 107);
    assert_eq!(of("no such method")["status"], 404);
    assert_eq!(of("wrong key")["unauthorized"], true);
    assert_eq!(of("as a status")["status"], 400);
}
