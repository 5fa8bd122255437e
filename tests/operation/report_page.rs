//! The page that `tidegate-load --report` writes, as its reader sees it: a real browser draws the
//! plots, in light and dark and on a phone, and the page asks nobody for anything.

use std::path::Path;
use std::process::Output;

use crate::support::alone;
use crate::support::installed::node;
use crate::support::load::Load;
use crate::support::server::Server;
use serde_json::Value;

/// What the browser shows of the page, one object for each view. `REPORT_SCREENSHOTS` names a
/// directory for pictures of them.
fn look(page: &Path) -> Vec<Value> {
    let mut command = node("tests/clients/report_page.cjs");
    command.arg(page);
    if let Some(directory) = std::env::var_os("REPORT_SCREENSHOTS") {
        command.arg(directory);
    }
    let Output { status, stdout, stderr } = command.output().expect("node");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let lines = String::from_utf8(stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn titles(view: &Value) -> Vec<&str> {
    let plots = view["plots"].as_array().unwrap();
    let drawn = plots.iter().filter(|plot| plot["marks"].as_u64() > Some(0));
    drawn.map(|plot| plot["title"].as_str().unwrap()).collect()
}

#[test]
fn a_browser_draws_the_plots_and_asks_nobody_for_anything() {
    let _alone = alone();
    let server = Server::start(&["server.shards=2"]);
    let url = format!("ws://{}/ws?channel=a", server.clients);
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("report.html");
    let pid = server.pid().as_raw_nonzero().to_string();
    let admin = format!("http://{}", server.admin);
    let arguments = [
        "-n",
        "2000",
        "--for",
        "2s",
        "--publish-rate",
        "20",
        "--server-pid",
        &pid,
        "--admin",
        &admin,
        "--report",
        page.to_str().unwrap(),
    ];
    let report = Load::start("broadcast", &url, &arguments).report();
    assert_eq!(report["server_counted"]["agrees"], true, "{report}");
    let views = look(&page);
    assert_eq!(views.len(), 3);
    for view in &views {
        assert_eq!(view["problems"], Value::Array(Vec::new()), "{view}");
        assert_eq!(view["verdict"], "as wanted", "{view}");
        assert!(view["overflow"].as_i64() <= Some(0), "nothing sticks out at the side: {view}");
        for title in [
            "Connections over time",
            "Latency",
            "How connections ended",
            "Memory per connection",
            "Memory of the server",
            "Messages received",
        ] {
            assert!(titles(view).contains(&title), "{title} in {view}");
        }
    }
    assert_ne!(views[0]["background"], views[1]["background"], "dark is not light");
}
