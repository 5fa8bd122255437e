//! `tidegate-load hold --client tun` against the real server: TCP that is not the kernel's, in a
//! namespace of its own, gets along with it, both sides' books agree, and nothing is left of it.
//! Needs root; where there is none, the tool says so, and that is what is tested.

use std::process::{Command, Output};

use crate::support::alone;
use crate::support::load::Load;
use crate::support::server::Server;

fn may_make_devices() -> bool {
    rustix::process::geteuid().is_root() && std::fs::metadata("/dev/net/tun").is_ok()
}

fn namespaces() -> Vec<String> {
    let Ok(Output { stdout, .. }) = Command::new("ip").args(["netns", "list"]).output() else {
        return Vec::new();
    };
    let names = String::from_utf8_lossy(&stdout).into_owned();
    names.lines().filter(|name| name.starts_with("tidegate-load-")).map(str::to_owned).collect()
}

#[test]
fn clients_in_user_space_are_held_and_leave() {
    let _alone = alone();
    let server = Server::start(&["server.shards=2", "server.listen=0.0.0.0:0"]);
    let url = format!("ws://127.0.0.1:{}/ws?channel=a", server.clients.port());
    let admin = format!("http://{}", server.admin);
    let arguments = ["-n", "3000", "--client", "tun", "--for", "1s", "--admin", &admin];
    if !may_make_devices() {
        let refused = Command::new(env!("CARGO_BIN_EXE_tidegate-load"))
            .args(["hold", &url, "-n", "1", "--client", "tun", "--for", "1s"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("root") || said.contains("/dev/net/tun"), "{said}");
        return;
    }
    let load = Load::start("hold", &url, &arguments);
    let own = format!("tidegate-load-{}", load.id());
    let report = load.report();
    assert_eq!(report["ledger"]["admitted"], 3_000, "{report}");
    assert_eq!(report["ledger"]["open"], 3_000, "{report}");
    assert_eq!(report["server_counted"]["agrees"], true, "{report}");
    assert_eq!(report["server_counted"]["closed"], 3_000, "each said Close: {report}");
    assert!(report["tun_clients"]["bytes_per_client"].as_f64() <= Some(64.0), "{report}");
    assert!(!namespaces().iter().any(|name| name.starts_with(&own)), "the namespace is gone");
}
