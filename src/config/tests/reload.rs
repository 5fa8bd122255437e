//! What a configuration that is read again changes, and what it cannot.

use super::*;

fn reloaded(before: &[(&str, &str)], after: &[(&str, &str)]) -> (Config, ReloadReport) {
    let load = |values| Config::load(set(values)).unwrap();
    load(before).reloaded(&load(after))
}

fn changed(report: &ReloadReport) -> Vec<String> {
    report.changed.iter().map(ToString::to_string).collect()
}

#[test]
fn admission_changes_and_everything_else_is_named() {
    let (config, report) = reloaded(
        &[("admission.deny", "10.0.0.0/8"), ("server.backlog", "100")],
        &[
            ("admission.max_global_connections", "5"),
            ("server.backlog", "200"),
            ("admin.token", TOKEN),
        ],
    );
    assert_eq!(
        changed(&report),
        [
            "admission.max_global_connections from 10000000 to 5",
            "admission.deny from [10.0.0.0/8] to []",
        ]
    );
    assert_eq!(report.needs_restart, ["server.backlog", "admin.token"]);
    assert_eq!(config.admission.max_global_connections, 5);
    assert_eq!(config.server.backlog, 100);
    assert_eq!(config.admin.token, None);
    let five = ("5".to_owned(), "flag --set".to_owned());
    assert_eq!(shown(&config, "admission.max_global_connections"), five);
    assert_eq!(shown(&config, "admission.deny").1, "default");
}

#[test]
fn what_makes_a_source_needs_a_restart() {
    let (config, report) = reloaded(
        &[("admission.ipv4_prefix_bits", "24")],
        &[
            ("admission.ipv6_prefix_bits", "48"),
            ("admission.deny", "10.1.0.0/16,10.1.2.3/32,10.1.2.4/31"),
        ],
    );
    assert_eq!((config.admission.ipv4_prefix_bits, config.admission.ipv6_prefix_bits), (24, 64));
    assert_eq!(
        changed(&report),
        ["admission.deny from [] to [10.1.0.0/16, 10.1.2.3/32, 10.1.2.4/31]"]
    );
    let fixed = ["admission.ipv4_prefix_bits", "admission.ipv6_prefix_bits"];
    assert_eq!(report.needs_restart, fixed);
    assert_eq!(
        report.warnings,
        [
            "until a restart 10.1.2.3/32 in admission.deny (flag --set) is part of one source, which \
          admission.ipv4_prefix_bits = 24 (flag --set) makes of 10.1.2.0/24; write that, or set \
          more bits (and 1 more)"
        ]
    );
}

#[test]
fn what_stands_for_another_key_follows_it() {
    let rate = ("admission.global_connections_per_second", "77");
    let (config, report) = reloaded(&[], &[rate, ("admission.connections_per_ip_per_minute", "9")]);
    assert_eq!(config.shutdown.reconnect_per_second, 77);
    assert_eq!(config.admission.connections_per_ip_burst, 9);
    assert_eq!((report.changed.len(), report.needs_restart.len()), (4, 0));

    let own = ("shutdown.reconnect_per_second", "5");
    let (config, report) = reloaded(&[own], &[own, rate]);
    assert_eq!((config.shutdown.reconnect_per_second, report.changed.len()), (5, 1));
    let (config, report) = reloaded(&[], &[own]);
    assert_eq!(config.shutdown.reconnect_per_second, 1000);
    assert_eq!(report.needs_restart, ["shutdown.reconnect_per_second"]);
}

#[test]
fn the_same_again_changes_nothing() {
    let (_file, sources) =
        written("[admission]\ndeny = [\"10.0.0.0/8\"]\n[log]\nformat = \"json\"\n");
    let config = Config::load(sources.clone()).unwrap();
    let (again, report) = config.reloaded(&Config::load(sources).unwrap());
    assert_eq!((again, report), (config, ReloadReport::default()));
}

#[test]
fn a_change_of_many_blocks_is_one_short_line() {
    let blocks: Vec<_> =
        (0..5000_u32).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
    let (_, report) = reloaded(&[], &[("admission.deny", &blocks.join(","))]);
    let lines = changed(&report);
    assert!(lines[0].len() < 300 && lines[0].ends_with("... (5000 in all)"), "{lines:?}");
}
