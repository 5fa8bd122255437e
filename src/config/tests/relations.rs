//! Values that depend on each other, and the one that must stay secret.

use super::*;

#[test]
fn a_token_is_never_shown() {
    let config = Config::load(environment(&[("TIDEGATE_ADMIN__TOKEN", TOKEN)])).unwrap();
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some(TOKEN));
    assert_eq!(shown(&config, "admin.token").0, "(set)");
    assert!(!format!("{config:?}").contains(TOKEN));
    assert!(!serde_json::to_string(&config.shown()).unwrap().contains(TOKEN));

    let short = &TOKEN[..15];
    let spaced = format!("{TOKEN}\n");
    let two = format!("[admin]\ntoken = [\"{TOKEN}\"]\n");
    let (_file, wrong_type) = written(&two);
    let mut conflict = set(&[("admin.token", TOKEN)]);
    conflict.flags.push(FlagValue::new("--set", "admin.token", format!("{TOKEN}2")));
    for sources in [
        environment(&[("TIDEGATE_ADMIN__TOKEN", short)]),
        environment(&[("TIDEGATE_ADMIN__TOKEN", &spaced)]),
        wrong_type,
        conflict,
    ] {
        let found = errors(sources);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("(not shown)") && !found[0].contains(short), "{}", found[0]);
    }
    assert!(Config::load(set(&[("admin.token", &TOKEN[..16])])).is_ok());
}

#[test]
fn a_token_on_the_command_line_is_a_warning() {
    let config = Config::load(set(&[("admin.token", TOKEN)])).unwrap();
    assert_eq!(config.warnings.len(), 1);
    assert!(!config.warnings[0].contains(TOKEN));
    assert!(config.warnings[0].contains("set admin.token_file"), "{:?}", config.warnings);

    let config = Config::load(set(&[("redis.url", "redis://:hunter2@a")])).unwrap();
    assert!(config.warnings[0].contains("set redis.url_file"), "{:?}", config.warnings);
    assert!(Config::load(set(&[("redis.url", "redis://a")])).unwrap().warnings.is_empty());
}

/// Rule 6.
#[test]
fn an_admin_listener_that_others_can_reach_requires_a_token() {
    assert_eq!(
        errors(set(&[("admin.listen", "0.0.0.0:8081")])),
        ["flag --set: admin.listen = 0.0.0.0:8081 can be reached from other machines, and \
          admin.token is not set; write at least 16 characters into a file and set \
          admin.token_file to its path, or listen on 127.0.0.1"]
    );
    for inside in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        assert!(Config::load(set(&[("admin.listen", inside)])).is_ok(), "{inside}");
    }
    for outside in ["10.0.0.1:1", "[::]:1", "[2001:db8::1]:1"] {
        assert!(Config::load(set(&[("admin.listen", outside)])).is_err(), "{outside}");
        let with_token = set(&[("admin.listen", outside), ("admin.token", TOKEN)]);
        assert!(Config::load(with_token).is_ok(), "{outside}");
    }
    // A token that is refused is one mistake, not two.
    let bad_token = set(&[("admin.listen", "0.0.0.0:1"), ("admin.token", "short")]);
    assert_eq!(errors(bad_token).len(), 1);
}

#[test]
fn listeners_do_not_share_a_port() {
    let listen = |server, admin| {
        Config::load(set(&[
            ("server.listen", server),
            ("admin.listen", admin),
            ("admin.token", TOKEN),
        ]))
    };
    assert!(listen("0.0.0.0:8081", "127.0.0.1:8081").is_err());
    assert!(listen("127.0.0.1:8081", "[::]:8081").is_err());
    assert!(listen("127.0.0.1:8081", "127.0.0.1:8081").is_err());
    assert!(listen("127.0.0.1:8081", "127.0.0.2:8081").is_ok());
    assert!(listen("127.0.0.1:0", "127.0.0.1:0").is_ok());
}

/// Rule 2 of the shutdown: one deadline, and caps that fit into it.
/// S3.35.
#[test]
fn caps_longer_than_the_deadline_are_cut_with_a_warning() {
    let config = Config::load(set(&[
        ("shutdown.deadline_ms", "4000"),
        ("shutdown.pre_drain_delay_ms", "4000"),
    ]))
    .unwrap();
    assert_eq!(config.shutdown.pre_drain_delay_ms, 4000);
    assert_eq!(config.shutdown.notice_ms, 500);
    assert_eq!(config.shutdown.drain_ms, 4000);
    assert_eq!(config.shutdown.close_timeout_ms, 4000);
    assert_eq!(shown(&config, "shutdown.drain_ms").1, "default, cut to shutdown.deadline_ms");
    assert_eq!(
        config.warnings,
        [
            "shutdown.drain_ms = 15000 ms is longer than shutdown.deadline_ms and is cut to 4000 \
             ms",
            "shutdown.close_timeout_ms = 5000 ms is longer than shutdown.deadline_ms and is cut \
             to 4000 ms",
        ]
    );
}

#[test]
fn caps_that_only_fit_one_by_one_are_a_warning() {
    let stages = |pre_drain_delay_ms| {
        Config::load(set(&[("shutdown.pre_drain_delay_ms", pre_drain_delay_ms)])).unwrap()
    };
    assert!(stages("14500").warnings.is_empty());
    let config = stages("14501");
    assert_eq!(config.shutdown.drain_ms, 15_000);
    assert_eq!(
        config.warnings,
        ["shutdown.pre_drain_delay_ms, shutdown.notice_ms and shutdown.drain_ms add up to 30001 \
          ms; the last of them gets what shutdown.deadline_ms = 30000 ms leaves"]
    );
}

#[test]
fn zero_stands_for_another_keys_value_where_it_says_so() {
    let config = Config::load(set(&[
        ("admission.connections_per_ip_per_minute", "7"),
        ("admission.global_connections_per_second", "8"),
        ("shutdown.reconnect_per_second", "0"),
    ]))
    .unwrap();
    assert_eq!(config.admission.connections_per_ip_burst, 7);
    assert_eq!(config.shutdown.reconnect_per_second, 8);
    assert_eq!(
        shown(&config, "shutdown.reconnect_per_second").1,
        "flag --set, same as admission.global_connections_per_second"
    );

    let config = Config::load(set(&[
        ("admission.connections_per_ip_burst", "9"),
        ("shutdown.reconnect_per_second", "10"),
    ]))
    .unwrap();
    assert_eq!(config.admission.connections_per_ip_burst, 9);
    assert_eq!(config.shutdown.reconnect_per_second, 10);
}

#[test]
fn fault_injection_is_a_warning() {
    let config = Config::load(set(&[("debug.fault_injection", "true")])).unwrap();
    assert!(config.debug.fault_injection);
    assert_eq!(config.warnings.len(), 1);
}
