//! What those meet who come from other formats, and that what they have put in the wrong place is
//! not repeated to everybody.

use super::*;

/// The one error of a file that is not TOML, without its place and what every one begins with.
#[track_caller]
fn advice(text: &str) -> String {
    let (_file, sources) = written(text);
    let found = errors(sources);
    assert_eq!(found.len(), 1, "{found:#?}");
    let (_, said) = found[0].split_once("this is not TOML: ").expect(&found[0]);
    said.split_once("; ").map(|(_, advice)| advice.to_owned()).unwrap_or_default()
}

#[test]
fn a_value_without_quotation_marks_is_told_that_it_wants_them() {
    for (text, said) in [
        (
            "[server]\nlisten = 0.0.0.0:80\n",
            "server.listen is a text, which stands in quotation marks: listen = \"...\"",
        ),
        (
            "[server]\nlisten = [::]:80\n",
            "server.listen is a text, which stands in quotation marks: listen = \"...\"",
        ),
        (
            "[log]\n# how\nformat = json\n",
            "log.format is a text, which stands in quotation marks: format = \"...\"",
        ),
        (
            "[shutdown]\nreport_file = /var/lib/x\n",
            "shutdown.report_file is a text, which stands in quotation marks: report_file = \"...\"",
        ),
        (
            "[server]\nallowed_origins = [https://a.b]\n",
            "server.allowed_origins is a list of texts, each in quotation marks: allowed_origins = [\"...\", \"...\"]",
        ),
        (
            "[keepalive]\ntimeout_ms = 5s\n",
            "keepalive.timeout_ms is a number in ms, without anything behind it",
        ),
        ("[server]\necho = True\n", "server.echo is true or false, in small letters"),
        (
            "[server]\nlisten = “0.0.0.0:80”\n",
            "it has typographic quotation marks; TOML has straight ones",
        ),
        ("[server]\nlisten = \"0.0.0.0:80\n", "the quotation mark is not closed"),
        (
            "[server]\nlisten: \"0.0.0.0:80\"\n",
            "between a key and its value TOML has an equals sign: key = value",
        ),
        (
            "[server]\nshards 4\n",
            "between a key and its value TOML has an equals sign: key = value",
        ),
        ("[server\nshards = 4\n", ""),
    ] {
        assert_eq!(advice(text), said, "{text}");
    }
    let secret = advice("[admin]\ntoken = abcdef0123456789\n");
    assert_eq!(secret, "admin.token is a text, which stands in quotation marks: token = \"...\"");
}

#[test]
fn files_of_other_systems_are_read_or_named() {
    let (_file, sources) = written("\u{feff}[server]\r\nshards = 3\r\n");
    assert_eq!(Config::load(sources).unwrap().server.shards, 3);
    for mark in [&b"\xff\xfe"[..], b""] {
        let mut bytes = mark.to_vec();
        bytes.extend("[server]\nshards = 3\n".encode_utf16().flat_map(u16::to_le_bytes));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let found = errors(Sources { file: Some(file.path().to_owned()), ..Sources::default() });
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("it is UTF-16; save it as UTF-8"), "{}", found[0]);
    }
}

#[test]
fn quotation_marks_of_an_env_file_are_not_taken_for_a_part_of_the_value() {
    for (name, value) in [
        ("TIDEGATE_ADMIN__TOKEN", format!("\"{TOKEN}\"")),
        ("TIDEGATE_ADMIN__TOKEN", format!("'{TOKEN}'")),
        ("REDIS_URL", "\"redis://:hunter2@redis\"".to_owned()),
        ("TIDEGATE_SHUTDOWN__REPORT_FILE", "\"/var/lib/tidegate/report.json\"".to_owned()),
        ("TIDEGATE_SERVER__SHARDS", "\"4\"".to_owned()),
        ("TIDEGATE_SHUTDOWN__HOOKS", "'[]'".to_owned()),
    ] {
        let found = errors(environment(&[(name, &value)]));
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("it is in quotation marks"), "{}", found[0]);
        assert!(!found[0].contains(TOKEN) && !found[0].contains("hunter2"), "{}", found[0]);
    }
    let found = errors(set(&[("admin.token", &format!("\"{TOKEN}\""))]));
    assert!(found[0].contains("it is in quotation marks"), "{}", found[0]);
    let (_file, sources) = written(&format!("[admin]\ntoken = '\"{TOKEN}\"'\n"));
    assert!(errors(sources)[0].contains("it is in quotation marks"));
}

#[test]
fn a_secret_in_the_place_of_a_name_is_not_repeated() {
    const SECRET: &str = "9f86d081884c7d659a2feaa0c55ad015";
    let (_file, mut sources) = written(&format!(
        "{SECRET} = 1\n[{SECRET}1]\n[admin]\n{SECRET} = \"token\"\ntoken = [\"{SECRET}\"]\n\
         [admission.overrides.\"10.0.0.0/8\"]\n{SECRET} = 5\n"
    ));
    let variable = format!("TIDEGATE_{SECRET}");
    let hooks = format!("[{{\"name\": \"a\", \"command\": [\"curl\", \"{SECRET}\"], \"at\": 1}}]");
    let more_hooks = format!("[{{\"{SECRET}\": 1}}]");
    sources.environment =
        environment(&[(&variable, "1"), ("TIDEGATE_SHUTDOWN__HOOKS", &hooks)]).environment;
    let named = format!("admin.{SECRET}");
    sources.flags = set(&[
        (SECRET, "1"),
        (&named, "1"),
        ("correct-horse-battery-staple", "1"),
        ("shutdown.hooks", &more_hooks),
    ])
    .flags;
    sources.profile = Some(SECRET.to_owned());
    let found = errors(sources);
    assert_eq!(found.len(), 12, "{found:#?}");
    for line in &found {
        let lower = line.to_ascii_lowercase();
        assert!(!lower.contains(SECRET) && !lower.contains("horse"), "{line}");
    }
    assert!(found[1].starts_with("file FILE:1: unknown key (32 characters, not shown)"));
    // Names are repeated, also those that are near no other.
    for name in ["server.tls", "quota.bytes_per_day", "max-connections_per_ip", "a.b2"] {
        assert!(errors(set(&[(name, "1")]))[0].contains(name), "{name}");
    }
}
