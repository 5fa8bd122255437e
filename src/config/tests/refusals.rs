//! What is refused, and with which words.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use super::*;

#[test]
fn unknown_names_are_refused_with_the_nearest_known_one() {
    let (_file, mut sources) = written(
        "listen = \"127.0.0.1:9000\"\n\
         [shutdown]\n\
         dedline_ms = 5\n\
         ping_interval_ms = 5\n\
         [[shutdown.processes]]\n\
         [sever]\n\
         shards = 1\n",
    );
    sources.environment = environment(&[
        ("TIDEGATE_SERVER_LISTEN", "127.0.0.1:9000"),
        ("TIDEGATE_KEEPALIVE__TIMOUT_MS", "1000"),
    ])
    .environment;
    sources.flags = set(&[("admision.max_connections_per_ip", "1")]).flags;
    let none = "this version has no such setting; `tidegate config default` prints those it has";
    assert_eq!(
        errors(sources),
        [
            "file FILE:1: unknown key listen; the nearest known key is server.listen".to_owned(),
            "file FILE:3: unknown key shutdown.dedline_ms; the nearest known key is \
             shutdown.deadline_ms"
                .to_owned(),
            "file FILE:4: unknown key shutdown.ping_interval_ms; the nearest known key is \
             keepalive.ping_interval_ms"
                .to_owned(),
            format!("file FILE:5: unknown key shutdown.processes; {none}"),
            "file FILE:6: unknown section [sever]; the nearest known section is [server]"
                .to_owned(),
            "environment TIDEGATE_KEEPALIVE__TIMOUT_MS: unknown variable; the nearest known name \
             is TIDEGATE_KEEPALIVE__TIMEOUT_MS"
                .to_owned(),
            "environment TIDEGATE_SERVER_LISTEN: unknown variable; the nearest known name is \
             TIDEGATE_SERVER__LISTEN"
                .to_owned(),
            "flag --set: unknown key admision.max_connections_per_ip; the nearest known key is \
             admission.max_connections_per_ip"
                .to_owned(),
        ]
    );
}

#[test]
fn settings_of_features_that_do_not_exist_are_refused() {
    let (_file, mut sources) = written(
        "[server]\ntls = true\ncertificate = \"\"\n\
         [admission]\nregions = {}\n[certificates]\nurl = \"\"\n",
    );
    sources.environment = environment(&[("TIDEGATE_CERTIFICATES__URL", "x")]).environment;
    let found = errors(sources);
    assert_eq!(found.len(), 5, "{found:#?}");
    assert!(found.iter().all(|line| line.contains("unknown")), "{found:#?}");
    assert!(
        found[3]
            .starts_with("file FILE:6: unknown section [certificates]; this version has server,")
    );
}

#[test]
fn every_error_is_reported_with_its_place() {
    let (_file, mut sources) = written(
        "# a comment\n\
         [server]\n\
         shards = 2000\n\
         echo = \"yes\"\n\
         listen = 8080\n\
         allowed_origins = [\n\
             \"https://example.com\",\n\
             \"https://example.com/\",\n\
         ]\n\
         backlog = \"9\"\n\
         admin = 1\n\
         [shutdown]\n\
         drain_ms = -5\n\
         notice_ms = 1.5\n\
         deadline_ms = 0x4000\n",
    );
    // The file's wrong value is reported although a flag hides it.
    sources.flags = set(&[("server.shards", "1")]).flags;
    sources.environment = environment(&[("TIDEGATE_SERVER__ECHO", " ")]).environment;
    let origins = Key::find("server.allowed_origins").unwrap().allowed();
    assert_eq!(
        errors(sources),
        [
            "file FILE:3: server.shards = 2000 is refused; allowed: 0 (one per available core), \
             or 1 to 1024 shards"
                .to_owned(),
            "file FILE:4: server.echo = \"yes\" is refused; allowed: true or false".to_owned(),
            "file FILE:5: server.listen = 8080 is refused (a string is expected here); allowed: \
             IP:PORT, as in 127.0.0.1:8080 or [::1]:8080"
                .to_owned(),
            format!(
                "file FILE:6: server.allowed_origins = [ \"https://example.com\", \
                 \"https://example.com/\", ] is refused (\"https://example.com/\": an origin ends \
                 after the host and port, without a slash or a path); allowed: {origins}"
            ),
            "file FILE:10: server.backlog = \"9\" is refused (a number without quotes is expected \
             here); allowed: 1 to 1048576 connections"
                .to_owned(),
            "file FILE:11: unknown key server.admin; this version has no such setting; `tidegate \
             config default` prints those it has"
                .to_owned(),
            "file FILE:13: shutdown.drain_ms = -5 is refused; allowed: 0 to 86400000 ms".to_owned(),
            "file FILE:14: shutdown.notice_ms = 1.5 is refused (a number without quotes is \
             expected here); allowed: 0 to 86400000 ms"
                .to_owned(),
            "environment TIDEGATE_SERVER__ECHO: server.echo = \" \" is refused; allowed: true or \
             false"
                .to_owned(),
        ]
    );
}

#[test]
fn proxies_are_networks_and_the_protocol_a_word() {
    let (_file, mut sources) = written(
        "[server]\n\
         trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1/8\"]\n\
         proxy_protocol = true\n",
    );
    let variables =
        [("TIDEGATE_SERVER__TRUSTED_PROXIES", "all"), ("TIDEGATE_SERVER__PROXY_PROTOCOL", "v2")];
    sources.environment = environment(&variables).environment;
    let networks = "addresses and networks, as in 10.0.0.7, 10.0.0.0/8 or fd00::/8";
    assert_eq!(
        errors(sources),
        [
            format!(
                "file FILE:2: server.trusted_proxies = [\"10.0.0.0/8\", \"10.0.0.1/8\"] is refused \
                 (\"10.0.0.1/8\": it has bits behind its prefix; the network is 10.0.0.0/8); \
                 allowed: {networks}"
            ),
            "file FILE:3: server.proxy_protocol = true is refused (a string is expected here); \
             allowed: off, accept, require"
                .to_owned(),
            "environment TIDEGATE_SERVER__PROXY_PROTOCOL: server.proxy_protocol = v2 is \
             refused; allowed: off, accept, require"
                .to_owned(),
            format!(
                "environment TIDEGATE_SERVER__TRUSTED_PROXIES: server.trusted_proxies = all is \
                 refused (\"all\": it is neither an address nor a network); allowed: {networks}"
            ),
        ]
    );
}

#[test]
fn a_file_that_is_not_toml_gives_its_lines() {
    let (_file, sources) = written("[server]\nshards = \n\n[admin\nlisten = 1\n");
    let found = errors(sources);
    assert!(found[0].starts_with("file FILE:2: this is not TOML: "), "{found:#?}");
    assert!(found.iter().any(|line| line.starts_with("file FILE:4: ")), "{found:#?}");

    let (_file, sources) = written("[server]\nshards = 1\nshards = 2\n");
    assert!(errors(sources)[0].starts_with("file FILE:3: this is not TOML: duplicate key"));

    let (_file, sources) = written("server = 5\n");
    assert_eq!(
        errors(sources),
        ["file FILE:1: server is a section and has no value; write [server]"]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let missing = PathBuf::from("/nonexistent/tidegate.toml");
    let sources = Sources { file: Some(missing), ..Sources::default() };
    assert!(errors(sources)[0].starts_with("file FILE: it cannot be read: No such file"));

    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# \xff\n").unwrap();
    let sources = Sources { file: Some(file.path().to_owned()), ..Sources::default() };
    assert_eq!(errors(sources), ["file FILE: it is not UTF-8 (line 1)"]);
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let value = OsString::from_vec(vec![b'a', 0xff]);
    let sources = Sources {
        environment: vec![("TIDEGATE_SHUTDOWN__REPORT_FILE".into(), value)],
        ..Sources::default()
    };
    assert!(errors(sources)[0].contains("(it is not UTF-8)"));
}

#[test]
fn messages_stay_on_one_line_of_bounded_length() {
    let long = "x".repeat(10_000);
    for value in ["a\nb\u{1b}[31m", &long] {
        let found = errors(set(&[("server.listen", value)]));
        assert_eq!(found.len(), 1);
        assert!(found[0].len() < 300 && !found[0].contains('\u{1b}'), "{}", found[0]);
    }
    let found = errors(set(&[(&long, "1")]));
    assert!(found.len() == 1 && found[0].len() < 300, "{}", found[0]);
}
