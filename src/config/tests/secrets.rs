//! Secrets in files of their own: read, preferred and refused as any other value, and never shown.

use std::fs;

use super::*;

/// A file with this content.
fn holding(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().unwrap()
}

#[test]
fn every_secret_has_a_key_for_its_file() {
    for secret in KEYS.iter().filter(|key| key.is_secret()) {
        let file = Key::find(&format!("{}_file", secret.name)).expect(secret.name);
        assert_eq!((file.rule, file.section()), (Rule::Path, secret.section()));
    }
}

#[test]
fn a_secret_is_what_its_file_holds_in_one_line() {
    for bytes in [
        TOKEN.as_bytes().to_vec(),
        format!("{TOKEN}\n").into_bytes(),
        format!("{TOKEN}\r\n").into_bytes(),
        format!("\u{feff}{TOKEN}\n").into_bytes(),
    ] {
        let file = holding(&bytes);
        let config = Config::load(set(&[("admin.token_file", path(&file))])).unwrap();
        assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some(TOKEN));
        let source = format!("flag --set, in {}", path(&file));
        assert_eq!(shown(&config, "admin.token"), ("(set)".to_owned(), source));
        assert!(config.warnings.is_empty(), "a path on the command line is no secret");
        assert!(!format!("{config:?}").contains(TOKEN));
    }
    let url = holding(b"redis://:hunter2@redis\n");
    let config = Config::load(environment(&[("TIDEGATE_REDIS__URL_FILE", path(&url))])).unwrap();
    assert_eq!(config.redis.url.as_ref().map(Secret::expose), Some("redis://:hunter2@redis"));
    // It opens the listener to others as a token does that is written out.
    let file = holding(TOKEN.as_bytes());
    let open = [("admin.listen", "0.0.0.0:1"), ("admin.token_file", path(&file))];
    assert!(Config::load(set(&open)).is_ok());
}

#[test]
fn what_is_no_secret_is_refused_with_the_reason_and_not_shown() {
    let directory = tempfile::tempdir().unwrap();
    let quoted = format!("\"{TOKEN}\"\n");
    let utf16: Vec<u8> = TOKEN.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let long = TOKEN.repeat(1000);
    let two = format!("{TOKEN}\n{TOKEN}\n");
    for (bytes, said) in [
        (&b""[..], "it is empty"),
        (b"\n", "it is empty"),
        (b"hunter2\n", "it has 7 characters"),
        (quoted.as_bytes(), "it is in quotation marks"),
        (&utf16, "it is UTF-16"),
        (long.as_bytes(), "it is longer than 4096 bytes"),
        (two.as_bytes(), "it contains a space, a line end"),
    ] {
        let file = holding(bytes);
        let found = errors(environment(&[("TIDEGATE_ADMIN__TOKEN_FILE", path(&file))]));
        assert_eq!(found.len(), 1, "{found:?}");
        let named =
            format!("environment TIDEGATE_ADMIN__TOKEN_FILE: admin.token_file = {}", path(&file));
        assert!(found[0].starts_with(&named) && found[0].contains(said), "{}", found[0]);
        assert!(!found[0].contains("hunter2") && !found[0].contains(TOKEN), "{}", found[0]);
    }
    for (path, said) in [
        ("/nonexistent/token", "No such file"),
        (directory.path().to_str().unwrap(), "it is a directory"),
        ("/dev/full", "it is a character device"),
    ] {
        let found = errors(set(&[("admin.listen", "0.0.0.0:1"), ("admin.token_file", path)]));
        assert_eq!(found.len(), 1, "that there is no token then is no second mistake: {found:?}");
        assert!(found[0].contains(said), "{}", found[0]);
    }
}

#[test]
fn of_a_secret_and_its_file_the_stronger_source_counts() {
    let other = "another-token-of-some-length";
    let file = holding(other.as_bytes());
    let in_file = format!("[admin]\ntoken_file = \"{}\"\n", path(&file));
    let (_keep, mut sources) = written(&in_file);
    sources.environment = environment(&[("TIDEGATE_ADMIN__TOKEN", TOKEN)]).environment;
    let config = Config::load(sources).unwrap();
    assert_eq!(config.admin.token.as_ref().map(Secret::expose), Some(TOKEN));
    assert_eq!(shown(&config, "admin.token").1, "environment TIDEGATE_ADMIN__TOKEN");

    // Set to nothing, as a deployment does that has none, it is not set.
    let (_keep, mut sources) = written(&in_file);
    sources.environment = environment(&[("TIDEGATE_ADMIN__TOKEN", "")]).environment;
    assert_eq!(Config::load(sources).unwrap().admin.token.unwrap().expose(), other);

    let (_keep, mut sources) = written(&format!("[admin]\ntoken = \"{TOKEN}\"\n"));
    sources.flags = set(&[("admin.token_file", path(&file))]).flags;
    assert_eq!(Config::load(sources).unwrap().admin.token.unwrap().expose(), other);

    let found = errors(set(&[("admin.token", TOKEN), ("admin.token_file", path(&file))]));
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("admin.token is set as well; leave one out"), "{}", found[0]);
}

#[test]
fn who_needs_no_secret_need_not_be_able_to_read_it() {
    let hidden = [("admin.listen", "0.0.0.0:1"), ("admin.token_file", "/nonexistent/token")];
    let config = Config::load_without_secrets(&set(&hidden)).unwrap();
    assert_eq!((config.admin.token, config.admin.listen.port()), (None, 1));
}

#[test]
fn a_reload_takes_another_token_but_neither_the_first_nor_none() {
    let file = holding(TOKEN.as_bytes());
    let sources = set(&[("admin.token_file", path(&file))]);
    let config = Config::load(sources.clone()).unwrap();
    fs::write(file.path(), "another-token-of-some-length\n").unwrap();
    let read = Config::load_again(&sources).unwrap();
    let (config, report) = config.reloaded(&read);
    let changes: Vec<_> = report.changed.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["admin.token from (set) to (set)"]);
    assert!(report.needs_restart.is_empty(), "{report:?}");
    assert_eq!(config.admin.token.as_ref().unwrap().expose(), "another-token-of-some-length");

    let none = Config::load(Sources::default()).unwrap();
    for (before, after) in [(&config, &none), (&none, &config)] {
        let (unchanged, report) = before.reloaded(after);
        assert_eq!(unchanged.admin.token, before.admin.token);
        assert_eq!(report.needs_restart, ["admin.token", "admin.token_file"]);
    }
    // One that cannot be read keeps everything as it is.
    fs::write(file.path(), "").unwrap();
    assert!(Config::load_again(&sources).unwrap_err().to_string().contains("it is empty"));

    // A Redis takes a restart, wherever its address is.
    let url = holding(b"redis://a");
    let with = |file: &tempfile::NamedTempFile| {
        Config::load(environment(&[("TIDEGATE_REDIS__URL_FILE", path(file))])).unwrap()
    };
    let before = with(&url);
    fs::write(url.path(), "redis://b").unwrap();
    assert_eq!(before.reloaded(&with(&url)).1.needs_restart, ["redis.url"]);
}
