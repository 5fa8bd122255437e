//! Where values may be written, and which source beats which.

use std::path::PathBuf;

use super::*;

#[test]
fn flags_beat_environment_beats_file_beats_profile_beats_default() {
    const KEY: &str = "admission.global_connections_per_second";
    let (file, mut sources) = written("[admission]\n\nglobal_connections_per_second = 3\n");
    let value = |sources: &Sources| shown(&Config::load(sources.clone()).unwrap(), KEY);

    assert_eq!(value(&Sources::default()), ("1000".into(), "default".into()));
    let profile = Sources { profile: Some("development".into()), ..Sources::default() };
    assert_eq!(value(&profile), ("2000".into(), "profile development".into()));

    sources.profile = profile.profile;
    let place = format!("file {}:3", file.path().display());
    assert_eq!(value(&sources), ("3".into(), place));

    const NAME: &str = "TIDEGATE_ADMISSION__GLOBAL_CONNECTIONS_PER_SECOND";
    sources.environment = environment(&[(NAME, "4")]).environment;
    assert_eq!(value(&sources), ("4".into(), format!("environment {NAME}")));

    sources.flags = set(&[(KEY, "5")]).flags;
    assert_eq!(value(&sources), ("5".into(), "flag --set".into()));
}

/// S0.30.
#[test]
fn the_development_profile_is_lenient() {
    for sources in [
        Sources { profile: Some("development".into()), ..Sources::default() },
        environment(&[("TIDEGATE_PROFILE", "development")]),
    ] {
        let config = Config::load(sources).unwrap();
        assert_eq!(config.admission.connections_per_ip_per_minute, 120);
        assert_eq!(config.admission.connections_per_ip_burst, 120);
        assert_eq!(config.admission.global_connections_per_second, 2000);
        assert_eq!(config.admission.max_global_connections, 100_000);
    }
    let unknown = Sources { profile: Some("production".into()), ..Sources::default() };
    assert_eq!(
        errors(unknown),
        ["flag --profile: unknown profile production; this version has development"]
    );
}

#[test]
fn the_environment_names_the_file_unless_a_flag_does() {
    let (named, _) = written("[server]\nshards = 3\n");
    let (_other, flagged) = written("[server]\nshards = 4\n");
    let variable = [("TIDEGATE_CONFIG", named.path().to_str().unwrap())];
    let mut sources = environment(&variable);
    assert_eq!(Config::load(sources.clone()).unwrap().server.shards, 3);
    sources.file = flagged.file;
    assert_eq!(Config::load(sources).unwrap().server.shards, 4);
}

#[test]
fn lists_and_switches_can_be_set_outside_the_file() {
    let config = Config::load(environment(&[
        ("TIDEGATE_SERVER__ALLOWED_ORIGINS", "https://a.example, https://*.b.example,"),
        ("TIDEGATE_SERVER__ECHO", "1"),
        ("TIDEGATE_SERVER__PIN_SHARDS", "false"),
        ("TIDEGATE_LOG__FORMAT", "json"),
        ("TIDEGATE_SHUTDOWN__REPORT_FILE", "/run/tidegate/report.json"),
    ]))
    .unwrap();
    assert_eq!(config.server.allowed_origins, ["https://a.example", "https://*.b.example"]);
    assert!(config.server.echo);
    assert!(!config.server.pin_shards);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.shutdown.report_file, Some(PathBuf::from("/run/tidegate/report.json")));
    assert!(Config::load(set(&[("log.format", "pretty")])).is_err());
}

/// S0.26-S0.28, S1.20, S4.32, S4.33, S4.35.
/// Rule 7, S0.26 to S0.28, S1.20 to S1.22, S4.32, S4.33, S4.35.
#[test]
fn legacy_names_are_taken_in_their_own_units() {
    let config = Config::load(environment(&[
        ("CONNECTIONS_PER_IP_PER_MINUTE", "61"),
        ("GLOBAL_CONNECTIONS_PER_SECOND", "62"),
        ("MAX_GLOBAL_CONNECTIONS", "63"),
        ("SHUTDOWN_GRACEFUL_TIMEOUT", "64"),
        ("FORCE_SHUTDOWN_TIMEOUT_MS", "65"),
        ("MAX_CONNECTION_DRAIN_TIME", "66"),
        ("SHUTDOWN_BACKGROUND_TIMEOUT", "7"),
        ("SHUTDOWN_DB_TIMEOUT", "8"),
    ]))
    .unwrap();
    assert_eq!(config.admission.connections_per_ip_per_minute, 61);
    assert_eq!(config.admission.global_connections_per_second, 62);
    assert_eq!(config.admission.max_global_connections, 63);
    assert_eq!(config.shutdown.deadline_ms, 64_000);
    assert_eq!(config.shutdown.force_timeout_ms, 65);
    assert_eq!(config.shutdown.drain_ms, 66);
    assert_eq!(config.shutdown.background_ms, 7_000);
    assert_eq!(config.shutdown.resource_timeout_ms, 8_000);
    assert_eq!(shown(&config, "shutdown.deadline_ms").1, "environment SHUTDOWN_GRACEFUL_TIMEOUT");

    let config = Config::load(environment(&[("SHUTDOWN_TIMEOUT_MS", "45000")])).unwrap();
    assert_eq!(config.shutdown.deadline_ms, 45_000);

    assert_eq!(
        errors(environment(&[("SHUTDOWN_GRACEFUL_TIMEOUT", "90000")])),
        ["environment SHUTDOWN_GRACEFUL_TIMEOUT: shutdown.deadline_ms = 90000 s is refused; \
          allowed: 10 to 86400000 ms"]
    );
    let overflow = [("SHUTDOWN_GRACEFUL_TIMEOUT", "18446744073709551615")];
    assert_eq!(errors(environment(&overflow)).len(), 1);
}

/// Rule 7.
#[test]
fn legacy_names_of_things_that_do_not_exist_are_ignored() {
    let config = Config::load(environment(&[
        ("PAYMENT_GATEWAY_CLOSE", "true"),
        ("DB_SHUTDOWN_TIMEOUT_MS", "x"),
        ("PATH", "/bin"),
    ]));
    assert_eq!(config, Ok(Config::default()));
}

/// Rule 7.
#[test]
fn names_of_one_key_that_differ_are_refused_and_both_named() {
    const NATIVE: &str = "TIDEGATE_SHUTDOWN__DEADLINE_MS";
    assert_eq!(
        errors(environment(&[("SHUTDOWN_GRACEFUL_TIMEOUT", "10"), (NATIVE, "20000")])),
        ["environment TIDEGATE_SHUTDOWN__DEADLINE_MS: shutdown.deadline_ms = 20000, but \
          environment SHUTDOWN_GRACEFUL_TIMEOUT says 10 s; set one of them, or both alike"]
    );
    let two_legacy = [("SHUTDOWN_GRACEFUL_TIMEOUT", "10"), ("SHUTDOWN_TIMEOUT_MS", "30000")];
    assert_eq!(errors(environment(&two_legacy)).len(), 1);

    let alike = environment(&[("SHUTDOWN_GRACEFUL_TIMEOUT", "20"), (NATIVE, "20000")]);
    let config = Config::load(alike).unwrap();
    assert_eq!(config.source("shutdown.deadline_ms"), Some(&Source::Environment(NATIVE.into())));

    let mut flags = set(&[("server.listen", "127.0.0.1:1")]);
    flags.flags.push(FlagValue::new("--listen", "server.listen", "127.0.0.1:2"));
    assert_eq!(errors(flags).len(), 1);
}

/// S0.29.
#[test]
fn a_redis_url_is_that_of_other_systems_or_our_own_and_never_shown() {
    const URL: &str = "redis://:hunter2@redis:6379";
    for name in ["REDIS_URL", "TIDEGATE_REDIS__URL"] {
        let config = Config::load(environment(&[(name, URL)])).unwrap();
        assert_eq!(config.redis.url.as_ref().map(Secret::expose), Some(URL));
        assert_eq!(shown(&config, "redis.url"), ("(set)".into(), format!("environment {name}")));
        assert!(!format!("{config:?}").contains("hunter2"));
    }
    // Set and empty is not set, also beside a URL.
    let nothing = environment(&[("REDIS_URL", ""), ("TIDEGATE_REDIS__URL", URL)]);
    assert!(Config::load(nothing).unwrap().redis.url.is_some());
    let different = environment(&[("REDIS_URL", "redis://a"), ("TIDEGATE_REDIS__URL", URL)]);
    assert_eq!(errors(different).len(), 1);
}

#[test]
fn a_variable_that_is_set_and_empty_is_not_set() {
    let (_file, mut sources) = written(
        "[server]\nshards = 3\nallowed_origins = [\"https://a.example\"]\n\
         [admin]\ntoken = \"a-token-of-sixteen-characters\"\n\
         [shutdown]\nreport_file = \"/run/report.json\"\n",
    );
    // One for each kind of value, also where an empty one could be meant.
    for name in [
        "TIDEGATE_SERVER__SHARDS",
        "TIDEGATE_SERVER__LISTEN",
        "TIDEGATE_SERVER__ECHO",
        "TIDEGATE_SERVER__ALLOWED_ORIGINS",
        "TIDEGATE_ADMIN__TOKEN",
        "TIDEGATE_SHUTDOWN__REPORT_FILE",
        "TIDEGATE_SHUTDOWN__HOOKS",
        "TIDEGATE_LOG__FORMAT",
        "SHUTDOWN_TIMEOUT_MS",
        "MAX_GLOBAL_CONNECTIONS",
        "REDIS_URL",
        "TIDEGATE_PROFILE",
        "TIDEGATE_CONFIG",
    ] {
        sources.environment = environment(&[(name, "")]).environment;
        let config = Config::load(sources.clone());
        let config = config.unwrap_or_else(|errors| panic!("{name}: {errors}"));
        assert_eq!((config.server.shards, config.server.allowed_origins.len()), (3, 1), "{name}");
        assert!(config.admin.token.is_some() && config.shutdown.report_file.is_some(), "{name}");
    }
    // A name that is no setting is still a mistake, and a flag can empty what the file sets.
    assert_eq!(errors(environment(&[("TIDEGATE_SERVER__SHARD", "")])).len(), 1);
    sources.environment.clear();
    sources.flags = set(&[("server.allowed_origins", ""), ("admin.token", "")]).flags;
    let config = Config::load(sources).unwrap();
    assert!(config.server.allowed_origins.is_empty() && config.admin.token.is_none());
}

#[test]
fn a_redis_that_cannot_be_used_is_refused_without_its_password() {
    let found = errors(environment(&[("REDIS_URL", "redis-sentinel://:hunter2@a/mymaster")]));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("Sentinel") && !found[0].contains("hunter2"), "{}", found[0]);
    for name in ["", "a b", "a}", &"x".repeat(129)] {
        assert!(Config::load(set(&[("redis.cluster_name", name)])).is_err(), "{name}");
        let node = Config::load(set(&[("redis.node_id", name)]));
        assert_eq!(node.is_ok(), name.is_empty(), "{name}");
    }
}

#[test]
fn what_kubernetes_puts_into_the_environment_is_not_ours() {
    let config = Config::load(environment(&[
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_SERVICE_PORT", "8080"),
        ("TIDEGATE_SERVICE_PORT_CLIENTS", "8080"),
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("TIDEGATE_PORT_8080_TCP_PORT", "8080"),
        ("TIDEGATE_PORT_8080_TCP_PROTO", "tcp"),
        ("TIDEGATE_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("TIDEGATE_ADMIN_PORT_8081_TCP_ADDR", "10.0.0.2"),
    ]));
    assert_eq!(config, Ok(Config::default()));
    for (name, value) in [
        ("TIDEGATE_PORT", "8080"),
        ("TIDEGATE_SERVER__PORT", "tcp://10.0.0.1:8080"),
        ("TIDEGATE_EXPORT_PORTS", "8080"),
    ] {
        assert_eq!(errors(environment(&[(name, value)])).len(), 1, "{name}");
    }
}

/// Rule 8, S1.62.
#[test]
fn shutdown_hooks_are_tables_in_the_file_and_json_elsewhere() {
    let (_file, sources) = written(
        "[[shutdown.hooks]]\nname = \"leave\"\ncommand = [\"curl\", \"http://registry\"]\n\
         stage = \"before\"\ntimeout_ms = 2_000\n\
         [[shutdown.hooks]]\nname = \"tell\"\ncommand = [\"true\"]\n",
    );
    let hooks = Config::load(sources).unwrap().shutdown.hooks;
    let found: Vec<_> =
        hooks.iter().map(|hook| (hook.name.as_str(), hook.stage.name(), hook.timeout_ms)).collect();
    assert_eq!(found, [("leave", "before", Some(2_000)), ("tell", "last", None)]);
    assert_eq!(hooks[0].command, ["curl", "http://registry"]);
    let shown = serde_json::to_string(&hooks).unwrap();
    let set = environment(&[("TIDEGATE_SHUTDOWN__HOOKS", &shown)]);
    assert_eq!(Config::load(set).unwrap().shutdown.hooks, hooks);

    let (_file, sources) = written(
        "[[shutdown.hooks]]\nname = \"leave\"\ncommand = [\"curl\"]\nstage = \"now\"\n\
         [[shutdown.hooks]]\nname = \"tell\"\ncommand = []\n",
    );
    let errors = errors(sources);
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("FILE:1") && errors[0].contains("stage is one of"), "{errors:?}");
    assert!(errors[1].contains("FILE:5") && errors[1].contains("command takes"), "{errors:?}");
}
